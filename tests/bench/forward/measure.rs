//! One contestant, from start to end, with all that is asked of it.

use super::contest::{self, Subject};
use super::cost;
use super::cpus;
use super::figures::{Job, Results, What, Who, quantile};
use super::lab::ms;
use super::load::{Load, Outcome, Work};
use super::pattern::{Pattern, RESPONSE};
use super::pin;
use super::scene::{SERVER, Scene, until};
use super::server::Server;
use std::time::{Duration, Instant};

/// Connections held open at once.
const HELD: u64 = 8000;
/// Connections in flight where each request has its own.
const IN_FLIGHT: usize = 16;
/// Bytes of a bulk run, all streams together.
const BULK: u64 = 4 << 30;
/// Requests and connections under strace.
const CALLS: u64 = 2000;

/// How long a job takes on a quiet machine, s.
pub fn seconds(job: Job, quick: bool) -> f64 {
    let whole = match job {
        Job::Idle => 0.3,
        Job::Held => 1.0,
        Job::Bulk(_) => 2.5,
        Job::Connects => 1.2,
        Job::Requests(_) => 2.2,
        Job::Calls => 2.5,
    };
    if quick { whole / 5.0 + 0.2 } else { whole }
}

/// Where everything happens.
pub struct Bench {
    scene: Scene,
    server: Server,
    pattern: Pattern,
    cpus: [Option<usize>; 3],
    /// The part of the work that is done.
    part: u64,
}

/// A run with its costs.
struct Measured {
    outcome: Outcome,
    cpu_ns: u64,
    /// Of load and server together, percent of the CPUs they have.
    harness: f64,
}

impl Bench {
    /// Makes the scene and starts the server.
    pub fn new(quick: bool) -> Bench {
        let (scene, cpus) = (Scene::new(), cpus());
        let server = Server::start(&scene.server, SERVER, cpus[2]);
        Bench { scene, server, pattern: Pattern::new(), cpus, part: if quick { 10 } else { 1 } }
    }

    /// Starts a contestant afresh, gives it `jobs` and ends it.
    pub fn contestant(&self, who: Who, jobs: &[Job], results: &mut Results) {
        let running = match contest::start(who, &self.scene, self.cpus[0], &self.pattern) {
            Ok(running) => running,
            Err(why) => return jobs.iter().for_each(|job| results.fail(who, *job, &why)),
        };
        for job in jobs {
            // Of the kernel's own forwarding only what the client sees can be told.
            let found = self.job(&running.subject, *job).and_then(|found| match self.settled() {
                Ok(()) => Ok(found),
                Err(why) => Err(why),
            });
            match found {
                Ok(found) => found.into_iter().for_each(|(what, value)| results.add(who, (*job, what), value)),
                Err(why) => {
                    eprintln!("{} / {}: {why}", who.title(), job.title());
                    results.fail(who, *job, &why);
                }
            }
        }
        if let Err(why) = running.end() {
            eprintln!("{why}");
        }
    }

    fn job(&self, subject: &Subject, job: Job) -> Result<Vec<(What, f64)>, String> {
        let kernel = subject.pids.is_empty();
        match job {
            Job::Idle | Job::Held | Job::Calls if kernel => Ok(Vec::new()),
            Job::Idle => {
                std::thread::sleep(ms(200)); // what a start leaves to be done
                let memory = cost::memory(&subject.pids)?;
                Ok(vec![(What::Rss, memory.rss), (What::Pss, memory.pss)])
            }
            Job::Held => self.held(subject),
            Job::Calls => self.calls(subject),
            Job::Bulk(streams) => {
                let length = BULK / self.part / u64::from(streams);
                let work = Work { requests: u64::from(streams), length, fresh: false };
                let run = self.measured(subject, streams as usize, work)?;
                let gb = run.outcome.bytes as f64 / 1e9;
                Ok(told(kernel, &run, gb * 1e9, gb * 8.0))
            }
            Job::Connects => {
                let work = Work { requests: 12_000 / self.part, length: RESPONSE, fresh: true };
                let run = self.measured(subject, IN_FLIGHT, work)?;
                Ok(told(kernel, &run, work.requests as f64 * 1e3, work.requests as f64))
            }
            Job::Requests(connections) => {
                let requests = if connections == 1 { 30_000 } else { 100_000 } / self.part;
                let work = Work { requests, length: RESPONSE, fresh: false };
                let mut run = self.measured(subject, connections as usize, work)?;
                let mut found = told(kernel, &run, requests as f64 * 1e3, requests as f64);
                run.outcome.latencies.sort_unstable();
                for (what, part) in [(What::P50, 0.5), (What::P99, 0.99), (What::P999, 0.999)] {
                    let ns = quantile(&run.outcome.latencies, part).ok_or("no response")?;
                    found.push((what, f64::from(ns) / 1e3));
                }
                Ok(found)
            }
        }
    }

