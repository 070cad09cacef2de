//! The workloads, and how they are timed.

use std::sync::Barrier;
use std::time::Instant;

use hifz::{Key, KeyRef};

use crate::caches::{Cache, Room, open};

pub struct Row {
    pub name: &'static str,
    kind: Kind,
    room: Room,
    /// Keys that are drawn from.
    keys: usize,
    sizes: Sizes,
    pub ops: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Everything fits; only look-ups.
    Hits,
    /// Nine look-ups to an insertion.
    NinetyTen,
    /// A look-up, and an insertion where it finds nothing.
    GetOrInsert,
    /// Insertions under keys never seen before.
    Churn,
}

#[derive(Clone, Copy)]
enum Sizes {
    Small,
    Mixed,
}

pub struct Measured {
    /// Per number of threads, per cache, per round: operations a second.
    pub rates: Vec<(usize, Vec<Vec<f64>>)>,
    /// The same of the 99.9th percentile of a look-up, in ns.
    pub tails: Vec<(usize, Vec<Vec<f64>>)>,
}

pub fn rows() -> Vec<Row> {
    let mixed = Room::Bytes(160_000_000);
    let row = |name, kind, room, keys, sizes, ops| Row { name, kind, room, keys, sizes, ops };
    vec![
        row("hits 100 k", Kind::Hits, Room::Entries(120_000), 100_000, Sizes::Small, 4_000_000),
        row("hits 1 M", Kind::Hits, Room::Entries(1_200_000), 1_000_000, Sizes::Small, 4_000_000),
        row("90/10 small", Kind::NinetyTen, Room::Entries(100_000), 200_000, Sizes::Small, 3_000_000),
        row(
            "get-or-insert small",
            Kind::GetOrInsert,
            Room::Entries(100_000),
            1_000_000,
            Sizes::Small,
            2_000_000,
        ),
        row("churn small", Kind::Churn, Room::Entries(100_000), 0, Sizes::Small, 1_500_000),
        row("90/10 mixed", Kind::NinetyTen, mixed, 20_000, Sizes::Mixed, 1_500_000),
        row("get-or-insert mixed", Kind::GetOrInsert, mixed, 100_000, Sizes::Mixed, 400_000),
        row("churn mixed", Kind::Churn, mixed, 0, Sizes::Mixed, 200_000),
    ]
}

impl Row {
    pub fn measure(&self, names: &[String], rounds: usize) -> Measured {
        let draws = self.draws();
        let mut measured = Measured { rates: Vec::new(), tails: Vec::new() };
        // What holds everything is filled once; where entries come and go, each round begins anew.
        let kept: Vec<Option<Box<dyn Cache>>> =
            names.iter().map(|name| (self.kind == Kind::Hits).then(|| self.filled(name, &draws))).collect();
        for threads in [1, 2] {
            let mut rates = vec![Vec::new(); names.len()];
            let mut tails = vec![Vec::new(); names.len()];
            for round in 0..rounds {
                for step in 0..names.len() {
                    // Each round begins with another cache.
                    let at = (step + round) % names.len();
                    let fresh = kept[at].is_none().then(|| self.filled(&names[at], &draws));
                    let cache = kept[at].as_ref().or(fresh.as_ref()).expect("one of the two");
                    rates[at].push(self.run(&**cache, threads, &draws, round));
                    if self.kind == Kind::Hits {
                        tails[at].push(tail(&**cache, threads, &draws));
                    }
                }
            }
            measured.rates.push((threads, rates));
            if self.kind == Kind::Hits {
                measured.tails.push((threads, tails));
            }
        }
        measured
    }

    fn draws(&self) -> Vec<Draw> {
        let numbers = if self.keys > 0 { zipf(self.keys, 1 << 20) } else { Vec::new() };
        let sizes = numbers.iter().map(|number| self.size(u64::from(*number)));
        keys_in_order(&numbers).into_iter().zip(sizes).map(|(key, size)| Draw { key, size }).collect()
    }

    fn filled(&self, name: &str, draws: &[Draw]) -> Box<dyn Cache> {
        let cache = open(name, self.room);
        let value = vec![7; 100_000];
        match self.kind {
            Kind::Hits => {
                for i in 0..self.keys as u64 {
                    cache.insert(key(i).as_key_ref(), &value[..self.size(i)]);
                }
                let (held, all) = (cache.len(), self.keys);
                assert!(held >= all * 99 / 100, "{name} holds {held} of {all}");
            }
            Kind::Churn => {
                let room = match self.room {
                    Room::Entries(entries) => entries,
                    Room::Bytes(bytes) => bytes as usize / 16_000,
                };
                for i in 0..room as u64 * 5 / 4 {
                    cache.insert(key(i).as_key_ref(), &value[..self.size(i)]);
                }
            }
            Kind::NinetyTen | Kind::GetOrInsert => {
                for draw in &draws[draws.len() / 2..] {
                    if cache.get(draw.key).is_none() {
                        cache.insert(draw.key, &value[..draw.size]);
                    }
                }
            }
        }
        cache.upkeep();
        cache
    }

