//! One release cluster under traffic for a long time: every byte checked, backends that die and return, a reload each minute.
//! Run by `scripts/soak`. The exit code is 1 where a byte was wrong, a connection lost without a cause, or something grew.
//!
//! ```text
//!   client: threads that open, talk, close ──▶ VIP on n1, n2 or n3 ──▶ b0 … b3: killed and revived
//!                     └─ tally (pure) ◀─ samples of the holder's process, its loop's lateness
//! ```
#[path = "../../lab/mod.rs"]
mod lab;

mod backend;
mod client;
mod tally;
mod words;

use backend::{STACK, Server};
use client::Clients;
use lab::net::VIP4;
use lab::process::proc_status;
use lab::{Cluster, Lab, isolated_program, secs};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use tally::{End, Sample, Tally, verdict};
use words::Pattern;

const PORT: u16 = 80;
const SERVERS: u64 = 4;
/// After so much of a minute a backend dies, returns, and the configuration changes.
const KILL: Duration = Duration::from_secs(8);
const REVIVE: Duration = Duration::from_secs(24);
const RELOAD: Duration = Duration::from_secs(40);

#[derive(Debug)]
struct Options {
    minutes: u64,
    connections: u64,
    reload: bool,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if words.is_empty() {
        return; // `cargo bench` without a choice, or `cargo test --benches`: nothing to do
    }
    let options = parse(words.into_iter()).unwrap_or_else(|why| {
        eprintln!("{why}");
        std::process::exit(64);
    });
    let limit = secs(options.minutes * 60 + 600);
    isolated_program(limit, "soak", || std::process::exit(Soak::start(&options).run(&options)));
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { minutes: 60, connections: 500, reload: true };
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            value.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("{value:?} is not a number of {}", &word[2..]))
        };
        match word.as_str() {
            "--minutes" => options.minutes = number()?,
            "--connections" => options.connections = number()?,
            "--no-reload" => options.reload = false,
            other => return Err(format!("unknown argument {other:?}")),
        }
    }
    Ok(options)
}

struct Soak {
    cluster: Cluster,
    servers: Vec<Arc<Server>>,
    pattern: Arc<Pattern>,
    holder: usize,
    moves: u64,
    total: Tally,
    /// Of the present holder under load.
    busy: Vec<Sample>,
    worst_delay: u64,
}

impl Soak {
    fn start(options: &Options) -> Soak {
        let (lab, pattern) = (Lab::new(), Arc::new(Pattern::new()));
        let server = |n| Server::new(lab.host(&format!("b{n}")), n, 9000, pattern.clone());
        let servers: Vec<Arc<Server>> = (0..SERVERS).map(server).collect();
        servers.iter().for_each(|s| s.revive().expect("a backend can listen"));
        let cluster = Cluster::start_with(&lab, 3, false, |c| c.balancers = balancers(&servers, 0));
        let (holder, _) = cluster.wait_settled();
        println!(
            "{} minutes, {} connections at a time through {} and {} backends; each minute one is killed after {} s, revived after {} s, \
             and{} the configuration reloaded after {} s",
            options.minutes,
            options.connections,
            cluster.nodes[holder].id(),
            servers.len(),
            KILL.as_secs(),
            REVIVE.as_secs(),
            if options.reload { "" } else { " (switched off)" },
            RELOAD.as_secs()
        );
        Soak { cluster, servers, pattern, holder, moves: 0, total: Tally::default(), busy: Vec::new(), worst_delay: 0 }
    }

    /// The exit code.
    fn run(mut self, options: &Options) -> i32 {
        let before = self.sample();
        let clients = Arc::new(Clients {
            target: SocketAddr::new(VIP4.into(), PORT),
            servers: self.servers.clone(),
            pattern: self.pattern.clone(),
            tally: Default::default(),
            moved: Default::default(),
            broken: Default::default(),
            stop: false.into(),
            next: 1.into(),
        });
        let threads: Vec<_> = (0..options.connections).map(|seed| self.client(&clients, seed + 1)).collect();
        println!(
            "minute | whole | killed | moved | lost | wrong | MB | open | descriptors | RSS, PSS KiB | loop delay ms | VIP moves"
        );
        for minute in 0..options.minutes {
            self.minute(minute, options, &clients);
        }
        clients.stop.store(true, SeqCst);
        threads.into_iter().for_each(|thread| drop(thread.join()));
        self.collect(&clients);
        self.quiet(before);
        self.cuts(&clients);
        let after = self.sample();
        println!("before: {before:?}\nafter:  {after:?}");
        self.judge([before, after])
    }

    fn client(&self, clients: &Arc<Clients>, seed: u64) -> std::thread::JoinHandle<()> {
        let (host, clients) = (self.cluster.client.clone(), clients.clone());
        let life = move || {
            host.join_namespace();
            clients.live(seed);
        };
        std::thread::Builder::new().stack_size(STACK).spawn(life).expect("a thread can be started")
    }

    fn minute(&mut self, minute: u64, options: &Options, clients: &Clients) {
        let began = Instant::now();
        let victim = &self.servers[(minute % SERVERS) as usize].clone();
        self.watch(began + KILL, clients);
        victim.kill();
        self.watch(began + REVIVE, clients);
        if let Err(why) = victim.revive() {
            println!("a backend can't be revived: {why}");
        }
        self.watch(began + RELOAD, clients);
        if options.reload {
            self.reload(minute + 1);
        }
        self.watch(began + secs(60), clients);
        self.report(minute, clients);
    }

