//! One member: an address of a configured backend, what is known about it, and whether it may get connections.

use super::hash;
use crate::config::{Backend, Target};
use crate::sys::clock::Instant;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// For how long a member whose connect failed is asked last, so that a dead one costs one connection per second a delay
/// instead of each.
pub const REST: Duration = Duration::from_secs(1);
/// That connects took a member down is told this often: it may go up and down with every client.
pub const QUIET: Duration = Duration::from_secs(10);

/// One whose connects failed for so long was away, and may have to start slowly; less may be one lost packet.
pub const AWAY: Duration = Duration::from_secs(3);

/// What one of weight 1 gets; a member that came back begins with a tenth of it.
const WHOLE: u32 = 1000;

/// What a member is said to be, in the log and in the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Gets connections.
    Up,
    /// Checks say that it doesn't work, or the last connect failed.
    Down,
    /// Gets no new connections, and goes on being checked.
    Draining,
    /// Gets no new connections, and isn't checked.
    Maintenance,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Up => "up",
            State::Down => "down",
            State::Draining => "draining",
            State::Maintenance => "maintenance",
        })
    }
}

/// What an operator ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Enabled,
    Draining,
    Maintenance,
}

/// Standing, and the ordered weight with the configured one over which it was ordered.
pub type Ordered = (Standing, Option<(u16, u16)>);

/// What connects showed.
#[derive(Clone, Copy, Debug)]
enum Reach {
    Reachable,
    /// The last one failed.
    Resting {
        since: Instant,
        until: Instant,
    },
}

/// One address of one configured backend.
#[derive(Debug)]
pub struct Member {
    pub address: SocketAddr,
    /// As configured.
    pub target: Target,
    /// Gets connections only while no other can take any.
    pub backup: bool,
    /// No longer configured: goes once it is empty.
    pub leaving: bool,
    pub standing: Standing,
    /// Checks say that it doesn't work.
    pub failing: bool,
    /// Why it is down, while it is.
    pub why: Option<String>,
    /// Connections open, and connects under way.
    pub open: u64,
    pub connecting: u64,
    /// Since the start.
    pub connected: u64,
    pub failed: u64,
    /// Its standing in the turn of weights (policy.rs).
    pub turn: i64,
    /// Of its address.
    pub hash: u64,
    cap: Option<u32>,
    configured: u16,
    ordered: Option<u16>,
    reach: Reach,
    /// What the log was told last, and when it was told that connects fail.
    pub told: State,
    down_told: Option<Instant>,
    /// Since when it has been back, while it gets less than its share.
    back: Option<Instant>,
}

impl Member {
    pub fn new(address: SocketAddr, backend: &Backend) -> Self {
        Self {
            address,
            target: backend.target.clone(),
            backup: backend.backup,
            leaving: false,
            standing: Standing::Enabled,
            failing: false,
            why: None,
            open: 0,
            connecting: 0,
            connected: 0,
            failed: 0,
            turn: 0,
            hash: hash::of_member(address),
            cap: backend.max_connections,
            configured: backend.weight,
            ordered: None,
            reach: Reach::Reachable,
            told: State::Up,
            down_told: None,
            back: None,
        }
    }

    /// Takes over what the configuration says now. A weight that it changes wins over an ordered one.
    pub fn configure(&mut self, backend: &Backend) {
        if self.configured != backend.weight {
            self.ordered = None;
        }
        (self.configured, self.cap, self.backup) = (backend.weight, backend.max_connections, backend.backup);
        self.target.clone_from(&backend.target);
        self.leaving = false;
    }

    /// The configured name that stands for it, if one does.
    pub fn host(&self) -> Option<&str> {
        match &self.target {
            Target::Name { host, .. } => Some(host),
            Target::Address(_) => None,
        }
    }

    pub const fn state(&self) -> State {
        match self.standing {
            Standing::Maintenance => State::Maintenance,
            _ if self.leaving => State::Draining,
            Standing::Draining => State::Draining,
            Standing::Enabled if self.down() => State::Down,
            Standing::Enabled => State::Up,
        }
    }

    /// Its share beside the others, as ordered or else configured.
    pub fn weight(&self) -> u16 {
        self.ordered.unwrap_or(self.configured)
    }

    /// The ordered weight, and the configured one over which it was ordered.
    pub fn ordered(&self) -> Option<(u16, u16)> {
        self.ordered.map(|weight| (weight, self.configured))
    }

    /// Takes over what was ordered for its like. A weight that the configuration changed since wins.
    pub fn inherit(&mut self, (standing, weight): Ordered) {
        self.standing = standing;
        self.ordered = weight.filter(|(_, over)| *over == self.configured).map(|(weight, _)| weight);
        self.told = self.state();
    }

    /// The configured weight.
    pub const fn configured(&self) -> u16 {
        self.configured
    }

    pub const fn order_weight(&mut self, weight: u16) {
        self.ordered = Some(weight);
    }

    /// Whether anything but its cap and the last connects speaks against new connections.
    pub fn takes(&self) -> bool {
        !self.leaving && !self.failing && matches!(self.standing, Standing::Enabled) && self.weight() > 0
    }

