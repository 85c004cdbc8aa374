//! Runs worlds: one, or many on all cores.

use super::clock::Time;
use super::hub::{Hub, stamp};
use super::setup::Setup;
use super::world::{Failure, Outcome, World};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A directory in memory for the disks of one world; removed with it.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let base = [PathBuf::from("/dev/shm"), std::env::temp_dir()].into_iter().find(|p| p.is_dir()).unwrap_or_default();
        let place = base.join(format!("kube-vip-sim-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&place).expect("a directory for the simulated disks");
        Self(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

thread_local! {
    /// Whose log is printed on this thread.
    static PRINTED: RefCell<Option<Rc<Hub>>> = const { RefCell::new(None) };
}

/// The product's log with simulated time, from where events are printed.
struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        PRINTED.with_borrow(|hub| {
            if let Some(hub) = hub.as_ref().filter(|hub| hub.record.borrow().prints(hub.now())) {
                let node = hub.node.get().map_or("      ".to_string(), |n| format!("node{} ", n + 1));
                println!("{} {node}{}: {}", stamp(hub.now()), record.level(), record.args());
            }
        });
    }

    fn flush(&self) {}
}

/// Runs one world. `print_from`: print every event and the product's log from this simulated time on.
pub fn one(setup: Setup, print_from: Option<Time>) -> Outcome {
    let place = Place::new();
    let world = World::new(setup, &place.0);
    world.hub.record.borrow_mut().print_from = print_from;
    if print_from.is_some() {
        let _ = log::set_logger(&Log);
        log::set_max_level(log::LevelFilter::Debug);
        PRINTED.set(Some(world.hub.clone()));
    }
    let outcome = world.run();
    PRINTED.set(None);
    outcome
}

/// What many worlds came to.
#[derive(Default)]
pub struct Sum {
    pub worlds: u64,
    pub simulated: Time,
    pub events: u64,
    pub counts: BTreeMap<&'static str, u64>,
    pub excused: Time,
    pub slowest: Time,
    pub failures: Vec<(Setup, Failure)>,
}

impl Sum {
    fn add(&mut self, setup: Setup, outcome: Outcome) {
        self.worlds += 1;
        self.simulated += outcome.simulated;
        self.events += outcome.events;
        self.excused = self.excused.max(outcome.excused);
        self.slowest = self.slowest.max(outcome.slowest);
        for (name, n) in outcome.counts {
            *self.counts.entry(name).or_default() += n;
        }
        self.failures.extend(outcome.failure.map(|failure| (setup, failure)));
    }
}

/// Runs worlds, made from numbers counted from 0, on `threads` threads, until `enough` says so.
pub fn many(threads: usize, make: impl Fn(u64) -> Setup + Sync, enough: impl Fn(&Sum) -> bool + Sync) -> Sum {
    let (sum, next) = (Mutex::new(Sum::default()), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    if sum.lock().is_ok_and(|sum| enough(&sum)) {
                        return;
                    }
                    let setup = make(next.fetch_add(1, Ordering::Relaxed));
                    let outcome = one(setup.clone(), None);
                    if let Ok(mut sum) = sum.lock() {
                        sum.add(setup, outcome);
                    }
                }
            });
        }
    });
    sum.into_inner().unwrap_or_default()
}
