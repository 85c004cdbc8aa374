//! Which addresses are ours: pure. An address is ours only with proof; everything else is left alone.

use super::rtnl::{self, Address, FOREVER, OUR_PROTO};
use std::net::IpAddr;

/// What an address is to this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Not the VIP at all.
    Unrelated,
    /// The VIP, put there by this program.
    Ours,
    /// The VIP, by somebody else (or by an unknown hand, which is the same).
    Foreign,
}

/// Who we are when an address is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The VIP.
    pub vip: IpAddr,
    /// The interface it goes to.
    pub index: u32,
    /// The kernel lifetime that ours have, seconds.
    pub lifetime: u32,
    /// A kernel before 5.18, which doesn't keep IFA_PROTO, *and* a record of our own on disk that names interface and VIP.
    pub by_record: bool,
}

impl Identity {
    /// Whether an address is ours on the interface we work on.
    pub fn judge(&self, a: &Address) -> Owner {
        match () {
            _ if a.address != self.vip => Owner::Unrelated,
            _ if a.index == self.index && self.marked(a) => Owner::Ours,
            _ => Owner::Foreign,
        }
    }

    /// Whether an address was left by an earlier run, maybe on another interface. Only for the one who holds the VIP's lock.
    pub fn left_over(&self, a: &Address) -> bool {
        a.address == self.vip && self.marked(a) && (a.proto == Some(OUR_PROTO) || a.index == self.index)
    }

    fn marked(&self, a: &Address) -> bool {
        // Nobody else gives a full prefix, no preference and a lifetime of seconds; with the record that is proof enough.
        let fingerprint = a.preferred == 0 && a.valid != FOREVER && a.valid <= self.lifetime;
        let proof = a.proto == Some(OUR_PROTO) || (self.by_record && a.proto.is_none() && fingerprint);
        a.prefix == rtnl::full_prefix(self.vip) && proof
    }
}

/// The record on disk: which address this program manages where. Addresses don't outlive a boot, so neither does the record.
pub fn record(interface: &str, vip: IpAddr, boot_id: &str) -> String {
    format!("kube-vip manages {vip} on {interface} since boot {boot_id}\n")
}

/// Whether a kernel release (`uname -r`) is 5.18 or later and so keeps IFA_PROTO. An unreadable one counts as older.
pub fn keeps_proto(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 18)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
    const ME: Identity = Identity { vip: VIP, index: 3, lifetime: 2, by_record: false };
    const OURS: Address = Address { index: 3, address: VIP, prefix: 32, proto: Some(OUR_PROTO), valid: 2, preferred: 0 };

    #[test]
    fn only_a_marked_full_prefix_on_our_interface_is_ours() {
        let bare = Address { proto: None, ..OURS };
        for (a, want, why) in [
            (OURS, Owner::Ours, "as we add it"),
            (Address { address: IpAddr::V4(Ipv4Addr::LOCALHOST), ..OURS }, Owner::Unrelated, "another address"),
            (Address { prefix: 24, ..OURS }, Owner::Foreign, "another prefix"),
            (Address { index: 4, ..OURS }, Owner::Foreign, "another interface"),
            (Address { proto: Some(3), ..OURS }, Owner::Foreign, "another owner"),
            (bare, Owner::Foreign, "no owner on a kernel that keeps owners"),
        ] {
            assert_eq!(ME.judge(&a), want, "{why}");
        }
    }

    #[test]
    fn without_proto_the_record_and_the_fingerprint_count_together() {
        let old = Identity { by_record: true, ..ME };
        let bare = Address { proto: None, ..OURS };
        assert_eq!(old.judge(&bare), Owner::Ours);
        for foreign in [
            Address { valid: FOREVER, ..bare },
            Address { valid: 3, ..bare },
            Address { preferred: 2, ..bare },
            Address { proto: Some(2), ..bare },
            Address { prefix: 24, ..bare },
        ] {
            assert_eq!(old.judge(&foreign), Owner::Foreign, "{foreign:?}");
        }
    }

    #[test]
    fn left_overs_may_be_elsewhere_only_with_our_mark() {
        assert!(ME.left_over(&OURS) && ME.left_over(&Address { index: 9, ..OURS }));
        assert!(!ME.left_over(&Address { prefix: 24, ..OURS }) && !ME.left_over(&Address { proto: None, ..OURS }));
        let old = Identity { by_record: true, ..ME };
        assert!(old.left_over(&Address { proto: None, ..OURS }));
        assert!(!old.left_over(&Address { proto: None, index: 9, ..OURS }));
    }

    #[test]
    fn kernel_releases() {
        for (release, keeps) in
            [("5.18.0", true), ("6.1.0-rpi7-rpi-v8", true), ("5.17.99", false), ("4.19.97+", false), ("", false)]
        {
            assert_eq!(keeps_proto(release), keeps, "{release}");
        }
    }
}
