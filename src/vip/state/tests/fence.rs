//! The fence is armed before the address, never beyond the hold, seldom, and cleared after the address.

use super::*;

fn arms(w: &World) -> Vec<(Instant, Instant)> {
    let arm = |(act, now): &(FenceAct, Instant)| match act {
        FenceAct::Arm { until } => Some((*now, *until)),
        FenceAct::Clear => None,
    };
    w.fences.iter().filter_map(arm).collect()
}

#[test]
fn the_fence_is_armed_before_the_address_and_cleared_after_it() {
    let mut w = World::new(false);
    w.order(A, 150);
    assert_eq!(w.fences, [(FenceAct::Arm { until: at(150) }, at(0))]);
    assert_eq!(w.did(), [Change::Add]);
    w.until(1000);
    assert_eq!(w.fences[1..], [(FenceAct::Clear, at(150))]);
    assert_eq!((w.fence.guarded, w.said()), (false, vec![held(A), gone(A, GoneWhy::Deadline)]));
    w.order(B, 1150);
    assert_eq!(w.fences[2..], [(FenceAct::Arm { until: at(1150) }, at(1000))]);
}

/// Heartbeats of 50 ms and holds of 190 ms, as with the preset `lan`.
#[test]
fn heartbeats_in_time_arm_it_each_other_time() {
    let mut w = World::new(false);
    for n in 0..40 {
        w.order(A, n * 50 + 189);
        w.until((n + 1) * 50);
        assert!(w.fence.is_open(w.now), "silent in the middle of a hold");
    }
    assert_eq!(arms(&w).len(), 20, "{:?}", arms(&w));
}

/// Whatever the rhythm of the orders: open while the hold runs, closed after it.
#[test]
fn the_fence_is_open_exactly_while_the_hold_runs() {
    for beat in [7, 15, 20, 33, 50, 80, 120, 180] {
        let mut w = World::new(false);
        let (mut ordered, mut end) = (0, 0);
        for ms in 0..3000 {
            w.until(ms);
            if ms >= ordered + beat || ms == 0 {
                (ordered, end) = (ms, ms + 185);
                w.order(A, end);
            }
            assert!(w.fence.is_open(w.now), "a beat of {beat} ms: silent at {ms} ms");
            assert!(w.fence.until.is_some_and(|until| until <= at(end)), "armed beyond the hold");
        }
        assert!(arms(&w).len() <= 3000 / 40, "a beat of {beat} ms: armed {} times in 3 s", arms(&w).len());
        w.tell(Input::Blocked(true));
        w.now = at(end);
        assert!(!w.fence.is_open(w.now), "nobody has to run for that");
    }
}

#[test]
fn a_shortened_hold_shortens_the_fence() {
    let mut w = World::new(false);
    w.order(A, 180);
    w.order(A, 60);
    assert_eq!(arms(&w), [(at(0), at(180)), (at(0), at(60))]);
}

#[test]
fn a_kernel_without_the_fence_delays_no_hold_and_is_asked_rarely() {
    let mut w = World::with(SET);
    w.fence.errno = libc::EOPNOTSUPP;
    w.tell(Input::Fenced(libc::EOPNOTSUPP)); // as at start
    assert_eq!(w.said(), [Report::Fence { errno: libc::EOPNOTSUPP }]);
    for n in 0..2000 {
        w.order(A, n * 100 + 150);
        w.until((n + 1) * 100);
    }
    assert_eq!(w.said(), [held(A)], "said once");
    assert!((3..=201).contains(&w.fences.len()), "{} tries in 200 s", w.fences.len());
}

#[test]
fn a_fence_that_never_worked_is_tried_once_a_minute() {
    let mut w = World { m: Machine::new(SET), ..World::new(false) };
    w.fence.errno = libc::EPROTONOSUPPORT;
    w.tell(Input::Fenced(libc::EPROTONOSUPPORT));
    for n in 0..2000 {
        w.order(A, n * 100 + 150);
        w.until((n + 1) * 100);
    }
    assert_eq!(w.fences.len(), 3, "in 200 s");
    w.fence.errno = 0;
    w.said();
    for n in 2000..2700 {
        w.order(A, n * 100 + 150);
        w.until((n + 1) * 100);
    }
    assert_eq!(w.said(), [Report::Fence { errno: 0 }], "it is used when it works");
    assert!(w.fence.guarded && w.fence.is_open(w.now));
}

