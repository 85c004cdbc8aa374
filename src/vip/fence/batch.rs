//! A batch of nf_tables messages as bytes (linux/netfilter/nfnetlink.h, nf_tables.h): built here without any system call or allocation.
//!
//! Header numbers are in host byte order; every number within an attribute is in network byte order, as nf_tables wants it.

use std::net::IpAddr;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFPROTO_NETDEV: u8 = 5;

const HEADER: usize = 20;
const NLM_F_REQUEST: u16 = 0x01;
pub(super) const ACK: u16 = 0x04;
pub(super) const EXCL: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

const NLA_F_NESTED: u16 = 0x8000;
const LIST_ELEM: u16 = 1; // NFTA_LIST_ELEM
const DATA_VALUE: u16 = 1; // NFTA_DATA_VALUE
const DATA_VERDICT: u16 = 2; // NFTA_DATA_VERDICT

/// What is asked of nf_tables: NFT_MSG_*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Verb {
    NewTable = 0,
    DelTable = 2,
    NewChain = 3,
    NewRule = 6,
    NewSet = 9,
    NewElement = 12,
    DelElement = 14,
}

/// Where a payload is read: NFT_PAYLOAD_*_HEADER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    Network = 1,
    Transport = 2,
}

/// What a packet's own data is called: NFT_META_*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meta {
    /// The EtherType, two bytes.
    Protocol = 1,
    /// The protocol after all IP headers, one byte.
    L4Proto = 16,
}

/// NFT_REG_1: the register that values are compared in; 16 bytes.
const REGISTER: u32 = 1;

/// Room for the longest batch, which installs the table of an IPv6 address (a test holds it).
pub(super) const ROOM: usize = 5120;

/// One transaction: all of it takes effect at once, or nothing.
pub struct Batch {
    bytes: [u8; ROOM],
    len: usize,
    seq: u32,
    first: u32,
}

impl Batch {
    /// Begins one; its messages are numbered from `seq` on.
    pub(super) fn new(seq: u32) -> Self {
        let mut b = Self { bytes: [0; ROOM], len: 0, seq, first: seq };
        b.bracket(NFNL_MSG_BATCH_BEGIN);
        b
    }

    /// Ends it.
    pub(super) fn finish(mut self) -> Self {
        self.bracket(NFNL_MSG_BATCH_END);
        self
    }

    /// The bytes to send, in one datagram.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Whether an answer with this number belongs to it.
    pub(super) fn has(&self, seq: u32) -> bool {
        seq.wrapping_sub(self.first) < self.seq.wrapping_sub(self.first)
    }

    /// The number that the next batch begins with.
    pub(super) fn next_seq(&self) -> u32 {
        self.seq
    }

    fn bracket(&mut self, kind: u16) {
        self.message(kind, 0, 0, NFNL_SUBSYS_NFTABLES, |_| {});
    }

    /// One nf_tables message of our family.
    pub(super) fn say(&mut self, verb: Verb, flags: u16, attributes: impl FnOnce(&mut Self)) {
        self.message(NFNL_SUBSYS_NFTABLES << 8 | verb as u16, flags, NFPROTO_NETDEV, 0, attributes);
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: impl FnOnce(&mut Self)) {
        let start = self.len;
        let mut header = [0; HEADER]; // struct nlmsghdr, struct nfgenmsg
        header[4..6].copy_from_slice(&kind.to_ne_bytes());
        header[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        header[8..12].copy_from_slice(&self.seq.to_ne_bytes());
        header[16] = family;
        header[18..].copy_from_slice(&resource.to_be_bytes());
        self.put(&header);
        attributes(self);
        let length = (self.len - start) as u32;
        self.write_at(start, &length.to_ne_bytes());
        self.seq = self.seq.wrapping_add(1);
    }

    fn put(&mut self, data: &[u8]) {
        let room = data.len().min(ROOM - self.len); // a test holds that nothing is ever cut
        self.bytes[self.len..self.len + room].copy_from_slice(&data[..room]);
        self.len += room;
    }

    fn write_at(&mut self, at: usize, data: &[u8]) {
        if let Some(slot) = self.bytes.get_mut(at..at + data.len()) {
            slot.copy_from_slice(data);
        }
    }

    fn attribute(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.len;
        self.put(&[0; 2]);
        self.put(&kind.to_ne_bytes());
        body(self);
        let length = (self.len - start) as u16;
        self.write_at(start, &length.to_ne_bytes());
        let pad = usize::from(length).next_multiple_of(4) - usize::from(length);
        self.put(&[0; 3][..pad]);
    }

    pub(super) fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        self.attribute(kind | NLA_F_NESTED, body);
    }