    /// Does `work` after a little of it that is not counted.
    fn measured(&self, subject: &Subject, width: usize, work: Work) -> Result<Measured, String> {
        let warm = Work { requests: width as u64 * 4, length: RESPONSE, fresh: work.fresh };
        self.scene.client.enter(|| {
            pin(self.cpus[1]);
            let mut load = Load::new(subject.target, width, &self.pattern);
            load.run(warm)?;
            let own = nix::unistd::gettid().as_raw();
            let harness = || cost::own_thread_ns(own) + cost::own_thread_ns(self.server.thread());
            let (cpu, busy) = (cost::cpu_ns(&subject.pids)?, harness());
            let outcome = load.run(work)?;
            let busy = (harness() - busy) as f64 / outcome.elapsed.as_nanos() as f64;
            if work.fresh {
                drop(load);
                self.settled()?; // the last ones' ends belong to them
            }
            let places = if self.cpus[1] == self.cpus[2] { 1.0 } else { 2.0 };
            Ok(Measured { outcome, cpu_ns: cost::cpu_ns(&subject.pids)? - cpu, harness: busy * 100.0 / places })
        })
    }

    fn held(&self, subject: &Subject) -> Result<Vec<(What, f64)>, String> {
        let count = HELD / self.part;
        let before = (cost::memory(&subject.pids)?, cost::descriptors(&subject.pids)?);
        let after = self.scene.client.enter(|| {
            pin(self.cpus[1]);
            let mut load = Load::new(subject.target, count as usize, &self.pattern);
            load.run(Work { requests: count, length: RESPONSE, fresh: false })?;
            std::thread::sleep(Duration::from_millis(1500)); // longer than any once-a-second work
            Ok::<_, String>((cost::memory(&subject.pids)?, cost::descriptors(&subject.pids)?))
        })?;
        let each = |now: f64, then: f64| (now - then).max(0.0) / count as f64;
        Ok(vec![
            (What::MemoryEach, each(after.0.pss, before.0.pss)),
            (What::DescriptorsEach, each(after.1 as f64, before.1 as f64)),
        ])
    }

    fn calls(&self, subject: &Subject) -> Result<Vec<(What, f64)>, String> {
        let work = |fresh| Work { requests: CALLS, length: RESPONSE, fresh };
        self.scene.client.enter(|| {
            pin(self.cpus[1]);
            let mut load = Load::new(subject.target, 8, &self.pattern);
            load.run(Work { requests: 8, ..work(false) })?;
            let requests = cost::calls(&subject.pids, || load.run(work(false)).map(drop))?;
            drop(load);
            self.settled()?;
            let mut load = Load::new(subject.target, 8, &self.pattern);
            let connections = cost::calls(&subject.pids, || {
                load.run(work(true))?;
                self.settled()
            })?;
            let each = |calls: u64| calls as f64 / CALLS as f64;
            Ok(vec![(What::CallsPerRequest, each(requests)), (What::CallsPerConnection, each(connections))])
        })
    }

    /// Waits until the server has no connection left: then the forwarder has none either.
    fn settled(&self) -> Result<(), String> {
        until("all connections have ended", Duration::from_secs(20), || (self.server.open() == 0).then_some(()))?;
        let since = Instant::now();
        while since.elapsed() < ms(20) {
            std::thread::yield_now(); // the forwarder hears of the server's last FIN after the server
        }
        match self.server.wrong() {
            0 => Ok(()),
            n => Err(format!("{n} requests reached the server that were none")),
        }
    }
}

/// CPU per unit (ns for `units`), the rate of `things`, and how busy the harness was.
fn told(kernel: bool, run: &Measured, units: f64, things: f64) -> Vec<(What, f64)> {
    let mut found = vec![(What::Rate, things / run.outcome.elapsed.as_secs_f64()), (What::Harness, run.harness)];
    if !kernel {
        found.push((What::Cpu, run.cpu_ns as f64 / units));
    }
    found
}
