//! NETLINK_ROUTE messages as bytes: built and parsed here without any system call (linux/netlink.h, rtnetlink.h, if_addr.h).
//!
//! Numbers are in host byte order, addresses in network byte order. Every length that comes from a message is checked against the slice.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;

const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_ACK: u16 = 0x04;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;

const IFA_F_NODAD: u32 = 0x02;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;

const HEADER: usize = 16;
const ATTRIBUTE_TYPE: u16 = 0x3fff; // without NLA_F_NESTED and NLA_F_NET_BYTEORDER

/// The IFA_PROTO number that marks our addresses: 107, ASCII `k`. The kernel itself uses 1–3; iproute2 shows it as `proto 107`.
///
/// Kernels before 5.18 ignore the attribute and never report it.
pub const OUR_PROTO: u8 = b'k';

/// A lifetime that never ends (INFINITY_LIFE_TIME).
pub const FOREVER: u32 = u32::MAX;

/// What to do with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// RTM_NEWADDR with CREATE and EXCL: EEXIST where the interface has it already.
    Add,
    /// RTM_NEWADDR with REPLACE: sets lifetime and owner anew; creates it where it is absent.
    Renew,
    /// RTM_DELADDR.
    Remove,
}

/// One request about one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Add, renew or remove.
    pub change: Change,
    /// Interface index.
    pub index: u32,
    /// The address; its prefix is always /32 or /128.
    pub address: IpAddr,
    /// Seconds until the kernel removes it by itself (`valid_lft`); unused for `Remove`.
    pub lifetime: u32,
    /// Sequence number that the answer repeats.
    pub seq: u32,
}

/// Room for the longest request: 16 + 8 header, two 16-byte addresses, flags, lifetimes, owner, each with its attribute header.
pub const MAX_REQUEST: usize = 128;

/// A request as bytes; a small buffer without allocation.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    bytes: [u8; MAX_REQUEST],
    len: usize,
}

impl Message {
    /// Header and family part; flags without NLM_F_REQUEST.
    fn new(kind: u16, flags: u16, seq: u32) -> Self {
        let mut m = Self { bytes: [0; MAX_REQUEST], len: 0 };
        m.put(&[0; 4]).put(&kind.to_ne_bytes()).put(&(flags | NLM_F_REQUEST).to_ne_bytes());
        m.put(&seq.to_ne_bytes()).put(&[0; 4]);
        m
    }

    fn put(&mut self, data: &[u8]) -> &mut Self {
        // The longest message is 92 bytes (a test holds this), so nothing is ever cut.
        let room = data.len().min(MAX_REQUEST - self.len);
        self.bytes[self.len..self.len + room].copy_from_slice(&data[..room]);
        self.len += room;
        self
    }

    fn attribute(&mut self, kind: u16, data: &[u8]) -> &mut Self {
        let len = data.len() as u16 + 4;
        self.put(&len.to_ne_bytes()).put(&kind.to_ne_bytes()).put(data);
        self.put(&[0; 3][..data.len().next_multiple_of(4) - data.len()])
    }

    fn finish(mut self) -> Self {
        self.bytes[..4].copy_from_slice(&(self.len as u32).to_ne_bytes());
        self
    }

    /// The bytes to send.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Request {
    /// The message: prefix 32 or 128, no prefix route, no duplicate address detection, `preferred_lft` 0, owner [`OUR_PROTO`].
    pub fn encode(&self) -> Message {
        let (kind, flags) = match self.change {
            Change::Add => (RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL),
            Change::Renew => (RTM_NEWADDR, NLM_F_REPLACE),
            Change::Remove => (RTM_DELADDR, 0),
        };
        let mut m = Message::new(kind, flags | NLM_F_ACK, self.seq);
        m.put(&[family(self.address), full_prefix(self.address), 0, 0]).put(&self.index.to_ne_bytes());
        match self.address {
            IpAddr::V4(a) => m.attribute(IFA_LOCAL, &a.octets()).attribute(IFA_ADDRESS, &a.octets()),
            IpAddr::V6(a) => m.attribute(IFA_LOCAL, &a.octets()).attribute(IFA_ADDRESS, &a.octets()),
        };
        if self.change != Change::Remove {
            let nodad = if self.address.is_ipv6() { IFA_F_NODAD } else { 0 };
            m.attribute(IFA_FLAGS, &(IFA_F_NOPREFIXROUTE | nodad).to_ne_bytes());
            let mut life = [0; 16]; // struct ifa_cacheinfo: preferred, valid, created, updated
            life[4..8].copy_from_slice(&self.lifetime.to_ne_bytes());
            m.attribute(IFA_CACHEINFO, &life).attribute(IFA_PROTO, &[OUR_PROTO]);
        }
        m.finish()
    }
}

