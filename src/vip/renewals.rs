//! The end of the running hold, in memory that daemon and keeper share: the daemon moves it with each acknowledged heartbeat, the keeper
//! looks when a third of the hold it knows of is left, when nothing is left, and whenever else it is awake.
//!
//! A message for each renewal would wake the keeper twenty times a second to learn what it need not know yet; fewer messages would take
//! from the hold what was not sent. The first order of a hold and its end are messages all the same: they need an act at once.

use super::VoteKey;
use crate::sys::clock::Instant;
use crate::sys::shared::Shared;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::fence;

/// A reader that meets a writer looks again this often. One frozen in the middle of writing renews nothing.
const TRIES: u32 = 3;

/// One writer, one reader. A sequence lock, odd while it is written; vote and end behind it; last, the one number that goes the other way.
#[derive(Debug)]
pub(super) struct Renewals(Shared<5>);

impl Renewals {
    pub(super) fn new() -> io::Result<Self> {
        Shared::new().map(Self)
    }

    /// The page of an earlier program of the daemon's process.
    pub(super) fn of(file: OwnedFd) -> io::Result<Self> {
        Shared::of(file).map(Self)
    }

    /// By which the next program finds the page; none where this kernel can't hand it on.
    pub(super) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.0.file()
    }

    /// The hold under this vote lasts until then. For the daemon.
    pub(super) fn write(&self, vote: VoteKey, until: Instant) {
        let [sequence, term, node, end, _] = &*self.0;
        let before = sequence.load(Relaxed);
        sequence.store(before | 1, Relaxed);
        fence(Release);
        term.store(vote.term, Relaxed);
        node.store(vote.node, Relaxed);
        end.store(until.as_nanos(), Relaxed);
        sequence.store((before | 1).wrapping_add(1), Release);
    }

    /// No hold is to be renewed any more.
    pub(super) fn clear(&self) {
        self.write(VoteKey::default(), Instant::default());
    }

    /// What the keeper knows now of the running hold: by this the daemon sees that it looks. For the keeper.
    pub(super) fn know(&self, until: Instant) {
        self.0[4].store(until.as_nanos(), Relaxed);
    }

    /// The end that the keeper knew of when it last looked. For the daemon.
    pub(super) fn known(&self) -> Instant {
        Instant::from_nanos(self.0[4].load(Relaxed))
    }

    /// The newest. For the keeper.
    pub(super) fn read(&self) -> Option<(VoteKey, Instant)> {
        let [sequence, term, node, end, _] = &*self.0;
        for _ in 0..TRIES {
            let before = sequence.load(Acquire);
            let vote = VoteKey { term: term.load(Relaxed), node: node.load(Relaxed) };
            let until = Instant::from_nanos(end.load(Relaxed));
            fence(Acquire);
            if before % 2 == 0 && sequence.load(Relaxed) == before {
                return (until != Instant::default()).then_some((vote, until));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_newest_is_read_and_nothing_after_the_end() {
        let renewals = Renewals::new().expect("a page");
        assert_eq!(renewals.read(), None);
        let (vote, at) = (VoteKey { term: 3, node: 7 }, Instant::from_nanos);
        renewals.write(vote, at(10));
        renewals.write(vote, at(20));
        assert_eq!(renewals.read(), Some((vote, at(20))));
        renewals.clear();
        assert_eq!(renewals.read(), None);
    }

    #[test]
    fn the_daemon_sees_what_the_keeper_knows() {
        let renewals = Renewals::new().expect("a page");
        renewals.know(Instant::from_nanos(7));
        assert_eq!((renewals.known(), renewals.read()), (Instant::from_nanos(7), None));
    }

    #[test]
    fn a_writer_frozen_half_way_renews_nothing() {
        let renewals = Renewals::new().expect("a page");
        renewals.write(VoteKey { term: 3, node: 7 }, Instant::from_nanos(10));
        renewals.0[0].fetch_add(1, Relaxed);
        renewals.0[1].store(4, Relaxed);
        assert_eq!(renewals.read(), None);
        renewals.write(VoteKey { term: 4, node: 7 }, Instant::from_nanos(20));
        assert_eq!(
            renewals.read(),
            Some((VoteKey { term: 4, node: 7 }, Instant::from_nanos(20))),
            "and is whole again after it"
        );
    }

    #[test]
    fn a_reader_never_sees_the_end_of_one_hold_under_the_vote_of_another() {
        let renewals = Arc::new(Renewals::new().expect("a page"));
        let reader = renewals.clone();
        let read = std::thread::spawn(move || {
            let mut seen = 0;
            while seen < 200_000 {
                if let Some((vote, until)) = reader.read() {
                    assert_eq!((vote.term, vote.node), (until.as_nanos(), until.as_nanos() / 2));
                    seen = until.as_nanos();
                }
            }
        });
        for n in 1..=200_000 {
            renewals.write(VoteKey { term: n, node: n / 2 }, Instant::from_nanos(n));
        }
        read.join().expect("whole values only");
    }
}
