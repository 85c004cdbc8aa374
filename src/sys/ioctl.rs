//! Facts about an interface, by the SIOCGIF* ioctls (netdevice(7)).

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

/// An interface as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index; never 0.
    pub index: u32,
    /// Its Ethernet address; `None` for other hardware (loopback, tunnels).
    pub mac: Option<[u8; 6]>,
    /// Administratively up, and the driver says it can carry packets.
    pub up: bool,
    /// Largest packet in bytes.
    pub mtu: u32,
}

/// The socket that carries the questions.
#[derive(Debug)]
pub struct Interfaces(OwnedFd);

impl Interfaces {
    /// Opens it; works without privileges.
    pub fn open() -> io::Result<Self> {
        Ok(Self(UnixDatagram::unbound()?.into())) // any socket will do, and this one needs neither IPv4 nor IPv6
    }

    /// Asks about `name`. ENODEV where there is none, also for a name longer than IFNAMSIZ − 1.
    pub fn get(&self, name: &str) -> io::Result<Interface> {
        let index = self.ask(name, libc::SIOCGIFINDEX as libc::Ioctl)?;
        let flags = self.ask(name, libc::SIOCGIFFLAGS as libc::Ioctl)?;
        let hardware = self.ask(name, libc::SIOCGIFHWADDR as libc::Ioctl)?;
        let mtu = self.ask(name, libc::SIOCGIFMTU as libc::Ioctl)?;
        let both = libc::IFF_UP | libc::IFF_RUNNING;
        let family = u16::from_ne_bytes([hardware[0], hardware[1]]);
        let mac = [hardware[2], hardware[3], hardware[4], hardware[5], hardware[6], hardware[7]];
        Ok(Interface {
            index: u32_of(&index),
            mac: (family == libc::ARPHRD_ETHER).then_some(mac),
            up: i32::from(u16::from_ne_bytes([flags[0], flags[1]])) & both == both,
            mtu: u32_of(&mtu),
        })
    }

    /// One ioctl; the first eight bytes of the answer's union, which every question used here fits into.
    fn ask(&self, name: &str, question: libc::Ioctl) -> io::Result<[u8; 8]> {
        // SAFETY: ifreq is integers, arrays and a union of such, for which all zeroes is a value.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        if name.len() >= request.ifr_name.len() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *slot = byte as libc::c_char;
        }
        // SAFETY: `request` is a whole ifreq with a terminated name, which is what SIOCGIF* read and write.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), question, &mut request) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the union is at least 16 bytes (a sockaddr), zeroed before the call, and any bytes are valid u8.
        Ok(unsafe { (&raw const request.ifr_ifru).cast::<[u8; 8]>().read_unaligned() })
    }
}

fn u32_of(answer: &[u8; 8]) -> u32 {
    u32::from_ne_bytes([answer[0], answer[1], answer[2], answer[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_known_and_not_ethernet() {
        let i = Interfaces::open().and_then(|s| s.get("lo")).expect("every machine has lo");
        assert!(i.index > 0 && i.mac.is_none() && i.mtu > 0, "{i:?}");
    }

    #[test]
    fn absent_and_impossible_names_are_enodev() {
        let s = Interfaces::open().expect("a socket");
        for name in ["nosuch0", "a-name-longer-than-fifteen", ""] {
            assert_eq!(s.get(name).map_err(|e| e.raw_os_error()), Err(Some(libc::ENODEV)), "{name:?}");
        }
    }
}
