//! The log: one line per record to standard error, which neither blocks nor ends this program.
//!
//! A reader that hangs (a full pipe) must not stop heartbeats, and one that is gone (a closed pipe) must not end the daemon, as
//! `eprintln!` would. Lines that nobody takes are counted and told when somebody reads again.

use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fmt::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A pipe takes a write of up to PIPE_BUF bytes whole or not at all (pipe(7)).
const LONGEST: usize = 4096;

struct Logger {
    /// journald stamps lines itself, and takes their level from a `<N>` in front (sd-daemon(3)).
    journal: bool,
    lost: AtomicU32,
}

/// Starts the log at this level. Once; a second call does nothing.
pub fn start(filter: LevelFilter) {
    let logger = Logger { journal: is_journal(), lost: AtomicU32::new(0) };
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(filter);
    }
}

/// Whether standard error is the journal: `JOURNAL_STREAM` names its device and inode (systemd.exec(5)), and is inherited by
/// children whose standard error is something else.
fn is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    nix::sys::stat::fstat(std::io::stderr()).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // Other crates' chatter is for their own developers.
        metadata.level() <= log::max_level() && (metadata.target().starts_with("kube_vip") || metadata.level() <= Level::Warn)
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 && !write_line(&self.line(Level::Warn, &format!("{lost} log lines were lost: nobody read them"))) {
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
        if !write_line(&self.line(record.level(), &record.args().to_string())) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

impl Logger {
    fn line(&self, level: Level, text: &str) -> String {
        let mut line = String::with_capacity(text.len() + 40);
        // Writing to a String can't fail.
        let _ = match self.journal {
            true => write!(line, "<{}>{text}", severity(level)),
            false => write!(line, "{} {level:<5} {text}", utc(SystemTime::now())),
        };
        if line.len() >= LONGEST {
            let end = (0..LONGEST - 4).rev().find(|n| line.is_char_boundary(*n)).unwrap_or(0);
            line.truncate(end);
            line.push_str("...");
        }
        line.push('\n');
        line
    }
}

/// syslog(3)'s numbers.
fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Whether the line was taken.
fn write_line(line: &str) -> bool {
    let stderr = std::io::stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    let ready = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0);
    ready && nix::unistd::write(&stderr, line.as_bytes()).is_ok()
}

/// `2026-11-22T18:36:58.123Z`.
fn utc(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, s) = (since.as_secs() / 86400, since.as_secs() % 86400);
    let (year, month, day) = date(days);
    format!("{year}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z", s / 3600, s / 60 % 60, s % 60, since.subsec_millis())
}

/// The Gregorian date of a day counted from 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_utc_with_milliseconds() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
            (1_795_372_618_123, "2026-11-22T18:36:58.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn lines_are_bounded_and_marked_for_the_journal() {
        let logger = |journal| Logger { journal, lost: AtomicU32::new(0) };
        assert_eq!(logger(true).line(Level::Warn, "careful"), "<4>careful\n");
        assert!(logger(false).line(Level::Info, "x").ends_with("Z INFO  x\n"));
        let long = logger(false).line(Level::Info, &"ä".repeat(5000));
        assert!(long.len() <= LONGEST && long.ends_with("...\n"));
    }
}
