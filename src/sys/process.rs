//! Processes: fork in a single thread, wait, end a child, lock memory, run in real time.

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};
use std::io;

/// Which side of a fork this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The old process, with the new one's id.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Forks. Refused where the process has more than one thread: a lock that another thread holds would never open in the child.
pub fn fork() -> io::Result<Side> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!("can't fork with {threads} threads running; start them afterwards")));
    }
    // SAFETY: there is one thread, so the child's memory is consistent and no lock is held by a thread that is not there.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Side::Parent(child)),
        ForkResult::Child => Ok(Side::Child),
    }
}

/// How a child ended, as a shell would tell it: its exit code, or 128 + the signal. `None`: it runs.
pub fn ended(child: Pid) -> Option<u8> {
    match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(_, code)) => Some(code as u8),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(128 + signal as u8),
        Ok(_) => None,
        Err(_) => Some(1), // not our child (any more)
    }
}

/// Sends SIGKILL to a child that was not waited for yet, so that its id is still its own.
pub fn kill_child(child: Pid) -> io::Result<()> {
    Ok(kill(child, Signal::SIGKILL)?)
}

/// Locks what is mapped now into memory, after touching the stack that the caller will need.
///
/// Not MCL_FUTURE: with a limit on locked memory, a later allocation would fail instead of being unlocked.
pub fn lock_memory() -> io::Result<()> {
    let mut stack = [1u8; 64 * 1024];
    std::hint::black_box(&mut stack);
    Ok(mlockall(MlockAllFlags::MCL_CURRENT)?)
}

/// Locks what is mapped now and later, each page once it is used. Only where there is no limit on locked memory, or this process may
/// lift it (CAP_SYS_RESOURCE): with a limit, a later allocation or a growing stack would fail instead of being unlocked.
///
/// # Errors
/// Where there is a limit that stays, and where the kernel (before 4.4) knows no locking on use.
pub fn lock_growing_memory() -> io::Result<()> {
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    if limit != RLIM_INFINITY {
        return Err(io::Error::other(format!("locked memory is limited to {} KiB", limit >> 10)));
    }
    let on_use = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    Ok(mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_use)?)
}

/// Gives the calling thread the policy SCHED_RR with this priority (1–99, sched(7)); threads and processes that it starts later run
/// as usual. Needs CAP_SYS_NICE or RLIMIT_RTPRIO.
pub fn realtime(priority: u8) -> io::Result<()> {
    let param = libc::c_int::from(priority); // struct sched_param of the kernel: one int
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // musl's sched_setscheduler() always fails (ENOSYS), so the system call itself; 0 is the calling thread.
    // SAFETY: the kernel reads one int behind the pointer, which lives until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const param) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
