//! The order of touches: a count that stamps what is used, so that "least recently" means something.
//!
//! Strict, each touch takes the next tick from one shared counter, and the order is exact. Loose, a thread takes a
//! block of ticks at once and hands them out by itself: its own touches stay in exact order, those of two threads may
//! be swapped when they are fewer than [`SKEW_MAX`] touches apart, and a hit writes no line another core reads. An entry
//! touched again within [`NOTED_APART`] ticks keeps its stamp, so that the slot of a hot entry is not written all the time.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// The next tick.
#[inline]
pub(super) fn next(is_strict: bool) -> u64 {
    if is_strict { TICKS.0.fetch_add(1, Ordering::Relaxed) } else { next_of_block() }
}

/// The present tick, without taking it.
pub(super) fn now() -> u64 {
    TICKS.0.load(Ordering::Relaxed)
}

/// How far apart two touches of one entry are both worth noting.
#[inline]
pub(super) fn least_apart(is_strict: bool) -> u32 {
    if is_strict { 1 } else { NOTED_APART }
}

/// Passes over `ticks` of them, and says which is the first.
pub(super) fn reserve(ticks: u64) -> u64 {
    TICKS.0.fetch_add(ticks.next_multiple_of(BLOCK_TICKS), Ordering::Relaxed)
}

#[inline]
fn next_of_block() -> u64 {
    BLOCK.with(|block| {
        let tick = block.get();
        // A block is used up at a multiple of its size, and given up when others have gone far ahead of it.
        let is_over = tick % BLOCK_TICKS == 0 || TICKS.0.load(Ordering::Relaxed) - tick > SKEW_MAX;
        let tick = if is_over { TICKS.0.fetch_add(BLOCK_TICKS, Ordering::Relaxed) | 1 } else { tick };
        block.set(tick + 1);
        tick
    })
}

/// Ticks a thread takes at once.
const BLOCK_TICKS: u64 = 64;

/// How far a thread's block may fall behind the shared count.
const SKEW_MAX: u64 = 192;

/// Loose, a touch so soon after another of the same entry moves it by less than the skew anyway.
const NOTED_APART: u32 = 64;

/// On a line of its own: one count for the process, because stamps of several tiers need no common meaning.
#[repr(align(128))]
struct Aligned(AtomicU64);

static TICKS: Aligned = Aligned(AtomicU64::new(0));

thread_local! {
    /// The next tick of this thread's block; a multiple of the block's size means there is none.
    static BLOCK: Cell<u64> = const { Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ticks_of_one_thread_ascend_in_either_way() {
        for is_strict in [true, false] {
            let mut last = next(is_strict);
            for _ in 0..10_000 {
                let tick = next(is_strict);
                assert!(last < tick);
                last = tick;
            }
        }
    }

    #[test]
    fn loose_ticks_of_several_threads_are_all_different() {
        let mut all: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..5000).map(|_| next(false)).collect::<Vec<_>>())).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