/// A request for all addresses of the family of `like`, on all interfaces.
pub fn dump_addresses(like: IpAddr, seq: u32) -> Message {
    let mut m = Message::new(RTM_GETADDR, NLM_F_DUMP, seq);
    m.put(&[family(like), 0, 0, 0]).put(&[0; 4]);
    m.finish()
}

/// 32 for IPv4, 128 for IPv6.
pub const fn full_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

const fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 2,  // AF_INET
        IpAddr::V6(_) => 10, // AF_INET6
    }
}

/// An address as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Interface index.
    pub index: u32,
    /// The local address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// IFA_PROTO; `None` where nobody set it or the kernel is older than 5.18.
    pub proto: Option<u8>,
    /// Seconds left until the kernel removes it; [`FOREVER`] for none.
    pub valid: u32,
    /// Seconds left until it is no longer used as a source; 0 for ours.
    pub preferred: u32,
}

/// One message from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The answer to a request: 0 or a positive errno.
    Answer(i32),
    /// The end of a dump: 0 or a positive errno.
    Done(i32),
    /// An address that exists (dump) or was added or changed (event).
    Address(Address),
    /// An address that was removed.
    AddressGone(Address),
    /// A link appeared or changed, with its interface index.
    Link(u32),
    /// A link vanished.
    LinkGone(u32),
    /// A message that is of no interest, or that could not be understood.
    Other,
}

/// A message with what its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Which request it answers.
    pub seq: u32,
    /// The dump was disturbed by a change (NLM_F_DUMP_INTR) and must be repeated.
    pub interrupted: bool,
    /// What it says.
    pub event: Event,
}

/// The messages of one datagram, in order. Stops at the first header whose length makes no sense.
pub struct Messages<'a>(pub &'a [u8]);

impl Iterator for Messages<'_> {
    type Item = Parsed;

    fn next(&mut self) -> Option<Parsed> {
        let len = u32_at(self.0, 0)? as usize;
        if len < HEADER || len > self.0.len() {
            return None;
        }
        let (message, rest) = (&self.0[..len], &self.0[len.next_multiple_of(4).min(self.0.len())..]);
        self.0 = rest;
        let flags = u16_at(message, 6)?;
        Some(Parsed { seq: u32_at(message, 8)?, interrupted: flags & NLM_F_DUMP_INTR != 0, event: event(message) })
    }
}

fn event(message: &[u8]) -> Event {
    let body = &message[HEADER..];
    let parsed = match u16_at(message, 4) {
        Some(NLMSG_ERROR) => u32_at(body, 0).map(|e| Event::Answer((e as i32).saturating_neg())),
        Some(NLMSG_DONE) => Some(Event::Done(u32_at(body, 0).map_or(0, |e| (e as i32).saturating_neg()))),
        Some(RTM_NEWADDR) => address(body).map(Event::Address),
        Some(RTM_DELADDR) => address(body).map(Event::AddressGone),
        Some(RTM_NEWLINK) => u32_at(body, 4).map(Event::Link),
        Some(RTM_DELLINK) => u32_at(body, 4).map(Event::LinkGone),
        _ => None,
    };
    parsed.unwrap_or(Event::Other)
}

fn address(body: &[u8]) -> Option<Address> {
    let (family, prefix, index) = (*body.first()?, *body.get(1)?, u32_at(body, 4)?);
    let mut found =
        Address { index, address: Ipv4Addr::UNSPECIFIED.into(), prefix, proto: None, valid: FOREVER, preferred: FOREVER };
    let (mut local, mut other) = (None, None); // IFA_ADDRESS is the far end where there is an IFA_LOCAL
    for (kind, data) in Attributes(body.get(8..)?) {
        match kind {
            IFA_LOCAL => local = ip(family, data),
            IFA_ADDRESS => other = ip(family, data),
            IFA_PROTO => found.proto = data.first().copied(),
            IFA_CACHEINFO => {
                found.preferred = u32_at(data, 0)?;
                found.valid = u32_at(data, 4)?;
            }
            _ => {}
        }
    }
    found.address = local.or(other)?;
    Some(found)
}

