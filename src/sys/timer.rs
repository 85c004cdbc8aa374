//! One timer on CLOCK_BOOTTIME: it also fires right after a suspend that slept through its instant.

use super::clock::Instant;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// A timerfd that is armed for an instant, and never later than the earliest asked for.
#[derive(Debug)]
pub struct Timer {
    fd: TimerFd,
    armed: Option<Instant>,
}

/// The most seconds since boot that fit into a `time_t` of 32 bits (68 years), which would wrap beyond: into the past, to fire for ever.
const FURTHEST: u64 = i32::MAX as u64 * 1_000_000_000;

impl Timer {
    /// Opens it unarmed.
    pub fn open() -> io::Result<Self> {
        let fd = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        Ok(Self { fd, armed: None })
    }

    /// Makes sure that it fires at `at` or earlier. A deadline that only moves away costs no system call: the timer fires at the old one.
    pub fn by(&mut self, at: Option<Instant>) -> io::Result<()> {
        let Some(at) = at.filter(|at| self.armed.is_none_or(|armed| *at < armed)) else { return Ok(()) };
        let when = TimeSpec::from(Duration::from_nanos(at.as_nanos().clamp(1, FURTHEST))); // 0 would disarm it
        self.fd.set(Expiration::OneShot(when), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
        self.armed = Some(at);
        Ok(())
    }

    /// Takes note that it fired, where it is waited for edge-triggered: each expiry is an edge, so nobody has to read it.
    pub fn expired(&mut self) {
        self.armed = None;
    }

    /// Takes note that it fired, where it is waited for level-triggered.
    pub fn fired(&mut self) {
        let _ = nix::unistd::read(&self.fd, &mut [0; 8]); // nothing to read means it did not: arming anew is right in both cases
        self.armed = None;
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::poll::{self, For};

    #[test]
    fn an_instant_beyond_any_life_is_armed_and_a_near_one_fires() {
        let mut timer = Timer::open().expect("a timer");
        timer.by(Some(Instant::from_nanos(u64::MAX))).expect("armed");
        timer.by(Some(Instant::from_nanos(3_000_000_000 * 1_000_000_000))).expect("armed"); // seconds negative in 32 bits
        assert!(nix::unistd::read(&timer.fd, &mut [0; 8]).is_err(), "it has fired");
        timer.by(Some(Instant::from_nanos(1))).expect("armed");
        poll::wait([Some((timer.as_fd(), For::Reading))]).expect("poll");
        timer.fired();
        assert_eq!(timer.armed, None);
    }
}