    /// A terminated string.
    pub(super) fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, |b| {
            b.put(text.as_bytes());
            b.put(&[0]);
        });
    }

    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, |b| b.put(&value.to_be_bytes()));
    }

    pub(super) fn long(&mut self, kind: u16, value: u64) {
        self.attribute(kind, |b| b.put(&value.to_be_bytes()));
    }

    pub(super) fn list_element(&mut self, body: impl FnOnce(&mut Self)) {
        self.nested(LIST_ELEM, body);
    }

    /// A value as NFTA_DATA_VALUE within `kind`.
    pub(super) fn value(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |b| b.attribute(DATA_VALUE, |b| b.put(value)));
    }

    /// One step of a rule: NFTA_EXPR_NAME and NFTA_EXPR_DATA.
    fn expression(&mut self, name: &str, data: impl FnOnce(&mut Self)) {
        self.list_element(|b| {
            b.text(1, name);
            b.nested(2, data);
        });
    }

    /// Goes on with the next rule unless the packet's own data has this value (NFTA_META_DREG, KEY).
    pub(super) fn meta_is(&mut self, what: Meta, value: &[u8]) {
        self.expression("meta", |b| {
            b.number(1, REGISTER);
            b.number(2, what as u32);
        });
        self.compare(true, value);
    }

    /// Goes on with the next rule unless the bytes there have (or, `equal` false, have not) this value; they stay in the register.
    pub(super) fn payload_is(&mut self, base: Header, offset: u32, equal: bool, value: &[u8]) {
        self.expression("payload", |b| {
            b.number(1, REGISTER); // NFTA_PAYLOAD_DREG, BASE, OFFSET, LEN
            b.number(2, base as u32);
            b.number(3, offset);
            b.number(4, value.len() as u32);
        });
        self.compare(equal, value);
    }

    /// NFTA_CMP_SREG, OP, DATA.
    fn compare(&mut self, equal: bool, value: &[u8]) {
        self.expression("cmp", |b| {
            b.number(1, REGISTER);
            b.number(2, u32::from(!equal));
            b.value(3, value);
        });
    }

    /// Goes on with the next rule unless the register's value is in the set (or, `inside` false, is not).
    pub(super) fn lookup(&mut self, set: &str, inside: bool) {
        self.expression("lookup", |b| {
            b.text(1, set); // NFTA_LOOKUP_SET, SREG, FLAGS
            b.number(2, REGISTER);
            if !inside {
                b.number(5, 1);
            }
        });
    }

    /// NF_DROP into NFT_REG_VERDICT.
    pub(super) fn drop_it(&mut self) {
        self.expression("immediate", |b| {
            b.number(1, 0);
            b.nested(2, |b| b.nested(DATA_VERDICT, |b| b.number(1, 0)));
        });
    }
}

/// An address as bytes, without allocation.
pub(super) fn octets(address: IpAddr) -> ([u8; 16], usize) {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(a) => {
            bytes[..4].copy_from_slice(&a.octets());
            (bytes, 4)
        }
        IpAddr::V6(a) => (a.octets(), 16),
    }
}