    /// Looks twice a second where the VIP is, until `end`.
    fn watch(&mut self, end: Instant, clients: &Clients) {
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(500).min(end - Instant::now().min(end)));
            let holders = self.cluster.holders();
            if holders != [self.holder] {
                *clients.moved.lock().expect("not poisoned") = Some(Instant::now());
            }
            if let [holder] = holders[..]
                && holder != self.holder
            {
                (self.holder, self.moves) = (holder, self.moves + 1);
                self.busy.clear(); // another process
            }
        }
    }

    /// Other backends, weights and balancers, on all nodes.
    fn reload(&self, number: u64) {
        for node in &self.cluster.nodes {
            let config = lab::NodeConfig { balancers: balancers(&self.servers, number), ..node.config.clone() };
            if let Err(e) = std::fs::write(node.file(), config.yaml()) {
                println!("{}: {e}", node.file().display());
            }
            let (well, out, err) = node.tell(&["reload"]);
            if !well {
                println!("reload of {} failed: {}{}", node.id(), out.trim(), err.trim());
            }
        }
    }

    fn collect(&mut self, clients: &Clients) -> Tally {
        let mut tally = std::mem::take(&mut *clients.tally.lock().expect("not poisoned"));
        for server in &self.servers {
            for why in server.wrong.lock().expect("not poisoned").drain(..) {
                tally.add(End::Wrong, why);
            }
        }
        self.total.merge(tally.clone());
        tally
    }

    /// Once all has ended: whatever broke for a living backend broke for its client too.
    fn cuts(&mut self, clients: &Clients) {
        let broken = clients.broken.lock().expect("not poisoned");
        for server in &self.servers {
            for (number, why) in
                server.cut.lock().expect("not poisoned").drain(..).filter(|(number, _)| !broken.contains(number))
            {
                self.total.add(End::Wrong, format!("{number} was whole for its client, but for its backend: {why}"));
            }
        }
    }

    fn report(&mut self, minute: u64, clients: &Clients) {
        let tally = self.collect(clients);
        let (sample, status) = (self.sample(), self.cluster.nodes[self.holder].status());
        self.busy.push(sample);
        let delay = status.as_ref().and_then(|s| s.loop_delay_ms);
        self.worst_delay = self.worst_delay.max(delay.unwrap_or(0));
        let open: u64 = status.iter().flat_map(|s| &s.balancers).map(|b| b.open).sum();
        let ends = [End::Whole, End::Killed, End::Moved, End::Lost, End::Wrong].map(|end| tally.count(end).to_string());
        println!(
            "{} | {} | {} | {open} | {} | {}, {} | {} | {}",
            minute + 1,
            ends.join(" | "),
            tally.bytes / 1_000_000,
            sample.descriptors,
            sample.rss_kib,
            sample.pss_kib,
            delay.map_or("–".to_owned(), |ms| ms.to_string()),
            self.moves
        );
        tally.words.iter().for_each(|words| println!("  {words}"));
    }

    /// Of the holder's daemon.
    fn sample(&self) -> Sample {
        let pid = self.cluster.nodes[self.holder].daemon_pid();
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let of = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)?.trim_end_matches("kB").trim().parse().ok());
        Sample {
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |all| all.count() as u64),
            rss_kib: of("Rss:").unwrap_or(0),
            pss_kib: of("Pss:").unwrap_or(0),
        }
    }

    /// Waits until nothing is open any more and the pool of pipes has shrunk: one each second.
    fn quiet(&self, before: Sample) {
        let end = Instant::now() + secs(90);
        while Instant::now() < end && self.sample().descriptors > before.descriptors {
            std::thread::sleep(Duration::from_millis(500)); // the pace of asking
        }
    }

    fn judge(&self, quiet: [Sample; 2]) -> i32 {
        let total = &self.total;
        println!(
            "in all: {} whole, {} broken with their backend, {} with a move of the VIP; {:.1} GB; the loop was {} ms late at worst; {} moves; {} peak RSS",
            total.count(End::Whole),
            total.count(End::Killed),
            total.count(End::Moved),
            total.bytes as f64 / 1e9,
            self.worst_delay,
            self.moves,
            proc_status(self.cluster.nodes[self.holder].daemon_pid(), "VmHWM")
        );
        let against =
            if self.moves == 0 { verdict(total, quiet, &self.busy) } else { verdict(total, [quiet[0]; 2], &self.busy) };
        against.iter().for_each(|why| println!("FAILED: {why}"));
        total.words.iter().for_each(|words| println!("  {words}"));
        if against.is_empty() {
            println!("passed");
        }
        i32::from(!against.is_empty())
    }
}

/// Variant `number` of the balancers: backends come and go, weights and the policy change, a second balancer is there or not.
fn balancers(servers: &[Arc<Server>], number: u64) -> Vec<String> {
    let backend = |(i, server): (usize, &Arc<Server>)| {
        let weight = 1 + (i as u64 + number) % 4;
        format!("{{address: \"{}\", port: {}, weight: {weight}}}", server.address().ip(), server.address().port())
    };
    let absent = (number % (SERVERS + 1)) as usize; // the last variant has them all
    let backends: Vec<String> = servers.iter().enumerate().filter(|(i, _)| *i != absent || number == 0).map(backend).collect();
    let policy = ["roundRobin", "leastConnections", "random2"][(number % 3) as usize];
    let entry = |name: &str, port: u16| {
        format!(
            "{{name: {name}, type: tcp, port: {port}, bindToVip: true, balance: {policy}, backends: [{}]}}",
            backends.join(", ")
        )
    };
    let mut all = vec![entry("soak", PORT)];
    if number % 2 == 1 {
        all.push(entry("second", PORT + 1));
    }
    all
}
