//! The kernel fence: an nf_tables table that silences the VIP when its time is over, without any living process. Pure: what to send.
//!
//! ```text
//! table netdev kube-vip_<vip> {
//!     set guarded { the VIP while this host may have it }
//!     set held    { the VIP, with a timeout: until when it may be used }
//!     chain in  { ingress of the interface: ARP requests, neighbour solicitations and packets for the VIP }
//!     chain out { egress of the interface:  everything that comes from the VIP or announces it }
//! }
//! ```
//!
//! Both chains drop only what names the VIP, only while it is in `guarded` and no longer in `held`; so a follower's traffic is untouched. Other
//! hosts' gratuitous ARP passes at all times: this host's own neighbour entry must follow the VIP to its next holder. With the chain `out` a
//! process that was stopped between deciding and sending can't announce the VIP late either; Linux before 5.16 has no egress hook and goes
//! without it. The table is ours by its name; no other is touched.

mod batch;
mod kernel;

pub use batch::Batch;
pub use kernel::{Armed, Fence};

use batch::{ACK, APPEND, CREATE, EXCL, Header, Meta, Verb, octets};
use std::net::IpAddr;

const GUARDED: &str = "guarded";
const HELD: &str = "held";

const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// Before all other chains of the hook: nothing counts, mirrors or answers what is dropped here.
const PRIORITY: i32 = -500;

/// A timeout below this is not asked for: with the coarsest tick (100 Hz) it could round to none at all, which means for ever.
pub const LEAST_MS: u64 = 10;

/// One VIP's table.
#[derive(Clone, Debug)]
pub struct Table {
    vip: IpAddr,
    interface: String,
    name: String,
}

impl Table {
    /// The table of this VIP on this interface.
    pub fn new(vip: IpAddr, interface: &str) -> Self {
        Self { vip, interface: interface.to_string(), name: table_name(vip) }
    }

    /// Its name in the family netdev.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes it, empty and in place of whatever has its name; `egress` with the chain `out`.
    pub fn install(&self, seq: u32, egress: bool) -> Batch {
        let mut b = Batch::new(seq);
        // A table must exist to be deleted; deleting it first leaves nothing of an earlier run.
        self.say(&mut b, Verb::NewTable, 0, |_| {});
        self.say(&mut b, Verb::DelTable, 0, |_| {});
        self.say(&mut b, Verb::NewTable, 0, |_| {});
        self.set(&mut b, GUARDED, 1, false);
        self.set(&mut b, HELD, 2, true);
        self.chain(&mut b, "in", 0);
        self.rules_in(&mut b);
        if egress {
            self.chain(&mut b, "out", 1);
            self.rules_out(&mut b);
        }
        // Something harmless that is answered: success is then said, too.
        self.say(&mut b, Verb::NewTable, ACK, |_| {});
        b.finish()
    }

    /// The VIP may be used for this many milliseconds from the kernel's taking it in. 0: not (any more); what was armed before runs out.
    pub fn arm(&self, seq: u32, ms: u64) -> Batch {
        let mut b = Batch::new(seq);
        let guard_flags = if ms == 0 { CREATE | ACK } else { CREATE };
        self.element(&mut b, Verb::NewElement, guard_flags, GUARDED, None);
        if ms > 0 {
            // Emptied first: adding what is there would leave it with its old timeout.
            self.empty(&mut b, HELD, 0);
            self.element(&mut b, Verb::NewElement, CREATE | EXCL | ACK, HELD, Some(ms));
        }
        b.finish()
    }

    /// This host has nothing to do with the VIP.
    pub fn clear(&self, seq: u32) -> Batch {
        let mut b = Batch::new(seq);
        self.empty(&mut b, GUARDED, 0);
        self.empty(&mut b, HELD, ACK);
        b.finish()
    }

    /// Deletes it; ENOENT where there is none.
    pub fn remove(&self, seq: u32) -> Batch {
        let mut b = Batch::new(seq);
        self.say(&mut b, Verb::DelTable, ACK, |_| {});
        b.finish()
    }

    /// A message about this table: its name is attribute 1 of every kind of message.
    fn say(&self, b: &mut Batch, verb: Verb, flags: u16, attributes: impl FnOnce(&mut Batch)) {
        b.say(verb, flags, |b| {
            b.text(1, &self.name);
            attributes(b);
        });
    }

    fn set(&self, b: &mut Batch, name: &str, id: u32, timeout: bool) {
        // Numbers that nft(8) keeps types under: ipv4_addr and ipv6_addr, so that it shows addresses.
        let (kind, len) = if self.vip.is_ipv4() { (7, 4) } else { (8, 16) };
        self.say(b, Verb::NewSet, CREATE, |b| {
            b.text(2, name); // NFTA_SET_NAME, FLAGS, KEY_TYPE, KEY_LEN, ID
            b.number(3, if timeout { 0x10 } else { 0 }); // NFT_SET_TIMEOUT
            b.number(4, kind);
            b.number(5, len);
            b.number(10, id);
        });
    }

