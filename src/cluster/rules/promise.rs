//! What a follower promises to the leader that it hears, and what ends the promise.
//!
//! Whoever accepts an AppendEntries lets no other be elected while the VIP may still be at the sender. Where that node's kernel
//! silences the VIP at the end of the hold (it is *fenced*), this is one lease. Where only the kernel's lifetime of the address ends
//! what a frozen node holds, it is the longest time that takes. Only the newest leader's promise counts: a majority had waited out,
//! or seen the end of, all before it when it voted for that leader.
//!
//! The promise ends early by proof alone: the secret of exactly that vote, whose hash came with its AppendEntries.

use super::planted::{Planted, is_planted};
use crate::cluster::types::NodeId;
use crate::cluster::vote::VoteId;
use crate::release::{Commitment, Secret, VoteKey};
use crate::sys::clock::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long the promise to an unfenced leader lasts: its hold, and as long as the VIP may linger after it where nobody removes it, by
/// a clock that may run a quarter faster than the leader's (both may be slewed by 10 %).
pub fn unfenced_wait(lease: Duration, hold: Duration, lingers: Duration) -> Duration {
    lease.max((hold + lingers) * 5 / 4)
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Heard {
    vote: VoteId,
    commitment: Commitment,
    at: Instant,
    fenced: bool,
    released: Option<Secret>,
}

/// What came of a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It is for this vote, which this node follows, and it is right; `news`: for the first time.
    Right {
        /// The vote that holds nothing any more.
        vote: VoteId,
        /// Seen for the first time.
        news: bool,
    },
    /// It changes nothing; the text says why.
    Nothing(&'static str),
}

/// The promise of one node. The next program of the same run goes on with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    lease: Duration,
    unfenced: Duration,
    newest: Option<Heard>,
}

impl Promise {
    /// Nothing is promised yet. `unfenced`: how long a promise to a leader without kernel fence lasts; at least the lease.
    pub fn new(lease: Duration, unfenced: Duration) -> Self {
        Self { lease, unfenced: unfenced.max(lease), newest: None }
    }

    /// How long a promise to such a leader lasts.
    pub fn lasts(&self, fenced: bool) -> Duration {
        if fenced { self.lease } else { self.unfenced }
    }

    /// How long the promise to the newest leader lasts; one lease where none was heard.
    pub fn newest_lasts(&self) -> Duration {
        self.newest.as_ref().map_or(self.lease, |n| self.lasts(n.fenced))
    }

    /// An AppendEntries under `vote` was accepted.
    ///
    /// Its sender's newest word on its fence counts, also where it was unfenced a moment ago: with the fence in place every hold that
    /// runs ends with it.
    pub fn heard(&mut self, now: Instant, vote: VoteId, commitment: Commitment, fenced: bool) {
        match &mut self.newest {
            Some(newest) if newest.vote > vote => {}
            // A run has one key, and leads under votes of its own only: the hash of a vote can't change. One that is released stays so.
            Some(newest) if newest.vote == vote => (newest.at, newest.fenced) = (now, fenced),
            newest => *newest = Some(Heard { vote, commitment, at: now, fenced, released: None }),
        }
    }

    /// Whether this vote's hash is not the one that was heard: a node that lost its votes can win one twice, and a notice of its earlier run
    /// would then end the hold of the later one.
    pub fn differs(&self, vote: &VoteId, commitment: Commitment) -> bool {
        self.newest.as_ref().is_some_and(|n| n.vote == *vote && n.commitment != commitment)
    }

    /// Somebody shows the secret of a vote. Late, replayed, forged and misdirected ones change nothing.
    pub fn shown(&mut self, vote: VoteKey, secret: &Secret) -> Shown {
        match &mut self.newest {
            Some(newest) if newest.vote.key() == vote => {
                if secret.commitment() != newest.commitment && !is_planted(Planted::UnprovenRelease) {
                    return Shown::Nothing("its secret is wrong");
                }
                let news = newest.released.replace(*secret).is_none();
                Shown::Right { vote: newest.vote.clone(), news }
            }
            _ => Shown::Nothing("this node follows another vote"),
        }
    }

    /// Whether the hold under this vote has ended for good, by proof. It is not to be followed any more.
    pub fn is_released(&self, vote: &VoteId) -> bool {
        self.newest.as_ref().is_some_and(|n| n.released.is_some() && n.vote == *vote)
    }

    /// What this node can show to others.
    pub fn proof(&self) -> Option<(&VoteId, Secret)> {
        self.newest.as_ref().and_then(|n| n.released.map(|secret| (&n.vote, secret)))
    }

    /// Until when no other than that leader may be elected with this node's vote; none: nothing is promised.
    pub fn until(&self) -> Option<Instant> {
        self.newest.as_ref().filter(|n| n.released.is_none()).map(|n| n.at + self.lasts(n.fenced))
    }

    /// Whether it stands against a vote for `candidate`. Never against the leader itself: what lingers there is its own.
    pub fn stands_against(&self, now: Instant, candidate: &NodeId) -> bool {
        let other = self.newest.as_ref().is_some_and(|n| n.vote.node != *candidate);
        other && self.until().is_some_and(|until| now < until)
    }

    /// When a leader was last heard.
    pub fn last_heard(&self) -> Option<Instant> {
        self.newest.as_ref().map(|n| n.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::Key;

    const LEASE: Duration = Duration::from_millis(250);
    const UNFENCED: Duration = Duration::from_millis(4612);
    const KEY: Key = Key::from_bytes([1; 32]);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }
    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }
    fn vote(term: u64, name: &str) -> VoteId {
        VoteId::new(term, node(name))
    }

