//! Heartbeats in turn. One heartbeat to as many peers as make a majority with the leader renews the hold, so in calm each goes to
//! that many only, by rotation: every peer hears of every second one. Half the packets and wake-ups, for the same lease.
//! As soon as a peer owes an answer all are sent to, each time: what a lost packet costs is one heartbeat, as without turns.
//! Where the timing leaves no room for that one all are always sent to.

use super::hold::hold_of;
use crate::sys::clock::Instant;
use std::time::Duration;

/// Whose turn it is.
#[derive(Debug)]
pub struct Turns {
    lease: Duration,
    roomy: bool,
    next: usize,
    calm_since: Option<Instant>,
}

impl Turns {
    /// Turns with this timing. A lost heartbeat is noticed with the next, and the one after goes to all: the hold must outlast two and
    /// the way there and back. Only the peer that lost it gets its next one when the answer is half a lease overdue (openraft's workers
    /// wait so long), two heartbeats after what it last heard: that must come before its lease ends, or it would campaign in vain.
    pub fn new(heartbeat: Duration, lease: Duration) -> Self {
        let lost = heartbeat * 5 / 2;
        Self { lease, roomy: lost <= hold_of(lease) && lost <= lease / 2, next: 0, calm_since: None }
    }

    /// Something is out of the ordinary: everybody hears of everything until all has been calm for a lease again.
    pub fn disturb(&mut self) {
        self.calm_since = None;
    }

    /// Which peers the heartbeat at `now` goes to. `answered`: per peer, it is connected and owes no answer.
    pub fn step(&mut self, now: Instant, answered: &[bool]) -> Vec<bool> {
        let peers = answered.len();
        let enough = peers.div_ceil(2); // with this node a majority of peers + 1
        if !answered.iter().all(|yes| *yes) {
            self.disturb();
            return vec![true; peers];
        }
        let calm = now.since(*self.calm_since.get_or_insert(now)) >= self.lease;
        if !calm || !self.roomy || enough == peers {
            return vec![true; peers];
        }
        let mut chosen = vec![false; peers];
        for turn in self.next..self.next + enough {
            chosen[turn % peers] = true;
        }
        self.next = (self.next + enough) % peers;
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn lan() -> Turns {
        Turns::new(ms(50), ms(250))
    }

    /// The heartbeats that each of `peers` gets out of `beats`, one each 50 ms, `answered` saying who answers which.
    fn run(turns: &mut Turns, peers: usize, beats: u64, answered: impl Fn(usize, u64) -> bool) -> Vec<Vec<bool>> {
        let beat = |n| {
            let answered: Vec<_> = (0..peers).map(|peer| answered(peer, n)).collect();
            turns.step(Instant::from_nanos((1000 + n * 50) * 1_000_000), &answered)
        };
        (0..beats).map(beat).collect()
    }

    #[test]
    fn in_calm_a_majority_is_asked_each_time_and_everybody_every_second_time() {
        for (peers, enough) in [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3)] {
            let beats = run(&mut lan(), peers, 40, |_, _| true);
            for pair in beats[5..].windows(2) {
                assert!(pair[0].iter().filter(|asked| **asked).count() == enough, "{peers} peers: {pair:?}");
                assert!((0..peers).all(|p| pair[0][p] || pair[1][p]), "{peers} peers: {pair:?}");
            }
            assert!(beats[..5].iter().flatten().all(|asked| *asked), "before it has been calm for a lease");
        }
    }

    #[test]
    fn a_peer_that_owes_an_answer_makes_all_be_asked_until_a_lease_after() {
        let beats = run(&mut lan(), 2, 40, |peer, n| (peer, n) != (1, 20));
        assert!(beats[10..20].iter().all(|b| b.iter().filter(|asked| **asked).count() == 1));
        assert!(beats[20..26].iter().flatten().all(|asked| *asked));
        assert!(beats[26..].iter().all(|b| b.iter().filter(|asked| **asked).count() == 1));
    }

    #[test]
    fn while_something_happens_everybody_is_asked() {
        let mut turns = lan();
        run(&mut turns, 2, 20, |_, _| true);
        turns.disturb();
        assert_eq!(run(&mut turns, 2, 1, |_, _| true), [[true, true]]);
    }

    #[test]
    fn where_the_hold_is_short_everybody_is_always_asked() {
        for (heartbeat, lease, in_turn) in
            [(50, 250, true), (500, 3000, true), (15, 60, false), (20, 75, false), (50, 150, false)]
        {
            let beats = run(&mut Turns::new(ms(heartbeat), ms(lease)), 2, 200, |_, _| true);
            assert_eq!(beats[199].contains(&false), in_turn, "{heartbeat} ms of {lease} ms");
        }
    }
}
