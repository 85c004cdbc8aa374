//! The proof of release, and the time a stop takes.

use super::*;

const TOLD: Settings = Settings { notify: true, ..SET };
const THREE: [u64; 3] = [0, 5, 25];

fn told(w: &World, vote: VoteKey, from: u64) {
    assert_eq!(w.notices, THREE.map(|ms| (vote, at(from + ms))), "{vote:?} from {from} ms");
}

#[test]
fn a_deadline_is_proved_to_the_peers_at_once() {
    let mut w = World::with(TOLD);
    w.order(A, 100);
    w.until(99);
    assert_eq!(w.notices, []);
    w.until(1000);
    told(&w, A, 100);
}

#[test]
fn a_planned_let_go_is_the_daemons_to_tell() {
    let mut w = World::with(TOLD);
    w.order(A, 100);
    w.tell(Input::Order(Order::LetGo { vote: A }));
    w.until(1000);
    assert_eq!(w.notices, []);
    w.tell(Input::Stop);
    w.tell(Input::DaemonClosed);
    w.until(1010);
    w.tell(Input::DaemonEnded);
    assert_eq!(w.exit, None, "the repetitions come first");
    w.until(1100);
    told(&w, A, 1000);
    assert_eq!((w.exit, w.now), (Some(true), at(1100)));
}

#[test]
fn a_dead_daemon_is_proved_after_the_address_is_gone() {
    let mut w = World::with(TOLD);
    w.order(A, 150);
    w.slow = Duration::from_millis(40);
    w.tell(Input::DaemonEnded);
    w.until(1000);
    told(&w, A, 40);
    assert_eq!(w.exit, Some(true));
}

#[test]
fn nothing_is_proved_while_the_address_is_there() {
    let mut w = World::with(TOLD);
    w.order(A, 150);
    w.errno = libc::EBUSY;
    w.tell(Input::DaemonEnded);
    w.until(10_000);
    assert_eq!((w.notices.len(), w.exit), (0, Some(false)));
}

#[test]
fn every_end_but_a_let_go_is_proved() {
    for why in [GoneWhy::Stopping, GoneWhy::LinkGone, GoneWhy::Taken, GoneWhy::Refused] {
        let mut w = World::with(TOLD);
        w.order(A, 180);
        match why {
            GoneWhy::Stopping => {
                w.tell(Input::Stop);
                (1..40).for_each(|n| {
                    w.until(n * 100);
                    w.order(A, n * 100 + 150);
                });
            }
            GoneWhy::LinkGone => {
                (w.ours, w.errno) = (false, libc::ENODEV);
                w.tell(Input::Link { present: false, up: false });
            }
            GoneWhy::Taken => {
                (w.ours, w.foreign) = (false, true);
                w.tell(Input::Hint);
            }
            _ => {
                w.tell(Input::Order(Order::LetGo { vote: A }));
                w.errno = libc::EPERM;
                w.order(B, 180);
            }
        }
        assert!(w.said().iter().any(|r| matches!(r, Report::Gone { why: w, .. } if *w == why)), "{why:?}");
        w.until(8000);
        assert_eq!(w.notices.len(), 3, "{why:?}");
        assert!(w.notices.iter().all(|(vote, _)| *vote == if why == GoneWhy::Refused { B } else { A }), "{why:?}");
    }
}

/// A vote let go before its order to hold was seen is spent, and so may be proved.
#[test]
fn a_dead_daemons_unseen_vote_is_proved_too() {
    let mut w = World::with(TOLD);
    w.tell(Input::Order(Order::LetGo { vote: B }));
    w.tell(Input::DaemonEnded);
    w.until(1000);
    told(&w, B, 0);
    assert_eq!(w.exit, Some(true));
}

#[test]
fn without_a_vote_or_peers_nothing_is_sent() {
    let mut w = World::with(TOLD);
    w.tell(Input::DaemonEnded);
    assert_eq!((w.notices.len(), w.exit), (0, Some(true)), "no vote was ever heard of");
    let mut w = World::new(false);
    w.order(A, 150);
    w.tell(Input::DaemonEnded);
    assert_eq!((w.notices.len(), w.exit), (0, Some(true)), "a single node");
}

/// What was lost in the proof of an old vote is no matter once there is a newer.
#[test]
fn a_newer_hold_is_never_proved_while_it_runs() {
    let mut w = World::with(TOLD);
    w.order(A, 100);
    w.until(101);
    w.order(B, 200);
    w.until(150);
    told(&w, A, 100); // `turn` holds that none was B's
    assert_eq!(w.said(), [held(A), gone(A, GoneWhy::Deadline), held(B)]);
}

#[test]
fn a_daemon_may_drain_after_the_vip_is_gone() {
    let mut w = World::with(Settings { drain: Duration::from_secs(5), ..SET });
    w.order(A, 150);
    w.tell(Input::Stop);
    for n in 1..90 {
        w.until(n * 100);
        w.order(A, n * 100 + 150);
        assert_eq!(w.killed, n >= 80, "after {} ms", n * 100);
    }
    let removed = w.changes.iter().find(|(c, _)| *c == Change::Remove).map(|(_, t)| *t);
    assert_eq!(removed, Some(at(3000)), "the VIP doesn't wait for that");
    assert_eq!(w.exit, None);
    w.until(8999);
    assert_eq!(w.exit, None);
    w.until(9000);
    assert_eq!(w.exit, Some(true), "a killed daemon that nobody reaps counts as ended");
}
