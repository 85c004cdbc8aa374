//! Link-layer frames as bytes: gratuitous ARP, neighbour advertisements, probes; and reading a foreign claim. No system call here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Length of an Ethernet frame with an ARP packet; the kernel pads it to 60 on the wire.
pub const ARP_LEN: usize = 42;
/// Length of an Ethernet frame with a neighbour message and one link-layer option.
pub const ND_LEN: usize = 86;

const BROADCAST: Mac = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// One frame, without allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: [u8; ND_LEN],
    len: usize,
}

impl Frame {
    fn new() -> Self {
        Self { bytes: [0; ND_LEN], len: 0 }
    }

    fn put(&mut self, data: &[u8]) -> &mut Self {
        self.bytes[self.len..self.len + data.len()].copy_from_slice(data);
        self.len += data.len();
        self
    }

    /// The whole frame, from the destination address on.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Which frame to send for a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// "The VIP is at my address": for IPv4 the request form, for IPv6 an unsolicited advertisement.
    Announce,
    /// IPv4 only, the reply form, which some receivers want besides the request form.
    AnnounceReply,
    /// "Who has the VIP?" without claiming it (RFC 5227 §2.1.1; RFC 4862 §5.4.2).
    Probe,
}

/// The frame of that kind; `None` for the reply form of IPv6, which there is none of.
pub fn build(kind: Kind, mac: Mac, vip: IpAddr) -> Option<Frame> {
    Some(match (kind, vip) {
        (Kind::Announce, IpAddr::V4(vip)) => arp(REQUEST, mac, vip, [0; 6], vip),
        (Kind::AnnounceReply, IpAddr::V4(vip)) => arp(REPLY, mac, vip, mac, vip),
        (Kind::Probe, IpAddr::V4(vip)) => arp(REQUEST, mac, Ipv4Addr::UNSPECIFIED, [0; 6], vip),
        (Kind::Announce, IpAddr::V6(vip)) => advertisement(mac, vip),
        (Kind::Probe, IpAddr::V6(vip)) => solicitation(mac, vip),
        (Kind::AnnounceReply, IpAddr::V6(_)) => return None,
    })
}

/// A broadcast ARP packet (RFC 826).
fn arp(op: u16, sha: Mac, spa: Ipv4Addr, tha: Mac, tpa: Ipv4Addr) -> Frame {
    let mut f = Frame::new();
    f.put(&BROADCAST).put(&sha).put(&[0x08, 0x06]);
    f.put(&[0, 1, 0x08, 0, 6, 4]).put(&op.to_be_bytes()); // Ethernet, IPv4, address lengths
    f.put(&sha).put(&spa.octets()).put(&tha).put(&tpa.octets());
    f
}

/// An unsolicited neighbour advertisement to all nodes: Override 1, Solicited 0, target link-layer option (RFC 4861 §7.2.6).
fn advertisement(mac: Mac, vip: Ipv6Addr) -> Frame {
    let mut body = [0; 32];
    body[0] = NEIGHBOR_ADVERTISEMENT;
    body[4] = 0x20; // Override
    body[8..24].copy_from_slice(&vip.octets());
    body[24] = 2; // option: target link-layer address
    body[25] = 1; // in units of 8 bytes
    body[26..32].copy_from_slice(&mac);
    nd([0x33, 0x33, 0, 0, 0, 1], mac, vip, ALL_NODES, &mut body)
}

/// A solicitation from the unspecified address, as duplicate address detection sends it: the owner answers to all nodes.
fn solicitation(mac: Mac, vip: Ipv6Addr) -> Frame {
    let v = vip.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(v[13]), u16::from_be_bytes([v[14], v[15]]));
    let mut body = [0; 24];
    body[0] = NEIGHBOR_SOLICITATION;
    body[8..24].copy_from_slice(&v);
    nd([0x33, 0x33, 0xff, v[13], v[14], v[15]], mac, Ipv6Addr::UNSPECIFIED, group, &mut body)
}

