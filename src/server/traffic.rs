//! What was answered, by kind of route and status, and who was turned away: one addition each, read by metrics and stats.

use std::sync::atomic::{AtomicU64, Ordering};

/// The answers so far.
#[derive(Debug)]
pub(super) struct Traffic {
    /// By kind of route, then status less [`STATUS_MIN`].
    answers: [[AtomicU64; STATUSES]; Class::ALL.len()],
    /// By what there was none of.
    turned_away: [AtomicU64; Want::ALL.len()],
}

/// What somebody who is turned away found none of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// A seat for a connection.
    Connection,
    /// Room for the buffers of one more connection of HTTP/2 or TLS.
    Buffers,
    /// A seat for a request of HTTP/2.
    Stream,
    /// Room for a body that is being received.
    Body,
}

impl Want {
    pub(super) const ALL: [Self; 4] = [Self::Connection, Self::Buffers, Self::Stream, Self::Body];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Buffers => "buffers",
            Self::Stream => "stream",
            Self::Body => "body",
        }
    }
}

/// A kind of route; few, because each is a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Content,
    Admin,
    /// Health, metrics, the description, and whatever is no route at all.
    Operations,
}

impl Class {
    pub(super) const ALL: [Self; 3] = [Self::Content, Self::Admin, Self::Operations];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Admin => "admin",
            Self::Operations => "operations",
        }
    }

    pub(super) fn of(path: &str) -> Self {
        if path.starts_with("/admin/") {
            Self::Admin
        } else if path.starts_with("/api/v1/") && !path.starts_with("/api/v1/health") {
            Self::Content
        } else {
            Self::Operations
        }
    }
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            answers: [const { [const { AtomicU64::new(0) }; STATUSES] }; Class::ALL.len()],
            turned_away: [const { AtomicU64::new(0) }; Want::ALL.len()],
        }
    }
}

impl Traffic {
    /// Counts an answer.
    pub(super) fn answered(&self, class: Class, status: u16) {
        let at = usize::from(status.saturating_sub(STATUS_MIN)).min(STATUSES - 1);
        if let Some(count) = self.answers.get(class as usize).and_then(|statuses| statuses.get(at)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts somebody who was turned away for want of something.
    pub(super) fn turn_away(&self, want: Want) {
        if let Some(count) = self.turned_away.get(want as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many were turned away for want of it.
    pub(super) fn turned_away(&self, want: Want) -> u64 {
        self.turned_away.get(want as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Every kind of answer there was: class, status, how many.
    pub(super) fn answers(&self) -> Vec<(Class, u16, u64)> {
        let by_status = |class: Class| {
            let statuses = self.answers.get(class as usize).into_iter().flatten();
            (STATUS_MIN..)
                .zip(statuses)
                .map(move |(status, count)| (class, status, count.load(Ordering::Relaxed)))
        };
        Class::ALL.into_iter().flat_map(by_status).filter(|(.., count)| *count > 0).collect()
    }
}

/// Statuses are 100 to 599.
const STATUS_MIN: u16 = 100;
const STATUSES: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_class_and_status() {
        let traffic = Traffic::default();
        for (path, status) in [
            ("/api/v1/surahs/2", 200),
            ("/api/v1/surahs/2", 200),
            ("/api/v1/health", 200),
            ("/admin/v1/stats", 401),
            ("/nothing", 404),
        ] {
            traffic.answered(Class::of(path), status);
        }
        let counted = traffic.answers();
        assert_eq!(
            counted,
            [
                (Class::Content, 200, 2),
                (Class::Admin, 401, 1),
                (Class::Operations, 200, 1),
                (Class::Operations, 404, 1)
            ]
        );
    }
}
