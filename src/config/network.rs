//! Networks in CIDR notation (RFC 4632, RFC 4291 §2.3): which addresses are in one.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address and how many of its leading bits count. IPv4-mapped IPv6 addresses count as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether `ip` is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => same(net.to_bits().into(), ip.to_bits().into(), 32, self.prefix),
            (IpAddr::V6(net), IpAddr::V6(ip)) => same(net.to_bits(), ip.to_bits(), 128, self.prefix),
            _ => false,
        }
    }

    /// The same network, written with no bit set beyond the prefix.
    #[must_use]
    pub fn trimmed(self) -> Self {
        let address = match self.address {
            IpAddr::V4(ip) => {
                IpAddr::from((ip.to_bits() & !u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0)).to_be_bytes())
            }
            IpAddr::V6(ip) => {
                IpAddr::from((ip.to_bits() & !u128::MAX.checked_shr(self.prefix.into()).unwrap_or(0)).to_be_bytes())
            }
        };
        Self { address, ..self }
    }

    /// Whether all addresses of its family are in it.
    pub const fn is_everything(self) -> bool {
        self.prefix == 0
    }

    /// Whether it is one of IPv4.
    pub const fn is_ipv4(self) -> bool {
        self.address.is_ipv4()
    }
}

/// Whether the first `prefix` of `width` bits are the same.
fn same(a: u128, b: u128, width: u32, prefix: u8) -> bool {
    (a ^ b).checked_shr(width - u32::from(prefix)).unwrap_or(0) == 0
}

impl FromStr for Network {
    type Err = String;

    /// `10.0.0.0/8`, `2001:db8::/32`; a lone address is a network of one.
    ///
    /// # Errors
    /// What is wrong with the text and the way out, to follow the text itself in a message.
    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| "is no network; write it like 10.0.0.0/8 or 2001:db8::/32")?;
        let address = if prefix.is_none() { address.to_canonical() } else { address };
        let width = if address.is_ipv4() { 32 } else { 128 };
        let Some(prefix) = prefix else { return Ok(Self { address, prefix: width }) };
        match prefix.parse::<u8>() {
            Ok(prefix) if prefix <= width && prefix.to_string().len() == text.len() - text.find('/').unwrap_or(0) - 1 => {
                Ok(Self { address, prefix })
            }
            _ => Err(format!("has no usable prefix length; after the slash stands a number from 0 to {width}")),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, ip: &str) -> bool {
        network.parse::<Network>().expect("a network").contains(ip.parse().expect("an address"))
    }

    #[test]
    fn leading_bits_decide() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.0.0.128/25", "10.0.0.200", "10.0.0.127"),
            ("192.168.1.7", "192.168.1.7", "192.168.1.8"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
            ("2001:db8::1/128", "2001:db8::1", "2001:db8::2"),
        ] {
            assert!(contains(network, inside), "{inside} is in {network}");
            assert!(!contains(network, outside), "{outside} is not in {network}");
        }
        assert!(contains("10.0.0.0/8", "::ffff:10.1.1.1"), "a listener for both families says it so");
    }

    #[test]
    fn bits_beyond_the_prefix_are_trimmed() {
        for (written, means) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3/0", "0.0.0.0/0"),
            ("10.1.2.3/32", "10.1.2.3/32"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("2001:db8::1/0", "::/0"),
            ("2001:db8::1/128", "2001:db8::1/128"),
        ] {
            assert_eq!(written.parse::<Network>().map(|n| n.trimmed().to_string()), Ok(means.to_owned()));
        }
    }

    #[test]
    fn what_is_no_network_says_why() {
        for text in ["", "eth0", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/08", "::/129", "10.0.0/8", "10.0.0.0/8/8"]
        {
            let why = text.parse::<Network>().expect_err(text);
            assert!(why.contains("write it like") || why.contains("a number from 0 to"), "{text}: {why}");
        }
        assert_eq!("10.0.0.0/8".parse::<Network>().map(|n| n.to_string()), Ok("10.0.0.0/8".to_owned()));
    }
}
