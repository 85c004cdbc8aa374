//! Where things are: text → an IP address or a host name, or why it can't be one. Each message continues the value.

use std::net::{IpAddr, Ipv4Addr};

/// An IP address that one interface of one machine can have.
pub(crate) fn host_address(text: &str) -> Result<IpAddr, String> {
    let address = any_address(text)?;
    usable(address)?;
    Ok(address)
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Address(IpAddr),
    /// In lower case.
    Name(String),
}

/// An IP address that one machine can have, or a host name.
pub(crate) fn host(text: &str) -> Result<Host, String> {
    let with_port = text.split_once(':').filter(|(name, port)| is_like_a_name(name) && port.parse::<u16>().is_ok());
    match with_port {
        Some((name, port)) => Err(format!("has a port; write {name} here and {port} under `port`")),
        None if is_like_a_name(text) => host_name(text).map(Host::Name),
        None => host_address(text).map(Host::Address),
    }
}

/// Labels of letters, digits and dashes (RFC 1123 §2.1), at most 253 bytes, a final dot not counted. Readers of addresses take what
/// ends in a number for one, so that is refused.
fn host_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.len() > 253 {
        return Err(format!("has {} bytes; a host name has at most 253", name.len()));
    }
    if let Some(bad) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '.')) {
        return Err(format!("has {bad:?} in it; a host name is made of letters a-z, digits, '-' and '.'"));
    }
    for label in name.split('.') {
        match label.len() {
            0 => return Err("has two dots in a row, or one in front; write the name like web1.lan".to_owned()),
            1..=63 => {}
            n => return Err(format!("has a part of {n} bytes; between the dots of a host name are at most 63")),
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("has a part that begins or ends with '-', which no host name has".to_owned());
        }
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    let hex = last.strip_prefix("0x").or(last.strip_prefix("0X"));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if digits(last) || hex.is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Err(
            "ends in a number, as only an IP address does; write a name like web1.lan, or an address like 192.168.0.10"
                .to_owned(),
        );
    }
    Ok(text.to_ascii_lowercase())
}

/// Whether a name is meant rather than an address.
fn is_like_a_name(text: &str) -> bool {
    text.contains(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
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
    if is_like_a_name(text) {
        return "is a host name; only an IP address works here, so that no election waits for DNS. Write its IP address"
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
    fn hosts() {
        for good in ["web1", "WEB-1.lan", "web.lan.", "1.example", "a", "3com.example", "0x.example", "xn--bcher-kva.example"] {
            assert_eq!(host(good), Ok(Host::Name(good.to_ascii_lowercase())));
        }
        let long = |n: usize| format!("{}.lan", vec!["a".repeat(49); n].join("."));
        assert!(host(&long(4)).is_ok());
        assert!(matches!(host("2001:db8::1"), Ok(Host::Address(_))) && matches!(host("10.0.0.1"), Ok(Host::Address(_))));
        for (bad, says) in [
            ("10.0.0.300", "is not an IP address; write it like"),
            ("10.0.0", "is not an IP address; write it like"),
            ("10.0.0.1a.2", "ends in a number"),
            ("web.1", "ends in a number"),
            ("0x7f000001", "ends in a number"),
            ("web.0x", "ends in a number"),
            ("web_1", "has '_' in it"),
            ("web..lan", "two dots"),
            (".lan", "two dots"),
            ("-web", "begins or ends with '-'"),
            ("web-.lan", "begins or ends with '-'"),
            (&"a".repeat(64), "a part of 64 bytes"),
            (&long(6), "at most 253"),
            ("web 1", "not an IP address"),
            ("bücher.example", "not an IP address"),
            ("web:80", "has a port; write web here and 80 under `port`"),
            ("abcd::1x", "not an IP address"),
            ("fe80::1%eth0", "zone"),
            ("", "not an IP address"),
        ] {
            let why = host(bad).expect_err(bad);
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
}
