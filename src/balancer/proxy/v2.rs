//! Version 2: a signature, version and command, family and transport, a length, addresses, extensions (type, length, value).

use super::{Addresses, Header, Parsed, mapped};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Signature, version and command, family and transport, length.
const FIXED: usize = 16;
/// Addresses and extensions of more than 4 KiB are refused, so that no client keeps more than that unread.
pub const LONGEST: usize = FIXED + 4096;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command LOCAL: the proxy's own connection.
const LOCAL: u8 = 0x20;
/// Version 2, command PROXY: a client's connection.
const PROXY: u8 = 0x21;
/// Extension: CRC-32C of the whole header.
const CRC32C: u8 = 0x03;

/// Parses a header from the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    let begin = bytes.len().min(SIGNATURE.len());
    if bytes[..begin] != SIGNATURE[..begin] {
        return Parsed::Bad("it doesn't begin with a PROXY protocol header");
    }
    if bytes.get(12).is_some_and(|command| !matches!(*command, LOCAL | PROXY)) {
        return Parsed::Bad("its header has the signature of version 2, but neither the version 2 nor a command of it");
    }
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else { return Parsed::NeedMore };
    let len = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if FIXED + len > LONGEST {
        return Parsed::Bad("its header says that it is longer than 4 KiB");
    }
    let Some(body) = rest.get(..len) else { return Parsed::NeedMore };
    let said = match fixed[12] {
        LOCAL => Ok(None), // whatever follows is to be ignored
        _ => addresses(&bytes[..FIXED + len], fixed[13], body),
    };
    match said {
        Ok(said) => Parsed::Done(FIXED + len, said),
        Err(why) => Parsed::Bad(why),
    }
}

/// What a PROXY command says: `header` whole, with its byte of family and transport, and what follows its fixed part.
///
/// The transport is the one between client and proxy: a datagram's sender (QUIC) is a client as well as any other.
fn addresses(header: &[u8], family: u8, body: &[u8]) -> Result<Option<Addresses>, &'static str> {
    let (said, extensions) = match family {
        0x11 | 0x12 => body.split_first_chunk().map(|(block, rest)| (Some(inet(block)), rest)),
        0x21 | 0x22 => body.split_first_chunk().map(|(block, rest)| (Some(inet6(block)), rest)),
        0x31 | 0x32 => body.split_at_checked(2 * 108).map(|(_, rest)| (None, rest)), // paths of UNIX sockets
        0x00 => return Ok(None), // unspecified: whatever follows is to be ignored
        _ => return Err("its header of version 2 has a family or a transport that the protocol doesn't know"),
    }
    .ok_or("its header of version 2 is too short for its addresses")?;
    check(header, extensions).map(|()| said)
}

fn inet(block: &[u8; 12]) -> Addresses {
    let [a, b, c, d, e, f, g, h, ports @ ..] = *block;
    pair(Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h), ports)
}

fn inet6(block: &[u8; 36]) -> Addresses {
    let (mut source, mut destination, mut ports) = ([0; 16], [0; 16], [0; 4]);
    source.copy_from_slice(&block[..16]);
    destination.copy_from_slice(&block[16..32]);
    ports.copy_from_slice(&block[32..]);
    pair(Ipv6Addr::from(source), Ipv6Addr::from(destination), ports)
}

fn pair(source: impl Into<IpAddr>, destination: impl Into<IpAddr>, ports: [u8; 4]) -> Addresses {
    let port = |i: usize| u16::from_be_bytes([ports[i], ports[i + 1]]);
    Addresses::new(SocketAddr::new(source.into(), port(0)), SocketAddr::new(destination.into(), port(2)))
}

/// Walks over the extensions at the end of `header`; a checksum among them must be right, all others are ignored.
fn check(header: &[u8], extensions: &[u8]) -> Result<(), &'static str> {
    const CUT: &str = "the extensions in its header of version 2 don't end where it ends";
    let mut rest = extensions;
    while let [kind, high, low, more @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, next) = more.split_at_checked(len).ok_or(CUT)?;
        if *kind == CRC32C {
            let at = header.len() - more.len();
            let zeroed = [&header[..at], &[0; 4], header.get(at + 4..).unwrap_or_default()].concat();
            if value != crc32c(&zeroed).to_be_bytes() {
                return Err("the checksum in its header of version 2 is wrong");
            }
        }
        rest = next;
    }
    if rest.is_empty() { Ok(()) } else { Err(CUT) }
}

/// CRC-32C (RFC 3720, appendix B.4), bit by bit: no table for what few proxies send, once per connection.
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| crc >> 1 ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