    #[test]
    fn a_vote_that_is_won_twice_is_told_by_its_hash() {
        let (mut promise, vote) = (Promise::new(LEASE, UNFENCED), vote(3, "a"));
        let hash = |key: Key| key.secret(vote.key()).commitment();
        promise.heard(at(0), vote.clone(), hash(KEY), true);
        assert!(!promise.differs(&vote, hash(KEY)));
        assert!(promise.differs(&vote, hash(Key::from_bytes([2; 32]))));
        assert!(!promise.differs(&self::vote(4, "a"), hash(Key::from_bytes([2; 32]))), "another vote has another");
    }
    fn secret(vote: &VoteId) -> Secret {
        KEY.secret(vote.key())
    }
    fn heard(p: &mut Promise, ms: u64, vote: &VoteId, fenced: bool) {
        p.heard(at(ms), vote.clone(), secret(vote).commitment(), fenced);
    }
    fn promise() -> Promise {
        Promise::new(LEASE, UNFENCED)
    }

    #[test]
    fn the_wait_for_an_unfenced_leader_covers_its_lifetime_on_slewed_clocks() {
        let ms = Duration::from_millis;
        assert_eq!(unfenced_wait(ms(250), ms(190), ms(3500)), Duration::from_micros(4_612_500));
        assert_eq!(unfenced_wait(ms(9000), ms(7190), ms(10)), ms(9000), "never less than the lease");
    }

    #[test]
    fn a_fenced_leader_is_promised_one_lease_and_an_unfenced_one_more() {
        let (mut p, a, b) = (promise(), node("a"), node("b"));
        assert!(p.until().is_none() && !p.stands_against(at(0), &b));
        heard(&mut p, 1000, &vote(5, "a"), true);
        assert_eq!(p.until(), Some(at(1250)));
        assert!(p.stands_against(at(1249), &b) && !p.stands_against(at(1250), &b));
        heard(&mut p, 1300, &vote(5, "a"), false);
        assert_eq!(p.until(), Some(at(5912)), "its newest word counts");
        assert!(p.stands_against(at(5911), &b) && !p.stands_against(at(5912), &b));
        assert!(!p.stands_against(at(1301), &a), "the leader itself may campaign again");
        heard(&mut p, 1400, &vote(5, "a"), true);
        assert_eq!(p.until(), Some(at(1650)));
    }

    #[test]
    fn a_later_leader_ends_the_promise_to_an_earlier_one_and_never_the_reverse() {
        let mut p = promise();
        heard(&mut p, 1000, &vote(5, "a"), false);
        heard(&mut p, 1100, &vote(5, "b"), true);
        assert_eq!(p.until(), Some(at(1350)), "the same term, but a later vote");
        heard(&mut p, 1200, &vote(5, "a"), false);
        assert_eq!((p.until(), p.last_heard()), (Some(at(1350)), Some(at(1100))), "a late frame of the earlier leader");
    }

    #[test]
    fn the_secret_of_exactly_that_vote_ends_it() {
        let (mut p, v) = (promise(), vote(5, "a"));
        heard(&mut p, 1000, &v, false);
        assert_eq!(p.shown(v.key(), &secret(&v)), Shown::Right { vote: v.clone(), news: true });
        assert_eq!(p.shown(v.key(), &secret(&v)), Shown::Right { vote: v.clone(), news: false }, "a replay is no news");
        assert!(p.is_released(&v) && p.until().is_none() && !p.stands_against(at(1001), &node("b")));
        assert_eq!(p.proof(), Some((&v, secret(&v))));
        heard(&mut p, 1002, &v, false);
        assert!(p.is_released(&v) && p.until().is_none(), "a frame that was under way does not bring it back");
    }

    #[test]
    fn whatever_else_is_shown_changes_nothing() {
        let (now, other) = (vote(6, "a"), Key::from_bytes([2; 32]));
        let cases = [
            ("late: its leader was elected again", vote(5, "a"), secret(&vote(5, "a"))),
            ("early: of a vote not heard of yet", vote(7, "a"), secret(&vote(7, "a"))),
            ("misdirected: another leader of the term", vote(6, "b"), secret(&vote(6, "b"))),
            ("replayed: an old secret for the new vote", now.clone(), secret(&vote(5, "a"))),
            ("forged: another key", now.clone(), other.secret(now.key())),
        ];
        for (what, vote, secret) in cases {
            let mut p = promise();
            assert!(matches!(p.shown(vote.key(), &secret), Shown::Nothing(_)), "{what}: nothing followed");
            heard(&mut p, 1000, &now, true);
            assert!(matches!(p.shown(vote.key(), &secret), Shown::Nothing(_)), "{what}");
            assert!(!p.is_released(&now) && p.proof().is_none() && p.stands_against(at(1001), &node("b")), "{what}");
        }
    }

    #[test]
    fn a_new_leader_is_not_released_by_the_proof_for_the_last() {
        let (mut p, old, new) = (promise(), vote(5, "a"), vote(5, "b"));
        heard(&mut p, 1000, &old, true);
        p.shown(old.key(), &secret(&old));
        heard(&mut p, 1010, &new, true);
        assert!(!p.is_released(&new) && p.proof().is_none() && p.stands_against(at(1011), &node("c")));
        assert!(matches!(p.shown(old.key(), &secret(&old)), Shown::Nothing(_)));
    }
}
