//! Started programs: ended by their own id on drop, output kept in a file that a failing test prints.

use super::{LAB_DIR, skip, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A program started by the lab.
pub struct Process {
    child: RefCell<Child>,
    pid: i32,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with stdout and stderr going to `LAB_DIR/<name>.log` (appended, so that a restart keeps one story).
    pub fn start(mut command: Command, name: &str) -> Process {
        let log = Path::new(LAB_DIR).join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).expect("the lab's directory is writable");
        let err = out.try_clone().expect("a file can be duplicated");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|e| panic!("can't start {command:?}: {e}"));
        let pid = i32::try_from(child.id()).expect("process ids fit");
        Process { child: RefCell::new(child), pid, log }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its output file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Everything it (and an earlier process of the same name) printed so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until a line containing `pattern` was printed, and returns the line.
    #[track_caller]
    pub fn wait_for_log(&self, pattern: &str, limit: Duration) -> String {
        wait_for(&format!("{} contains {pattern:?}", self.log.display()), limit, || {
            self.output().lines().find(|l| l.contains(pattern)).map(str::to_owned)
        })
    }

    /// Sends `signal`, if it still runs.
    pub fn signal(&self, signal: Signal) {
        if self.exited().is_none() {
            kill(Pid::from_raw(self.pid), signal).expect("own child can be signalled");
        }
    }

    /// Its exit status, if it has ended.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child.borrow_mut().try_wait().expect("own child can be waited for")
    }

    /// Waits until it ends.
    #[track_caller]
    pub fn wait_exit(&self, limit: Duration) -> ExitStatus {
        wait_for(&format!("process {} ({}) ends", self.pid, self.log.display()), limit, || self.exited())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exited().is_none() {
            let child = self.child.get_mut();
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether a process with this id is there and not a zombie.
pub fn alive(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// Living children of `pid`, by asking every process for its parent.
pub fn children(pid: i32) -> Vec<i32> {
    let all = std::fs::read_dir("/proc").expect("/proc is mounted");
    let ids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    ids.filter(|&id| stat(id).is_some_and(|(state, parent)| parent == pid && state != 'Z')).collect()
}

/// State letter and parent of a process (proc(5): after the last `)` of `/proc/PID/stat`).
fn stat(pid: i32) -> Option<(char, i32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut rest = text[text.rfind(')')? + 1..].split_whitespace();
    Some((rest.next()?.chars().next()?, rest.next()?.parse().ok()?))
}

/// The value of a line of `/proc/PID/status`, e.g. `VmRSS` → `"2876 kB"`.
#[track_caller]
pub fn proc_status(pid: i32, key: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_else(|e| panic!("process {pid}: {e}"));
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in /proc/{pid}/status")).trim().to_owned()
}

/// Whether a process runs under QEMU's user mode, so that what the kernel says of its memory is the emulator's.
pub fn emulated(pid: i32) -> bool {
    // By way of its first thread: QEMU itself answers a program's question for its own /proc/PID/exe.
    let exe = std::fs::read_link(format!("/proc/{pid}/task/{pid}/exe")).unwrap_or_default();
    exe.file_name().is_some_and(|name| name.to_string_lossy().starts_with("qemu-"))
}

/// How many threads a process has, an emulator's own one not counted.
#[track_caller]
pub fn threads(pid: i32) -> u32 {
    let all: u32 = proc_status(pid, "Threads").parse().expect("a number");
    all - u32::from(emulated(pid))
}

/// Panics if a process has grown by more than `bound` KiB since its resident memory was `before`. Not under an emulator.
#[track_caller]
pub fn assert_growth_below(bound: u64, pid: i32, before: u64, what: &str) {
    if emulated(pid) {
        return skip("memory (all else is tested): what is resident is the emulator's");
    }
    let grown = rss_kib(pid).saturating_sub(before);
    println!("{what}: grew by {grown} KiB");
    assert!(grown < bound, "{what}: grew by {grown} KiB, bound {bound}");
}

/// Resident memory of a process in KiB.
#[track_caller]
pub fn rss_kib(pid: i32) -> u64 {
    let text = proc_status(pid, "VmRSS");
    text.trim_end_matches(" kB").trim().parse().expect("VmRSS is a number of kB")
}

/// Prints the end of every log of this lab: what a reader of a failed test wants to see first.
pub fn print_logs() {
    let Ok(entries) = std::fs::read_dir(LAB_DIR) else { return };
    let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    files.retain(|f| f.extension().is_some_and(|x| x == "log"));
    files.sort();
    for file in files {
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("---- {} (last {} of {} lines)", file.display(), lines.len().min(60), lines.len());
        for line in &lines[lines.len().saturating_sub(60)..] {
            eprintln!("     {line}");
        }
    }
}
