//! What processes cost: scheduler time, memory, descriptors, system calls.

use super::lab::process::children;
use super::lab::{Process, ms, secs};
use nix::sys::signal::Signal;
use std::fs::read_to_string;
use std::path::Path;
use std::process::Command;

/// Time on a CPU so far of all threads of `pids`, ns. Exact while they sleep.
pub fn cpu_ns(pids: &[i32]) -> Result<u64, String> {
    let mut sum = 0;
    for pid in pids {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| format!("process {pid} is gone: {e}"))?;
        for task in tasks.filter_map(Result::ok) {
            sum += thread_ns(&task.path()).ok_or("no /proc/PID/schedstat: a kernel without CONFIG_SCHED_INFO")?;
        }
    }
    Ok(sum)
}

/// The same of one thread of this process.
pub fn own_thread_ns(id: i32) -> u64 {
    thread_ns(Path::new(&format!("/proc/self/task/{id}"))).unwrap_or(0)
}

fn thread_ns(task: &Path) -> Option<u64> {
    read_to_string(task.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
}

/// Memory of processes, KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub rss: f64,
    /// Proportional: what is shared counts for each sharer by its part.
    pub pss: f64,
}

/// What `pids` have in memory together.
pub fn memory(pids: &[i32]) -> Result<Memory, String> {
    let mut sum = Memory::default();
    for pid in pids {
        let text = read_to_string(format!("/proc/{pid}/smaps_rollup")).map_err(|e| format!("memory of process {pid}: {e}"))?;
        let of = |key: &str| -> Option<f64> {
            text.lines().find_map(|l| l.strip_prefix(key)?.trim_end_matches("kB").trim().parse().ok())
        };
        sum.rss += of("Rss:").ok_or("no Rss")?;
        sum.pss += of("Pss:").ok_or("no Pss")?;
    }
    Ok(sum)
}

/// Open descriptors of `pids`.
pub fn descriptors(pids: &[i32]) -> Result<usize, String> {
    let count = |pid: &i32| std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
    pids.iter().map(count).sum::<std::io::Result<usize>>().map_err(|e| format!("descriptors: {e}"))
}

/// A process and the processes it started.
pub fn family(pid: i32) -> Vec<i32> {
    [vec![pid], children(pid)].concat()
}

/// How many system calls `pids` make while `body` runs, by strace(1), which slows them down.
pub fn calls(pids: &[i32], body: impl FnOnce() -> Result<(), String>) -> Result<u64, String> {
    let file = Path::new(super::lab::LAB_DIR).join("calls");
    let _ = std::fs::remove_file(&file);
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-o"]).arg(&file);
    for pid in pids {
        command.arg("-p").arg(pid.to_string());
    }
    let tracer = Process::start(command, "strace");
    let before = tracer.output().matches("attached").count(); // of an earlier one, whose log it goes on
    let attached = || tracer.output().matches("attached").count() >= before.max(1) && tracer.exited().is_none();
    super::scene::until("strace has attached", secs(5), || attached().then_some(()))?;
    std::thread::sleep(ms(200)); // it says so before it has seen every thread
    let done = body();
    tracer.signal(Signal::SIGINT);
    super::scene::until("strace ends", secs(5), || tracer.exited())?;
    done?;
    let text = read_to_string(&file).map_err(|e| format!("strace's table: {e}"))?;
    total(&text).ok_or_else(|| format!("strace's table has no total:\n{text}"))
}

/// The number of calls in strace's last line: `100.00  0.5  3  1234  7 total`; the column of errors may be empty.
fn total(table: &str) -> Option<u64> {
    let line = table.lines().rfind(|line| line.trim_end().ends_with("total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}
