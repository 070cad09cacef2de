//! Where a put ends that is the first of its key: one short lock, a push, and nothing looked up.
//!
//! It keeps a bit for each key that was ever put or lies in the file. A key without its bit is nowhere yet, so a put of
//! it needs no mark and has nothing to replace: that is the common case, and here it is done. Any other key is a matter
//! for the queue (`disk/queue.rs`), which takes over what has arrived whenever somebody looks into it. Bits are never
//! taken back, except that the writer makes them anew from the index when they have become too many; a bit too many
//! costs time, a bit too few would bring an older value back.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::record::fingerprint;
use crate::entry::Entry;
use crate::hint::{HUGE_PAGE_BYTES, gather_pages, prefetch};

/// What has arrived and is in no map yet.
#[derive(Debug)]
pub(crate) struct Intake {
    arrived: Vec<Entry>,
    arrived_bytes: u64,
    /// What the queue holds that waits to be written.
    queued_bytes: u64,
    bytes_max: u64,
    /// The writer looks again when so much waits.
    news_bytes: u64,
    /// Puts that found no room.
    dropped: u64,
    seen: Seen,
    /// Whether a missing bit means anything: not before the file's records are known.
    is_certain: bool,
}

/// What became of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// It waits, and the writer's plans are the same as before.
    Waits,
    /// It waits, and the writer should look.
    IsNews,
    /// There is no room for it, and nothing older of its key that could come back in its stead.
    Dropped,
    /// It must go through the queue.
    Unsettled,
}

impl Intake {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            arrived: Vec::new(),
            arrived_bytes: 0,
            queued_bytes: 0,
            bytes_max,
            news_bytes: u64::MAX,
            dropped: 0,
            seen: Seen::with_room(0),
            is_certain: false,
        }
    }

    /// It may hold so much from now on.
    pub(crate) fn set_bytes_max(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// Takes a put in, if nothing older of its key may be anywhere.
    pub(crate) fn put(&mut self, fingerprint: u128, entry: &mut Entry) -> Arrived {
        let bytes = entry.weight() as u64;
        if self.waiting_bytes() + bytes > self.bytes_max {
            if !self.is_unknown(fingerprint) {
                return Arrived::Unsettled;
            }
            self.dropped += 1;
            return Arrived::Dropped;
        }
        let is_first = self.seen.is_first(order(fingerprint)) && self.is_certain;
        if !is_first {
            return Arrived::Unsettled;
        }
        self.arrived.push(entry.share());
        self.arrived_bytes += bytes;
        if self.is_news() { Arrived::IsNews } else { Arrived::Waits }
    }

    /// Notes a key whose put is in the queue now.
    pub(crate) fn note(&mut self, fingerprint: u128) {
        self.seen.is_first(order(fingerprint));
    }

    /// The writer is about to wait, and is to hear of it once when so much waits.
    pub(crate) fn expect(&mut self, news_bytes: u64) {
        self.news_bytes = news_bytes;
    }

    /// Whether the writer is to hear of what waits now.
    pub(crate) fn is_news(&mut self) -> bool {
        let is_news = self.waiting_bytes() >= self.news_bytes;
        if is_news {
            self.news_bytes = u64::MAX;
        }
        is_news
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether nothing of the key may be anywhere.
    pub(crate) fn is_unknown(&self, fingerprint: u128) -> bool {
        self.is_certain && !self.seen.has(order(fingerprint))
    }

    /// Whether anything has arrived since it was last taken.
    pub(crate) fn has_arrived(&self) -> bool {
        !self.arrived.is_empty()
    }

    /// What has arrived since the last call, and its bytes.
    pub(crate) fn take(&mut self) -> (Vec<Entry>, u64) {
        // Who finds nothing leaves the room that was made for what comes next.
        if self.arrived.is_empty() {
            return (Vec::new(), 0);
        }
        let next = Vec::with_capacity(self.arrived.len().min(ROOM_MAX));
        (std::mem::replace(&mut self.arrived, next), std::mem::take(&mut self.arrived_bytes))
    }

    /// The queue says what it holds.
    pub(crate) fn set_queued(&mut self, bytes: u64) {
        self.queued_bytes = bytes;
    }

    /// What waits to be written in all.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.queued_bytes + self.arrived_bytes
    }

    /// From now on anything may be in the file.
    pub(crate) fn doubt(&mut self) {
        self.is_certain = false;
    }

    /// Takes over bits that were made anew, of all that is in the file or the queue; what has arrived since is added.
    pub(crate) fn trust(&mut self, mut seen: Seen) {
        seen.add(self.arrived.iter().map(|entry| fingerprint(entry.key())));
        self.seen = seen;
        self.is_certain = true;
    }

    /// Says where the bits are.
    pub(crate) fn show(&self, whereabouts: &Whereabouts) {
        whereabouts.address.store(self.seen.words().as_ptr() as usize, Ordering::Relaxed);
        whereabouts.words.store(self.seen.count, Ordering::Relaxed);
    }

    /// Whether so many bits are set that new keys look known too often.
    pub(crate) fn is_crowded(&self) -> bool {
        self.is_certain && self.seen.is_crowded()
    }

    pub(crate) fn bytes(&self) -> u64 {
        (self.seen.count * 8 + self.arrived.capacity() * size_of::<Entry>()) as u64
    }
}

