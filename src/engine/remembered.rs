//! Keys that something is remembered of for a while: that their source has nothing, that it just failed, that its value
//! is not to be kept.
//!
//! Bounded in number and in bytes; when full, what is over goes first, then everything: it is only ever a saving. What
//! is remembered is no entry: it is neither listed nor counted, and never hides one.

use std::collections::HashMap;

use crate::clock::Timestamp;
use crate::key::KeyRef;
use crate::sync::{AtomicUsize, Mutex, Ordering, fence};

/// A bounded set of keys, each until a moment of its own.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    until: Mutex<Keys>,
    /// How many there are, or more: looked at before the lock is taken. Raised under the lock, before a key is admitted.
    about: AtomicUsize,
}

#[derive(Debug, Default)]
struct Keys {
    until: HashMap<Box<str>, Timestamp>,
    bytes: usize,
}

impl Remembered {
    /// Whether `key` is remembered at `now`.
    pub(super) fn holds(&self, key: KeyRef<'_>, now: Timestamp) -> bool {
        self.until(key, now).is_some()
    }

    /// Until when `key` is remembered, if it is at `now`.
    pub(super) fn until(&self, key: KeyRef<'_>, now: Timestamp) -> Option<Timestamp> {
        if self.about.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.until.lock().until.get(key.as_str()).copied().filter(|until| now < *until)
    }

    /// Remembers `key` until then, unless `admit` says no. What supersedes a load does so before it calls
    /// [`Remembered::forget`], so whichever comes first here, the key is not remembered after both.
    pub(super) fn remember(
        &self,
        key: KeyRef<'_>,
        now: Timestamp,
        until: Timestamp,
        admit: impl FnOnce() -> bool,
    ) {
        let mut keys = self.until.lock();
        self.about.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if admit() {
            keys.make_room(key.as_str().len(), now);
            let before = keys.until.insert(key.as_str().into(), until);
            keys.bytes += if before.is_some() { 0 } else { key.as_str().len() };
        }
        self.about.store(keys.until.len(), Ordering::SeqCst);
    }

    /// Forgets `key`.
    pub(super) fn forget(&self, key: KeyRef<'_>) {
        fence(Ordering::SeqCst);
        if self.about.load(Ordering::SeqCst) > 0 {
            let mut keys = self.until.lock();
            if keys.until.remove(key.as_str()).is_some() {
                keys.bytes -= key.as_str().len();
            }
            self.about.store(keys.until.len(), Ordering::SeqCst);
        }
    }

    /// Forgets every key that `goes` names.
    pub(super) fn forget_where(&self, goes: impl Fn(&str) -> bool) {
        let mut keys = self.until.lock();
        keys.retain(|key, _| !goes(key));
        self.about.store(keys.until.len(), Ordering::SeqCst);
    }

    /// Forgets what is over at `now`.
    pub(super) fn sweep(&self, now: Timestamp) {
        if self.about.load(Ordering::Acquire) > 0 {
            let mut keys = self.until.lock();
            keys.retain(|_, until| now < until);
            self.about.store(keys.until.len(), Ordering::SeqCst);
        }
    }
}

impl Keys {
    fn retain(&mut self, stays: impl Fn(&str, Timestamp) -> bool) {
        let bytes = &mut self.bytes;
        self.until.retain(|key, until| {
            let stays = stays(key, *until);
            *bytes -= if stays { 0 } else { key.len() };
            stays
        });
    }

    fn make_room(&mut self, bytes: usize, now: Timestamp) {
        let is_full = |keys: &Self| keys.until.len() >= KEYS_MAX || keys.bytes + bytes > BYTES_MAX;
        if is_full(self) {
            self.retain(|_, until| now < until);
        }
        if is_full(self) {
            self.until.clear();
            self.bytes = 0;
        }
    }
}

/// The most keys remembered.
const KEYS_MAX: usize = 8192;

/// The most bytes of keys remembered.
const BYTES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn a_key_is_remembered_until_its_moment_or_until_it_is_forgotten() {
        let (remembered, key) = (Remembered::default(), KeyRef::parse("a:1").unwrap());
        assert!(!remembered.holds(key, at(0)));
        remembered.remember(key, at(0), at(10), || false);
        assert!(!remembered.holds(key, at(0)));
        remembered.remember(key, at(0), at(10), || true);
        assert!(remembered.holds(key, at(9)) && !remembered.holds(key, at(10)));
        remembered.forget(key);
        assert!(!remembered.holds(key, at(0)));
        remembered.remember(key, at(0), at(10), || true);
        remembered.sweep(at(10));
        assert_eq!(remembered.about.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn however_many_keys_are_remembered_they_stay_within_their_bounds() {
        let remembered = Remembered::default();
        for number in 0..12_000 {
            let key = format!("a:{number}:{}", "x".repeat(number % 900));
            remembered.remember(KeyRef::parse(&key).unwrap(), at(0), at(10), || true);
            let keys = remembered.until.lock();
            assert!(keys.until.len() <= KEYS_MAX && keys.bytes <= BYTES_MAX);
            if number % 500 == 0 {
                assert_eq!(keys.bytes, keys.until.keys().map(|key| key.len()).sum::<usize>());
            }
        }
    }
}
