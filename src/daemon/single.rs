//! `singleNode`: no raft and no state. A clock says how long the VIP may be held, so that keeper and kernel let it go where this
//! process hangs.

use super::baton::KeptLead;
use crate::cluster::rules::hold;
use crate::cluster::runtime::now;
use crate::cluster::vote::VoteId;
use crate::cluster::{Event, NodeId, runtime};
use crate::config::Config;
use crate::sys::clock::Instant;
use smol::channel::{Receiver, bounded};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// There is no peer to wait for a lease, so it is long: fewer wake-ups.
const LEASE: Duration = Duration::from_secs(3);
/// How often the hold is renewed.
const RENEW: Duration = Duration::from_secs(1);

/// The hold that this configuration asks of the keeper.
pub fn hold_of(config: &Config) -> Duration {
    hold::hold_of(if config.single_node { LEASE } else { config.timing.lease })
}

/// The only node: it leads for ever, and each of its holds counts as a term of its own for the keeper.
pub struct Single {
    term: Cell<u64>,
    until: Cell<Instant>,
    may_hold: Cell<bool>,
}

impl Single {
    /// Starts the clock. While it may not hold (cordoned, or without a keeper), the channel stays open and silent. `kept`: an earlier
    /// program of this process had this term, to hold until then.
    pub fn start(config: &Config, may_hold: bool, kept: Option<(u64, Instant)>) -> (Rc<Self>, Receiver<Event>) {
        let (sender, events) = bounded(4);
        let node = NodeId::new(&config.local.id).unwrap_or_else(|_| NodeId::from(0));
        let hold = hold_of(config);
        let (term, until) = kept.unwrap_or_else(|| (1, now() + hold));
        let single = Rc::new(Self { term: Cell::new(term), until: Cell::new(until), may_hold: Cell::new(may_hold) });
        let clock = single.clone();
        runtime::spawn(async move {
            while !sender.is_closed() {
                if clock.may_hold.get() {
                    let _ = sender.force_send(clock.order(&node, hold));
                }
                runtime::sleep(RENEW).await;
            }
        });
        (single, events)
    }

    fn order(&self, node: &NodeId, hold: Duration) -> Event {
        if now() >= self.until.get() {
            self.next_term(); // this process was stopped for longer than its hold
        }
        self.until.set(now() + hold);
        Event::Hold { vote: VoteId::new(self.term.get(), node.clone()), until: self.until.get() }
    }

    /// For the program that takes this one's place.
    pub fn keep(&self) -> KeptLead {
        KeptLead::Single { term: self.term.get(), until: self.until.get() }
    }

    /// The hold ended: the next one is another.
    pub fn next_term(&self) {
        self.term.set(self.term.get() + 1);
    }

    /// Whether to hold at all now.
    pub fn set_may_hold(&self, may: bool) {
        self.may_hold.set(may);
    }
}
