//! Version 1: `PROXY TCP4 192.0.2.1 198.51.100.1 40000 443`, ended by CR LF.

use super::{Addresses, Header, Parsed, mapped};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// With CR and LF; what the specification gives as the worst case (it needs two IPv6 addresses of 39 characters).
pub const LONGEST: usize = 107;

const BEGIN: &[u8] = b"PROXY ";

/// Parses a header from the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    let begin = bytes.len().min(BEGIN.len());
    if bytes[..begin] != BEGIN[..begin] {
        return Parsed::Bad("it doesn't begin with a PROXY protocol header");
    }
    let line = &bytes[..bytes.len().min(LONGEST)];
    match line.windows(2).position(|two| two == b"\r\n") {
        Some(end) => match std::str::from_utf8(&line[begin..end]).ok().and_then(words) {
            Some(said) => Parsed::Done(end + 2, said),
            None => Parsed::Bad("its header of version 1 is not of the form `PROXY TCP4 192.0.2.1 198.51.100.1 40000 443`"),
        },
        None if line.len() == LONGEST => Parsed::Bad("its header of version 1 has no end within 107 bytes"),
        None => Parsed::NeedMore,
    }
}

/// What stands between `PROXY ` and the end of the line. None: it is wrong.
fn words(line: &str) -> Option<Option<Addresses>> {
    let (family, rest) = line.split_once(' ').unwrap_or((line, ""));
    match family {
        "UNKNOWN" => Some(None), // whatever follows is to be ignored
        "TCP4" => both::<Ipv4Addr>(rest).map(Some),
        "TCP6" => both::<Ipv6Addr>(rest).map(Some),
        _ => None,
    }
}

/// `SOURCE DESTINATION PORT PORT`, with single spaces.
fn both<Ip: FromStr + Into<IpAddr>>(text: &str) -> Option<Addresses> {
    let mut words = text.split(' ');
    let mut word = || words.next();
    let source: Ip = word()?.parse().ok()?;
    let destination: Ip = word()?.parse().ok()?;
    let ports = [port(word()?)?, port(word()?)?];
    let at = |ip: Ip, port| SocketAddr::new(ip.into(), port);
    words.next().is_none().then(|| Addresses::new(at(source, ports[0]), at(destination, ports[1])))
}

/// 0–65535 in decimal, without sign or leading zeros.
fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port: &u16| text.len() == port.checked_ilog10().unwrap_or(0) as usize + 1)
}

/// Makes a header.
pub fn emit(addresses: Option<Addresses>) -> Header {
    let text = match addresses {
        None => "PROXY UNKNOWN\r\n".to_owned(),
        Some(Addresses { source, destination }) => {
            let ports = format!("{} {}\r\n", source.port(), destination.port());
            match (source.ip(), destination.ip()) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => format!("PROXY TCP4 {source} {destination} {ports}"),
                (source, destination) => format!("PROXY TCP6 {} {} {ports}", mapped(source), mapped(destination)),
            }
        }
    };
    let mut header = Header::empty();
    header.push(text.as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(source: &str, destination: &str) -> Addresses {
        Addresses::new(source.parse().expect("an address"), destination.parse().expect("an address"))
    }

    #[test]
    fn headers_are_byte_by_byte_as_specified() {
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe";
        for (said, line) in [
            (None, "PROXY UNKNOWN".to_owned()),
            (Some(addresses("192.168.0.1:56324", "192.168.0.11:443")), "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443".into()),
            (Some(addresses("255.255.255.255:65535", "0.0.0.0:0")), "PROXY TCP4 255.255.255.255 0.0.0.0 65535 0".into()),
            (Some(addresses("[2001:db8::1]:1", "[::1]:443")), "PROXY TCP6 2001:db8::1 ::1 1 443".into()),
            (Some(addresses("192.0.2.1:1", "[2001:db8::1]:443")), "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 443".into()),
            (Some(addresses("[2001:db8::1]:1", "192.0.2.1:443")), "PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 1 443".into()),
            (
                Some(addresses(&format!("[{longest}]:65535"), &format!("[{longest}]:65535"))),
                format!("PROXY TCP6 {longest} {longest} 65535 65535"),
            ),
        ] {
            let header = emit(said);
            assert_eq!(std::str::from_utf8(&header), Ok(format!("{line}\r\n").as_str()));
            assert_eq!(parse(&header), Parsed::Done(header.len(), said));
        }
    }

    #[test]
    fn what_others_write_is_understood() {
        let known = Some(addresses("192.0.2.1:1", "192.0.2.2:2"));
        for (line, said) in [
            ("PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c000:202 1 2", known),
            ("PROXY TCP6 0000:0000:0000:0000:0000:FFFF:C000:0201 0:0:0:0:0:ffff:192.0.2.2 1 2", known),
            ("PROXY UNKNOWN ffff::1 ffff::2 65535 65535", None),
            ("PROXY UNKNOWN ", None),
            ("PROXY UNKNOWN what\rever\nit is", None),
        ] {
            let bytes = format!("{line}\r\nmore\r\n");
            assert_eq!(parse(bytes.as_bytes()), Parsed::Done(line.len() + 2, said), "{line}");
        }
    }

    #[test]
    fn whatever_else_is_bad() {
        for line in [
            "PROXY ",
            "PROXY TCP4",
            "PROXY tcp4 192.0.2.1 192.0.2.2 1 2",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2",
            "PROXY UNKNOWNS",
            "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2",
            "PROXY TCP4  192.0.2.1 192.0.2.2 1 2",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 ",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1",
            "PROXY TCP4 192.0.2.1\t192.0.2.2 1 2",
            "PROXY TCP4 192.0.2 192.0.2.2 1 2",
            "PROXY TCP4 192.0.2.256 192.0.2.2 1 2",
            "PROXY TCP4 192.0.02.1 192.0.2.2 1 2",
            "PROXY TCP4 ::1 ::1 1 2",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2",
            "PROXY TCP6 ::1::1 ::1 1 2",
            "PROXY TCP6 fe80::1%eth0 ::1 1 2",
            "PROXY TCP6 [::1] ::1 1 2",
            "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2",
            "PROXY TCP4 192.0.2.1 192.0.2.2 -1 2",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2",
            "PROXY TCP4 192.0.2.1 192.0.2.2 00 2",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 ",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 \u{662}",
        ] {
            assert!(matches!(parse(format!("{line}\r\n").as_bytes()), Parsed::Bad(_)), "{line}");
        }
        assert!(matches!(parse(b"PROXY TCP4 \xFF\r\n"), Parsed::Bad(_)));
    }

    #[test]
    fn the_line_ends_within_107_bytes() {
        let fill = |n: usize| format!("PROXY UNKNOWN {}", "x".repeat(n - 16));
        assert_eq!(parse((fill(107) + "\r\n").as_bytes()), Parsed::Done(107, None));
        assert!(matches!(parse((fill(108) + "\r\n").as_bytes()), Parsed::Bad(_)));
        assert_eq!(parse(&fill(108).as_bytes()[..106]), Parsed::NeedMore);
        assert!(
            matches!(parse("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n".repeat(4).as_bytes()), Parsed::Bad(_)),
            "LF alone is no end"
        );
    }
}
