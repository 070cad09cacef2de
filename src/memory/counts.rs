//! Counters per namespace that threads raise without meeting each other.
//!
//! Each thread counts on a stripe of its own (threads beyond [`STRIPES`] share); whoever wants a sum adds the stripes
//! up. Raising one is a read of two pointers and an addition to a cache line that no other core writes. What a
//! namespace needs is allocated when it is first counted, 16 namespaces at a time: for `N` counters at most
//! `4096 * 16 * 8 * N` bytes, were every thread to meet every namespace there can be.

use std::cell::Cell;
use std::sync::OnceLock;

use super::namespaces::NAMESPACES_MAX;
use crate::sync::{AtomicU64, AtomicUsize, Ordering};

/// `N` counters for each namespace, by its number.
#[derive(Debug)]
pub(crate) struct Counts<const N: usize> {
    stripes: Box<[Stripe<N>]>,
}

/// The counters of some threads.
#[derive(Debug)]
#[repr(align(128))]
struct Stripe<const N: usize>(Box<[OnceLock<Chunk<N>>]>);

#[derive(Debug)]
struct Chunk<const N: usize>(Box<Rows<N>>);

/// On cache lines of its own: two, because processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Rows<const N: usize>([[AtomicU64; N]; CHUNK]);

impl<const N: usize> Counts<N> {
    /// All at zero.
    pub(crate) fn new() -> Self {
        let stripe = |_| Stripe((0..CHUNKS).map(|_| OnceLock::new()).collect());
        Self { stripes: (0..STRIPES).map(stripe).collect() }
    }

    /// Raises a counter of a namespace by `by`.
    #[inline]
    pub(crate) fn add(&self, namespace: u16, counter: usize, by: u64) {
        let (chunk, place) = (usize::from(namespace) / CHUNK, usize::from(namespace) % CHUNK);
        // Relaxed: a sum is read for its own sake, nothing is concluded from it.
        let found = self.stripes.get(stripe()).and_then(|stripe| stripe.0.get(chunk));
        let row = found.and_then(|chunk| chunk.get_or_init(Chunk::zero).0.0.get(place));
        if let Some(counter) = row.and_then(|row| row.get(counter)) {
            counter.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// The counters of a namespace.
    pub(crate) fn of(&self, namespace: u16) -> [u64; N] {
        let (chunk, place) = (usize::from(namespace) / CHUNK, usize::from(namespace) % CHUNK);
        let mut sums = [0; N];
        for stripe in &self.stripes {
            let row = stripe.0.get(chunk).and_then(OnceLock::get).and_then(|chunk| chunk.0.0.get(place));
            for (sum, counter) in sums.iter_mut().zip(row.into_iter().flatten()) {
                *sum += counter.load(Ordering::Relaxed);
            }
        }
        sums
    }
}

impl<const N: usize> Chunk<N> {
    #[cold]
    fn zero() -> Self {
        Self(Box::new(Rows([const { [const { AtomicU64::new(0) }; N] }; CHUNK])))
    }
}

/// The stripe of this thread: the threads take them in turn.
#[inline]
fn stripe() -> usize {
    STRIPE.with(|stripe| {
        if stripe.get() == usize::MAX {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            stripe.set(NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES);
        }
        stripe.get()
    })
}

thread_local! {
    static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Threads beyond so many share.
const STRIPES: usize = 16;

/// Namespaces whose counters are allocated together.
const CHUNK: usize = 16;

const CHUNKS: usize = NAMESPACES_MAX as usize / CHUNK + 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_threads_count_adds_up() {
        let counts = Counts::<3>::new();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    (0..1000).for_each(|i| counts.add(i % 40, 2, 1));
                    counts.add(NAMESPACES_MAX, 0, 5);
                });
            }
        });
        assert_eq!(counts.of(7), [0, 0, 500]);
        assert_eq!(counts.of(NAMESPACES_MAX), [100, 0, 0]);
        assert_eq!(counts.of(1000), [0; 3]);
    }
}
