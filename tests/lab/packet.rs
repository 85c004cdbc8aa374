//! Raw frames: an AF_PACKET socket on eth0 and the few wire formats the observers need.

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, socket};
use nix::sys::time::TimeSpec;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Link broadcast.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// A raw socket on this namespace's eth0 that sees every frame, in and out.
pub struct PacketSocket {
    fd: OwnedFd,
    /// MAC of eth0.
    pub mac: [u8; 6],
}

impl PacketSocket {
    /// Opens it on eth0 of the calling thread's namespace.
    pub fn open() -> PacketSocket {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).expect("root opens packet sockets");
        // getifaddrs lists links as ready-made packet addresses: no hand-made sockaddr_ll needed.
        let links = getifaddrs().expect("interfaces can be listed");
        let eth0 = links.filter(|i| i.interface_name == "eth0").find_map(|i| i.address?.as_link_addr().copied());
        let eth0 = eth0.expect("this host has eth0");
        bind(fd.as_raw_fd(), &eth0).expect("a packet socket can be bound to eth0");
        PacketSocket { fd, mac: eth0.addr().expect("eth0 has a MAC") }
    }

    /// Sends one frame; a full queue or a link that is down loses it, as a wire would.
    pub fn send(&self, frame: &[u8]) {
        match send(self.fd.as_raw_fd(), frame, MsgFlags::empty()) {
            Ok(_) | Err(Errno::ENOBUFS | Errno::ENETDOWN | Errno::EAGAIN) => {}
            Err(e) => panic!("can't send a frame: {e}"),
        }
    }

    /// The next frame, or `None` once `deadline` is reached.
    pub fn receive(&self, buffer: &mut [u8], deadline: Instant) -> Option<usize> {
        loop {
            match recv(self.fd.as_raw_fd(), buffer, MsgFlags::empty()) {
                Ok(n) => return Some(n),
                Err(Errno::EAGAIN) => {}
                Err(Errno::ENETDOWN | Errno::EINTR) => continue,
                Err(e) => panic!("can't receive frames: {e}"),
            }
            if !wait_readable(&self.fd, deadline) {
                return None;
            }
        }
    }
}

/// Waits until `fd` is readable; false at `deadline`.
pub fn wait_readable(fd: &impl AsFd, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return false;
    }
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    matches!(ppoll(&mut fds, Some(TimeSpec::from_duration(left.min(Duration::from_secs(3600)))), None), Ok(n) if n > 0)
}

/// An ARP packet (RFC 826) for Ethernet and IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// 1 request, 2 reply.
    pub op: u16,
    pub sha: [u8; 6],
    pub spa: Ipv4Addr,
    pub tha: [u8; 6],
    pub tpa: Ipv4Addr,
}

impl Arp {
    /// The 42 bytes of the frame.
    pub fn frame(&self, dst: [u8; 6], src: [u8; 6]) -> Vec<u8> {
        let mut f = [&dst[..], &src, &[8, 6, 0, 1, 8, 0, 6, 4], &self.op.to_be_bytes()].concat();
        f.extend([&self.sha[..], &self.spa.octets(), &self.tha, &self.tpa.octets()].concat());
        f
    }

    /// Reads a frame, if it is such ARP.
    pub fn parse(frame: &[u8]) -> Option<Arp> {
        let arp = frame.get(14..42)?;
        if frame[12..14] != [8, 6] || arp[..6] != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        let ip = |at: usize| Ipv4Addr::new(arp[at], arp[at + 1], arp[at + 2], arp[at + 3]);
        let mac = |at: usize| arp[at..at + 6].try_into().expect("six bytes");
        Some(Arp { op: u16::from_be_bytes([arp[6], arp[7]]), sha: mac(8), spa: ip(14), tha: mac(18), tpa: ip(24) })
    }
}

/// The 86 bytes of an unsolicited neighbour advertisement (RFC 4861 §4.4, §7.2.6) with Override set.
pub fn unsolicited_na(src: [u8; 6], from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut icmp = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    icmp.extend(target.octets());
    icmp.extend([2, 1]);
    icmp.extend(src);
    let sum = icmp6_checksum(from, all_nodes, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut f = [&[0x33, 0x33, 0, 0, 0, 1], &src[..], &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]].concat();
    f.extend(from.octets());
    f.extend(all_nodes.octets());
    f.extend(icmp);
    f
}

/// The checksum of an ICMPv6 message whose own checksum field is zero (RFC 4443 §2.3).
fn icmp6_checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    let all = [&from.octets()[..], &to.octets(), &length, &[0, 0, 0, 58], message].concat();
    let mut sum: u32 = all.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

/// ICMPv6 type of a frame, if it is plain IPv6 carrying ICMPv6.
pub fn icmp6_type(frame: &[u8]) -> Option<u8> {
    (frame.get(12..14)? == [0x86, 0xdd] && *frame.get(20)? == 58).then(|| frame.get(54).copied())?
}