    fn run(&self, cache: &dyn Cache, threads: usize, draws: &[Draw], round: usize) -> f64 {
        let barrier = Barrier::new(threads + 1);
        let ops = self.ops / threads;
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|thread| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        let value = vec![7; 100_000];
                        let start = (thread * 500_009 + round * 99_991) % draws.len().max(1);
                        barrier.wait();
                        self.work(cache, draws, (start, ops, (round * 2 + thread + 1) as u64), &value);
                    })
                })
                .collect();
            barrier.wait();
            let begun = Instant::now();
            for worker in workers {
                worker.join().expect("a worker ends well");
            }
            (ops * threads) as f64 / begun.elapsed().as_secs_f64()
        })
    }

    fn work(&self, cache: &dyn Cache, draws: &[Draw], (start, ops, seed): (usize, usize, u64), value: &[u8]) {
        let drawn = draws[start..].iter().chain(draws.iter().cycle()).take(ops);
        match self.kind {
            Kind::Hits => drop(drawn.filter(|draw| cache.get(draw.key).is_some()).count()),
            Kind::GetOrInsert => {
                for draw in drawn {
                    if cache.get(draw.key).is_none() {
                        cache.insert(draw.key, &value[..draw.size]);
                    }
                }
            }
            Kind::NinetyTen => {
                for (turn, draw) in drawn.enumerate() {
                    if turn % 10 == 9 {
                        cache.insert(draw.key, &value[..draw.size]);
                    } else {
                        std::hint::black_box(cache.get(draw.key));
                    }
                }
            }
            Kind::Churn => {
                let mut text = String::new();
                for i in 0..ops as u64 {
                    let number = (seed << 32) + i;
                    write_key(&mut text, number);
                    let key = KeyRef::parse(&text).expect("a key");
                    cache.insert(key, &value[..self.size(number)]);
                }
            }
        }
    }

    fn size(&self, key: u64) -> usize {
        match self.sizes {
            Sizes::Small => 100,
            Sizes::Mixed => log_uniform(key, 200.0, 100_000.0),
        }
    }
}

/// A size between the two, every order of magnitude equally likely; the same for the same key.
pub fn log_uniform(key: u64, from: f64, to: f64) -> usize {
    let unit = (mix(key) >> 11) as f64 / (1_u64 << 53) as f64;
    (from * (to / from).powf(unit)) as usize
}

/// The 99.9th percentile of a look-up: every 16th is timed.
fn tail(cache: &dyn Cache, threads: usize, draws: &[Draw]) -> f64 {
    let barrier = Barrier::new(threads);
    let mut timed: Vec<u64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let mut timed = Vec::with_capacity(70_000);
                    for (turn, draw) in draws.iter().skip(thread * 1000).enumerate() {
                        if turn % 16 == 0 {
                            let begun = Instant::now();
                            std::hint::black_box(cache.get(draw.key));
                            timed.push(begun.elapsed().as_nanos() as u64);
                        } else {
                            std::hint::black_box(cache.get(draw.key));
                        }
                    }
                    timed
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker ends well")).collect()
    });
    timed.sort_unstable();
    timed[timed.len() * 999 / 1000] as f64
}

/// What is asked for, and the size of its value.
struct Draw {
    key: KeyRef<'static>,
    size: usize,
}

/// Keys parsed beforehand, their text side by side in the order in which they are asked for: a caller has its key at
/// hand, so what is timed is the cache and not a walk over a list.
fn keys_in_order(numbers: &[u32]) -> Vec<KeyRef<'static>> {
    let mut all = String::with_capacity(numbers.len() * 20);
    let mut text = String::new();
    for number in numbers {
        write_key(&mut text, u64::from(*number));
        all.push_str(&text);
    }
    // Kept until the process ends: a dozen lists at most.
    let all: &'static str = all.leak();
    (0..numbers.len()).map(|i| KeyRef::parse(&all[i * 20..i * 20 + 20]).expect("a key")).collect()
}

/// A key of 20 bytes.
pub fn key(number: u64) -> Key {
    let mut text = String::new();
    write_key(&mut text, number);
    Key::parse(text).expect("a key")
}

pub fn write_key(text: &mut String, number: u64) {
    text.clear();
    text.push_str("bench:");
    let mut left = number;
    for _ in 0..14 {
        text.push(char::from(b'a' + (left & 0xF) as u8));
        left >>= 4;
    }
}

/// A draw of `len` numbers below `n` by Zipf's law with exponent 0.99, scattered over the keys.
fn zipf(n: usize, len: usize) -> Vec<u32> {
    let mut sums = Vec::with_capacity(n);
    let mut sum = 0.0;
    for rank in 1..=n {
        sum += (rank as f64).powf(-0.99);
        sums.push(sum);
    }
    let place: Vec<u32> = {
        let mut place: Vec<u32> = (0..n as u32).collect();
        place.sort_by_key(|i| mix(u64::from(*i)));
        place
    };
    (0..len as u64)
        .map(|i| {
            let unit = (mix(i ^ 0xABCD_EF01) >> 11) as f64 / (1_u64 << 53) as f64 * sum;
            place[sums.partition_point(|s| *s < unit).min(n - 1)]
        })
        .collect()
}

/// splitmix64: a well mixed number for each number.
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
