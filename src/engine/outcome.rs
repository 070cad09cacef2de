//! What a question was answered with, under the one name each outcome has everywhere.
//!
//! [`settle`] is where a question that asked a source ends: it is counted, written to the log and told to listeners, all by
//! the name in [`Outcome::name`]; doors say the same name to their clients. A hit costs none of that but its count: one in
//! a few is told, and the log has each only at its finest level.

use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::key::KeyRef;

use super::events::Event;
use super::heavy::Remains;
use super::state::State;
use super::stats::MissReason;

/// Where an answer came from. Each has one name, the same in types, logs, metrics, events and `Cache-Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// From memory or disk, fresh.
    Hit,
    /// From memory or disk, past its lifetime but within its stale window, because a load took too long.
    Stale,
    /// From memory or disk, past its lifetime, while a load that nobody waits for brings the next one.
    Revalidating,
    /// From the source, and kept.
    Miss,
    /// From a load that another caller had begun.
    Joined,
    /// The source had said that there is none, and that still holds.
    Negative,
    /// From memory or disk, past its lifetime, because the source failed.
    Fallback,
    /// From the source, and not kept: too large, not to be stored, or overtaken by an invalidation.
    Bypass,
    /// The source answered something that is not acceptable, and nothing older could be served.
    Rejected,
}

impl Outcome {
    /// Every outcome, in the order of [`Outcome::index`].
    pub const ALL: [Self; 9] = [
        Self::Hit,
        Self::Stale,
        Self::Revalidating,
        Self::Miss,
        Self::Joined,
        Self::Negative,
        Self::Fallback,
        Self::Bypass,
        Self::Rejected,
    ];

    /// Its one name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Revalidating => "revalidating",
            Self::Miss => "miss",
            Self::Joined => "joined",
            Self::Negative => "negative",
            Self::Fallback => "fallback",
            Self::Bypass => "bypass",
            Self::Rejected => "rejected",
        }
    }

    /// Whether the answer came from the cache, fresh or stale, as `Cache-Status` has it.
    #[must_use]
    pub const fn is_hit(self) -> bool {
        match self {
            Self::Hit | Self::Stale | Self::Revalidating | Self::Negative | Self::Fallback => true,
            Self::Miss | Self::Joined | Self::Bypass | Self::Rejected => false,
        }
    }

    /// The outcome of a question; `None` when it failed otherwise than by a value that was rejected.
    #[must_use]
    pub fn of(answered: &Result<Answer>) -> Option<Self> {
        match answered {
            Ok(answer) => Some(answer.outcome),
            Err(error) if error.kind() == ErrorKind::SourceRefused => Some(Self::Rejected),
            Err(error) if is_failure(error) => None,
            // The source was asked, and its answer is definite.
            Err(_) => Some(Self::Miss),
        }
    }

    /// Its place in [`Outcome::ALL`], for tables by outcome.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// What a question was answered with, and where that came from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Answer {
    /// The entry; `None` when its source has nothing under the key.
    pub entry: Option<Entry>,
    /// Where it came from.
    pub outcome: Outcome,
    /// What is kept of the turn of a large load: whoever holds the entry for longer, such as while it is sent, holds this
    /// too, so that the next large load waits for it.
    pub turn: Option<Remains>,
}

impl Answer {
    /// That `entry` is the answer.
    #[must_use]
    pub fn of(entry: Entry, outcome: Outcome) -> Self {
        Self { entry: Some(entry), outcome, turn: None }
    }
}

/// Counts what a question to a source was answered, writes it to the log and tells listeners; `reason` is why memory had
/// nothing to serve.
pub(super) fn settle(state: &State, key: KeyRef<'_>, reason: MissReason, answered: &Result<Answer>) {
    let outcome = Outcome::of(answered);
    match (outcome, answered) {
        (Some(Outcome::Hit), Ok(Answer { entry: Some(entry), .. })) => return state.count_hit(entry, None),
        (Some(Outcome::Miss), _) => state.count_miss(key, reason),
        (Some(outcome), _) => state.count(key, outcome),
        (None, _) => state.count_miss(key, MissReason::Failed),
    }
    let name = outcome.map_or(MissReason::Failed.name(), Outcome::name);
    tracing::debug!(target: ANSWERS, namespace = key.namespace(), outcome = name, "answered");
    match (outcome, answered) {
        (Some(Outcome::Fallback), _) => state.seldom.fallback.say(|left_out| {
            let namespace = key.namespace();
            tracing::warn!(
                namespace,
                left_out,
                "the source fails; what is past its lifetime is served instead"
            );
        }),
        (None, Err(error)) if is_of_source(error) => state.seldom.failed.say(|left_out| {
            let (namespace, error) = (key.namespace(), error.chain());
            tracing::warn!(namespace, error, left_out, "the source fails, and nothing can be served instead");
        }),
        _ => {}
    }
    if let Some(outcome) = outcome {
        state.events.tell(|| Event::Answered { key: key.to_key(), outcome });
    }
}

/// Writes a hit to the log, where its finest level is asked for.
#[inline]
pub(super) fn log_hit(entry: &Entry) {
    if tracing::level_enabled!(tracing::Level::TRACE) {
        let namespace = entry.key().namespace();
        tracing::trace!(target: ANSWERS, namespace, outcome = Outcome::Hit.name(), "answered");
    }
}

/// Whether `error` means that the source is at fault, and not that it gave a definite answer.
pub(super) fn is_failure(error: &Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::TranslationNotAvailable | ErrorKind::KeyInvalid | ErrorKind::Closed
    )
}

fn is_of_source(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::SourceUnavailable | ErrorKind::SourceTimedOut)
}

/// What the lines of single answers are filtered by in the log.
const ANSWERS: &str = "hifz::answers";
