//! How long the VIP is silent after each fault of the leader, and whether two hosts ever answer for it: kube-vip beside keepalived.
//! Run by `scripts/bench failover`. Measures and prints; the exit code tells only whether kube-vip kept its promise of one holder.
//!
//! ```text
//!   options ─▶ main ─▶ contest ── ours, keepalived ──▶ three hosts of the scene
//!                │        └─ trial: fault ─▶ observers ─▶ timeline (pure)
//!                └─▶ table, picture (pure)
//! ```
#[path = "../../lab/mod.rs"]
mod lab;

mod contest;
mod fault;
mod keepalived;
mod options;
mod ours;
mod picture;
mod plan;
mod scene;
mod table;
mod timeline;
mod traffic;
mod trial;

use contest::{Contestant, Kind, Setting};
use fault::Fault;
use lab::{isolated_program, ms, secs};
use options::Options;
use plan::{ENDLESS_ENOUGH, Plan};
use scene::Scene;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use table::{Cell, span};
use timeline::{Trial, spread};

/// So many failures in a row end a cell.
const GIVE_UP: usize = 2;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if words.is_empty() {
        return; // `cargo bench` without a choice, or `cargo test --benches`: nothing to do
    }
    let options = Options::parse(words.into_iter()).unwrap_or_else(|why| {
        eprintln!("{why}");
        std::process::exit(64);
    });
    let limit = secs(7200);
    isolated_program(limit, "failover", || std::process::exit(measure(&options)));
}

/// Measures what was asked for; the exit code.
fn measure(options: &Options) -> i32 {
    let started = Instant::now();
    let plan = match Plan::new(options) {
        Ok(plan) => plan,
        Err(why) => {
            eprintln!("{why}");
            return 64;
        }
    };
    let scene = Scene::new();
    let mut run = Run { scene, plan, cells: Vec::new(), rates: Vec::new() };
    println!("{}\n", run.plan.header());
    if options.quick {
        first_holder(&run.scene, options.trials.min(5));
    }
    run.all();
    println!("{}", table::render(&run.cells));
    run.print_rates();
    let code = run.verdict();
    if let Some(file) = &options.svg {
        match std::fs::write(file, picture::render(&run.cells, &run.plan.machine())) {
            Ok(()) => println!("picture: {}", file.display()),
            Err(e) => eprintln!("can't write {}: {e}", file.display()),
        }
    }
    println!("took {:.1} min, estimated {:.1} min", started.elapsed().as_secs_f64() / 60.0, run.plan.minutes());
    code
}

/// The measuring and what it has brought so far.
struct Run {
    scene: Scene,
    plan: Plan,
    cells: Vec<Cell>,
    /// Frames per second on the leader's wire.
    rates: Vec<(Setting, f64)>,
}

impl Run {
    fn all(&mut self) {
        for setting in self.plan.settings.clone() {
            self.contestant(&setting);
        }
        for setting in self.equal_settings() {
            self.contestant(&setting);
        }
    }

    /// keepalived's intervals that cost as many frames as ours do, unless they were measured already.
    fn equal_settings(&self) -> Vec<Setting> {
        let ours = self.rates.iter().filter(|(s, _)| self.plan.equal_rates && s.kind == Kind::Ours);
        let mut new: Vec<Setting> = ours.map(|(_, rate)| Setting::keepalived(advert_for(*rate))).collect();
        new.dedup();
        new.retain(|s| self.plan.settings.iter().all(|known| known.period != s.period || known.kind != s.kind));
        new
    }

    fn contestant(&mut self, setting: &Setting) {
        let missing = self.plan.keepalived.as_ref().err().filter(|_| setting.kind == Kind::Keepalived).cloned();
        let mut who: Box<dyn Contestant> = match setting.kind {
            Kind::Ours => Box::new(ours::Ours::new(setting.clone())),
            Kind::Keepalived => Box::new(keepalived::Keepalived::new(setting.clone())),
        };
        let (began, mut holder) = (Instant::now(), None);
        if missing.is_none() {
            match start(who.as_mut(), &self.scene) {
                Ok((rate, leader)) => {
                    self.rates.push((setting.clone(), rate));
                    holder = Some(leader);
                }
                Err(why) => eprintln!("{}: {why}", setting.title),
            }
        }
        for fault in self.plan.faults.clone() {
            let skipped = missing.clone().or(setting.lacks(fault, self.plan.handover).map(str::to_owned));
            let mut cell = Cell { setting: setting.clone(), fault, trials: Vec::new(), failed: Vec::new(), skipped };
            if cell.skipped.is_none() {
                trials(&mut cell, self.plan.trials_of(setting), who.as_mut(), &self.scene, &mut holder);
                progress(&cell);
            }
            self.cells.push(cell);
        }
        who.end(&self.scene);
        eprintln!("{}: {:.0} s", setting.title, began.elapsed().as_secs_f64());
    }

    fn print_rates(&self) {
        println!("Frames per second on the leader's wire when idle (its protocol and ARP, both directions):\n");
        println!("| contestant | frames/s | keepalived's interval for as many |\n|---|---:|---:|");
        for (setting, rate) in &self.rates {
            let equal = match (setting.kind, advert_for(*rate)) {
                (Kind::Keepalived, _) => "–".to_owned(),
                (_, advert) if *rate > 100.0 => format!("{} s, its shortest", advert.as_secs_f64()),
                (_, advert) => format!("{} s", advert.as_secs_f64()),
            };
            println!("| {} | {rate:.0} | {equal} |", setting.title);
        }
        println!();
    }

