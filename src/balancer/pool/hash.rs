//! Hashes and draws. Fixed for ever: other nodes and later versions must send a client to the same backend.

use crate::balancer::client::wide;
use std::net::SocketAddr;

/// FNV-1a over `bytes`, then [`mix`]ed.
fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    mix(bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)))
}

/// The finaliser of splitmix64: each bit of the input moves half of the output's.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// Of a client's address (16 bytes, as [`wide`] makes them), without its port.
pub fn of_client(ip: &[u8; 16]) -> u64 {
    hash(*ip)
}

/// Of a member's address and port.
pub fn of_member(address: SocketAddr) -> u64 {
    hash(wide(address.ip()).into_iter().chain(address.port().to_be_bytes()))
}

/// How much a client likes a member, evenly spread.
pub const fn liking(client: u64, member: u64) -> u64 {
    mix(client ^ member)
}

/// −log2 of `liking` as a part of 2^64, in 2^−24, at least 1. The member with the least `cost / weight` is the client's: the
/// first of exponential draws whose rates are the weights, so each gets its share. In integers, because all machines must agree.
pub const fn cost(liking: u64) -> u64 {
    let u = liking | 1;
    let zeros = u.leading_zeros();
    let (mut mantissa, mut log, mut i) = (u << zeros, 0, 0); // 2^63..2^64 for 1..2
    while i < 24 {
        let square = (mantissa as u128 * mantissa as u128) >> 63;
        let over = (square >> 64) as u64;
        log = log << 1 | over;
        mantissa = (square >> over) as u64;
        i += 1;
    }
    ((zeros as u64 + 1) << 24) - log
}

/// Draws that repeat for the same seed (splitmix64).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 0 to `bound` − 1; 0 where there is no number.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        ((mix(self.0) as u128 * bound as u128) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_what_they_were() {
        let member = of_member("192.0.2.1:80".parse().expect("an address"));
        let client = of_client(&wide("198.51.100.7".parse().expect("an address")));
        assert_eq!((member, client), (MEMBER, CLIENT), "a new hash moves every client");
        assert_eq!(of_member("[::ffff:192.0.2.1]:80".parse().expect("an address")), member);
    }
    const MEMBER: u64 = 15092778852009426050;
    const CLIENT: u64 = 12567342761264303322;

    #[test]
    fn the_cost_is_the_logarithm() {
        for u in [1, 3, 1 << 20, u64::MAX / 3, 1 << 63 | 1, u64::MAX / 10 * 9, u64::MAX] {
            let exact = (64.0 - ((u | 1) as f64).log2()) * f64::from(1 << 24);
            assert!((cost(u) as f64 - exact).abs() <= 2.0, "{u}: {} for {exact}", cost(u));
            assert!(cost(u) >= 1);
        }
    }

    #[test]
    fn draws_are_even_and_below_their_bound() {
        let mut random = Random::new(7);
        let mut seen = [0; 5];
        (0..10_000).for_each(|_| seen[random.below(5) as usize] += 1);
        assert!(seen.iter().all(|n| (1800..2200).contains(n)), "{seen:?}");
        assert_eq!(random.below(0), 0);
    }
}
