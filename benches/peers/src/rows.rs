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
    ops: usize,
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
        row("90/10 mixed", Kind::NinetyTen, mixed, 20_000, Sizes::Mixed, 300_000),
        row("get-or-insert mixed", Kind::GetOrInsert, mixed, 100_000, Sizes::Mixed, 100_000),
        row("churn mixed", Kind::Churn, mixed, 0, Sizes::Mixed, 60_000),
    ]
}

impl Row {
    pub fn measure(&self, names: &[String], rounds: usize) -> Measured {
        let drawn = self.keys.max(1);
        let keys = Keys::new(drawn);
        let order = zipf(drawn, 1 << 20);
        let mut measured = Measured { rates: Vec::new(), tails: Vec::new() };
        // What holds everything is filled once; where entries come and go, each round begins anew.
        let kept: Vec<Option<Box<dyn Cache>>> = names
            .iter()
            .map(|name| (self.kind == Kind::Hits).then(|| self.filled(name, &keys, &order)))
            .collect();
        for threads in [1, 2] {
            let mut rates = vec![Vec::new(); names.len()];
            let mut tails = vec![Vec::new(); names.len()];
            for round in 0..rounds {
                for step in 0..names.len() {
                    // Each round begins with another cache.
                    let at = (step + round) % names.len();
                    let fresh = kept[at].is_none().then(|| self.filled(&names[at], &keys, &order));
                    let cache = kept[at].as_ref().or(fresh.as_ref()).expect("one of the two");
                    rates[at].push(self.run(&**cache, threads, &keys, &order, round));
                    if self.kind == Kind::Hits {
                        tails[at].push(self.tail(&**cache, threads, &keys, &order));
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

    fn filled(&self, name: &str, keys: &Keys, order: &[u32]) -> Box<dyn Cache> {
        let cache = open(name, self.room);
        let value = vec![7; 100_000];
        match self.kind {
            Kind::Hits => {
                for i in 0..keys.len() {
                    cache.insert(keys.at(i), &value[..self.size(i as u64)]);
                }
                assert!(
                    cache.len() >= keys.len() * 99 / 100,
                    "{name} holds {} of {}",
                    cache.len(),
                    keys.len()
                );
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
                for i in &order[order.len() - order.len() / 2..] {
                    let key = keys.at(*i as usize);
                    if cache.get(key).is_none() {
                        cache.insert(key, &value[..self.size(u64::from(*i))]);
                    }
                }
            }
        }
        cache.upkeep();
        cache
    }

    fn run(&self, cache: &dyn Cache, threads: usize, keys: &Keys, order: &[u32], round: usize) -> f64 {
        let barrier = Barrier::new(threads + 1);
        let ops = self.ops / threads;
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|thread| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        let value = vec![7; 100_000];
                        let start = (thread * 500_009 + round * 99_991) % order.len();
                        barrier.wait();
                        self.work(cache, keys, order, (start, ops, (round * 2 + thread + 1) as u64), &value);
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

    fn work(
        &self,
        cache: &dyn Cache,
        keys: &Keys,
        order: &[u32],
        (start, ops, seed): (usize, usize, u64),
        value: &[u8],
    ) {
        let drawn = order[start..].iter().chain(order.iter().cycle()).take(ops);
        match self.kind {
            Kind::Hits => drop(drawn.filter(|i| cache.get(keys.at(**i as usize)).is_some()).count()),
            Kind::GetOrInsert => {
                for i in drawn {
                    let key = keys.at(*i as usize);
                    if cache.get(key).is_none() {
                        cache.insert(key, &value[..self.size(u64::from(*i))]);
                    }
                }
            }
            Kind::NinetyTen => {
                for (turn, i) in drawn.enumerate() {
                    let key = keys.at(*i as usize);
                    if turn % 10 == 9 {
                        cache.insert(key, &value[..self.size(u64::from(*i))]);
                    } else {
                        std::hint::black_box(cache.get(key));
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

    /// The 99.9th percentile of a look-up: every 16th is timed.
    fn tail(&self, cache: &dyn Cache, threads: usize, keys: &Keys, order: &[u32]) -> f64 {
        let barrier = Barrier::new(threads);
        let mut timed: Vec<u64> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|thread| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        barrier.wait();
                        let mut timed = Vec::with_capacity(70_000);
                        for (turn, i) in order.iter().skip(thread * 1000).enumerate() {
                            let key = keys.at(*i as usize);
                            if turn % 16 == 0 {
                                let begun = Instant::now();
                                std::hint::black_box(cache.get(key));
                                timed.push(begun.elapsed().as_nanos() as u64);
                            } else {
                                std::hint::black_box(cache.get(key));
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

/// Keys side by side and parsed beforehand, so that what is timed is the cache and not the list.
struct Keys(Vec<KeyRef<'static>>);

impl Keys {
    fn new(len: usize) -> Self {
        let text: String = (0..len as u64).map(|i| key(i).to_string()).collect();
        // Kept until the process ends: a dozen lists at most.
        let text: &'static str = text.leak();
        Self((0..len).map(|i| KeyRef::parse(&text[i * 20..i * 20 + 20]).expect("a key")).collect())
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn at(&self, at: usize) -> KeyRef<'static> {
        self.0[at]
    }
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