fn ip(family: u8, data: &[u8]) -> Option<IpAddr> {
    match family {
        2 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).into()),
        10 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).into()),
        _ => None,
    }
}

/// Attributes as (type, value), until one whose length makes no sense.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = u16_at(self.0, 0)? as usize;
        let kind = u16_at(self.0, 2)? & ATTRIBUTE_TYPE;
        let data = self.0.get(4..len)?;
        self.0 = &self.0[len.next_multiple_of(4).min(self.0.len())..];
        Some((kind, data))
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9));

    #[test]
    fn an_add_is_byte_exact() {
        let m = Request { change: Change::Add, index: 3, address: V4, lifetime: 2, seq: 7 }.encode();
        #[rustfmt::skip]
        let want: &[u8] = &[
            76, 0, 0, 0, 20, 0, 0x05, 0x06, 7, 0, 0, 0, 0, 0, 0, 0, // RTM_NEWADDR, REQUEST|ACK|EXCL|CREATE
            2, 32, 0, 0, 3, 0, 0, 0,                                // AF_INET, /32, index 3
            8, 0, 2, 0, 10, 0, 0, 9, 8, 0, 1, 0, 10, 0, 0, 9,       // IFA_LOCAL, IFA_ADDRESS
            8, 0, 8, 0, 0, 2, 0, 0,                                 // IFA_FLAGS: NOPREFIXROUTE
            20, 0, 6, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // IFA_CACHEINFO: preferred 0, valid 2
            5, 0, 11, 0, 107, 0, 0, 0,                              // IFA_PROTO
        ];
        assert_eq!(m.as_bytes(), want);
    }

    #[test]
    fn every_message_fits_and_says_its_length() {
        for change in [Change::Add, Change::Renew, Change::Remove] {
            for address in [V4, V6] {
                let m = Request { change, index: u32::MAX, address, lifetime: FOREVER, seq: u32::MAX }.encode();
                assert!(m.as_bytes().len() < MAX_REQUEST, "{change:?} of {address} would be cut");
                assert_eq!(u32_at(m.as_bytes(), 0).map(|n| n as usize), Some(m.as_bytes().len()));
            }
        }
        assert_eq!(dump_addresses(V6, 1).as_bytes().len(), 24);
    }

    #[test]
    fn what_is_sent_reads_back() {
        for address in [V4, V6] {
            let m = Request { change: Change::Renew, index: 5, address, lifetime: 2, seq: 9 }.encode();
            let want =
                Address { index: 5, address, prefix: full_prefix(address), proto: Some(OUR_PROTO), valid: 2, preferred: 0 };
            let got: Vec<_> = Messages(m.as_bytes()).collect();
            assert_eq!(got, [Parsed { seq: 9, interrupted: false, event: Event::Address(want) }]);
        }
    }

    #[test]
    fn answers_and_interrupted_dumps() {
        let mut error = vec![20, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];
        error.extend((-libc::EEXIST).to_ne_bytes());
        let mut done = vec![20, 0, 0, 0, 3, 0, 0x12, 0, 5, 0, 0, 0, 0, 0, 0, 0];
        done.extend(0i32.to_ne_bytes());
        let both: Vec<_> = Messages(&[error, done].concat()).collect();
        assert_eq!(both[0], Parsed { seq: 4, interrupted: false, event: Event::Answer(libc::EEXIST) });
        assert_eq!(both[1], Parsed { seq: 5, interrupted: true, event: Event::Done(0) });
    }

    #[test]
    fn no_cut_or_changed_message_panics() {
        let m = Request { change: Change::Add, index: 3, address: V6, lifetime: 2, seq: 7 }.encode();
        for len in 0..=m.as_bytes().len() {
            let mut bytes = m.as_bytes()[..len].to_vec();
            let _ = Messages(&bytes).count();
            for at in 0..len {
                for value in [0, 1, 3, 4, 5, 0x7f, 0x80, 0xff] {
                    let old = std::mem::replace(&mut bytes[at], value);
                    assert!(Messages(&bytes).count() <= 6);
                    bytes[at] = old;
                }
            }
        }
    }
}