/// Makes a header, without extensions.
pub fn emit(addresses: Option<Addresses>) -> Header {
    let mut header = Header::empty();
    header.push(SIGNATURE);
    let Some(Addresses { source, destination }) = addresses else {
        header.push(&[LOCAL, 0, 0, 0]);
        return header;
    };
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.push(&[PROXY, 0x11, 0, 12]);
            header.push(&source.octets());
            header.push(&destination.octets());
        }
        (source, destination) => {
            header.push(&[PROXY, 0x21, 0, 36]);
            header.push(&mapped(source).octets());
            header.push(&mapped(destination).octets());
        }
    }
    header.push(&source.port().to_be_bytes());
    header.push(&destination.port().to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(source: &str, destination: &str) -> Option<Addresses> {
        Some(Addresses::new(source.parse().expect("an address"), destination.parse().expect("an address")))
    }

    /// A header of its parts.
    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(body.len()).expect("short").to_be_bytes();
        [SIGNATURE, &[command, family][..], &len, body].concat()
    }

    const V4: [u8; 12] = [192, 168, 0, 1, 192, 168, 0, 11, 0xDC, 0x04, 0x01, 0xBB];

    #[test]
    fn headers_are_byte_by_byte_as_specified() {
        let sign = [0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A];
        assert_eq!(emit(None)[..], [&sign[..], &[0x20, 0x00, 0x00, 0x00]].concat());
        let four = emit(said("192.168.0.1:56324", "192.168.0.11:443"));
        assert_eq!(four[..], [&sign[..], &[0x21, 0x11, 0x00, 0x0C], &V4].concat());
        let six = emit(said("[2001:db8::1]:56324", "[2001:db8::b]:443"));
        #[rustfmt::skip]
        let body = [
            0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01,
            0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0B,
            0xDC, 0x04, 0x01, 0xBB,
        ];
        assert_eq!(six[..], [&sign[..], &[0x21, 0x21, 0x00, 0x24], &body].concat());
        let mixed = emit(said("192.0.2.1:1", "[2001:db8::b]:443"));
        assert_eq!(mixed[16..32], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 192, 0, 2, 1]);
        assert_eq!((mixed[13], mixed.len()), (0x21, 52));
    }

    #[test]
    fn families_transports_and_commands() {
        let known = said("192.168.0.1:56324", "192.168.0.11:443");
        for (command, family, body, answer) in [
            (PROXY, 0x11, &V4[..], Ok(known)),
            (PROXY, 0x12, &V4, Ok(known)),
            (PROXY, 0x00, &V4, Ok(None)),
            (PROXY, 0x00, &[], Ok(None)),
            (PROXY, 0x31, &[b'/'; 216], Ok(None)),
            (LOCAL, 0x11, &V4, Ok(None)),
            (LOCAL, 0xFF, &[1, 2, 3], Ok(None)),
            (PROXY, 0x11, &V4[..11], Err("too short")),
            (PROXY, 0x21, &[0; 35], Err("too short")),
            (PROXY, 0x31, &[0; 215], Err("too short")),
            (PROXY, 0x10, &V4, Err("family or a transport")),
            (PROXY, 0x13, &V4, Err("family or a transport")),
            (PROXY, 0x41, &[0; 216], Err("family or a transport")),
            (0x22, 0x11, &V4, Err("command")),
            (0x11, 0x11, &V4, Err("command")),
            (0x31, 0x11, &V4, Err("command")),
        ] {
            let bytes = header(command, family, body);
            match (parse(&bytes), answer) {
                (Parsed::Done(len, said), Ok(answer)) => assert_eq!((len, said), (bytes.len(), answer), "{bytes:x?}"),
                (Parsed::Bad(why), Err(answer)) => assert!(why.contains(answer), "{bytes:x?}: {why}"),
                (parsed, _) => panic!("{bytes:x?}: {parsed:?}"),
            }
        }
    }

    #[test]
    fn extensions_are_skipped_and_bounded() {
        let known = said("192.168.0.1:56324", "192.168.0.11:443");
        let with = |extensions: &[u8]| header(PROXY, 0x11, &[&V4, extensions].concat());
        for extensions in [&[0x04, 0, 0][..], &[0x02, 0, 3, b'a', b'.', b'b', 0xEA, 0, 1, 1], &[[0xE0, 0, 1, 9]; 1021].concat()]
        {
            let bytes = with(extensions);
            assert_eq!(parse(&bytes), Parsed::Done(bytes.len(), known));
        }
        for extensions in [&[0x04][..], &[0x04, 0], &[0x04, 0, 1], &[0x04, 0, 0, 0x02, 0xFF, 0xFF, 1]] {
            assert!(matches!(parse(&with(extensions)), Parsed::Bad(why) if why.contains("end")), "{extensions:x?}");
        }
        let longest = with(&[&[0x04, 0x0F, 0xF1][..], &[0; 4081]].concat());
        assert_eq!((longest.len(), parse(&longest)), (LONGEST, Parsed::Done(LONGEST, known)));
        for n in 0..longest.len() {
            assert_eq!(parse(&longest[..n]), Parsed::NeedMore, "{n} bytes");
        }
        let mut longer = longest[..FIXED].to_vec();
        longer[15] += 1;
        assert!(matches!(parse(&longer), Parsed::Bad(why) if why.contains("4 KiB")), "known from its first bytes");
    }

    #[test]
    fn checksums_are_those_of_the_standard_and_must_be_right() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA); // RFC 3720, B.4
        // As a network load balancer of AWS sends it: checksum, its own extension, padding.
        let vpce = [&[0xEA, 0, 23, 1][..], b"vpce-08d2bf15fac5001c9", &[0x04, 0, 36], &[0; 36]].concat();
        let body =
            [&[172, 31, 7, 113, 172, 31, 10, 31, 0xC8, 0xF2, 0, 80, 0x03, 0, 4, 0xE8, 0xD6, 0x89, 0x2D][..], &vpce].concat();
        let good = header(PROXY, 0x11, &body);
        assert_eq!(parse(&good), Parsed::Done(good.len(), said("172.31.7.113:51442", "172.31.10.31:80")));
        // Byte 28 says that this is the checksum.
        for at in (FIXED..good.len()).filter(|at| *at != 28) {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert!(matches!(parse(&bad), Parsed::Bad(_)), "byte {at} changed");
        }
        let short = header(PROXY, 0x11, &[&V4[..], &[0x03, 0, 3, 1, 2, 3]].concat());
        assert!(matches!(parse(&short), Parsed::Bad(why) if why.contains("checksum")));
    }
}
