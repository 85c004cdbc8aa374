//! How long the VIP is silent when the leader is stopped, and when its host goes silent; how soon it is first held.
//! Run by `scripts/bench failover-quick [N]`. Measures and prints; asserts only that no two hosts ever answered one question.
#[path = "../lab/mod.rs"]
mod lab;

use lab::net::VIP4;
use lab::{ArpWatch, Cluster, Lab, Prober, isolated_program, secs, wait_until};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let trials = match &arguments[..] {
        [] => return, // `cargo bench` without a choice, or `cargo test --benches`: nothing to do
        [kind, n] if kind == "quick" => n.parse().unwrap_or_else(|_| panic!("{n:?} is not a number of trials")),
        other => panic!("unknown benchmark {other:?}"),
    };
    isolated_program(secs(60 + 30 * trials), "failover", || quick(trials));
}

fn quick(trials: u64) {
    let first = first_holder_times(&Lab::new(), trials.min(5));
    let cluster = first.1;
    println!("preset lan, 3 nodes, answers probed every {:?}, ARP asked every 10 ms", Prober::EVERY);
    print_row("first holder after start", &first.0);
    let watch = ArpWatch::start(&cluster.client, VIP4);
    let stops: Vec<Duration> = (0..trials).map(|_| stop_leader(&cluster)).collect();
    print_row("SIGTERM of the leader", &stops);
    let silences: Vec<Duration> = (0..trials).map(|_| silence_leader(&cluster)).collect();
    print_row("leader's host silent", &silences);
    println!("{} of {} ARP questions were answered by two hosts", watch.doubles().len(), watch.rounds());
    if !watch.doubles().is_empty() {
        println!("{}", watch.story());
        std::process::exit(1);
    }
}

/// From the start of three nodes without any state to the first answered ping, `trials` times; the last cluster stays.
fn first_holder_times(lab: &Lab, trials: u64) -> (Vec<Duration>, Cluster) {
    let cluster = Cluster::start(lab, 3);
    let prober = Prober::start(&cluster.client, VIP4);
    cluster.wait_settled();
    let times = (0..trials).map(|_| {
        for node in &cluster.nodes {
            node.stop(Signal::SIGTERM);
        }
        for node in &cluster.nodes {
            std::fs::remove_dir_all(node.state_dir()).expect("the state directory can be removed");
        }
        let start = Instant::now();
        for node in &cluster.nodes {
            node.restart();
        }
        wait_until("the VIP answers", secs(30), || prober.first_answer_after(start).is_some());
        let answered = prober.first_answer_after(start).expect("just seen") - start;
        cluster.wait_settled();
        answered
    });
    (times.collect(), cluster)
}

fn stop_leader(cluster: &Cluster) -> Duration {
    let (old, _) = cluster.wait_settled();
    wait_until("all nodes are connected", secs(20), || cluster.nodes.iter().all(connected));
    let outage = outage(cluster, old, || cluster.nodes[old].signal(Signal::SIGTERM));
    cluster.nodes[old].wait_exit(secs(15));
    cluster.nodes[old].restart();
    outage
}

fn silence_leader(cluster: &Cluster) -> Duration {
    let (old, _) = cluster.wait_settled();
    wait_until("all nodes are connected again", secs(20), || cluster.nodes.iter().all(connected));
    let outage = outage(cluster, old, || cluster.nodes[old].host.unplug());
    cluster.nodes[old].host.plug();
    // The next trial is about one fault: connections that were cut must not still be in TCP's pause before a repetition.
    let plugged = Instant::now();
    wait_until("all have heard all for a while", secs(20), || {
        plugged.elapsed() > secs(2) && cluster.nodes.iter().all(in_touch)
    });
    outage
}

fn connected(node: &lab::Node) -> bool {
    node.status().is_some_and(|s| s.peers.iter().all(|p| p.problem.is_none()))
}

fn in_touch(node: &lab::Node) -> bool {
    node.status().is_some_and(|s| s.peers.iter().all(|p| p.last_contact_ms.is_some_and(|ms| ms < 700)))
}

/// The longest time without an answer from `event` until another node holds and answers.
fn outage(cluster: &Cluster, old: usize, event: impl FnOnce()) -> Duration {
    let prober = Prober::start(&cluster.client, VIP4);
    prober.wait_answer(secs(10));
    event();
    cluster.wait_holder_other_than(old);
    prober.wait_answer(secs(10));
    prober.longest_outage()
}

fn print_row(what: &str, times: &[Duration]) {
    let mut ms: Vec<f64> = times.iter().map(|d| d.as_secs_f64() * 1000.0).collect();
    ms.sort_by(f64::total_cmp);
    let Some((min, max)) = ms.first().zip(ms.last()) else { return };
    println!("{what:26} min {min:7.1}  median {:7.1}  max {max:7.1} ms  ({} trials)", ms[ms.len() / 2], ms.len());
}
