//! Signals as a file descriptor: blocked first, so that none is lost and none interrupts.

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The signals that a person or a service manager sends: SIGTERM and SIGINT mean "stop", SIGHUP "read the configuration again", or "stop"
/// where it says that the terminal went away.
pub const TOLD: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// Blocks signals in this thread, and in every thread and process that it starts later.
pub fn block(signals: &[Signal]) -> io::Result<()> {
    let set: SigSet = signals.iter().copied().collect();
    Ok(pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?)
}

/// Blocked signals, to be read one by one. Ready for reading when one waits.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks them and opens the descriptor. Call it before other threads are started.
    pub fn open(signals: &[Signal]) -> io::Result<Self> {
        block(signals)?;
        let set: SigSet = signals.iter().copied().collect();
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// The next one that waits; `None` when there is none.
    pub fn next(&self) -> Option<Signal> {
        let info = self.0.read_signal().ok().flatten()?;
        Signal::try_from(info.ssi_signo as i32).ok()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
