//! Many worlds on all cores, or one again: see `scripts/simulate`.

#[path = "mod.rs"]
mod sim;

use sim::clock::{MS, SEC, Time};
use sim::run::{self, Sum};
use sim::setup::{Planted, Setup};
use sim::world::Failure;
use std::process::ExitCode;
use std::time::Instant;

/// What was asked for.
struct Asked {
    hours: f64,
    seed: u64,
    nodes: usize,
    replay: bool,
    planted: bool,
    /// The name of a rule to break, for a replay.
    plant: Option<Planted>,
    /// The same worlds with the rule in force.
    like: Option<Planted>,
    /// How many failures end it.
    failures: usize,
}

fn asked() -> Result<Asked, String> {
    let mut asked =
        Asked { hours: 1.0, seed: 1, nodes: 3, replay: false, planted: false, plant: None, like: None, failures: 1 };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        match flag.as_str() {
            "--replay" => asked.replay = true,
            "--planted" => asked.planted = true,
            _ => {}
        }
        if flag == "--replay" || flag == "--planted" {
            continue;
        }
        let value = args.next().ok_or(format!("{flag} needs a value"))?;
        let bad = |e: &dyn std::fmt::Display| format!("{flag} {value}: {e}");
        match flag.as_str() {
            "--hours" => asked.hours = value.parse().map_err(|e| bad(&e))?,
            "--seed" => asked.seed = value.parse().map_err(|e| bad(&e))?,
            "--plant" => asked.plant = Some(rule(&value).map_err(|e| bad(&e))?),
            "--like" => asked.like = Some(rule(&value).map_err(|e| bad(&e))?),
            "--failures" => asked.failures = value.parse().map_err(|e| bad(&e))?,
            "--nodes" => asked.nodes = value.parse().map_err(|e| bad(&e))?,
            _ => return Err(format!("{flag} is not known")),
        }
    }
    Ok(asked)
}

fn rule(name: &str) -> Result<Planted, String> {
    let found = Planted::ALL.into_iter().find(|p| format!("{p:?}") == name);
    found.ok_or_else(|| format!("no such rule; there are {:?}", Planted::ALL))
}

fn main() -> ExitCode {
    let asked = match asked() {
        Ok(asked) => asked,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(64);
        }
    };
    match asked {
        _ if asked.replay => replay(&asked),
        _ if asked.planted => planted(&asked),
        _ => simulate(&asked),
    }
}

/// Breaks each rule on purpose, until it is found; and runs the same worlds with the rule in force, in which nothing may be found.
fn planted(asked: &Asked) -> ExitCode {
    let looked = Planted::ALL.into_iter().map(|planted| look_for(planted, asked));
    ExitCode::from(u8::from(looked.filter(|found| !found).count() > 0))
}

fn look_for(planted: Planted, asked: &Asked) -> bool {
    let wanted = (asked.hours * 3600.0 * SEC as f64) as Time;
    let begun = Instant::now();
    let enough = |sum: &Sum| sum.simulated >= wanted || !sum.failures.is_empty();
    // On one core, so that the figures are the same each time.
    let broken = run::many(1, |n| planted.world(asked.seed - 1 + n), enough);
    let figures = format!(
        "{:.1} simulated s, {} events, {:.2} s",
        broken.simulated as f64 / SEC as f64,
        broken.events,
        begun.elapsed().as_secs_f64()
    );
    match broken.failures.first() {
        Some((setup, f)) => println!("{planted:?}: found after {figures} (seed {}): {}", setup.seed, f.violation),
        None => println!("{planted:?}: NOT found in {figures}"),
    }
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let sound = run::many(threads, |n| planted.sound_world(asked.seed - 1 + n), |sum| sum.worlds >= broken.worlds);
    if let Some((setup, failure)) = sound.failures.first() {
        println!("{planted:?}: this world fails with the rule in force, too");
        tell(setup, failure);
    }
    !broken.failures.is_empty() && sound.failures.is_empty()
}

fn simulate(asked: &Asked) -> ExitCode {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let wanted = (asked.hours * 3600.0 * SEC as f64) as Time;
    let begun = Instant::now();
    let enough = |sum: &Sum| sum.simulated >= wanted || sum.failures.len() >= asked.failures;
    let sum = run::many(threads, |n| Setup::new(asked.seed + n, asked.nodes), enough);
    print(&sum, asked, begun.elapsed().as_secs_f64(), threads);
    for (setup, failure) in sum.failures.iter().skip(1) {
        println!("seed {} failed too, at {:.6} s: {}", setup.seed, failure.at as f64 / SEC as f64, failure.violation);
    }
    match sum.failures.first() {
        None => ExitCode::SUCCESS,
        Some((setup, failure)) => {
            tell(setup, failure);
            ExitCode::FAILURE
        }
    }
}

fn print(sum: &Sum, asked: &Asked, took: f64, threads: usize) {
    let hours = sum.simulated as f64 / SEC as f64 / 3600.0;
    println!(
        "{hours:.2} simulated hours of {} nodes ({} worlds from seed {}), {} events, {:.2} simulated hours per second on {threads} cores",
        asked.nodes,
        sum.worlds,
        asked.seed,
        sum.events,
        hours / took
    );
    for (name, n) in &sum.counts {
        println!("{n:>12} {name}");
    }
    println!("{:>12} ms: longest overlap that the rules allow (no fence, keeper dead, stopped or stalled)", sum.excused / MS);
    println!("{:>12} ms: longest time until a healthy majority had a holder again", sum.slowest / MS);
    println!("{:>12} violations", sum.failures.len());
}

fn tell(setup: &Setup, failure: &Failure) {
    println!("\nFAILURE, seed {}, {:.6} s: {}", setup.seed, failure.at as f64 / SEC as f64, failure.violation);
    println!("{setup:?}");
    failure.nodes.iter().for_each(|line| println!("  {line}"));
    failure.events.iter().for_each(|line| println!("  {line}"));
    println!("again, with the product's log: {}", setup.again());
}

/// One world, silent until two seconds before it failed, then with everything.
fn replay(asked: &Asked) -> ExitCode {
    let setup = match (asked.plant, asked.like) {
        (Some(planted), _) => planted.world(asked.seed - 1),
        (None, Some(planted)) => planted.sound_world(asked.seed - 1),
        (None, None) => Setup::new(asked.seed, asked.nodes),
    };
    if let Some(from) = milliseconds("FROM_MS") {
        run::one(setup, Some(from)); // to look at a world in which nothing fails
        return ExitCode::SUCCESS;
    }
    let outcome = run::one(setup.clone(), None);
    let Some(failure) = outcome.failure else {
        println!("seed {}: nothing fails in {} s", asked.seed, outcome.simulated / SEC);
        return ExitCode::SUCCESS;
    };
    run::one(setup.clone(), Some(failure.at.saturating_sub(before())));
    tell(&setup, &failure);
    ExitCode::FAILURE
}

/// How much of the time before a failure is printed.
fn before() -> Time {
    milliseconds("BEFORE_MS").unwrap_or(2000 * MS)
}

fn milliseconds(name: &str) -> Option<Time> {
    std::env::var(name).ok().and_then(|ms| ms.parse::<u64>().ok()).map(|ms| ms * MS)
}
