//! Answers whose readers are slow: what they keep in memory beside the cache, and an end to it.
//!
//! While an answer waits for its reader, what it is sent from stays in memory: an entry, though the cache may have
//! evicted or replaced it since, or a body made for this answer alone. So an answer that has to wait is entered here. Of
//! what they all hold, the part that is no longer the cache's is charged to its limit, so that entries give way; and
//! where that comes to more than a bound, those that have waited longest are cut off, however patient the settings are
//! with a single one.
//!
//! What it costs: nothing for an answer that is taken at once; else a lock and an insertion per wait. There are as many
//! waits as connections and streams, which are bounded elsewhere.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::HttpBody;
use axum::http::Response;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::engine::{Cache, Charge};
use crate::entry::Entry;

/// The answers of this process that wait for their readers; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Outgoing(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    cache: Cache,
    waiting: Mutex<Waiting>,
    /// What was charged at the last look; held by whoever looks.
    charge: Mutex<Charge>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The number of the next wait.
    next: u64,
    /// By number, which is by age.
    answers: BTreeMap<u64, Answer>,
    /// What they hold, entries once for each answer: never less than what they really do.
    bytes: u64,
}

#[derive(Debug, Clone)]
struct Answer {
    held: Held,
    cut: Arc<Cut>,
}

/// What an answer is sent from.
#[derive(Debug, Clone)]
pub(super) enum Held {
    /// Something the cache keeps or kept, shared with it and with other answers.
    Entry(Entry),
    /// So many bytes of its own.
    Own(u64),
}

impl Held {
    /// What `response` is sent from: what its maker left with it, else a body of its own. Of a body that is made while it
    /// is sent only a piece is ever held.
    pub(super) fn by<B: HttpBody>(response: &Response<B>) -> Self {
        let own = || Self::Own(response.body().size_hint().exact().unwrap_or(PIECE_BYTES));
        response.extensions().get::<Self>().cloned().unwrap_or_else(own)
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Entry(entry) => entry.weight() as u64,
            Self::Own(bytes) => *bytes,
        }
    }
}

/// How the sender of an answer learns that it is to stop.
#[derive(Debug, Default)]
pub(super) struct Cut {
    is_cut: AtomicBool,
    waker: AtomicWaker,
}

impl Cut {
    /// Ready once the answer was cut off.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.is_cut.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn now(&self) {
        self.is_cut.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// One answer that waits, until this is dropped.
#[derive(Debug)]
pub(super) struct Wait {
    outgoing: Outgoing,
    number: u64,
}

impl Drop for Wait {
    fn drop(&mut self) {
        // What it held is let go of after the lock.
        let _answer = self.outgoing.0.waiting.lock().remove(self.number);
    }
}

impl Outgoing {
    pub(super) fn new(cache: &Cache) -> Self {
        let charge = Mutex::new(cache.charge());
        Self(Arc::new(Shared { cache: cache.clone(), waiting: Mutex::default(), charge }))
    }

    /// Enters an answer that waits from now on; whoever sends it stops when `cut` says so.
    pub(super) fn wait(&self, held: Held, cut: Arc<Cut>) -> Wait {
        let mut waiting = self.0.waiting.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.bytes += held.bytes();
        waiting.answers.insert(number, Answer { held, cut });
        Wait { outgoing: self.clone(), number }
    }

    /// Looks again and again at what is held.
    pub(super) async fn keep_looking(self) {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            self.look();
        }
    }

    /// Charges what is held beside the cache, and cuts off who has waited longest while that is too much.
    fn look(&self) {
        let mut charge = self.0.charge.lock();
        let answers: Vec<_> = {
            let waiting = self.0.waiting.lock();
            if waiting.bytes == 0 {
                Vec::new()
            } else {
                waiting.answers.iter().map(|(number, answer)| (*number, answer.clone())).collect()
            }
        };
        let bytes_max = self.0.cache.memory_limit() / BOUND_PART + BOUND_BESIDE;
        let (beside, late) = judge(&answers, bytes_max, |entry| !self.0.cache.keeps(entry));
        if !late.is_empty() {
            tracing::warn!(
                answers = late.len(),
                bytes_max,
                "readers too slow for what they hold in memory are cut off"
            );
        }
        for answer in late {
            answer.cut.now();
        }
        charge.set(beside);
    }
}

impl Waiting {
    fn remove(&mut self, number: u64) -> Option<Answer> {
        let answer = self.answers.remove(&number)?;
        self.bytes -= answer.held.bytes();
        Some(answer)
    }
}

