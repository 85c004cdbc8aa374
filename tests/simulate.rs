//! The simulator, built for debugging: some simulated time, and whether it would find a broken rule. `scripts/simulate` runs more.

mod sim;

use sim::clock::{SEC, Time};
use sim::episodes;
use sim::run::{self, Sum};
use sim::setup::{Planted, Setup};

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

fn hours(simulated: Time) -> f64 {
    simulated as f64 / SEC as f64 / 3600.0
}

/// Fails with everything that is known of the first failure.
fn none_failed(sum: &Sum) {
    if let Some((setup, failure)) = sum.failures.first() {
        panic!(
            "seed {}: {}\n{setup:?}\n{}\n{}\nagain: {}",
            setup.seed,
            failure.violation,
            failure.nodes.join("\n"),
            failure.events.join("\n"),
            setup.again()
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_events() {
    let usual = |nodes| Setup { length: 90 * SEC, ..Setup::new(7, nodes) };
    let episodes = |rule: Planted| Setup { length: 20 * SEC, ..rule.sound_world(7) };
    for setup in [usual(3), usual(5), episodes(Planted::OpenGate), episodes(Planted::FlagBelieved)] {
        let nodes = setup.nodes;
        let (one, two) = (run::one(setup.clone(), None), run::one(setup, None));
        assert_eq!((one.hash, one.events), (two.hash, two.events), "{nodes} nodes");
        assert!(one.failure.is_none() && one.events > 1000, "{} events", one.events);
    }
}

#[test]
fn no_rule_is_broken_in_a_quarter_of_a_simulated_hour_of_faults() {
    let make = |n: u64| Setup::new(1000 + n, if n % 5 == 4 { 5 } else { 3 });
    let sum = run::many(threads(), make, |sum| sum.simulated >= 900 * SEC || !sum.failures.is_empty());
    none_failed(&sum);
    println!("{:.1} simulated hours, {} events, {:?}", hours(sum.simulated), sum.events, sum.counts);
}

/// Heartbeats go by turns where the timing has room for it, and in peace nobody campaigns for the want of one: what is sent says both.
#[test]
fn in_peace_each_heartbeat_goes_to_a_majority() {
    const SPAN: Time = 10 * SEC;
    // (heartbeat, lease, nodes, of how many peers each heartbeat is sent to so many)
    for (heartbeat_ms, lease_ms, nodes, asked) in
        [(50, 250, 3, 1), (50, 250, 5, 2), (50, 250, 2, 1), (15, 60, 3, 2), (500, 3000, 3, 1)]
    {
        let sent = |length| {
            let timing = Setup {
                heartbeat_ms,
                lease_ms,
                length,
                fenced: vec![true; nodes],
                keys: String::new(),
                ..Setup::new(7, nodes)
            };
            let outcome = run::one(Setup { peaceful: true, ..timing }, None);
            assert!(outcome.failure.is_none());
            outcome.counts["frames"]
        };
        let frames = sent(30 * SEC + SPAN) - sent(30 * SEC);
        // A question and its answer each; so are the pings of each link that is otherwise idle, twice a second at most.
        let heartbeats = 2 * asked * SPAN / SEC * 1000 / heartbeat_ms;
        let pings = 2 * 2 * (nodes * (nodes - 1)) as u64 * SPAN / SEC;
        println!("{nodes} nodes, {heartbeat_ms} ms: {frames} frames, {heartbeats} of heartbeats, at most {pings} of pings");
        assert!(
            (heartbeats * 9 / 10..heartbeats * 11 / 10 + pings).contains(&frames),
            "{nodes} nodes, {heartbeat_ms} ms: {frames}"
        );
    }
}

/// Worlds that make the broken rule count, until one is found.
fn found(planted: Planted) {
    let enough = |sum: &Sum| !sum.failures.is_empty() || sum.simulated > 7200 * SEC;
    let sum = run::many(threads(), |n| planted.world(n), enough);
    let first = sum.failures.first().unwrap_or_else(|| {
        panic!("{planted:?} was not found in {:.1} simulated hours", hours(sum.simulated));
    });
    println!("{planted:?}: found after {:.2} simulated hours: {}", hours(sum.simulated), first.1.violation);
}

#[test]
fn a_hold_longer_than_the_lease_is_found() {
    found(Planted::LongHold);
}

#[test]
fn a_spent_vote_that_holds_again_is_found() {
    found(Planted::SpentReused);
}

#[test]
fn a_release_without_proof_is_found() {
    found(Planted::UnprovenRelease);
}

#[test]
fn a_keeper_without_deadline_is_found() {
    found(Planted::NoDeadline);
}

#[test]
fn a_start_without_quiet_is_found() {
    found(Planted::NoQuietStart);
}

/// Few worlds, of nothing but an episode that the rule alone stands against, with the rule broken and with it in force.
fn found_in_episodes(planted: Planted, episodes: &[&str]) {
    const WORLDS: u64 = 4;
    let enough = |sum: &Sum| sum.worlds >= WORLDS;
    let broken = run::many(threads(), |n| planted.world(n), enough);
    let missed = broken.worlds - broken.failures.len() as u64;
    assert!(missed * 2 < broken.worlds, "{planted:?} was missed in {missed} of {} worlds", broken.worlds);
    let sound = run::many(threads(), |n| planted.sound_world(n), enough);
    none_failed(&sound);
    for episode in episodes {
        assert!(sound.counts.get(episode).is_some_and(|n| *n >= WORLDS), "{episode}: {:?}", sound.counts);
    }
    println!("{planted:?}: found in all but {missed} of {} worlds", broken.worlds);
}

#[test]
fn an_open_vote_gate_is_found() {
    found_in_episodes(Planted::OpenGate, &[episodes::RESTART, episodes::FREEZE]);
}

#[test]
fn an_upgrade_that_forgets_a_promise_is_found() {
    found_in_episodes(Planted::UpgradeForgets, &[episodes::UPGRADE]);
}

#[test]
fn a_transfer_flag_that_is_believed_is_found() {
    found_in_episodes(Planted::FlagBelieved, &[episodes::HELD_BACK]);
}
