//! A node's disk: the product's own files in a directory of memory, each job done late; a crash finds some of them done, some
//! not, and some half.

use super::clock::{MS, SEC, Time, US};
use super::env::Done;
use super::rng::Rng;
use kube_vip::cluster::runtime::Job;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Jobs of one run of one daemon.
pub struct Disk {
    pub path: PathBuf,
    jobs: BTreeMap<u64, (Job, Rc<Done>)>,
    next: u64,
    /// Until when everything takes long.
    pub stalled_until: Time,
}

impl Disk {
    pub fn new(path: PathBuf) -> Self {
        Self { path, jobs: BTreeMap::new(), next: 0, stalled_until: 0 }
    }

    /// Takes a job; its number, and when it is due.
    pub fn begin(&mut self, job: Job, done: Rc<Done>, now: Time, rng: &mut Rng) -> (u64, Time) {
        let id = self.next;
        self.next += 1;
        self.jobs.insert(id, (job, done));
        let takes = rng.spread(100 * US, 5 * MS);
        let stall = if now < self.stalled_until { rng.within(0, 3 * SEC).min(self.stalled_until - now + SEC) } else { 0 };
        (id, now + takes + stall)
    }

    /// A job is over; false: it was lost in a crash.
    pub fn finish(&mut self, id: u64) -> bool {
        let Some((job, done)) = self.jobs.remove(&id) else { return false };
        job();
        done.tell();
        true
    }

    /// The process was killed: what the kernel had begun it finishes.
    pub fn killed(&mut self, rng: &mut Rng) {
        for (_, (job, _)) in std::mem::take(&mut self.jobs) {
            if rng.chance(0.7) {
                job();
            }
        }
    }

    /// The power went. Returns how many jobs were torn.
    pub fn crashed(&mut self, rng: &mut Rng) -> u64 {
        let mut torn = 0;
        for (_, (job, _)) in std::mem::take(&mut self.jobs) {
            match rng.below(4) {
                0 => job(),
                1 => {}
                _ => torn += u64::from(tear(&self.path, job, rng)),
            }
        }
        torn
    }

    /// A new card.
    pub fn wipe(&self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Does the job, then takes a part of it back: of a file written in place only the first new bytes are there, one that was put
/// in the place of another may be the old one.
fn tear(path: &Path, job: Job, rng: &mut Rng) -> bool {
    let before = read(path);
    job();
    let after = read(path);
    let mut torn = false;
    for (name, (inode, new)) in &after {
        let Some((old_inode, old)) = before.get(name) else { continue };
        if old == new {
            continue;
        }
        torn = true;
        let file = path.join(name);
        if inode != old_inode {
            if rng.chance(0.5) {
                let _ = fs::write(&file, old);
            }
            continue;
        }
        let same = old.iter().zip(new).take_while(|(a, b)| a == b).count();
        let cut = rng.within(same as u64, new.len() as u64) as usize;
        let rest = old.get(cut..).unwrap_or_default();
        let _ = fs::write(&file, [&new[..cut], rest].concat());
    }
    torn
}

type Files = BTreeMap<String, (u64, Vec<u8>)>;

fn read(path: &Path) -> Files {
    let Ok(entries) = fs::read_dir(path) else { return Files::new() };
    let file = |entry: fs::DirEntry| {
        let (meta, bytes) = (entry.metadata().ok()?, fs::read(entry.path()).ok()?);
        Some((entry.file_name().to_string_lossy().into_owned(), (meta.ino(), bytes)))
    };
    entries.filter_map(Result::ok).filter_map(file).collect()
}
