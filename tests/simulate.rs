//! The simulator, built for debugging: a little simulated time, always the same. `scripts/simulate` runs more, and breaks each rule on
//! purpose to see whether it is found.

mod sim;

use sim::clock::{SEC, Time};
use sim::run::{self, Sum};
use sim::setup::Setup;

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
            "seed {}: {}\n{setup:?}\n{}\n{}\nagain: scripts/simulate --replay --nodes {} --seed {}",
            setup.seed,
            failure.violation,
            failure.nodes.join("\n"),
            failure.events.join("\n"),
            setup.nodes,
            setup.seed
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_events() {
    for nodes in [3, 5] {
        let setup = Setup { length: 90 * SEC, ..Setup::new(7, nodes) };
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