/// Of `answers`, longest waiting first: the bytes that only they hold once those are gone that are cut off; and those.
/// The last to have come is never among them: one alone holds no more than one answer may be large.
fn judge(
    answers: &[(u64, Answer)],
    bytes_max: u64,
    is_evicted: impl Fn(&Entry) -> bool,
) -> (u64, Vec<&Answer>) {
    // By address, whether an entry that is no longer the cache's may stay for its readers.
    let mut stays = HashMap::new();
    let (mut bytes, mut late) = (0, Vec::new());
    // An entry is held until its last reader has gone, so it counts with its youngest.
    for (_, answer) in answers.iter().rev() {
        let mut admit = |own: u64| {
            let fits = bytes == 0 || own == 0 || bytes + own <= bytes_max;
            bytes += if fits { own } else { 0 };
            fits
        };
        let stays = match &answer.held {
            Held::Own(own) => admit(*own),
            Held::Entry(entry) => *stays
                .entry(entry.address())
                .or_insert_with(|| !is_evicted(entry) || admit(entry.weight() as u64)),
        };
        if !stays {
            late.push(answer);
        }
    }
    (bytes, late)
}

/// What is taken to be held of a body whose length nobody knows.
const PIECE_BYTES: u64 = 64 << 10;

/// How often it is looked at what is held.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Answers that wait may hold one part in so many of the memory limit beside the cache,
const BOUND_PART: u64 = 4;

/// and a little more, so that one large answer has room next to a small cache.
const BOUND_BESIDE: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> Cache {
        Cache::builder().memory(1 << 20).open().unwrap()
    }

    fn entry(cache: &Cache, key: &str) -> Entry {
        cache.set(key, vec![1; 1000]).unwrap();
        cache.get(key).unwrap().unwrap()
    }

    fn answers(held: Vec<Held>) -> Vec<(u64, Answer)> {
        (0..).zip(held.into_iter().map(|held| Answer { held, cut: Arc::default() })).collect()
    }

    /// The bytes that stay, and which answers are cut off.
    fn judged(held: Vec<Held>, bytes_max: u64, cache: &Cache) -> (u64, Vec<u64>) {
        let answers = answers(held);
        let (bytes, late) = judge(&answers, bytes_max, |entry| !cache.keeps(entry));
        let is_late = |answer: &Answer| late.iter().any(|late| Arc::ptr_eq(&late.cut, &answer.cut));
        (bytes, answers.iter().filter(|(_, answer)| is_late(answer)).map(|(number, _)| *number).collect())
    }

    #[test]
    fn who_has_waited_longest_is_cut_off_first_and_the_youngest_never() {
        let cache = cache();
        let own = |bytes: &[u64]| bytes.iter().map(|bytes| Held::Own(*bytes)).collect::<Vec<_>>();
        assert_eq!(judged(own(&[40, 30, 30]), 100, &cache), (100, vec![]));
        assert_eq!(judged(own(&[40, 30, 31]), 100, &cache), (61, vec![0]));
        assert_eq!(judged(own(&[10, 20, 500]), 100, &cache), (500, vec![0, 1]));
        assert_eq!(judged(own(&[]), 100, &cache), (0, vec![]));
    }

    #[test]
    fn what_the_cache_keeps_costs_nothing_and_what_it_lost_counts_once_for_all_its_readers() {
        let cache = cache();
        let (kept, lost) = (entry(&cache, "a:1"), entry(&cache, "a:2"));
        cache.delete("a:2").unwrap();
        let held = |entry: &Entry| Held::Entry(entry.clone());
        let weight = lost.weight() as u64;
        let all = || vec![held(&lost), held(&kept), held(&lost), held(&kept)];
        assert_eq!(judged(all(), weight, &cache), (weight, vec![]));
        let mut more = all();
        more.push(Held::Own(10));
        assert_eq!(judged(more, weight, &cache), (10, vec![0, 2]), "an entry goes with all its readers");
    }

    #[test]
    fn a_look_charges_what_is_held_and_the_end_of_a_wait_gives_it_back() {
        let cache = cache();
        let outgoing = Outgoing::new(&cache);
        let cuts: Vec<Arc<Cut>> = (0..3).map(|_| Arc::default()).collect();
        let waits: Vec<_> = cuts.iter().map(|cut| outgoing.wait(Held::Own(5 << 20), cut.clone())).collect();
        outgoing.look();
        let is_cut = |cut: &Arc<Cut>| cut.is_cut.load(Ordering::Acquire);
        assert_eq!(cuts.iter().map(is_cut).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(outgoing.0.charge.lock().bytes(), 5 << 20);
        drop(waits);
        outgoing.look();
        assert_eq!((outgoing.0.charge.lock().bytes(), outgoing.0.waiting.lock().bytes), (0, 0));
    }
}