/// Where the bits are, for who has no lock yet. Only a hint: they may have moved since.
#[derive(Debug, Default)]
pub(crate) struct Whereabouts {
    address: AtomicUsize,
    words: AtomicUsize,
}

impl Whereabouts {
    /// Brings the key's bits nearer to the processor: fetching them from memory is most of what a put costs.
    pub(crate) fn approach(&self, fingerprint: u128) {
        let words = self.words.load(Ordering::Relaxed);
        prefetch(
            self.address
                .load(Ordering::Relaxed)
                .wrapping_add(8 * word_of(hash_of(order(fingerprint)), words)),
        );
    }
}

/// Which keys have been seen, by what the index tells apart of them: each sets [`BITS`] bits of one word.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Some of these, so that they begin with a huge page.
    all_words: Box<[u64]>,
    begin: usize,
    count: usize,
    keys: u64,
}

impl Seen {
    /// Room for so many keys, and for as many to come.
    pub(crate) fn with_room(keys: u64) -> Self {
        let wanted = (keys.saturating_mul(2) / KEYS_A_WORD).clamp(WORDS_MIN, WORDS_MAX);
        let mut count = usize::try_from(wanted).unwrap_or(1);
        if count < WORDS_A_PAGE {
            return Self { all_words: vec![0; count].into_boxed_slice(), begin: 0, count, keys: 0 };
        }
        count = count.next_multiple_of(WORDS_A_PAGE);
        let all_words = vec![0; count + WORDS_A_PAGE].into_boxed_slice();
        let address = all_words.as_ptr() as usize;
        let begin = (address.next_multiple_of(HUGE_PAGE_BYTES) - address) / size_of::<u64>();
        Self { all_words, begin, count, keys: 0 }
    }

    fn words(&self) -> &[u64] {
        self.all_words.get(self.begin..self.begin + self.count).unwrap_or_default()
    }

    /// Has the words backed by huge pages where they are many and in use: each put and each question looks at one of
    /// them, wherever it may be, and of pages of 4 kB the processor does not know so many addresses by heart.
    pub(crate) fn gather(&self) {
        for page in self.words().chunks_exact(WORDS_A_PAGE) {
            gather_pages(page.as_ptr() as usize, HUGE_PAGE_BYTES);
        }
    }

    /// Notes a key; whether it had not been seen for certain.
    pub(crate) fn is_first(&mut self, order: u64) -> bool {
        let (at, bits) = self.place(order);
        let Some(word) = self.all_words.get_mut(self.begin + at) else { return false };
        let is_first = *word & bits != bits;
        *word |= bits;
        self.keys += u64::from(is_first);
        is_first
    }

    /// Notes the keys of these fingerprints.
    pub(crate) fn add(&mut self, fingerprints: impl Iterator<Item = u128>) {
        for fingerprint in fingerprints {
            self.is_first(order(fingerprint));
        }
    }

    fn has(&self, order: u64) -> bool {
        let (at, bits) = self.place(order);
        self.words().get(at).is_none_or(|word| word & bits == bits)
    }

