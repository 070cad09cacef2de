//! The namespaces a tier has met, by number: found without a lock, never forgotten, at most [`NAMESPACES_MAX`].
//!
//! A hit asks nothing here; an insertion asks once, reading only. What comes after the table is full shares number 0,
//! the overflow, with one account for all of them.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;

use super::idle::Idle;
use crate::sync::{AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Mutex, Ordering};

/// One namespace, and what is set for it.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) name: Box<str>,
    /// The most it may hold, in millionths of the limit; at 1 000 000 it is not counted apart.
    share_ppm: AtomicU32,
    /// Its class in the index: 0 for all that have no share of their own. Set once by `set_share`.
    class: AtomicU8,
    /// What it holds, kept only while it has a class.
    bytes: AtomicI64,
    /// How long the sweeper leaves an entry after its deadline, in ms.
    grace_ms: AtomicU64,
    /// How long an entry lives that nobody uses.
    pub(super) idle: Idle,
}

impl Namespace {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            share_ppm: AtomicU32::new(WHOLE_PPM),
            class: AtomicU8::new(0),
            bytes: AtomicI64::new(0),
            grace_ms: AtomicU64::new(0),
            idle: Idle::default(),
        }
    }

    pub(super) fn class(&self) -> u8 {
        self.class.load(Ordering::Relaxed)
    }

    pub(super) fn set_class(&self, class: u8) {
        self.class.store(class, Ordering::Relaxed);
    }

    /// What it holds; 0 unless it has a class.
    pub(super) fn bytes(&self) -> u64 {
        u64::try_from(self.bytes.load(Ordering::Relaxed)).unwrap_or(0)
    }

    pub(super) fn count(&self, bytes: i64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The most it may hold of `limit` bytes.
    pub(super) fn bytes_max(&self, limit: u64) -> u64 {
        let ppm = self.share_ppm.load(Ordering::Relaxed);
        if ppm == WHOLE_PPM {
            return limit;
        }
        u64::try_from(u128::from(limit) * u128::from(ppm) / u128::from(WHOLE_PPM)).unwrap_or(limit)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=1 before")]
    pub(super) fn set_share(&self, share: f64) {
        let ppm = (share.clamp(0.0, 1.0) * f64::from(WHOLE_PPM)) as u32;
        self.share_ppm.store(ppm, Ordering::Relaxed);
    }

    pub(super) fn grace_ms(&self) -> u64 {
        self.grace_ms.load(Ordering::Relaxed)
    }

    /// Sets the grace and says whether it got shorter.
    pub(super) fn set_grace_ms(&self, grace_ms: u64) -> bool {
        self.grace_ms.swap(grace_ms, Ordering::Relaxed) > grace_ms
    }
}

/// All namespaces of a tier.
#[derive(Debug)]
pub(super) struct Namespaces {
    /// Filled in order, never emptied; a number is a place here. Number 0 is the overflow.
    list: Box<[OnceLock<Box<Namespace>>]>,
    /// Numbers by hash of the name, open addressing; 0 is a free place. Filled under `adding`, read by anyone.
    places: Box<[AtomicU16]>,
    /// How many numbers are given; held while one is added.
    adding: Mutex<u16>,
    /// The last class given.
    classes: AtomicU8,
    hasher: foldhash::quality::RandomState,
}

impl Namespaces {
    pub(super) fn new() -> Self {
        let list: Box<[OnceLock<Box<Namespace>>]> = (0..=NAMESPACES_MAX).map(|_| OnceLock::new()).collect();
        if let Some(overflow) = list.first() {
            overflow.get_or_init(|| Box::new(Namespace::new(OVERFLOW_NAME)));
        }
        let places = (0..PLACES).map(|_| AtomicU16::new(0)).collect();
        let hasher = foldhash::quality::RandomState::default();
        Self { list, places, adding: Mutex::new(1), classes: AtomicU8::new(0), hasher }
    }

    /// The number of a namespace, giving it one at its first time. A thread tends to write into one for a while, so the
    /// last it asked for is tried first, by its name: the number may be another tier's.
    #[inline]
    pub(super) fn number(&self, name: &[u8]) -> u16 {
        let last = LAST.get();
        if self.get(last).is_some_and(|namespace| namespace.name.as_bytes() == name) {
            return last;
        }
        let number = self.known(name).unwrap_or_else(|| self.add(name));
        LAST.set(number);
        number
    }

    /// The number of a namespace, if it has one.
    pub(super) fn known(&self, name: &[u8]) -> Option<u16> {
        for place in self.probe(name) {
            // Acquire: pairs with the store in `add`, so that what stands under the number is seen.
            let number = place.load(Ordering::Acquire);
            if self.get(number).filter(|_| number != 0)?.name.as_bytes() == name {
                return Some(number);
            }
        }
        None
    }

    pub(super) fn get(&self, number: u16) -> Option<&Namespace> {
        self.list.get(usize::from(number))?.get().map(Box::as_ref)
    }

    /// A class nobody has, if there is one left. The last number is nobody's: with the largest hash it would be the mark of
    /// an empty slot in the index.
    pub(super) fn next_class(&self) -> Option<u8> {
        let next = |last: u8| last.checked_add(1).filter(|class| *class < u8::MAX);
        self.classes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok().and_then(next)
    }

    /// All there are, with their numbers.
    pub(super) fn all(&self) -> impl Iterator<Item = (u16, &Namespace)> {
        (0..).map_while(|number| self.get(number).map(|namespace| (number, namespace)))
    }

    #[cold]
    fn add(&self, name: &[u8]) -> u16 {
        let mut given = self.adding.lock();
        if let Some(number) = self.known(name) {
            return number;
        }
        let Some(slot) = self.list.get(usize::from(*given)) else { return 0 };
        let Some(place) = self.probe(name).find(|place| place.load(Ordering::Relaxed) == 0) else { return 0 };
        slot.get_or_init(|| Box::new(Namespace::new(&String::from_utf8_lossy(name))));
        place.store(*given, Ordering::Release);
        *given += 1;
        *given - 1
    }

    /// The places where a name may stand, in order.
    fn probe(&self, name: &[u8]) -> impl Iterator<Item = &AtomicU16> {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(name);
        let start = hasher.finish() % PLACES;
        (0..PLACES).filter_map(move |step| self.places.get(usize::try_from((start + step) % PLACES).ok()?))
    }
}

thread_local! {
    /// The number that this thread asked for last, of whichever tier.
    static LAST: Cell<u16> = const { Cell::new(0) };
}

/// The name under which namespaces beyond the most are counted together. No real one can hold a `:`.
pub const OVERFLOW_NAME: &str = ":others";

/// How many namespaces are told apart.
pub const NAMESPACES_MAX: u16 = 4095;

/// Twice as many places as names, so that a look-up ends soon.
const PLACES: u64 = 8192;
const WHOLE_PPM: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_class_is_never_given_since_it_would_be_the_mark_of_an_empty_slot() {
        let namespaces = Namespaces::new();
        let given: Vec<_> = std::iter::from_fn(|| namespaces.next_class()).collect();
        assert_eq!(given, (1..u8::MAX).collect::<Vec<_>>());
        assert_eq!(namespaces.next_class(), None);
    }

    #[test]
    fn a_name_keeps_its_number_and_what_is_too_much_shares_one() {
        let namespaces = Namespaces::new();
        assert_eq!(namespaces.known(b"quran"), None);
        let quran = namespaces.number(b"quran");
        assert_eq!(namespaces.known(b"quran"), Some(quran));
        let numbers: Vec<_> = (0..6000).map(|i| namespaces.number(format!("n{i}").as_bytes())).collect();
        assert_eq!(namespaces.number(b"quran"), quran);
        for (i, number) in numbers.iter().enumerate() {
            assert_eq!(namespaces.number(format!("n{i}").as_bytes()), *number);
        }
        let apart = numbers.iter().filter(|number| **number != 0).count();
        assert_eq!(apart, usize::from(NAMESPACES_MAX) - 1);
    }

    #[test]
    fn a_share_is_of_the_limit() {
        let namespace = Namespace::new("n");
        assert_eq!(namespace.bytes_max(1000), 1000);
        namespace.set_share(0.25);
        assert_eq!(namespace.bytes_max(1000), 250);
    }
}
