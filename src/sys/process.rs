//! Processes: fork in a single thread, wait, end a child, lock memory, run before others.

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

/// How many threads this process has. An emulator's own count too: under qemu-user a program begins with two.
pub fn threads() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Removes a variable from this process's environment. Call it while there is one thread.
pub fn forget_variable(name: &str) {
    // SAFETY: the caller has one thread, so nobody else reads the environment now.
    unsafe { std::env::remove_var(name) }
}

/// Forks. Refused where the program has started threads, i.e. there are more than `at_first`, when it began: a lock that another
/// thread holds would never open in the child.
pub fn fork(at_first: usize) -> io::Result<Side> {
    let started = threads()?.saturating_sub(at_first);
    if started != 0 {
        return Err(io::Error::other(format!("can't fork with {started} more threads running; start them afterwards")));
    }
    // SAFETY: the program has one thread, so the child's memory is consistent and no lock is held by a thread that is not there.
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

/// Sends SIGHUP to a child that was not waited for yet.
pub fn hang_up(child: Pid) -> io::Result<()> {
    Ok(kill(child, Signal::SIGHUP)?)
}

/// Whether this process has a controlling terminal. One that went away is none any more (tty_ioctl(4), vhangup(2)).
pub fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Locks all that is mapped now into memory, after touching the stack that the caller will need: for a small process that never grows.
///
/// Not MCL_FUTURE: with a limit on locked memory, a later allocation would fail instead of being unlocked. Not MCL_ONFAULT either: it saves
/// a tenth of the keeper's memory, and the first write to a page after the fork would wait for one. EPERM or ENOMEM: RLIMIT_MEMLOCK.
pub fn lock_memory() -> io::Result<()> {
    let mut stack = [1u8; 64 * 1024];
    std::hint::black_box(&mut stack);
    mlockall(libc::MCL_CURRENT)
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
    mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT)
}

fn mlockall(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: mlockall takes no pointers.
    if unsafe { libc::mlockall(flags) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Runs the calling thread before all that have no real-time priority (SCHED_RR); threads and processes that it starts are ordinary again.
///
/// `priority` is 1 to 99. EPERM without CAP_SYS_NICE or a high enough RLIMIT_RTPRIO, and in a control group without real-time budget
/// (CONFIG_RT_GROUP_SCHED, cpu.rt_runtime_us).
pub fn run_first(priority: u8) -> io::Result<()> {
    // SAFETY: sched_param is plain integers, for which all zeroes is a value (musl has reserved ones besides the priority).
    let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
    param.sched_priority = priority.into();
    // The system call itself: musl's wrapper refuses with ENOSYS, because POSIX means processes where Linux means threads.
    // SAFETY: `param` begins with the priority, which is all that the kernel reads, and outlives the call; 0 is the calling thread.
    let result =
        unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const param) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether others of this process's user may not look into it (prctl(2), PR_SET_DUMPABLE): so after a change of user. Exec ends that.
pub fn is_guarded() -> bool {
    // Not nix's wrapper: 2, as after a change of user where fs.suid_dumpable says so, is a guard too.
    // SAFETY: PR_GET_DUMPABLE takes no pointers.
    unsafe { libc::prctl(libc::PR_GET_DUMPABLE) != 1 }
}

/// Makes it so, or not.
pub fn guard(guarded: bool) {
    let _ = nix::sys::prctl::set_dumpable(!guarded); // it knows no error for these two values
}

/// [`run_first`] for this program's two processes: the one that removes the VIP goes before the one that keeps it.
pub mod priority {
    /// The daemon's loop.
    pub const DAEMON: u8 = 10;
    /// The keeper.
    pub const KEEPER: u8 = 20;
}