    /// Whether it is to be asked last.
    pub fn rests(&self, now: Instant) -> bool {
        matches!(self.reach, Reach::Resting { until, .. } if now < until)
    }

    pub fn full(&self) -> bool {
        self.cap.is_some_and(|cap| self.load() >= u64::from(cap))
    }

    /// Connections that it has, or will have in a moment.
    pub const fn load(&self) -> u64 {
        self.open + self.connecting
    }

    /// A connect to it begins. One that has rested gets one of them and then rests on, until that one says how it is.
    pub fn taken(&mut self, now: Instant) {
        self.connecting += 1;
        if let Reach::Resting { until, .. } = &mut self.reach {
            *until = (*until).max(now + REST);
        }
    }

    /// A connect failed. True: that is news.
    pub fn missed(&mut self, now: Instant) -> bool {
        self.failed += 1;
        let since = if let Reach::Resting { since, .. } = self.reach { since } else { now };
        let was = std::mem::replace(&mut self.reach, Reach::Resting { since, until: now + REST });
        matches!(was, Reach::Reachable)
    }

    /// Whether the log may be told now that connects fail; then notes that it was.
    pub fn may_tell_down(&mut self, now: Instant) -> bool {
        let may = self.told != State::Down && self.down_told.is_none_or(|at| now.since(at) >= QUIET);
        if may {
            self.down_told = Some(now);
        }
        may
    }

    /// A connection to it proved to work. Where that is news: since when none did.
    pub const fn reached(&mut self) -> Option<Instant> {
        match std::mem::replace(&mut self.reach, Reach::Reachable) {
            Reach::Resting { since, .. } => Some(since),
            Reach::Reachable => None,
        }
    }

    /// It came back: its share grows from here on.
    pub const fn came_back(&mut self, now: Instant) {
        self.back = Some(now);
    }

    /// Checks say that it works, or nobody checks it any more. What connects showed before is out of date with that.
    pub fn mend(&mut self) -> bool {
        let news = std::mem::take(&mut self.failing);
        if news {
            (self.why, self.reach) = (None, Reach::Reachable);
        }
        news
    }

    /// Whether checks or connects say that it doesn't work.
    pub const fn down(&self) -> bool {
        self.failing || matches!(self.reach, Reach::Resting { .. })
    }

    /// A check of one that works by checks was good: where a connect failed, and long enough ago, it is asked as usual again.
    pub fn answered(&mut self, now: Instant) {
        if matches!(self.reach, Reach::Resting { until, .. } if now >= until) {
            self.forget();
        }
    }

    /// What connects showed is out of date.
    pub fn forget(&mut self) {
        (self.why, self.reach) = (None, Reach::Reachable);
    }

    /// When it will have its whole share again; `None`: it has.
    pub fn grow(&mut self, now: Instant, slow_start: Duration) -> Option<Instant> {
        self.back = self.back.filter(|&at| now < at + slow_start);
        self.back.map(|at| at + slow_start)
    }

    /// Its part of the connections, in thousandths of weight 1.
    pub fn share(&self, now: Instant, slow_start: Duration) -> u32 {
        u32::from(self.weight()) * self.back.map_or(WHOLE, |at| grown(now.since(at), slow_start))
    }
}

/// What a member gets `age` after it came back: a tenth at first, growing evenly to [`WHOLE`] over `slow_start`.
fn grown(age: Duration, slow_start: Duration) -> u32 {
    if age >= slow_start {
        return WHOLE;
    }
    let part = u128::from(WHOLE * 9 / 10) * age.as_micros() / slow_start.as_micros().max(1);
    WHOLE / 10 + part as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Instant = Instant::from_nanos(1_000_000_000);

    #[test]
    fn a_share_grows_evenly_from_a_tenth() {
        let s = Duration::from_secs;
        let curve: Vec<_> = [0, 1, 5, 9, 10, 11].map(|age| grown(s(age), s(10))).into();
        assert_eq!(curve, [100, 190, 550, 910, 1000, 1000]);
        assert_eq!(grown(Duration::ZERO, Duration::ZERO), 1000, "none configured");
        assert!(grown(Duration::from_nanos(1), Duration::from_nanos(2)) <= 1000);
    }

    #[test]
    fn at_the_start_a_member_has_its_whole_share() {
        let address: SocketAddr = "192.0.2.1:80".parse().expect("an address");
        let mut m = Member::new(address, &Backend { weight: 3, ..address.into() });
        assert_eq!(m.share(T0, Duration::from_secs(10)), 3000);
        m.came_back(T0);
        assert_eq!(m.share(T0, Duration::from_secs(10)), 300);
    }

    #[test]
    fn a_weight_of_the_file_wins_when_it_changes() {
        let address: SocketAddr = "192.0.2.1:80".parse().expect("an address");
        let backend = |weight| Backend { weight, ..address.into() };
        let mut m = Member::new(address, &backend(3));
        m.order_weight(7);
        m.configure(&backend(3));
        assert_eq!(m.weight(), 7, "the file says what it said");
        m.configure(&backend(4));
        assert_eq!(m.weight(), 4);
    }
}
