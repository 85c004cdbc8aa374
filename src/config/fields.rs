//! Single values: text → value, or why it can't be one and what to write instead. Each message continues the value.

use std::path::PathBuf;
use std::time::Duration;

/// A TCP port, 1–65535.
pub(crate) fn port(number: i64) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err("is not a TCP port; write a number from 1 to 65535".to_owned()),
    }
}

/// A port where 0 means none, as in 2020.
pub(crate) fn port_or_none(number: i64) -> Result<Option<u16>, String> {
    if number == 0 { Ok(None) } else { port(number).map(Some) }
}

/// 0–255.
pub(crate) fn priority(number: i64) -> Result<u32, String> {
    u8::try_from(number)
        .map(u32::from)
        .map_err(|_| "is out of range; a priority is 0 to 255, higher is preferred, 100 is usual".to_owned())
}

/// A node's id. It becomes part of file names, so no `/` and no dot or dash in front.
pub(crate) fn id(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("is empty; name the node, e.g. server1".to_owned());
    }
    if text.len() > 64 {
        return Err(format!("has {} bytes; an id has at most 64", text.len()));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if let Some(bad) = text.chars().find(|c| !good(*c)) {
        return Err(format!("has {bad:?} in it; an id is made of letters A-Z a-z, digits, '.', '_' and '-'"));
    }
    if text.starts_with(['.', '-']) {
        return Err("starts with a dot or dash; an id starts with a letter, a digit or '_'".to_owned());
    }
    Ok(text.to_owned())
}

/// A network interface's name by the kernel's rules (`dev_valid_name`, net/core/dev.c).
pub(crate) fn interface(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("is empty; name the interface that gets the VIP, e.g. eth0".to_owned());
    }
    if text.len() > 15 {
        return Err(format!("has {} bytes; Linux allows 15 in an interface name. `ip link` lists them", text.len()));
    }
    let bad = |c: char| matches!(c, '/' | ':' | '\0') || c.is_whitespace();
    if text == "." || text == ".." || text.contains(bad) {
        return Err("can't be an interface name (no '/', ':' or blanks). `ip link` lists the names".to_owned());
    }
    Ok(text.to_owned())
}

/// A duration such as `50ms`, `3s`, `1m`, `2h` or `7d`; at most 30 days.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if !digits.is_empty() => return Err(format!("has no unit; write {digits}ms or {digits}s")),
        _ => return Err("is not a duration; write a whole number and its unit, e.g. 50ms, 3s or 1m".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "is not a duration; write it like 50ms or 3s".to_owned())?;
    let millis = number.checked_mul(millis).filter(|ms| *ms <= 30 * 86_400_000);
    millis.map(Duration::from_millis).ok_or_else(|| "is longer than 30 days".to_owned())
}

/// An absolute path without `..`.
pub(crate) fn path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if text.contains('\0') || !path.is_absolute() {
        return Err("is not an absolute path; begin it with /".to_owned());
    }
    if path.components().any(|c| c == std::path::Component::ParentDir) {
        return Err("has `..` in it; write the path without".to_owned());
    }
    Ok(path)
}

/// A unix socket's path: absolute, and short enough for `sockaddr_un` (108 bytes with the final NUL, unix(7)).
pub(crate) fn socket_path(text: &str) -> Result<PathBuf, String> {
    if text.len() > 107 {
        return Err(format!("has {} bytes; a unix socket's path has at most 107", text.len()));
    }
    if text.ends_with('/') || text.ends_with("/.") {
        return Err("names a directory; write the socket's own name after it, e.g. /run/kube-vip/server1.sock".to_owned());
    }
    let path = path(text)?;
    if path.extension().is_some_and(|e| e == "vip") {
        return Err("ends in .vip, the name of the record beside the socket; write .sock".to_owned());
    }
    Ok(path)
}

/// A user's or group's name or number.
pub(crate) fn account(text: &str) -> Result<String, String> {
    let good = !text.is_empty()
        && text.len() <= 32
        && !text.contains(|c: char| c == ':' || c == '/' || c.is_whitespace() || c.is_control());
    if good && text.bytes().all(|b| b.is_ascii_digit()) && text.parse().unwrap_or(u32::MAX) == u32::MAX {
        // setresuid(2) takes u32::MAX for "leave as it is": the daemon would stay root.
        Err(format!("is no number of a user or group; {} is the largest", u32::MAX - 1))
    } else if good {
        Ok(text.to_owned())
    } else {
        Err("can't be a user or group; write its name or number, e.g. kube-vip or 998".to_owned())
    }
}

/// A duration as the configuration writes it.
pub(crate) fn written(duration: Duration) -> String {
    match duration.as_millis() {
        0 => "0s".to_owned(),
        ms if !ms.is_multiple_of(1000) => format!("{ms}ms"),
        ms if ms.is_multiple_of(86_400_000) => format!("{}d", ms / 86_400_000),
        ms if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        ms if ms.is_multiple_of(60_000) && ms > 60_000 => format!("{}m", ms / 60_000),
        ms => format!("{}s", ms / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [("50ms", 50), ("3s", 3000), ("1m", 60_000), ("0ms", 0), ("2h", 7_200_000), ("30d", 2_592_000_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)));
            assert_eq!(duration(&written(Duration::from_millis(ms))), Ok(Duration::from_millis(ms)));
        }
        for bad in
            ["", "50", "ms", "1.5s", "5w", "721h", "31d", "-1s", "99999999999999999999ms", "18446744073709551615m", "5 s"]
        {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names() {
        for good in ["server1", "1", "_a", "A.b-c", &"x".repeat(64)] {
            assert!(id(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "ä", "..", "-a", "a/b", &"x".repeat(65)] {
            assert!(id(bad).is_err(), "{bad}");
        }
        for good in ["eth0", "br-1234567890ab", "wlan0.5", "enp3s0"] {
            assert!(interface(good).is_ok(), "{good}");
        }
        for bad in ["", "0123456789abcdef", "a/b", "a b", "..", "a\tb", "eth0:1"] {
            assert!(interface(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_and_priorities() {
        assert_eq!((port(1), port(65535)), (Ok(1), Ok(65535)));
        assert!(port(0).is_err() && port(65536).is_err() && port(-1).is_err());
        assert_eq!((port_or_none(0), port_or_none(5)), (Ok(None), Ok(Some(5))));
        assert!(priority(255).is_ok() && priority(256).is_err() && priority(-1).is_err());
    }
}