    fn place(&self, order: u64) -> (usize, u64) {
        let hash = hash_of(order);
        let more = (hash ^ (hash >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        let bits = (0..BITS).fold(0, |bits, number| bits | 1 << (more >> (58 - 6 * number) & 63));
        (word_of(hash, self.count), bits)
    }

    fn is_crowded(&self) -> bool {
        let words = self.count as u64;
        self.keys > words * KEYS_A_WORD && words < WORDS_MAX
    }
}

/// The upper bits of a product depend on all of the key's.
fn hash_of(order: u64) -> u64 {
    order.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn word_of(hash: u64, words: usize) -> usize {
    let at = (u128::from(hash) * words as u128) >> 64;
    usize::try_from(at).unwrap_or(usize::MAX)
}

fn order(fingerprint: u128) -> u64 {
    super::index::order(super::state::half(fingerprint))
}

/// What arrives next is made room for as if it were like the last, up to so many.
const ROOM_MAX: usize = 1 << 16;

/// With one key more than that in each word, about one new key in five hundred looks known: each of them costs as much as
/// many that do not, and waits for the writer where that is changing the index.
const KEYS_A_WORD: u64 = 3;

const BITS: u32 = 5;

const WORDS_A_PAGE: usize = HUGE_PAGE_BYTES / size_of::<u64>();

/// 512 kB, of which only what is used becomes resident.
const WORDS_MIN: u64 = 1 << 16;

/// 32 MB: beyond some 12 million keys new ones look known more often.
const WORDS_MAX: u64 = 1 << 22;

#[cfg(test)]
mod tests {
    use super::Arrived::{Dropped, IsNews as News, Unsettled, Waits};
    use super::*;
    use crate::clock::Timestamp;
    use crate::entry::Parts;
    use crate::key::KeyRef;

    fn entry(number: u64) -> (u128, Entry) {
        let key = format!("k:{number}");
        let (stored_at, expires_at) = (Timestamp::from_millis(0), Timestamp::NEVER);
        let parts = Parts { head: b"", body: b"", tags: &[], stored_at, expires_at, sequence: number };
        let entry = Entry::new(KeyRef::parse(&key).unwrap(), &parts);
        (fingerprint(entry.key()), entry)
    }

    fn certain(bytes_max: u64) -> Intake {
        let mut intake = Intake::new(bytes_max);
        intake.expect(1);
        intake.trust(Seen::with_room(0));
        intake
    }

    #[test]
    fn only_the_first_put_of_a_key_is_settled_here() {
        let mut intake = certain(1000);
        let (fingerprint, mut one) = entry(1);
        assert!(intake.is_unknown(fingerprint));
        assert_eq!(intake.put(fingerprint, &mut one), Arrived::IsNews);
        assert!(!intake.is_unknown(fingerprint));
        assert_eq!(intake.put(fingerprint, &mut one), Arrived::Unsettled);
        assert_eq!(intake.waiting_bytes(), one.weight() as u64);
        let (taken, bytes) = intake.take();
        assert_eq!((taken.len(), bytes, intake.has_arrived()), (1, one.weight() as u64, false));
        assert_eq!(
            intake.put(fingerprint, &mut one),
            Arrived::Unsettled,
            "it may have been written meanwhile"
        );
        let mut uncertain = Intake::new(1000);
        assert_eq!(uncertain.put(fingerprint, &mut one), Arrived::Unsettled);
        let mut seen = Seen::with_room(0);
        seen.add(std::iter::once(fingerprint));
        uncertain.trust(seen);
        assert_eq!(uncertain.put(fingerprint, &mut one), Arrived::Unsettled, "it waits in the queue");
    }

    #[test]
    fn the_bound_holds_and_the_writer_hears_once_of_what_it_expects() {
        let weight = entry(0).1.weight() as u64;
        let mut intake = certain(4 * weight);
        let put = |number: u64, intake: &mut Intake| {
            let (fingerprint, mut entry) = entry(number);
            intake.put(fingerprint, &mut entry)
        };
        let outcomes = [0, 1].map(|number| put(number, &mut intake));
        intake.expect(3 * weight);
        assert_eq!(outcomes, [News, Waits]);
        assert_eq!([2, 3].map(|number| put(number, &mut intake)), [News, Waits]);
        assert_eq!(intake.waiting_bytes(), 4 * weight);
    }

    #[test]
    fn without_room_a_new_key_is_dropped_unseen_and_a_known_one_is_a_matter_for_the_queue() {
        let weight = entry(0).1.weight() as u64;
        let mut intake = certain(weight);
        let (one, mut first) = entry(1);
        let (two, mut second) = entry(2);
        assert_eq!(intake.put(one, &mut first), News);
        assert_eq!(intake.put(two, &mut second), Dropped);
        assert_eq!(intake.put(two, &mut second), Dropped);
        assert!(intake.is_unknown(two), "nothing of it is anywhere");
        assert_eq!(intake.put(one, &mut first), Unsettled);
        assert_eq!((intake.dropped(), intake.waiting_bytes()), (2, weight));
        intake.doubt();
        assert_eq!(intake.put(two, &mut second), Unsettled, "an older one may be in the file");
    }

    #[test]
    fn new_keys_rarely_look_known_until_it_is_crowded() {
        let mut seen = Seen::with_room(200_000);
        let known = |number: u64| order(entry(number).0);
        let collided = (0..200_000).filter(|number| !seen.is_first(known(*number))).count();
        assert!(collided < 20 && !seen.is_crowded(), "{collided}");
        assert!((0..200_000).all(|number| seen.has(known(number))));
        let strangers =
            |seen: &Seen, from: u64| (from..from + 20_000).filter(|number| seen.has(known(*number))).count();
        assert!(strangers(&seen, 200_000) < 8);
        let mut next = 200_000;
        while !seen.is_crowded() {
            seen.is_first(known(next));
            next += 1;
        }
        assert!((399_000..401_000).contains(&next), "{next}");
        let at_worst = strangers(&seen, next);
        assert!(at_worst < 60, "{at_worst}");
    }
}