#[test]
fn a_fence_that_fails_in_the_middle_is_opened_and_tried_again() {
    let mut w = World::new(false);
    w.order(A, 150);
    w.said();
    w.fence.errno = libc::ENOMEM;
    w.until(60);
    w.order(A, 210);
    w.until(100);
    w.fence.errno = 0;
    for n in 2..40 {
        w.order(A, n * 50 + 150);
        w.until((n + 1) * 50);
    }
    assert_eq!(w.said(), [Report::Fence { errno: libc::ENOMEM }, Report::Fence { errno: 0 }]);
    assert!(w.fence.guarded && w.fence.is_open(w.now));
    let acts: Vec<_> = w.fences.iter().map(|(act, _)| *act).take(4).collect();
    assert!(
        matches!(acts[..], [FenceAct::Arm { .. }, FenceAct::Arm { .. }, FenceAct::Clear, FenceAct::Arm { .. }]),
        "{acts:?}"
    );
}

/// Peers count on it until they are told: one lease is then too short for what would linger here.
#[test]
fn a_hold_that_finds_its_fence_broken_is_refused_and_the_next_goes_without() {
    let mut w = World::new(false);
    w.fence.errno = libc::ENOMEM;
    w.order(A, 150);
    assert_eq!(w.did(), [], "no address without the fence that was promised");
    assert_eq!(
        w.said(),
        [Report::Fence { errno: libc::ENOMEM }, refused(A, RefusedWhy::Kernel(libc::ENOMEM)), gone(A, GoneWhy::Refused)]
    );
    w.order(B, 150);
    assert_eq!((w.did(), w.said()), (vec![Change::Add], vec![held(B)]), "now they know");
}

#[test]
fn a_fence_that_could_not_be_cleared_does_not_silence_the_next_hold() {
    let mut w = World::new(false);
    w.order(A, 150);
    w.until(140);
    w.fence.errno = libc::ENOMEM;
    w.until(160);
    assert!(w.fence.guarded && !w.fence.is_open(w.now));
    w.fence.errno = 0;
    w.order(B, 310);
    assert!(w.fence.is_open(w.now) && w.ours);
}

#[test]
fn a_daemon_that_was_frozen_is_told_again_what_lasts() {
    let mut w = World::new(false);
    w.tell(Input::Blocked(true));
    w.tell(Input::Blocked(false));
    assert_eq!(w.said(), [Report::Fence { errno: 0 }, Report::Link { up: true }]);
}

#[test]
fn a_table_that_somebody_deleted_is_told_once() {
    let mut w = World::new(false);
    w.order(A, 150);
    w.said();
    for _ in 0..3 {
        w.m.input(Input::FenceLost, w.now);
    }
    w.turn();
    assert_eq!(w.said(), [Report::Trouble { task: Task::Fence, errno: libc::ENOENT }]);
}

#[test]
fn a_new_interface_gets_a_new_fence() {
    let mut w = World::new(false);
    w.order(A, 150);
    (w.ours, w.errno) = (false, libc::ENODEV);
    w.tell(Input::Link { present: false, up: false });
    w.errno = 0;
    w.fence = Kernel::default();
    w.tell(Input::Fenced(0));
    w.tell(Input::Link { present: true, up: true });
    w.fences.clear();
    w.order(B, 150);
    assert_eq!(arms(&w), [(at(0), at(150))]);
    assert!(w.fence.guarded && w.said().contains(&held(B)));
}

#[test]
fn a_refused_hold_guards_nothing() {
    let mut w = World::new(false);
    w.foreign = true;
    w.tell(Input::Hint);
    w.order(A, 150);
    assert_eq!(w.fences, [], "the address is somebody's");
    let mut w = World::new(false);
    w.errno = libc::EPERM;
    w.order(A, 150);
    assert!(!w.fence.guarded, "no address, nothing to guard");
}

/// The address can't be removed (somebody sits on RTNL): the guard stays, and its element runs out.
#[test]
fn an_address_that_stays_stays_guarded() {
    let mut w = World::new(false);
    w.order(A, 150);
    w.errno = libc::EBUSY;
    w.tell(Input::DaemonEnded);
    w.until(lifetime_bound(HOLD).as_millis() as u64);
    assert_eq!(w.exit, Some(false));
    assert!(w.ours && w.fence.guarded && !w.fence.is_open(w.now));
}
