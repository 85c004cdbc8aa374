//! Whether this machine would answer for the VIP where the keeper can't silence it: on another interface, or for others. Pure.

use super::checked::Config;
use super::draft::Lines;
use super::problem::Problem;
use std::net::{IpAddr, Ipv4Addr};

/// What the kernel is told about ARP on one interface (ip-sysctl: the larger of `all` and the interface counts).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arp {
    /// The interface.
    pub name: String,
    /// `proxy_arp`: answers for addresses behind other interfaces.
    pub proxy: bool,
    /// `arp_ignore`: with 0 it answers for the addresses of all interfaces.
    pub ignore: u32,
    /// Its IPv4 networks: address and netmask.
    pub networks: Vec<(Ipv4Addr, Ipv4Addr)>,
}

impl Arp {
    fn reaches(&self, address: Ipv4Addr) -> bool {
        let within = |(own, mask): &(Ipv4Addr, Ipv4Addr)| *own & *mask == address & *mask;
        self.networks.iter().any(within)
    }
}

/// Each other interface that answers ARP for the VIP of this machine, or of another.
pub fn warnings(config: &Config, lines: &Lines, all: &[Arp]) -> Vec<Problem> {
    let IpAddr::V4(vip) = config.vip else { return Vec::new() };
    let warn = |arp: &Arp| {
        let (name, own) = (&arp.name, arp.name == config.interface);
        let text = match (own, arp.reaches(vip), arp.proxy, arp.ignore) {
            (false, true, _, 0) => format!(
                "{name} is in the VIP's network too and answers there for the addresses of {}: a second way to the VIP that no fence closes; \
                 `sysctl -w net.ipv4.conf.{name}.arp_ignore=1`",
                config.interface
            ),
            (true, false, true, _) => format!(
                "{name} has proxy_arp and no address in the VIP's network: it may answer for the VIP of another node; \
                 `sysctl -w net.ipv4.conf.{name}.proxy_arp=0`"
            ),
            _ => return None,
        };
        Some(Problem::new(lines.interface, "interface", text))
    };
    all.iter().filter_map(warn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, judge};

    fn arp(name: &str, own: [u8; 4]) -> Arp {
        Arp { name: name.into(), networks: vec![(own.into(), [255, 255, 255, 0].into())], ..Arp::default() }
    }

    fn told(vip: &str, all: &[Arp]) -> Vec<String> {
        let text = format!(
            "localPeer: {{id: a, address: 10.0.0.1, port: 10000}}\nremotePeers: [{{id: b, address: 10.0.0.2, port: 10000}}]\n\
             vip: \"{vip}\"\ninterface: eth0\n"
        );
        let draft = judge(std::path::Path::new("c.yaml"), &text, &Overrides::default()).expect("sound");
        let placed = draft.resolve(&[], None).expect("placed");
        warnings(&placed.config, &placed.lines, all).into_iter().map(|w| w.text).collect()
    }

    #[test]
    fn a_second_way_to_the_vip_is_named_with_its_cure() {
        let (eth0, eth1) = (arp("eth0", [10, 0, 0, 1]), arp("eth1", [10, 0, 0, 9]));
        let warned = told("10.0.0.100", &[eth0.clone(), eth1.clone()]);
        assert!(warned.len() == 1 && warned[0].contains("net.ipv4.conf.eth1.arp_ignore=1"), "{warned:?}");
        for fine in [Arp { ignore: 1, ..eth1.clone() }, arp("eth1", [10, 0, 1, 9])] {
            assert_eq!(told("10.0.0.100", &[eth0.clone(), fine]), [""; 0]);
        }
        assert_eq!(told("fd00::100", &[eth0, eth1]), [""; 0]);
    }

    #[test]
    fn proxy_arp_counts_where_the_vip_is_behind_another_interface() {
        let proxy = |own| Arp { proxy: true, ..arp("eth0", own) };
        assert_eq!(told("10.0.0.100", &[proxy([10, 0, 0, 1])]), [""; 0]);
        let warned = told("10.0.0.100", &[proxy([10, 0, 7, 1])]);
        assert!(warned.len() == 1 && warned[0].contains("net.ipv4.conf.eth0.proxy_arp=0"), "{warned:?}");
    }
}