    fn chain(&self, b: &mut Batch, name: &str, hook: u32) {
        self.say(b, Verb::NewChain, CREATE, |b| {
            b.text(3, name); // NFTA_CHAIN_NAME, HOOK, POLICY, TYPE
            b.nested(4, |b| {
                b.number(1, hook); // NFTA_HOOK_HOOKNUM, PRIORITY, DEV
                b.number(2, PRIORITY as u32);
                b.text(3, &self.interface);
            });
            b.number(5, 1); // NF_ACCEPT
            b.text(7, "filter");
        });
    }

    /// A rule that drops what `matches` leaves in the register: the VIP, from wherever the packet has it.
    fn rule(&self, b: &mut Batch, chain: &str, matches: impl FnOnce(&mut Batch)) {
        self.say(b, Verb::NewRule, CREATE | APPEND, |b| {
            b.text(2, chain); // NFTA_RULE_CHAIN, EXPRESSIONS
            b.nested(4, |b| {
                matches(b);
                b.lookup(HELD, false);
                b.lookup(GUARDED, true);
                b.drop_it();
            });
        });
    }

    fn rules_in(&self, b: &mut Batch) {
        let (octets, len) = octets(self.vip);
        let vip = &octets[..len];
        if self.vip.is_ipv4() {
            self.rule(b, "in", |b| {
                b.meta_is(Meta::Protocol, &ARP);
                b.payload_is(Header::Network, 6, true, &[0, 1]); // a request
                b.payload_is(Header::Network, 14, false, vip); // from another than the VIP itself: no announcement
                b.payload_is(Header::Network, 24, true, vip); // for the VIP
            });
            self.rule(b, "in", |b| {
                b.meta_is(Meta::Protocol, &IPV4);
                b.payload_is(Header::Network, 16, true, vip); // destination
            });
        } else {
            self.neighbour_rule(b, "in", SOLICITATION, vip);
            self.rule(b, "in", |b| {
                b.meta_is(Meta::Protocol, &IPV6);
                b.payload_is(Header::Network, 24, true, vip); // destination
            });
        }
    }

    fn rules_out(&self, b: &mut Batch) {
        let (octets, len) = octets(self.vip);
        let vip = &octets[..len];
        if self.vip.is_ipv4() {
            self.rule(b, "out", |b| {
                b.meta_is(Meta::Protocol, &ARP);
                b.payload_is(Header::Network, 14, true, vip); // the sender says that it has the VIP
            });
            self.rule(b, "out", |b| {
                b.meta_is(Meta::Protocol, &IPV4);
                b.payload_is(Header::Network, 12, true, vip); // source
            });
        } else {
            self.neighbour_rule(b, "out", ADVERTISEMENT, vip);
            self.rule(b, "out", |b| {
                b.meta_is(Meta::Protocol, &IPV6);
                b.payload_is(Header::Network, 8, true, vip); // source
            });
        }
    }

    /// Neighbour messages of this type whose target is the VIP, behind whatever IPv6 headers.
    fn neighbour_rule(&self, b: &mut Batch, chain: &str, kind: u8, vip: &[u8]) {
        self.rule(b, chain, |b| {
            b.meta_is(Meta::Protocol, &IPV6);
            b.meta_is(Meta::L4Proto, &[ICMPV6]);
            b.payload_is(Header::Transport, 0, true, &[kind]);
            b.payload_is(Header::Transport, 8, true, vip);
        });
    }

    fn element(&self, b: &mut Batch, verb: Verb, flags: u16, set: &str, ms: Option<u64>) {
        let (octets, len) = octets(self.vip);
        self.say(b, verb, flags, |b| {
            b.text(2, set); // NFTA_SET_ELEM_LIST_SET, ELEMENTS
            b.nested(3, |b| {
                b.list_element(|b| {
                    b.value(1, &octets[..len]); // NFTA_SET_ELEM_KEY, TIMEOUT
                    if let Some(ms) = ms {
                        b.long(4, ms);
                    }
                });
            });
        });
    }

    /// Without elements named, all of them go; none is no error.
    fn empty(&self, b: &mut Batch, set: &str, flags: u16) {
        self.say(b, Verb::DelElement, flags, |b| b.text(2, set));
    }
}

/// `kube-vip_10.0.0.9`, `kube-vip_fd00__9`: unlike any other VIP's, and a name that nft(8) takes.
pub fn table_name(vip: IpAddr) -> String {
    format!("kube-vip_{vip}").replace(':', "_")
}

#[cfg(test)]
mod tests;
