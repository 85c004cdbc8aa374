//! The PROXY protocol: how a proxy in front says whose connection this is, in a header before the connection's own bytes.
//!
//! The source is HAProxy's `doc/proxy-protocol.txt`, versions 1 (one line of text) and 2 (binary). Pure: bytes in, answer out. A
//! header is parsed from what a peek of the socket showed, again and again until it is whole, so that nothing behind it is taken.

mod v1;
mod v2;

use crate::config::ProxyVersion;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Deref;

/// The longest header that is read, in bytes: one of version 2 with 4 KiB of addresses and extensions. Known ones need some 500.
pub const LONGEST: usize = v2::LONGEST;

/// Whose connection it is, and what it was made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client's address.
    pub source: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
}

impl Addresses {
    /// Both addresses, IPv4 as IPv4 also where they were said in the mapped form of IPv6 (`::ffff:192.0.2.1`).
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        let plain = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
        Self { source: plain(source), destination: plain(destination) }
    }
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Perhaps the beginning of a header.
    NeedMore,
    /// A header of this many bytes. Without addresses it is about the connection that it came over: a health check of the proxy, or
    /// a client whose address the proxy doesn't know or can't say in the protocol.
    Done(usize, Option<Addresses>),
    /// No header, whatever follows; and what is wrong.
    Bad(&'static str),
}

/// Looks for a header of either version at the start of `bytes`: all that the connection has brought up to now, or at least the
/// first [`LONGEST`] bytes of it.
pub fn parse(bytes: &[u8]) -> Parsed {
    match bytes.first() {
        None => Parsed::NeedMore,
        Some(b'P') => v1::parse(bytes),
        Some(_) => v2::parse(bytes),
    }
}

/// A header to be sent before the first byte of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    bytes: [u8; v1::LONGEST],
    len: usize,
}

impl Header {
    /// About a connection between these addresses. None: about the one that it is sent over, as a proxy's own health checks say.
    ///
    /// Where one address is IPv6 and the other IPv4, the latter is said in the mapped form.
    pub fn new(version: ProxyVersion, addresses: Option<Addresses>) -> Self {
        match version {
            ProxyVersion::V1 => v1::emit(addresses),
            ProxyVersion::V2 => v2::emit(addresses),
        }
    }

    const fn empty() -> Self {
        Self { bytes: [0; v1::LONGEST], len: 0 }
    }

    /// Adds bytes. No header is longer than there is room; what would be is cut.
    fn push(&mut self, more: &[u8]) {
        let end = (self.len + more.len()).min(self.bytes.len());
        let room = &mut self.bytes[self.len..end];
        room.copy_from_slice(&more[..room.len()]);
        self.len = end;
    }
}

impl Deref for Header {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The address as one of IPv6.
fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(source: &str, destination: &str) -> Addresses {
        Addresses::new(source.parse().expect("an address"), destination.parse().expect("an address"))
    }

    fn some() -> Vec<Option<Addresses>> {
        vec![
            None,
            Some(addresses("192.0.2.1:1", "198.51.100.255:65535")),
            Some(addresses("[2001:db8::1]:40000", "[2001:db8::2]:443")),
            Some(addresses("192.0.2.1:40000", "[2001:db8::2]:443")),
            Some(addresses("[2001:db8:1:2:3:4:5:6]:65535", "10.0.0.1:0")),
            Some(addresses("[::]:0", "[::1]:1")),
        ]
    }

    #[test]
    fn what_is_emitted_is_parsed_and_nothing_behind_it_is_taken() {
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            for said in some() {
                let header = Header::new(version, said);
                for behind in [&b""[..], b"G", b"GET / HTTP/1.1\r\n\r\n", &[0; 500]] {
                    let bytes = [&header[..], behind].concat();
                    assert_eq!(parse(&bytes), Parsed::Done(header.len(), said), "{version:?} {said:?}");
                }
            }
        }
    }

    #[test]
    fn every_beginning_of_a_header_needs_more() {
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            for header in some().into_iter().map(|said| Header::new(version, said)) {
                for n in 0..header.len() {
                    assert_eq!(parse(&header[..n]), Parsed::NeedMore, "{n} bytes of {:?}", &header[..]);
                }
            }
        }
    }

    #[test]
    fn mapped_addresses_are_told_as_what_they_are() {
        let mapped = addresses("[::ffff:192.0.2.1]:7", "[::ffff:198.51.100.2]:8");
        assert_eq!(mapped, addresses("192.0.2.1:7", "198.51.100.2:8"));
        let header = Header::new(ProxyVersion::V1, Some(mapped));
        assert_eq!(&header[..], b"PROXY TCP4 192.0.2.1 198.51.100.2 7 8\r\n");
    }

    #[test]
    fn what_is_no_header_is_bad_at_its_first_wrong_byte() {
        for (text, at) in
            [("GET / HTTP/1.1\r\n", 1), ("PRI * HTTP/2.0\r\n", 3), ("\x16\x03\x01", 1), ("\r\n\r\n\0\r\nQUIT\r", 12)]
        {
            for n in 0..text.len() {
                let (parsed, bad) = (parse(&text.as_bytes()[..n]), n >= at);
                assert_eq!(matches!(parsed, Parsed::Bad(_)), bad, "{n} bytes of {text:?}: {parsed:?}");
            }
        }
    }

    /// Whatever comes, in whatever pieces: no panic, an answer stays as it is when more comes, and it comes in bounded time.
    #[test]
    fn random_bytes_never_panic_and_an_answer_once_given_stays() {
        let mut x = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = move || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x >> 16
        };
        let headers: Vec<Header> = [ProxyVersion::V1, ProxyVersion::V2]
            .iter()
            .flat_map(|&v| some().into_iter().map(move |s| Header::new(v, s)))
            .collect();
        let (mut done, mut bad) = (0, 0);
        for round in 0..6000 {
            // A header with some bytes changed, then rubbish.
            let mut bytes = headers[round % headers.len()].to_vec();
            bytes.extend((0..random() % 200).map(|_| random() as u8));
            for _ in 0..random() % 4 {
                let at = random() as usize % bytes.len();
                bytes[at] = if random() % 2 == 0 { random() as u8 } else { bytes[at] ^ 1 << (random() % 8) };
            }
            let mut answer = Parsed::NeedMore;
            for n in 0..=bytes.len() {
                let parsed = parse(&bytes[..n]);
                match answer {
                    Parsed::NeedMore => answer = parsed,
                    _ => assert_eq!(parsed, answer, "{n} bytes of {bytes:?}"),
                }
                if let Parsed::Done(len, _) = parsed {
                    assert!(len <= n && len > 0);
                }
            }
            done += u32::from(matches!(answer, Parsed::Done(..)));
            bad += u32::from(matches!(answer, Parsed::Bad(_)));
            bytes.resize(LONGEST, b'x');
            assert_ne!(parse(&bytes), Parsed::NeedMore, "it ends");
        }
        assert!(done > 500 && bad > 500, "both are met: {done} {bad}");
    }
}