    /// 1 where kube-vip had two answers that nothing excuses, or a trial of it failed.
    fn verdict(&self) -> i32 {
        let ours: Vec<&Cell> = self.cells.iter().filter(|c| c.setting.kind == Kind::Ours).collect();
        let fences: Vec<Option<bool>> = ours.iter().flat_map(|c| &c.trials).map(|t| t.fenced).collect();
        println!("kernel fence before the fault: {}", fence_text(&fences));
        let restless: u32 = self.cells.iter().flat_map(|c| &c.trials).map(|t| t.false_starts).sum();
        if restless > 0 {
            println!("the VIP moved {restless} times before a fault: this machine was too busy for the shortest leases");
        }
        let late = self.cells.iter().flat_map(|c| &c.trials).fold((0, 0), |sum, t| (sum.0 + t.late.0, sum.1 + t.late.1));
        println!(
            "the observer asked {} of {} questions more than 5 ms late; on a quiet machine it is next to none",
            late.0, late.1
        );
        let mut code = 0;
        for cell in &self.cells {
            for why in &cell.failed {
                println!("FAILED {} / {}: {why}", cell.setting.title, cell.fault.title());
            }
        }
        for cell in ours {
            let two = cell.trials.iter().filter(|t| t.saw_two()).count();
            let broken = cell.trials.iter().filter(|t| t.saw_two() && !is_excused(cell.fault, t)).count();
            if two > 0 {
                let judged = if broken > 0 { "BROKEN" } else { "expected without a kernel fence" };
                println!(
                    "two holders: {} / {}: {two} of {} trials: {judged}",
                    cell.setting.title,
                    cell.fault.title(),
                    cell.trials.len()
                );
            }
            code |= i32::from(broken > 0 || !cell.failed.is_empty());
        }
        code
    }
}

/// Without a kernel fence and with every process of the node gone, only the lifetime of the address ends a hold.
fn is_excused(fault: Fault, trial: &Trial) -> bool {
    fault.leaves_nobody() && trial.fenced != Some(true)
}

fn fence_text(fences: &[Option<bool>]) -> String {
    let count = |what| fences.iter().filter(|f| **f == what).count();
    match (count(Some(true)), count(Some(false)), fences.len()) {
        (0, 0, _) => "this build does not tell of one".to_owned(),
        (yes, _, all) => format!("in place in {yes} of {all} trials"),
    }
}

/// The interval at which keepalived's master sends as many frames; it counts in hundredths of a second, from one on.
fn advert_for(rate: f64) -> Duration {
    ms(((100.0 / rate).round().max(1.0) * 10.0) as u64)
}

/// Starts a contestant and measures what it costs when idle.
fn start(who: &mut dyn Contestant, scene: &Scene) -> Result<(f64, usize), String> {
    caught(|| {
        who.start(scene)?;
        let leader = who.settled(scene, None)?;
        Ok((traffic::frames_per_second(&scene.nodes[leader], secs(3).max(who.setting().period * 5)), leader))
    })
}

/// Fills a cell; a failed trial is written down, and everything starts anew after it. `holder` is who holds, if all is well.
fn trials(cell: &mut Cell, wanted: usize, who: &mut dyn Contestant, scene: &Scene, holder: &mut Option<usize>) {
    let mut in_a_row = 0;
    let spared = |cell: &Cell| {
        cell.setting.kind == Kind::Keepalived && cell.trials.iter().filter(|t| t.endless).count() >= ENDLESS_ENOUGH
    };
    for number in 0..wanted {
        if spared(cell) {
            return;
        }
        if in_a_row == GIVE_UP {
            cell.failed.push("not tried after two failures".to_owned());
            continue;
        }
        let phase = (number as f64 + 0.5) / wanted as f64;
        let known = holder.take();
        match caught(|| trial::run(who, scene, cell.fault, phase, known)) {
            Ok((trial, next)) => {
                cell.trials.push(trial);
                *holder = Some(next);
                in_a_row = 0;
            }
            Err(why) => {
                eprintln!("{} / {}: {why}", cell.setting.title, cell.fault.title());
                cell.failed.push(why);
                in_a_row += 1;
                scene.mend();
                who.end(scene);
                if let Err(why) = caught(|| who.start(scene)) {
                    eprintln!("{} can't be started again: {why}", cell.setting.title);
                }
            }
        }
    }
}

/// The lab panics where the world is not as it must be; here that is one failed trial.
fn caught<T>(body: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned().or(panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(text.unwrap_or_else(|| "panicked".to_owned()))
    })
}

fn progress(cell: &Cell) {
    let outage = spread(cell.trials.iter().map(Trial::outage)).map_or("no result".to_owned(), |o| o.map(span).join(" / "));
    let two = table::longest_double(&cell.trials);
    let failed = if cell.failed.is_empty() { String::new() } else { format!(", {} FAILED", cell.failed.len()) };
    eprintln!("{:18} {:22} no answer {outage}, two answers {two}{failed}", cell.setting.title, cell.fault.title());
}

fn first_holder(scene: &Scene, trials: usize) {
    match ours::first_holder_times(scene, trials) {
        Ok(times) => {
            let times =
                spread(times.iter().map(|t| t.as_secs_f64() * 1000.0)).map_or(String::new(), |t| t.map(span).join(" / "));
            println!("first holder after the start of a new cluster: min / median / max {times}\n");
        }
        Err(why) => eprintln!("first holder: {why}"),
    }
}
