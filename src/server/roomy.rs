//! Seats of connections that hold more than a task and a timer while they wait: those of HTTP/2 or TLS.
//!
//! Promises: nobody sits down beyond what a quarter of the memory limit of the moment and a little more have room for.
//! Where the limit is lowered, who sits stays. A seat costs one atomic, and its return another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::Cache;

/// The seats of one kind of listeners.
#[derive(Debug)]
pub(super) struct Roomy {
    /// Whose limit they keep to; without one there are those beside it.
    cache: Option<Cache>,
    /// Never more, however large the limit is.
    seats_max: u64,
    /// Each seat counts itself in and out.
    taken: AtomicU64,
}

/// One of them; given back when dropped.
#[derive(Debug)]
pub(super) struct RoomySeat(Arc<Roomy>);

impl Roomy {
    pub(super) fn new(seats_max: u64, cache: Option<&Cache>) -> Arc<Self> {
        Arc::new(Self { cache: cache.cloned(), seats_max, taken: AtomicU64::new(0) })
    }

    /// A seat, if there is one.
    pub(super) fn take(self: &Arc<Self>) -> Option<RoomySeat> {
        let most = self.most();
        let one_more = |taken: u64| (taken < most).then_some(taken + 1);
        let taken = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok().then(|| RoomySeat(self.clone()))
    }

    fn most(&self) -> u64 {
        let memory = self.cache.as_ref().map_or(0, Cache::memory_limit);
        ((memory / 4 + BYTES_BESIDE) / SEAT_BYTES).min(self.seats_max)
    }
}

impl Drop for RoomySeat {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What such a connection takes while it waits, as measured and rounded up.
const SEAT_BYTES: u64 = 24 * 1024;

/// Room for them beside the cache's.
const BYTES_BESIDE: u64 = 20 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_go_by_the_memory_limit_of_the_moment_and_nobody_who_sits_is_put_out() {
        let cache = Cache::builder().memory(64 << 20).open().unwrap();
        let roomy = Roomy::new(10_000, Some(&cache));
        let all: Vec<_> = std::iter::from_fn(|| roomy.take()).collect();
        assert_eq!(all.len(), 1536);
        cache.set_memory(16 << 20);
        let rest = all.into_iter().take(1025).collect::<Vec<_>>();
        assert!(roomy.take().is_none());
        drop(rest);
        assert_eq!(std::iter::from_fn(|| roomy.take()).collect::<Vec<_>>().len(), 1024);
        cache.set_memory(64 << 20);
        assert_eq!(std::iter::from_fn(|| roomy.take()).collect::<Vec<_>>().len(), 1536);
        assert_eq!(Roomy::new(7, Some(&cache)).most(), 7);
    }
}
