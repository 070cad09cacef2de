//! Lifetimes per namespace.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Timestamp;

/// How long what is in a namespace lives.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Policy {
    /// How long an entry is fresh; `None` for ever.
    pub ttl: Option<Duration>,
    /// How long a client may keep the answer without asking again.
    pub client_max_age: Option<Duration>,
    /// The share of `ttl`, 0 to 1, by which lifetimes are shortened at random, so that what was stored together does
    /// not fall due together.
    pub jitter: f64,
    /// How long an entry lives that nobody uses; `None` for as long as `ttl` says. Storing is a use, so what is found on
    /// disk lives so long from its storing.
    pub idle_ttl: Option<Duration>,
    /// The share of the memory limit, above 0 to 1, that the namespace may fill.
    pub max_share: f64,
}

impl Policy {
    /// Entries that are fresh for `ttl`, for clients as well.
    #[must_use]
    pub const fn with_ttl(ttl: Duration) -> Self {
        Self { ttl: Some(ttl), client_max_age: Some(ttl), jitter: 0.0, idle_ttl: None, max_share: 1.0 }
    }

    /// When an entry stored at `stored_at` stops being fresh; its `sequence` is what its jitter is drawn from.
    pub(super) fn expiry(&self, stored_at: Timestamp, sequence: u64) -> Timestamp {
        let Some(ttl) = self.ttl else { return Timestamp::NEVER };
        if self.jitter <= 0.0 {
            return stored_at.after(ttl);
        }
        let drawn =
            u32::try_from(xxhash_rust::xxh3::xxh3_64(&sequence.to_le_bytes()) >> 32).unwrap_or(u32::MAX);
        let shortened_by = self.jitter.min(1.0) * f64::from(drawn) / f64::from(u32::MAX);
        stored_at.after(ttl.mul_f64(1.0 - shortened_by))
    }

    /// The same, but a client asks again after `max_age`.
    #[must_use]
    pub const fn client_max_age(mut self, max_age: Duration) -> Self {
        self.client_max_age = Some(max_age);
        self
    }
}

impl Policy {
    /// The same, but lifetimes are shortened at random by up to this share of `ttl`.
    #[must_use]
    pub const fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// The same, but what nobody uses for so long is over.
    #[must_use]
    pub const fn idle_ttl(mut self, idle_ttl: Option<Duration>) -> Self {
        self.idle_ttl = idle_ttl;
        self
    }

    /// The same, but the namespace may fill only this share of the memory limit.
    #[must_use]
    pub const fn max_share(mut self, share: f64) -> Self {
        self.max_share = share;
        self
    }
}

impl Default for Policy {
    /// One hour.
    fn default() -> Self {
        Self::with_ttl(Duration::from_hours(1))
    }
}

/// The policy of every namespace: its own, or the default.
#[derive(Debug, Clone, Default)]
pub(super) struct Policies {
    default: Policy,
    by_namespace: HashMap<Box<str>, Policy>,
}

impl Policies {
    pub(super) fn set(&mut self, namespace: &str, policy: Policy) {
        self.by_namespace.insert(namespace.into(), policy);
    }

    /// The shares of the memory limit that differ from all of it.
    pub(super) fn shares(&self) -> impl Iterator<Item = (&str, f64)> {
        let own = self.by_namespace.iter().map(|(namespace, policy)| (&**namespace, policy.max_share));
        own.filter(|(_, share)| *share < 1.0)
    }

    /// The idle lifetimes of namespaces that have one.
    pub(super) fn idle_ttls(&self) -> impl Iterator<Item = (&str, Duration)> {
        self.by_namespace.iter().filter_map(|(namespace, policy)| Some((&**namespace, policy.idle_ttl?)))
    }

    pub(super) fn of(&self, namespace: &str) -> Policy {
        self.by_namespace.get(namespace).copied().unwrap_or(self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_shortens_lifetimes_within_its_share_and_spreads_them() {
        let policy = Policy::with_ttl(Duration::from_secs(100)).jitter(0.5);
        let stored_at = Timestamp::from_millis(1000);
        let lifetimes: Vec<_> = (0..1000)
            .map(|sequence| policy.expiry(stored_at, sequence).since(stored_at).as_millis())
            .collect();
        assert!(lifetimes.iter().all(|lifetime| (50_000..=100_000).contains(lifetime)));
        let (least, most) = (lifetimes.iter().min().unwrap(), lifetimes.iter().max().unwrap());
        assert!(most - least > 45_000, "{least} to {most}");
    }

    #[test]
    fn without_jitter_a_lifetime_is_exactly_the_ttl() {
        let stored_at = Timestamp::from_millis(1000);
        assert_eq!(Policy::default().expiry(stored_at, 7), Timestamp::from_millis(3_601_000));
    }
}
