//! Stands in for the crates.io crate of the same name, through `[patch.crates-io]`.
//!
//! The original builds look-up tables of about 26 MB at first use, of which openraft needs a few hundred bytes: too much
//! for a Pi. This one offers the interface that openraft calls and finds a bucket by arithmetic.
//!
//! Values 0–3 have a bucket each; above, every power of two is split into four buckets, so a percentile is exact to 25 %.

use std::fmt;
use std::marker::PhantomData;

/// Bits of a value below its leading one that choose the bucket.
const FRACTION_BITS: u32 = 2;
const PER_POWER: usize = 1 << FRACTION_BITS;
/// All of `u64`: `bucket(u64::MAX) + 1`.
const BUCKETS: usize = (64 - FRACTION_BITS as usize) * PER_POWER + PER_POWER;

/// Counts of `u64` values in buckets of logarithmic width. Memory grows with the largest value recorded, to 2 KiB at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Vec<u64>,
    kind: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// An empty histogram; allocates nothing yet.
    pub fn new() -> Self {
        Self { counts: Vec::new(), kind: PhantomData }
    }

    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value `count` times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        let bucket = bucket(value);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] = self.counts[bucket].saturating_add(count);
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// The lower end of the bucket that holds the value below which a share `p` (0–1) of all values lies; 0 when empty.
    pub fn percentile(&self, p: f64) -> u64 {
        let wanted = ((self.total() as f64 * p).ceil() as u64).max(1);
        let mut seen = 0u64;
        for (index, count) in self.counts.iter().enumerate() {
            seen = seen.saturating_add(*count);
            if seen >= wanted {
                return lower_end(index);
            }
        }
        0
    }

    /// The percentiles that openraft prints.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

/// Percentiles of one histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PercentileStats {
    /// Values counted.
    pub samples: u64,
    /// 0.1 % of the values are at or below.
    pub p0_1: u64,
    /// 1 %.
    pub p1: u64,
    /// 5 %.
    pub p5: u64,
    /// 10 %.
    pub p10: u64,
    /// 50 %, the median.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[samples: {}, p0.1: {}, p1: {}, p5: {}, p10: {}", self.samples, self.p0_1, self.p1, self.p5, self.p10)?;
        write!(f, ", p50: {}, p90: {}, p99: {}, p99.9: {}]", self.p50, self.p90, self.p99, self.p99_9)
    }
}

/// Several histograms by name; openraft's `runtime-stats` feature prints them.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart<T = ()> {
    series: Vec<(String, Histogram<T>)>,
}

impl<T> AsciiChart<T> {
    /// Without series.
    pub fn new() -> Self {
        Self { series: Vec::new() }
    }

    /// With one more series.
    #[allow(clippy::should_implement_trait)] // the name openraft calls
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.series.push((name.to_string(), histogram));
        self
    }

    /// Itself: there is only one form.
    pub fn detailed(&self) -> &Self {
        self
    }
}

impl<T> fmt::Display for AsciiChart<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.series.iter().try_for_each(|(name, histogram)| writeln!(f, "{name}: {}", histogram.percentile_stats()))
    }
}

fn bucket(value: u64) -> usize {
    if value < PER_POWER as u64 {
        return value as usize;
    }
    let power = value.ilog2();
    let fraction = (value >> (power - FRACTION_BITS)) as usize & (PER_POWER - 1);
    (power - FRACTION_BITS + 1) as usize * PER_POWER + fraction
}

fn lower_end(bucket: usize) -> u64 {
    debug_assert!(bucket < BUCKETS);
    if bucket < PER_POWER {
        return bucket as u64;
    }
    let (shift, fraction) = (bucket / PER_POWER - 1, bucket % PER_POWER);
    ((PER_POWER + fraction) as u64) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_tile_the_whole_range() {
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        for index in 0..BUCKETS {
            assert_eq!(bucket(lower_end(index)), index, "the lower end lies in its own bucket");
            if index > 0 {
                assert_eq!(bucket(lower_end(index) - 1), index - 1, "one below lies in the bucket before");
            }
        }
    }

    #[test]
    fn percentiles_are_within_a_quarter() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile(0.5), 0);
        (1..=1000).for_each(|value| histogram.record(value));
        for p in [0.01, 0.5, 0.9, 0.999] {
            let (got, exact) = (histogram.percentile(p) as f64, (1000.0 * p));
            assert!(got <= exact && got >= exact * 0.75 - 1.0, "p{p}: {got}, exactly {exact}");
        }
        assert_eq!(histogram.percentile_stats().samples, 1000);
    }

    #[test]
    fn a_chart_has_a_line_per_series() {
        let chart = AsciiChart::<()>::new().add("one", Histogram::new()).add("two", Histogram::new());
        assert_eq!(chart.to_string().lines().count(), 2);
    }
}