fn nd(to: Mac, mac: Mac, source: Ipv6Addr, destination: Ipv6Addr, body: &mut [u8]) -> Frame {
    let sum = icmpv6_checksum(source, destination, body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut f = Frame::new();
    f.put(&to).put(&mac).put(&[0x86, 0xdd]);
    f.put(&[0x60, 0, 0, 0]).put(&(body.len() as u16).to_be_bytes()).put(&[58, 255]); // ICMPv6, hop limit 255
    f.put(&source.octets()).put(&destination.octets()).put(body);
    f
}

/// The Internet checksum over pseudo header and message (RFC 4443 §2.3), the checksum field being zero.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> u16 {
    let words = |bytes: &[u8]| bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum::<u32>();
    let mut sum = words(&source.octets()) + words(&destination.octets()) + body.len() as u32 + 58 + words(body);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Who else says that the VIP is his: the link-layer address in an ARP packet or neighbour advertisement for `vip` that is not `own`.
///
/// `None` for every other frame, however it is cut or garbled.
pub fn claim(frame: &[u8], vip: IpAddr, own: Mac) -> Option<Mac> {
    let mac: Mac = match (frame.get(12..14)?, vip) {
        ([0x08, 0x06], IpAddr::V4(vip)) => {
            let arp = frame.get(14..ARP_LEN)?;
            (arp[..6] == [0, 1, 0x08, 0, 6, 4] && arp[14..18] == vip.octets()).then_some(())?;
            arp[8..14].try_into().ok()?
        }
        ([0x86, 0xdd], IpAddr::V6(vip)) => {
            let ip = frame.get(14..78)?; // 40 bytes of IPv6, 24 of neighbour advertisement
            (ip[6..8] == [58, 255] && ip[40] == NEIGHBOR_ADVERTISEMENT && ip[48..64] == vip.octets()).then_some(())?;
            match frame.get(78..ND_LEN) {
                Some([2, 1, target @ ..]) => target.try_into().ok()?,
                _ => frame.get(6..12)?.try_into().ok()?,
            }
        }
        _ => return None,
    };
    (mac != own).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [0x02, 0, 0, 0, 0, 0xaa];
    const OTHER: Mac = [0x02, 0, 0, 0, 0, 0xbb];
    const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 100));
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x64));

    #[rustfmt::skip]
    const GARP: [u8; ARP_LEN] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 0xaa, 0x08, 0x06,
        0, 1, 0x08, 0, 6, 4, 0, 1, 0x02, 0, 0, 0, 0, 0xaa, 10, 1, 2, 100, 0, 0, 0, 0, 0, 0, 10, 1, 2, 100,
    ];
    #[rustfmt::skip]
    const NA: [u8; ND_LEN] = [
        0x33, 0x33, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 0xaa, 0x86, 0xdd,
        0x60, 0, 0, 0, 0, 32, 58, 255,
        0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x64, 0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
        136, 0, 0x59, 0x2c, 0x20, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x64, 2, 1, 0x02, 0, 0, 0, 0, 0xaa,
    ];

    #[test]
    fn arp_is_byte_exact() {
        assert_eq!(build(Kind::Announce, MAC, V4).map(|f| f.as_bytes().to_vec()), Some(GARP.to_vec()));
        let mut reply = GARP;
        reply[21] = 2;
        reply[32..38].copy_from_slice(&MAC);
        assert_eq!(build(Kind::AnnounceReply, MAC, V4).map(|f| f.as_bytes().to_vec()), Some(reply.to_vec()));
        let mut probe = GARP;
        probe[28..32].fill(0);
        assert_eq!(build(Kind::Probe, MAC, V4).map(|f| f.as_bytes().to_vec()), Some(probe.to_vec()));
    }

    #[test]
    fn neighbour_messages_are_byte_exact() {
        assert_eq!(build(Kind::Announce, MAC, V6).map(|f| f.as_bytes().to_vec()), Some(NA.to_vec()));
        assert_eq!(build(Kind::AnnounceReply, MAC, V6), None);
        let probe = build(Kind::Probe, MAC, V6).map(|f| f.as_bytes().to_vec()).unwrap_or_default();
        assert_eq!(probe[..6], [0x33, 0x33, 0xff, 0, 0, 0x64]);
        assert_eq!(probe[22..38], [0; 16], "from the unspecified address");
        assert_eq!(probe[38..54], [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0x64]);
        assert_eq!((probe[54], probe.len()), (135, 78));
    }

    #[test]
    fn a_receiver_would_accept_the_checksum() {
        for kind in [Kind::Announce, Kind::Probe] {
            let f = build(kind, MAC, V6).map(|f| f.as_bytes().to_vec()).unwrap_or_default();
            let ip = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&f[at..at + 16]).unwrap_or_default());
            assert_eq!(icmpv6_checksum(ip(22), ip(38), &f[54..]), 0);
        }
    }

    #[test]
    fn foreign_claims_are_read_and_nothing_else() {
        let of = |frame: &[u8], vip, own| claim(frame, vip, own);
        assert_eq!(of(&GARP, V4, OTHER), Some(MAC));
        assert_eq!(of(&NA, V6, OTHER), Some(MAC));
        assert_eq!(of(&GARP, V4, MAC), None, "our own");
        assert_eq!(of(&NA, V6, MAC), None, "our own");
        assert_eq!(of(&GARP, IpAddr::V4(Ipv4Addr::LOCALHOST), OTHER), None, "another address");
        assert_eq!(of(&NA, V4, OTHER), None, "another family");
        assert_eq!(of(&NA[..78], V6, OTHER), Some(MAC), "without option: the sender of the frame");
        let probe = build(Kind::Probe, MAC, V4).map(|f| f.as_bytes().to_vec()).unwrap_or_default();
        assert_eq!(of(&probe, V4, OTHER), None, "a probe claims nothing");
        for cut in 0..ARP_LEN {
            assert_eq!(of(&GARP[..cut], V4, OTHER), None);
        }
        for cut in 0..78 {
            assert_eq!(of(&NA[..cut], V6, OTHER), None);
        }
    }
}
