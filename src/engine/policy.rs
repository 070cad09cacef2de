//! One policy per namespace: how long its entries live, what is served past that, and how its source is asked.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Timestamp;

/// How what is in a namespace lives, and how its source is asked.
///
/// ```
/// use std::time::Duration;
/// use hifz::{Cache, Namespace, Policy};
///
/// let policy = Policy::with_ttl(Duration::from_mins(1))
///     .stale_while_revalidate(Duration::from_secs(30))
///     .stale_if_error(Duration::from_secs(3600))
///     .timeout(Duration::from_millis(500));
/// let cache = Cache::builder().policy(&Namespace::parse("pages")?, policy).open()?;
/// # Ok::<(), hifz::Error>(())
/// ```
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
    /// How long past its lifetime an entry is served while it is loaded anew and nobody waits.
    pub stale_while_revalidate: Duration,
    /// How long past its lifetime an entry is served when the source fails or is too slow.
    pub stale_if_error: Duration,
    /// How long it is remembered that the source has nothing under a key; zero: not at all.
    pub negative_ttl: Duration,
    /// The share of its lifetime, 0 to 1, after which an entry that is asked for is loaded anew ahead of time.
    pub eager_after: Option<f64>,
    /// How long a caller waits for a load before it is served what is stale.
    pub soft_timeout: Option<Duration>,
    /// The longest time of one attempt to load.
    pub timeout: Duration,
    /// The most attempts of one load.
    pub attempts: u32,
    /// The longest pause before the second attempt; doubles with each further one. What is waited is drawn between zero
    /// and that.
    pub backoff: Duration,
    /// So many failures of a source in a row open its breaker.
    pub breaker_failures: u32,
    /// How long an open breaker lets nothing through before it tries once.
    pub breaker_open: Duration,
    /// Loads that take longer are logged; zero: none.
    pub slow: Duration,
    /// The longest a caller waits for an answer; `None`: as long as all attempts may take together.
    pub patience: Option<Duration>,
}

impl Policy {
    /// Entries that are fresh for `ttl`, for clients as well; the rest as by default.
    #[must_use]
    pub const fn with_ttl(ttl: Duration) -> Self {
        Self {
            ttl: Some(ttl),
            client_max_age: Some(ttl),
            jitter: 0.0,
            idle_ttl: None,
            max_share: 1.0,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            negative_ttl: Duration::from_secs(30),
            eager_after: None,
            soft_timeout: None,
            timeout: Duration::from_secs(2),
            attempts: 3,
            backoff: Duration::from_millis(100),
            breaker_failures: 5,
            breaker_open: Duration::from_secs(10),
            slow: Duration::from_millis(200),
            patience: None,
        }
    }

    /// When an entry stored at `stored_at` stops being fresh; its `sequence` is what its jitter is drawn from.
    pub(super) fn expiry(&self, stored_at: Timestamp, sequence: u64) -> Timestamp {
        self.expiry_of(self.ttl, stored_at, sequence)
    }

    /// The same with a lifetime of the entry's own.
    pub(super) fn expiry_of(&self, ttl: Option<Duration>, stored_at: Timestamp, sequence: u64) -> Timestamp {
        let Some(ttl) = ttl else { return Timestamp::NEVER };
        if self.jitter <= 0.0 {
            return stored_at.after(ttl);
        }
        let drawn =
            u32::try_from(xxhash_rust::xxh3::xxh3_64(&sequence.to_le_bytes()) >> 32).unwrap_or(u32::MAX);
        let shortened_by = self.jitter.min(1.0) * f64::from(drawn) / f64::from(u32::MAX);
        stored_at.after(ttl.mul_f64(1.0 - shortened_by))
    }

    /// How long past its lifetime an entry may still be of use.
    pub(super) fn grace(&self) -> Duration {
        self.stale_while_revalidate.max(self.stale_if_error)
    }

    /// The longest pause after the attempt numbered `attempt`, from 1.
    pub(super) fn pause_max(&self, attempt: u32) -> Duration {
        let doubled = 1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        self.backoff.saturating_mul(doubled).min(PAUSE_MAX)
    }

