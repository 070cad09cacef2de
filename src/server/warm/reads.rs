//! What is read how often, at the price of one thread's own counter a read.
//!
//! One read in [`SAMPLED`] is counted, for all of them. The counts are bounded in number: when they are full, all are
//! halved, and what comes to nothing leaves, so that what was read long ago gives way to what is read now.

use std::cell::Cell;
use std::collections::HashMap;

use parking_lot::Mutex;

use crate::key::KeyRef;

/// Counts by key.
#[derive(Debug, Default)]
pub(super) struct Reads(Mutex<HashMap<Box<str>, u64>>);

impl Reads {
    /// With the counts of an earlier process, as far as there is room.
    pub(super) fn restored(counts: Vec<(String, u64)>) -> Self {
        let counts = counts.into_iter().take(KEYS_MAX / 2);
        Self(Mutex::new(counts.map(|(key, count)| (key.into_boxed_str(), count)).collect()))
    }

    /// `key` was read.
    #[inline]
    pub(super) fn note(&self, key: KeyRef<'_>) {
        let is_counted = LEFT.with(|left| {
            let now = left.get();
            left.set(now.checked_sub(1).unwrap_or(SAMPLED - 1));
            now == 0
        });
        if is_counted {
            self.count(key);
        }
    }

    fn count(&self, key: KeyRef<'_>) {
        let mut counts = self.0.lock();
        if let Some(count) = counts.get_mut(key.as_str()) {
            *count = count.saturating_add(u64::from(SAMPLED));
            return;
        }
        if counts.len() >= KEYS_MAX {
            counts.retain(|_, count| {
                *count /= 2;
                *count >= u64::from(SAMPLED)
            });
        }
        if counts.len() < KEYS_MAX {
            counts.insert(key.as_str().into(), u64::from(SAMPLED));
        }
    }

    /// The keys read most, at most `most` of them, the first the most.
    pub(super) fn most(&self, most: usize) -> Vec<(String, u64)> {
        let counts = self.0.lock().clone();
        let mut counts: Vec<_> = counts.into_iter().map(|(key, count)| (key.into_string(), count)).collect();
        counts.sort_unstable_by(|(key, count), (other, than)| than.cmp(count).then_with(|| key.cmp(other)));
        counts.truncate(most);
        counts
    }
}

thread_local! {
    /// Reads of this thread until the next that is counted.
    static LEFT: Cell<u32> = const { Cell::new(0) };
}

/// One read of so many is counted.
const SAMPLED: u32 = 8;

/// The most keys counted.
const KEYS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> KeyRef<'_> {
        KeyRef::parse(text).unwrap()
    }

    #[test]
    fn what_is_read_most_comes_first_and_few_reads_are_counted_for_all() {
        let reads = Reads::default();
        for _ in 0..SAMPLED * 10 {
            reads.note(key("a:often"));
        }
        reads.count(key("a:once"));
        let most = reads.most(10);
        assert_eq!(most, [("a:often".to_owned(), 80), ("a:once".to_owned(), 8)]);
        let restored = Reads::restored(most.clone());
        assert_eq!(restored.most(1), most[..1]);
    }

    #[test]
    fn however_many_keys_are_read_the_counts_stay_bounded_and_the_often_read_stays() {
        let reads = Reads::default();
        for _ in 0..50 {
            reads.count(key("a:often"));
        }
        for number in 0..4 * KEYS_MAX {
            reads.count(key(&format!("a:{number}")));
            assert!(reads.0.lock().len() <= KEYS_MAX);
        }
        assert_eq!(reads.most(1)[0].0, "a:often");
    }
}
