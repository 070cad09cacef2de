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
}

impl Policy {
    /// Entries that are fresh for `ttl`, for clients as well.
    #[must_use]
    pub const fn with_ttl(ttl: Duration) -> Self {
        Self { ttl: Some(ttl), client_max_age: Some(ttl) }
    }

    /// When an entry stored at `stored_at` stops being fresh.
    pub(super) fn expiry(&self, stored_at: Timestamp) -> Timestamp {
        self.ttl.map_or(Timestamp::NEVER, |ttl| stored_at.after(ttl))
    }

    /// The same, but a client asks again after `max_age`.
    #[must_use]
    pub const fn client_max_age(mut self, max_age: Duration) -> Self {
        self.client_max_age = Some(max_age);
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

    pub(super) fn of(&self, namespace: &str) -> Policy {
        self.by_namespace.get(namespace).copied().unwrap_or(self.default)
    }
}
