//! How long things took: a histogram that threads add to and anybody may read.
//!
//! Eight buckets to each doubling, from a nanosecond to eighteen minutes: a quantile is right to a sixteenth of its
//! value. Adding is one addition to one of 320 counters (2.5 kB); there is no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A histogram under construction.
#[derive(Debug)]
pub(super) struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; BUCKETS], sum_ns: AtomicU64::new(0) }
    }

    pub(super) fn add(&self, took: Duration) {
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).min(NS_MAX);
        if let Some(count) = self.counts.get(bucket_of(took_ns)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_ns.fetch_add(took_ns, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> Latencies {
        Latencies {
            counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum_ns: self.sum_ns.load(Ordering::Relaxed),
        }
    }
}

/// How long something took, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latencies {
    counts: Box<[u64]>,
    sum_ns: u64,
}

impl Latencies {
    /// How many were timed.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What they took together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// The time that a share of them, 0 to 1, did not exceed: `quantile(0.99)`. `None` when none was timed.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank among counts, rounded up"
    )]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = ((self.count() as f64 * share.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut below = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank {
                let middle_ns = u64::midpoint(start_of(bucket), start_of(bucket + 1));
                return Some(Duration::from_nanos(middle_ns));
            }
        }
        None
    }

    /// For each power of two of nanoseconds from `from` up to `to`: the bound, and how many took less. Exact, because
    /// the bounds are the histogram's own.
    #[must_use]
    pub fn buckets(&self, from: Duration, to: Duration) -> Vec<(Duration, u64)> {
        let within = |bound: &Duration| (from..=to).contains(bound);
        let bounds = (0..OCTAVES).map(|octave| Duration::from_nanos(1 << octave)).filter(within);
        let below = |bound: Duration| {
            let end = bucket_of(u64::try_from(bound.as_nanos()).unwrap_or(NS_MAX));
            self.counts.iter().take(end).sum()
        };
        bounds.map(|bound| (bound, below(bound))).collect()
    }
}

/// The bucket a time falls into.
fn bucket_of(ns: u64) -> usize {
    // The place of the highest bit, and the three bits behind it.
    let octave = (ns | 1).ilog2();
    let eighth = if octave >= 3 { ns >> (octave - 3) & 7 } else { (ns << (3 - octave)) & 7 };
    (octave * 8) as usize + usize::try_from(eighth).unwrap_or(0)
}

/// Where a bucket begins, in ns.
fn start_of(bucket: usize) -> u64 {
    let (octave, eighth) = (bucket / 8, bucket as u64 % 8);
    ((8 + eighth) << octave) / 8
}

/// From 1 ns to 2^40 ns.
const OCTAVES: usize = 40;
const BUCKETS: usize = OCTAVES * 8;
const NS_MAX: u64 = (1 << OCTAVES) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_falls_into_the_bucket_that_holds_it() {
        for ns in (8..5000).chain((12..40).flat_map(|octave| [(1 << octave) - 1, 1 << octave])) {
            let bucket = bucket_of(ns);
            assert!(start_of(bucket) <= ns && ns < start_of(bucket + 1), "{ns} in {bucket}");
        }
        // Below eight the buckets are narrower than a nanosecond, and some stay empty.
        assert!((0..8).all(|ns| start_of(bucket_of(ns)) == ns.max(1)));
        assert_eq!(bucket_of(NS_MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_right_to_a_sixteenth() {
        let histogram = Histogram::new();
        (1..=10_000).for_each(|us| histogram.add(Duration::from_micros(us)));
        let latencies = histogram.snapshot();
        assert_eq!(latencies.count(), 10_000);
        assert_eq!(latencies.sum(), Duration::from_millis(50_005));
        for (share, us) in [(0.5, 5000.0), (0.95, 9500.0), (0.99, 9900.0), (0.999, 9990.0)] {
            let found = latencies.quantile(share).unwrap().as_secs_f64() * 1e6;
            assert!((found / us - 1.0).abs() <= 1.0 / 16.0, "{share}: {found}");
        }
        assert_eq!(Histogram::new().snapshot().quantile(0.5), None);
    }

    #[test]
    fn buckets_count_what_lies_below_their_bound() {
        let histogram = Histogram::new();
        for ns in [100, 127, 128, 1000, u64::MAX] {
            histogram.add(Duration::from_nanos(ns));
        }
        let buckets = histogram.snapshot().buckets(Duration::from_nanos(64), Duration::from_nanos(1024));
        let counts: Vec<_> = buckets.iter().map(|(bound, count)| (bound.as_nanos(), *count)).collect();
        assert_eq!(counts, [(64, 0), (128, 2), (256, 3), (512, 3), (1024, 4)]);
    }
}
