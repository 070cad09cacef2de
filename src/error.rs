//! What can go wrong, by kind.
//!
//! An [`Error`] carries a stable [`ErrorKind`] for programs, a plain sentence for people and, where there is one, the
//! cause underneath. It is cheap to clone, because one failed load answers every caller that waited for it.
//! A miss is not an error, and neither is a full queue: those are outcomes with names of their own.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// A `Result` whose error is hifz's own.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kinds of failure a caller may want to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The text is not a key: empty, too long, a control character, or a leading `:`.
    KeyInvalid,
    /// The key belongs to built-in content and is not for writing by hand.
    KeyReserved,
    /// The value is larger than the limit for one value.
    ValueTooLarge,
    /// The source could not be reached or failed.
    SourceUnavailable,
    /// The source did not answer in time.
    SourceTimedOut,
    /// The source answered something that is not acceptable.
    SourceRefused,
    /// The disk tier or the content store failed to read or write.
    DiskFailed,
    /// What is stored cannot be trusted: damaged, foreign or of a newer format.
    DiskNotTrusted,
    /// A stored document does not match its digest.
    ContentDamaged,
    /// A document handed in breaks a rule; [`Error::place`] names the field or file.
    DocumentInvalid,
    /// An archive or a document is larger than accepted.
    DocumentTooLarge,
    /// What was asked for does not exist.
    NotFound,
    /// The state of what is to be changed is not the one the request demands.
    PreconditionFailed,
    /// A translation that can be imported but has not been.
    TranslationNotAvailable,
    /// Too much is under way already; try again shortly.
    Busy,
    /// It would take more memory than the limit leaves, whatever else is under way.
    MemoryTooSmall,
    /// The cache has been closed.
    Closed,
    /// An argument is not accepted; [`Error::place`] names it.
    ArgumentInvalid,
    /// A setting is unknown or its value is not accepted.
    Settings,
    /// Another process holds the data directory.
    Locked,
}

/// A failure: its kind, a sentence, where it happened and what caused it.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    place: Option<Arc<str>>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure of `kind`, said in `message`: small first letter, no full stop, the value and what was accepted in it.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), place: None, source: None }
    }

    /// The same failure with its cause underneath.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(cause.into()));
        self
    }

    /// The same failure with the field, file or setting in which it happened.
    #[must_use]
    pub fn at(mut self, place: impl AsRef<str>) -> Self {
        self.place = Some(Arc::from(place.as_ref()));
        self
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The sentence without its cause.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The field, file or setting in which it happened, where one was named.
    #[must_use]
    pub fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }

    /// Whether the same call may succeed a little later without anything being changed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::SourceUnavailable
                | ErrorKind::SourceTimedOut
                | ErrorKind::DiskFailed
                | ErrorKind::Busy
        )
    }

    /// The sentence and every cause below it, for the log.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({})", self.kind, self.chain())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|cause| cause as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_its_place_its_sentence_and_its_causes() {
        let error = Error::new(ErrorKind::DocumentInvalid, "expected 1 to 114, got 115")
            .at("number")
            .because(std::io::Error::other("the cause"));
        assert_eq!(error.to_string(), "number: expected 1 to 114, got 115");
        assert_eq!(error.chain(), "number: expected 1 to 114, got 115: the cause");
        assert_eq!(error.place(), Some("number"));
        assert!(!error.is_retryable());
    }
}
