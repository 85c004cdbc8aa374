//! Strangers that claim the VIP while it is held here.

use super::*;

const OTHER: frames::Mac = [2, 0, 0, 0, 0, 10];

/// Holds for that long in steps of 100 ms, doing something at each.
fn hold(w: &mut World, from: u64, to: u64, mut each: impl FnMut(&mut World, u64)) {
    for ms in (from..to).step_by(100) {
        w.until(ms);
        w.order(A, ms + 150);
        each(w, ms);
    }
}

fn claims(w: &mut World) -> Vec<frames::Mac> {
    w.said().iter().filter_map(|r| if let Report::Claimed { mac } = r { Some(*mac) } else { None }).collect()
}

#[test]
fn the_last_holders_frames_around_a_move_are_no_news() {
    let mut w = World::new(true);
    hold(&mut w, 0, 1000, |w, _| w.tell(Input::Claim(MAC)));
    assert!(claims(&mut w).is_empty());
    hold(&mut w, 1000, 1100, |w, _| w.tell(Input::Claim(MAC)));
    assert_eq!(claims(&mut w), [MAC], "a stranger goes on");
}

#[test]
fn each_stranger_is_told_of_once_in_ten_seconds() {
    let mut w = World::new(false);
    hold(&mut w, 0, 25_000, |w, ms| {
        w.tell(Input::Claim(MAC));
        if ms == 5000 {
            w.tell(Input::Claim(OTHER));
        }
    });
    assert_eq!(claims(&mut w), [MAC, OTHER, MAC, MAC]);
}

#[test]
fn many_strangers_are_no_flood() {
    let mut w = World::new(true);
    hold(&mut w, 0, 1100, |_, _| {});
    w.frames.clear();
    for n in 0..=255 {
        w.tell(Input::Claim([2, 0, 0, 0, 1, n]));
    }
    assert_eq!(claims(&mut w).len(), 4);
    assert_eq!(w.frames.len(), 2, "and one announcement in both forms");
}

#[test]
fn a_claim_is_answered_at_once_and_then_each_ten_seconds() {
    let mut w = World::new(true);
    hold(&mut w, 0, 6000, |_, _| {});
    w.frames.clear();
    let mut sent = vec![];
    hold(&mut w, 6000, 40_000, |w, ms| {
        w.tell(Input::Claim(MAC));
        sent.extend((!w.frames.is_empty()).then_some((ms, std::mem::take(&mut w.frames))));
    });
    let both = vec![frames::Kind::Announce, frames::Kind::AnnounceReply];
    assert_eq!(sent, [6000, 16_000, 26_000, 36_000].map(|ms| (ms, both.clone())));
}

#[test]
fn without_announcements_a_claim_is_told_and_not_answered() {
    let mut w = World::new(false);
    hold(&mut w, 0, 60_000, |w, _| w.tell(Input::Claim(MAC)));
    assert_eq!((claims(&mut w).len(), w.frames.len()), (6, 0));
}

#[test]
fn a_holder_asks_with_each_refresh_who_else_has_it() {
    let mut w = World::new(true);
    let mut asked = vec![];
    hold(&mut w, 0, 100_000, |w, ms| {
        asked.extend(w.frames.contains(&frames::Kind::Probe).then_some(ms));
        w.frames.clear();
    });
    assert_eq!(asked, [2000, 47_000, 92_000]);
    w.tell(Input::Order(LET_GO));
    w.until(200_000);
    assert_eq!(w.frames, [], "none without a hold");
}
