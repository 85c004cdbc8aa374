//! When to announce and when to probe: pure schedules over instants.

use crate::sys::clock::Instant;
use std::time::Duration;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// IPv4: three at once against loss, then four spaced over 1 s, because old kernels drop a second update within 1 s.
const ARP: &[Duration] = &[ms(0), ms(50), ms(200), ms(1300), ms(2400), ms(3500), ms(4600)];
/// IPv6: at most three, 1 s apart (RFC 4861 §7.2.6).
const ADVERTISEMENT: &[Duration] = &[ms(0), ms(1000), ms(2000)];
/// Three questions, 1 s apart.
const PROBE: &[Duration] = &[ms(0), ms(1000), ms(2000)];
/// A holder asks once the frames of a move have settled, then with each refresh: a host that merely answers for the VIP says nothing by itself.
const WATCH: &[Duration] = &[ms(2000)];
/// Switch tables age after 300 s: a silent VIP must be heard before.
pub const REFRESH: Duration = Duration::from_secs(45);
/// The least time between two sendings, so that a schedule that was slept through doesn't come out as one burst.
const LEAST_GAP: Duration = ms(50);
/// Answers to the last probe count for this long.
const ANSWER_TIME: Duration = ms(1000);

/// A running schedule: offsets from its start, then a refresh for ever or nothing.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    offsets: &'static [Duration],
    refresh: Option<Duration>,
    start: Instant,
    sent: usize,
    due: Option<Instant>,
}

impl Schedule {
    /// Announcements, beginning now, refreshed until stopped.
    pub const fn announce(ipv6: bool, now: Instant) -> Self {
        let offsets = if ipv6 { ADVERTISEMENT } else { ARP };
        Self { offsets, refresh: Some(REFRESH), start: now, sent: 0, due: Some(now) }
    }

    /// Probes, beginning now.
    pub const fn probe(now: Instant) -> Self {
        Self { offsets: PROBE, refresh: None, start: now, sent: 0, due: Some(now) }
    }

    /// A holder's probes, refreshed until stopped.
    pub fn watch(now: Instant) -> Self {
        Self { offsets: WATCH, refresh: Some(REFRESH), start: now, sent: 0, due: Some(now + WATCH[0]) }
    }

    /// Brings the next sending forward to now.
    pub fn hasten(&mut self, now: Instant) {
        self.due = Some(self.due.map_or(now, |due| due.min(now)));
    }

    /// When the next frame is due; `None`: never.
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// One was sent (or could not be): plan the next.
    pub fn sent(&mut self, now: Instant) {
        self.sent = self.sent.saturating_add(1);
        self.due = match self.offsets.get(self.sent) {
            Some(&offset) => Some((self.start + offset).max(now + LEAST_GAP)),
            None => self.refresh.map(|every| now + every),
        };
    }

    /// Whether an answer heard now may belong to a probe.
    pub fn listens(&self, now: Instant) -> bool {
        self.due.is_some() || now < self.start + PROBE[PROBE.len() - 1] + ANSWER_TIME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(mut s: Schedule, count: usize) -> Vec<u64> {
        let mut times = Vec::new();
        while let (Some(at), true) = (s.due(), times.len() < count) {
            times.push(at.as_nanos() / 1_000_000);
            s.sent(at);
        }
        times
    }

    #[test]
    fn arp_comes_early_then_spaced_then_for_ever() {
        let s = Schedule::announce(false, Instant::default());
        assert_eq!(run(s, 9), [0, 50, 200, 1300, 2400, 3500, 4600, 49_600, 94_600]);
    }

    #[test]
    fn advertisements_are_three_then_refreshed() {
        assert_eq!(run(Schedule::announce(true, Instant::default()), 5), [0, 1000, 2000, 47_000, 92_000]);
    }

    #[test]
    fn probes_end_and_answers_count_a_while_longer() {
        let mut s = Schedule::probe(Instant::default());
        assert_eq!(run(s, 9), [0, 1000, 2000]);
        let at = |n: u64| Instant::from_nanos(n * 1_000_000);
        (0..3).for_each(|n| s.sent(at(n * 1000)));
        assert_eq!((s.due(), s.listens(at(2999)), s.listens(at(3000))), (None, true, false));
    }

    #[test]
    fn a_holder_asks_after_a_move_has_settled_and_with_each_refresh() {
        assert_eq!(run(Schedule::watch(Instant::default()), 3), [2000, 47_000, 92_000]);
    }

    #[test]
    fn a_hastened_sending_takes_the_place_of_the_next() {
        let at = |n: u64| Instant::from_nanos(n * 1_000_000);
        let mut s = Schedule::announce(false, at(0));
        (0..7).for_each(|_| s.due().into_iter().for_each(|t| s.sent(t)));
        s.hasten(at(20_000));
        assert_eq!(s.due(), Some(at(20_000)));
        s.sent(at(20_000));
        assert_eq!(s.due(), Some(at(65_000)));
    }

    #[test]
    fn a_slept_through_schedule_is_no_burst() {
        let mut s = Schedule::announce(false, Instant::default());
        let late = Instant::from_nanos(10_000_000_000);
        s.sent(late);
        assert_eq!(s.due(), Some(late + LEAST_GAP));
    }
}
