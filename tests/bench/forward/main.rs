//! What forwarding TCP costs: kube-vip beside HAProxy, nginx and the kernel, in one run. Run by `scripts/bench forward`.
//!
//! ```text
//!   options ─▶ main ─▶ contest: one forwarder at a time ──▶ client ═ forwarder ═ server   (scene: three namespaces)
//!                │        └─ measure: load ⇄ server, cost: CPU, memory, calls of the forwarder's processes
//!                └─▶ figures, table, picture (pure)
//! ```
//!
//! CPU is the scheduler's time of the forwarder's own processes. The kernel's network work is charged where it happens: what a send
//! sets off, up to the receiver's socket, to the sender; so the forwarder pays for what it sends, and load and server for what they
//! send to it. It is the same for all, and for kernel DNAT nothing remains to be charged.
#[path = "../../lab/mod.rs"]
mod lab;

mod contest;
mod cost;
mod figures;
mod load;
mod measure;
mod options;
mod pattern;
mod picture;
mod scene;
mod server;
mod table;

use figures::{Job, Results, Who, rotated};
use lab::{isolated_program, secs};
use measure::Bench;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use options::Options;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Descriptors of this process, and of each contestant: two for each of the held connections.
const DESCRIPTORS: u64 = 19_500;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if words.is_empty() {
        return; // `cargo bench` without a choice, or `cargo test --benches`: nothing to do
    }
    let options = Options::parse(words.into_iter()).unwrap_or_else(|why| {
        eprintln!("{why}");
        std::process::exit(64);
    });
    isolated_program(secs(7200), "forward", || std::process::exit(run(&options)));
}

/// Measures what was asked for; the exit code: 1 where a contestant failed in a column.
fn run(options: &Options) -> i32 {
    if let Err(why) = descriptors() {
        eprintln!("{why}");
        return 1;
    }
    let began = Instant::now();
    let who: Vec<Who> = options.who.iter().copied().filter(|who| told(*who)).collect();
    println!("{}\n", header(options, &who));
    let bench = Bench::new(options.quick);
    let mut results = Results::default();
    for round in 0..options.rounds {
        for who in rotated(&who, round) {
            let jobs: Vec<Job> = options.jobs.iter().copied().filter(|job| round == 0 || *job != Job::Calls).collect();
            let done = catch_unwind(AssertUnwindSafe(|| bench.contestant(who, &jobs, &mut results)));
            if done.is_err() {
                jobs.iter().for_each(|job| results.fail(who, *job, "the bench itself failed, see above"));
            }
        }
        eprintln!("round {} of {} done after {:.1} min", round + 1, options.rounds, began.elapsed().as_secs_f64() / 60.0);
    }
    println!("{}", table::render(&results, &who, &options.jobs));
    if let Some(file) = &options.svg {
        match std::fs::write(file, picture::render(&results, &who, &machine(options))) {
            Ok(()) => println!("picture: {}", file.display()),
            Err(e) => eprintln!("can't write {}: {e}", file.display()),
        }
    }
    println!("took {:.1} min, estimated {:.1} min", began.elapsed().as_secs_f64() / 60.0, minutes(options, &who));
    i32::from(!results.failures().is_empty())
}

/// Whether it takes part; says so where it doesn't.
fn told(who: Who) -> bool {
    let why = contest::missing(who);
    if let Some(why) = &why {
        println!("{} is skipped: {why}", who.title());
    }
    why.is_none()
}

fn header(options: &Options, who: &[Who]) -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let [forwarder, client, server] = cpus().map(|cpu| cpu.map_or("any".to_owned(), |n| n.to_string()));
    format!(
        "{}, load at the start {}. {}\nForwarder on CPU {forwarder}, load on {client}, server on {server}; client, forwarder and server in namespaces \
         joined by veth pairs.\nOne thread each, no log, no checks; requests of {} bytes, responses of {}. Estimated: {:.1} min.",
        machine(options),
        load.split(' ').next().unwrap_or_default(),
        contest::versions(),
        pattern::REQUEST,
        pattern::RESPONSE,
        minutes(options, who)
    )
}

fn machine(options: &Options) -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let plural = if options.rounds == 1 { "" } else { "s" };
    format!("{cores} cores, Linux {}, {} round{plural}", kernel.trim(), options.rounds)
}

/// A rough guess from what it took on a quiet machine.
fn minutes(options: &Options, who: &[Who]) -> f64 {
    let job = |job: &Job| match job {
        Job::Calls => 0.0,
        job => measure::seconds(*job, options.quick),
    };
    let calls = if options.jobs.contains(&Job::Calls) { measure::seconds(Job::Calls, options.quick) } else { 0.0 };
    let round: f64 = 0.5 + options.jobs.iter().map(job).sum::<f64>();
    who.len() as f64 * (round * options.rounds as f64 + calls) / 60.0
}

fn descriptors() -> Result<(), String> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| format!("limit of open files: {e}"))?;
    if hard < DESCRIPTORS {
        return Err(format!("the limit of open files is {hard}, {DESCRIPTORS} are needed: ulimit -Hn {DESCRIPTORS}, as root"));
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(DESCRIPTORS), hard).map_err(|e| format!("limit of open files: {e}"))
}

/// CPUs for the forwarder, the load, and the server: the forwarder has one of its own wherever there are two.
fn cpus() -> [Option<usize>; 3] {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let all: Vec<usize> = (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect();
    match all[..] {
        [] | [_] => [None; 3],
        [a, b] => [Some(a), Some(b), Some(b)],
        [a, b, c, ..] => [Some(a), Some(b), Some(c)],
    }
}

/// Keeps the calling thread on `cpu`.
fn pin(cpu: Option<usize>) {
    let Some(cpu) = cpu else { return };
    let mut set = CpuSet::new();
    if set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).is_err() {
        eprintln!("can't stay on CPU {cpu}");
    }
}