    /// The longest a caller waits for an answer.
    pub(super) fn wait_max(&self) -> Duration {
        self.patience.unwrap_or_else(|| {
            let pauses = (1..self.attempts.max(1)).map(|attempt| self.pause_max(attempt));
            let asking = self.timeout.saturating_mul(self.attempts.max(1));
            pauses.fold(asking, Duration::saturating_add).saturating_add(WAIT_MARGIN)
        })
    }
}

/// Declares the setters: each gives the same policy with one thing changed.
macro_rules! setters {
    ($($(#[$doc:meta])+ $field:ident: $type:ty $(=> $wrapped:ident)?;)+) => {
        impl Policy {
            $($(#[$doc])+
            #[must_use]
            pub const fn $field(mut self, $field: $type) -> Self {
                self.$field = setters!(@value $field $($wrapped)?);
                self
            })+
        }
    };
    (@value $field:ident $wrapped:ident) => { $wrapped($field) };
    (@value $field:ident) => { $field };
}

setters! {
    /// The same, but a client asks again after `client_max_age`.
    client_max_age: Duration => Some;
    /// The same, but lifetimes are shortened at random by up to this share of `ttl`.
    jitter: f64;
    /// The same, but what nobody uses for so long is over.
    idle_ttl: Option<Duration>;
    /// The same, but the namespace may fill only this share of the memory limit.
    max_share: f64;
    /// The same, but served so long past its lifetime while it is loaded anew. Default: not.
    stale_while_revalidate: Duration;
    /// The same, but served so long past its lifetime when the source fails. Default: not.
    stale_if_error: Duration;
    /// The same, but absence is remembered so long. Default: 30 s.
    negative_ttl: Duration;
    /// The same, but what is asked for after this share of its lifetime is loaded anew ahead of time. Default: not.
    eager_after: f64 => Some;
    /// The same, but a caller who has waited so long is served what is stale. Default: it waits on.
    soft_timeout: Option<Duration>;
    /// The same, but one attempt takes at most so long. Default: 2 s.
    timeout: Duration;
    /// The same, but so many attempts at most. Default: 3.
    attempts: u32;
    /// The same, but with this pause before the second attempt, at most. Default: 100 ms.
    backoff: Duration;
    /// The same, but so many failures in a row open the breaker. Default: 5.
    breaker_failures: u32;
    /// The same, but an open breaker lets nothing through for so long. Default: 10 s.
    breaker_open: Duration;
    /// The same, but loads are logged when they take longer than this. Default: 200 ms.
    slow: Duration;
    /// The same, but a caller waits at most so long for an answer. Default: as long as all attempts may take.
    patience: Duration => Some;
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

    pub(super) fn set_default(&mut self, policy: Policy) {
        self.default = policy;
    }

    /// Whether any namespace has its entries loaded ahead of time; until then a hit need not look at its policy.
    pub(super) fn are_any_eager(&self) -> bool {
        let mut all = self.by_namespace.values().chain([&self.default]);
        all.any(|policy| policy.eager_after.is_some())
    }

    /// How long each namespace with a policy of its own keeps entries past their lifetime.
    pub(super) fn graces(&self) -> impl Iterator<Item = (&str, Duration)> {
        self.by_namespace.iter().map(|(namespace, policy)| (&**namespace, policy.grace()))
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

/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_mins(1);

/// What a caller waits beyond what its load may take: for its turn, and for the machine.
const WAIT_MARGIN: Duration = Duration::from_millis(500);

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

    #[test]
    fn pauses_double_and_a_caller_waits_for_all_attempts_at_most() {
        let policy = Policy::default().attempts(3).backoff(Duration::from_millis(100));
        let pauses = [1, 2, 3].map(|attempt| policy.pause_max(attempt).as_millis());
        assert_eq!(pauses, [100, 200, 400]);
        assert_eq!(policy.pause_max(u32::MAX), PAUSE_MAX);
        assert_eq!(policy.wait_max(), Duration::from_millis(3 * 2000 + 300 + 500));
        assert_eq!(policy.patience(Duration::from_secs(1)).wait_max(), Duration::from_secs(1));
    }
}
