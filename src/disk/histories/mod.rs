//! Crashes after random histories: what no one thought of writing down in `disk/crash.rs`.
//!
//! A seed makes a story of a few lives of one directory. In each life the tier is opened with small bounds and random
//! operations are done to it, some of them by several threads at once, with weights that are the seed's too; in some the
//! disk fails for a while. It ends with a close, a kill, or a power cut, after which the clock may be set back. While it
//! runs no get finds anything dead, late, or older than acknowledged; then crashes after some of its writes are looked
//! at, some of them followed by a kill of the run after them.
//!
//! `HIFZ_CRASHES=2000` tells so many stories, from the seed `HIFZ_CRASH_SEED` (0) on; a failure prints its seed and the last
//! operations. The order of everything is the seed's but for the batches that are written while operations go on.

mod life;
mod race;
mod story;

use self::story::Story;

/// A stream of numbers that is the same for every seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn is_one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()].clone()
    }
}

/// What all stories came to, so that it is seen whether they try anything.
#[derive(Debug, Default)]
struct Tally {
    crashes: u64,
    dropped: u64,
    evicted: u64,
    expired: u64,
    refused: u64,
    faults: u64,
    lives: u64,
    /// Lives after which everything flushed had to be there.
    whole: u64,
}

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().unwrap())
}

#[test]
fn after_random_histories_and_crashes_nothing_acknowledged_is_undone() {
    let first = number_from("HIFZ_CRASH_SEED").unwrap_or(0);
    let count = number_from("HIFZ_CRASHES").unwrap_or(STORIES);
    let mut all = Tally::default();
    for seed in first..first + count {
        let mut story = Story::new(seed);
        story.tell();
        let tally = std::mem::take(&mut story.tally);
        all.crashes += tally.crashes;
        all.dropped += tally.dropped;
        all.evicted += tally.evicted;
        all.expired += tally.expired;
        all.refused += tally.refused;
        all.faults += tally.faults;
        all.lives += tally.lives;
        all.whole += tally.whole;
    }
    if count > STORIES {
        eprintln!("{count} stories from seed {first}: {all:?}");
    }
    let tried = [all.dropped, all.evicted, all.expired, all.refused, all.faults, all.whole];
    assert!(first > 0 || count < STORIES || tried.iter().all(|tried| *tried > 0), "{all:?}");
}

const STORIES: u64 = 20;
