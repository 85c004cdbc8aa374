//! Who a client is: its address, in as few bytes as may be, because each connection keeps it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A client's address and port. IPv4 is kept as it looks in IPv6, so a client has one shape whichever socket took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    ip: [u8; 16],
    port: u16,
}

impl Client {
    /// Its address; IPv4 as IPv4.
    pub fn ip(&self) -> IpAddr {
        Ipv6Addr::from(self.ip).to_canonical()
    }

    /// Its address and port. The zone of a link-local address is not kept.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip(), self.port)
    }

    /// The 16 bytes of its IPv6 shape.
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.ip
    }
}

impl From<SocketAddr> for Client {
    fn from(a: SocketAddr) -> Self {
        Self { ip: wide(a.ip()), port: a.port() }
    }
}

/// An address as IPv6, IPv4 as `::ffff:a.b.c.d`.
pub const fn wide(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_is_the_same_client_through_either_socket() {
        let plain: SocketAddr = "192.0.2.7:1234".parse().expect("an address");
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:1234".parse().expect("an address");
        assert_eq!(Client::from(plain), Client::from(mapped));
        assert_eq!(Client::from(mapped).address(), plain);
        let six: SocketAddr = "[2001:db8::1]:9".parse().expect("an address");
        assert_eq!(Client::from(six).address(), six);
    }
}
