//! When the writer begins a batch.
//!
//! Often enough that the queue does not fill up meanwhile, seldom enough that each fsync is worth it. And while entries
//! come faster than any disk takes them, not before the burst is over or the queue nearly full: the writer wants the
//! same memory and cores as who puts, and would gain little on them.

use std::time::Duration;

use super::DiskOptions;

/// How long what waits may wait, by its bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    flush_interval: Duration,
    /// A commit is worth its fsyncs from here.
    commit_bytes: u64,
    /// From here the queue is nearly full.
    full_bytes: u64,
}

impl Pace {
    pub(crate) fn of(options: &DiskOptions) -> Self {
        let queue_bytes_max = options.queue_bytes_max;
        Self {
            flush_interval: options.flush_interval,
            commit_bytes: (queue_bytes_max / 4).clamp(COMMIT_BYTES_MIN, COMMIT_BYTES_MAX),
            full_bytes: queue_bytes_max / 4 * 3,
        }
    }

    /// How long after the first of `waiting_bytes` arrived the batch begins.
    pub(crate) fn delay(&self, waiting_bytes: u64) -> Duration {
        if waiting_bytes >= self.full_bytes {
            Duration::ZERO
        } else if waiting_bytes >= self.commit_bytes {
            self.flush_interval.min(BURST)
        } else {
            self.flush_interval
        }
    }

    /// How much has to wait for another delay than that of `waiting_bytes`.
    pub(crate) fn news_bytes(&self, waiting_bytes: u64) -> u64 {
        let steps = [1, self.commit_bytes.min(self.full_bytes), self.full_bytes];
        steps.into_iter().find(|step| waiting_bytes < *step).unwrap_or(u64::MAX)
    }
}

const COMMIT_BYTES_MIN: u64 = 1 << 20;
const COMMIT_BYTES_MAX: u64 = 8 << 20;

/// What fills a commit sooner than this comes faster than a disk takes it.
const BURST: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::super::kit;
    use super::*;

    #[test]
    fn the_more_waits_the_sooner_it_is_written_and_the_writer_hears_of_each_step() {
        let options = DiskOptions { queue_bytes_max: 32 << 20, ..kit::options() };
        let pace = Pace::of(&options);
        let mut seen = vec![];
        let mut bytes = 0;
        while bytes < u64::MAX {
            seen.push((bytes, pace.delay(bytes)));
            bytes = pace.news_bytes(bytes);
        }
        let interval = options.flush_interval;
        let steps =
            [(0, interval), (1, interval), (8 << 20, BURST.min(interval)), (24 << 20, Duration::ZERO)];
        assert_eq!(seen, steps);
    }

    #[test]
    fn a_queue_too_small_for_a_commit_is_written_before_it_is_full() {
        let pace = Pace::of(&DiskOptions { queue_bytes_max: 64 << 10, ..kit::options() });
        assert_eq!(pace.news_bytes(1), 48 << 10);
        assert_eq!(pace.delay(48 << 10), Duration::ZERO);
        assert_eq!(pace.news_bytes(48 << 10), u64::MAX);
    }
}
