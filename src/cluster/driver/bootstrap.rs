//! The first election of a fresh cluster.

use super::Driver;
use crate::cluster::rules::bootstrap::{self, Member};
use crate::cluster::types::{Node, NodeId};
use crate::sys::clock::Instant;
use log::{debug, info};
use std::collections::BTreeMap;
use std::time::Duration;

/// A fresh cluster that can't begin is told about this often.
const STUCK: Duration = Duration::from_secs(10);

impl Driver {
    /// Writes the first membership where it is this node's turn; the others are found by raft.
    pub(super) async fn bootstrap(&mut self, now: Instant) {
        let s = self.shared.clone();
        self.warn_where_nobody_has_a_log(now);
        let me = Member { id: s.me.clone(), empty: Some(s.is_empty()), starts: s.spec.start_as_leader };
        let others = s.peers.iter().map(|p| {
            // One that is empty and still quiet could not vote for us: campaigning now would only cost a round.
            let flags = p.flags().filter(|f| p.calls.is_connected() && (f.awake || !f.empty));
            Member { id: p.id.clone(), empty: flags.map(|f| f.empty), starts: flags.is_some_and(|f| f.starts) }
        });
        let members: Vec<Member> = others.chain([me]).collect();
        if !bootstrap::initialises(&s.me, &members) {
            return;
        }
        let list: BTreeMap<NodeId, Node> = members.into_iter().map(|m| (m.id, Node)).collect();
        self.last_try = Some(now); // initialise campaigns by itself
        info!("fresh cluster: this node writes the first list of {} members", list.len());
        if let Err(e) = s.raft().initialize(list).await {
            debug!("initialise: {e}");
        }
    }

    /// A vote without any log anywhere: the first member list was lost with the node that wrote it. Nothing can elect then.
    fn warn_where_nobody_has_a_log(&mut self, now: Instant) {
        let s = &self.shared;
        let connected: Vec<_> = s.peers.iter().filter(|p| p.calls.is_connected()).collect();
        let majority = (connected.len() + 1) * 2 > s.peers.len() + 1;
        let nobody = connected.iter().all(|p| p.flags().is_some_and(|f| !f.log));
        let voted = !s.is_empty() || connected.iter().any(|p| p.flags().is_some_and(|f| !f.empty));
        let stuck = majority && nobody && voted;
        if !stuck {
            self.fresh_since = None;
        } else if now - *self.fresh_since.get_or_insert(now) >= STUCK {
            self.fresh_since = Some(now);
            log::error!(
                "no node that is connected has the list of members, but some have voted: start the missing node, or stop all nodes, \
                 remove {} on each and start them",
                s.spec.state_dir.display()
            );
        }
    }
}
