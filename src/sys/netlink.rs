//! Netlink sockets: bytes in, bytes out. What they mean is in `vip::rtnl` and `vip::fence`.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Event groups: links, IPv4 addresses, IPv6 addresses.
pub const EVENTS: u32 = (libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR) as u32;

/// A bound netlink socket that never blocks on receiving.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

impl Netlink {
    /// Links and addresses (NETLINK_ROUTE), bound to event groups ([`EVENTS`]) or to none (0).
    pub fn open(groups: u32) -> io::Result<Self> {
        Self::bound(libc::NETLINK_ROUTE, groups)
    }

    /// nf_tables (NETLINK_NETFILTER), without events. EPROTONOSUPPORT where the kernel has no netfilter over netlink.
    pub fn netfilter() -> io::Result<Self> {
        Self::bound(libc::NETLINK_NETFILTER, 0)
    }

    fn bound(protocol: libc::c_int, groups: u32) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: socket takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, protocol) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let address = kernel(groups);
        // SAFETY: `address` is a sockaddr_nl that outlives the call, and its true size is given.
        let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), SIZE) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(fd)) }
    }

    /// Sends one request to the kernel, which handles it before this returns.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        let address = kernel(0);
        // SAFETY: `message` and `address` are valid for reading for the lengths given.
        let sent = unsafe {
            let to = (&raw const address).cast();
            libc::sendto(self.0.as_raw_fd(), message.as_ptr().cast(), message.len(), libc::MSG_NOSIGNAL, to, SIZE)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next datagram from the kernel. `WouldBlock`: none waits. ENOBUFS: events were lost. EMSGSIZE: longer than `buffer`.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut from = kernel(0);
        let mut size = SIZE;
        // SAFETY: `buffer` is writable for its length; `from` and `size` are valid for the call and match each other.
        let got = unsafe {
            let (data, flags) = (buffer.as_mut_ptr().cast(), libc::MSG_DONTWAIT | libc::MSG_TRUNC);
            libc::recvfrom(self.0.as_raw_fd(), data, buffer.len(), flags, (&raw mut from).cast(), &mut size)
        };
        match usize::try_from(got) {
            Err(_) => Err(io::Error::last_os_error()),
            Ok(_) if from.nl_pid != 0 => Ok(0), // not from the kernel: as if it were empty
            Ok(n) if n > buffer.len() => Err(io::Error::from_raw_os_error(libc::EMSGSIZE)),
            Ok(n) => Ok(n),
        }
    }
}

const SIZE: libc::socklen_t = mem::size_of::<libc::sockaddr_nl>() as libc::socklen_t;

fn kernel(groups: u32) -> libc::sockaddr_nl {
    // SAFETY: sockaddr_nl is plain integers, for which all zeroes is a value.
    let mut address: libc::sockaddr_nl = unsafe { mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = groups;
    address
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
