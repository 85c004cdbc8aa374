//! Single values: text → value, or why it can't be one and what to write instead. Each message continues the value.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

/// An IP address that one interface of one machine can have.
pub(crate) fn host_address(text: &str) -> Result<IpAddr, String> {
    let address = any_address(text)?;
    usable(address)?;
    Ok(address)
}

/// The virtual address: an IP address, alone or with `/32` (IPv4) or `/128` (IPv6).
pub(crate) fn vip(text: &str) -> Result<IpAddr, String> {
    let (host, prefix) = text.split_once('/').map_or((text, None), |(host, prefix)| (host, Some(prefix)));
    let address = host_address(host)?;
    if address.is_loopback() {
        return Err("is a loopback address, which no other machine can reach; use a free address of your network".to_owned());
    }
    let full = if address.is_ipv4() { "32" } else { "128" };
    match prefix {
        None => Ok(address),
        Some(prefix) if prefix == full => Ok(address),
        Some(_) => Err(format!(
            "has a prefix; the VIP is always added as /{full}, so that it brings no route and leaves other addresses alone. Write {address}"
        )),
    }
}

fn any_address(text: &str) -> Result<IpAddr, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return match address {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
                Err(format!("is an IPv4 address in IPv6 form; write {}", v6.to_canonical()))
            }
            _ => Ok(address),
        };
    }
    Err(not_an_address(text))
}

/// Guesses what was meant, to name the way out.
fn not_an_address(text: &str) -> String {
    if text.contains("://") {
        return "is a URL; write the IP address here and its port under `port`".to_owned();
    }
    if let Ok(both) = text.parse::<std::net::SocketAddr>() {
        return format!("has a port; write {} here and {} under `port`", both.ip(), both.port());
    }
    if text.contains('/') {
        return "has a prefix length; write the address alone".to_owned();
    }
    if text.contains('%') {
        return "has a zone, which isn't supported; use an address that is not link-local".to_owned();
    }
    let digits_only = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if digits_only || text.contains(':') {
        return "is not an IP address; write it like 192.168.0.10 (four numbers up to 255, no leading zeros) or 2001:db8::10"
            .to_owned();
    }
    let name = text.contains(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    if name {
        return "is a host name; only IP addresses work for now, so that no election waits for DNS. Write its IP address"
            .to_owned();
    }
    "is not an IP address; write it like 192.168.0.10 or 2001:db8::10".to_owned()
}

fn usable(address: IpAddr) -> Result<(), String> {
    let what = match address {
        _ if address.is_unspecified() => "means any address",
        _ if address.is_multicast() => "is a multicast address",
        IpAddr::V4(v4) if v4 == Ipv4Addr::BROADCAST => "is the broadcast address",
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "is in 0.0.0.0/8, which no machine can use",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "is a link-local address, which needs a zone that isn't supported",
        _ => return Ok(()),
    };
    Err(format!("{what}; one machine's own unicast address is wanted"))
}

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

/// A duration such as `50ms`, `3s` or `1m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "" if !digits.is_empty() => return Err(format!("has no unit; write {digits}ms or {digits}s")),
        _ => return Err("is not a duration; write a whole number and its unit, e.g. 50ms, 3s or 1m".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "is not a duration; write it like 50ms or 3s".to_owned())?;
    let millis = number.checked_mul(millis).filter(|ms| *ms <= 86_400_000);
    millis.map(Duration::from_millis).ok_or_else(|| "is longer than a day".to_owned())
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
    let ms = duration.as_millis();
    if ms.is_multiple_of(1000) && ms > 0 { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["192.168.0.1", "127.0.0.1", "2001:db8::1", "::1", "240.0.0.1", "169.254.1.1"] {
            assert!(host_address(good).is_ok(), "{good}");
        }
        for (bad, says) in [
            ("node1", "host name"),
            ("node-1.lan", "host name"),
            ("192.168.0.1:80", "write 192.168.0.1 here and 80 under `port`"),
            ("192.168.000.1", "leading zeros"),
            ("192.168.0", "four numbers"),
            ("192.168.0.256", "up to 255"),
            ("http://10.0.0.1:80", "URL"),
            ("10.0.0.0/24", "prefix"),
            ("fe80::1%eth0", "zone"),
            ("fe80::1", "link-local"),
            ("::ffff:10.0.0.1", "write 10.0.0.1"),
            ("0.0.0.0", "any address"),
            ("::", "any address"),
            ("224.0.0.1", "multicast"),
            ("ff02::1", "multicast"),
            ("255.255.255.255", "broadcast"),
            ("0.1.2.3", "0.0.0.0/8"),
            ("", "not an IP address"),
            ("ü", "not an IP address"),
        ] {
            let why = host_address(bad).expect_err(bad);
            assert!(why.contains(says), "{bad}: {why}");
        }
    }

    #[test]
    fn vips() {
        for good in ["10.0.0.9", "10.0.0.9/32", "2001:db8::9", "2001:db8::9/128"] {
            assert!(vip(good).is_ok(), "{good}");
        }
        for bad in ["10.0.0.9/24", "10.0.0.9/128", "2001:db8::9/64", "127.0.0.1", "::1", "10.0.0.9/", "0.0.0.0", "x/32"] {
            assert!(vip(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        for (text, ms) in [("50ms", 50), ("3s", 3000), ("1m", 60_000), ("0ms", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)));
            assert_eq!(duration(&written(Duration::from_millis(ms))), Ok(Duration::from_millis(ms)));
        }
        for bad in ["", "50", "ms", "1.5s", "5h", "-1s", "99999999999999999999ms", "18446744073709551615m", "5 s"] {
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
