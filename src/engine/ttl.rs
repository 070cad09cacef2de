//! How long an entry stays fresh, as an answer.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::entry::Entry;

/// How long an entry stays fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// So long yet.
    Left(Duration),
    /// Until it is evicted or invalidated.
    Forever,
}

impl Ttl {
    /// How long `entry` stays fresh from `now` on.
    #[must_use]
    pub fn of(entry: &Entry, now: Timestamp) -> Self {
        match entry.expires_at() {
            Timestamp::NEVER => Self::Forever,
            expires_at => Self::Left(expires_at.since(now)),
        }
    }

    /// The time left; `None` for ever.
    #[must_use]
    pub fn left(self) -> Option<Duration> {
        match self {
            Self::Left(left) => Some(left),
            Self::Forever => None,
        }
    }
}
