//! How late this node's own deadlines fire: a loop that is late with heartbeats and acknowledgements eats the margin between hold and
//! lease.

use crate::sys::clock::Instant;
use std::time::Duration;

/// The maximum is kept in spans of this length.
const SPAN: Duration = Duration::from_secs(10);
/// So many spans are looked back at: a minute.
const SPANS: usize = 6;
/// A late loop is told about at most this often.
const TELL: Duration = Duration::from_secs(60);

/// Delays of the last minute.
#[derive(Clone, Debug, Default)]
pub struct Lateness {
    last: Duration,
    /// The worst of each span, and when the span began.
    worst: [(Instant, Duration); SPANS],
    told: Option<Instant>,
}

impl Lateness {
    /// A deadline fired so much too late. Returns the delay where it is worth a warning: more than half of `margin`, and none was given
    /// for a minute.
    pub fn note(&mut self, now: Instant, late: Duration, margin: Duration) -> Option<Duration> {
        self.last = late;
        let newest = self.worst.iter_mut().max_by_key(|(began, _)| *began);
        match newest {
            Some((began, worst)) if now - *began < SPAN => *worst = late.max(*worst),
            _ => {
                if let Some(oldest) = self.worst.iter_mut().min_by_key(|(began, _)| *began) {
                    *oldest = (now, late);
                }
            }
        }
        let told = self.told.is_some_and(|at| now - at < TELL);
        let warn = late > margin / 2 && !told;
        warn.then(|| {
            self.told = Some(now);
            late
        })
    }

    /// The newest delay.
    pub fn last(&self) -> Duration {
        self.last
    }

    /// The longest of the last minute.
    pub fn longest(&self, now: Instant) -> Duration {
        let recent = self.worst.iter().filter(|(began, _)| now - *began < SPAN * SPANS as u32);
        recent.map(|(_, worst)| *worst).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARGIN: Duration = Duration::from_millis(60);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(1_000_000_000_000 + ms * 1_000_000)
    }
    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_longest_delay_is_kept_for_a_minute() {
        let mut l = Lateness::default();
        assert_eq!((l.last(), l.longest(at(0))), (ms(0), ms(0)));
        l.note(at(0), ms(7), MARGIN);
        for second in 1..50 {
            l.note(at(second * 1000), ms(1), MARGIN);
            assert_eq!((l.last(), l.longest(at(second * 1000))), (ms(1), ms(7)), "after {second} s");
        }
        for second in 50..75 {
            l.note(at(second * 1000), ms(2), MARGIN);
        }
        assert_eq!(l.longest(at(75_000)), ms(2));
        assert_eq!(l.longest(at(600_000)), ms(0), "nothing was due for a long time");
    }

    #[test]
    fn more_than_half_the_margin_is_told_once_a_minute() {
        let mut l = Lateness::default();
        let told: Vec<Option<Duration>> = [(0, 30), (1, 31), (2, 200), (60_000, 40), (60_001, 31), (60_002, 31)]
            .map(|(t, late)| l.note(at(t), ms(late), MARGIN))
            .into();
        assert_eq!(told, [None, Some(ms(31)), None, None, Some(ms(31)), None]);
    }
}
