//! Whether to send this process requests: set by those who know, read by `/readyz`.

use std::sync::atomic::{AtomicBool, Ordering};

use super::warm::Warmer;

/// What keeps the process from being ready.
#[derive(Debug)]
pub(super) struct Readiness {
    /// Whose warming at the start requests are to wait for, if anybody's.
    warmer: Option<Warmer>,
    /// Raised once, by the first signal to stop.
    is_stopping: AtomicBool,
}

impl Readiness {
    /// Ready once `warmer` has warmed, or from the start on.
    pub(super) fn new(warmer: Option<Warmer>) -> Self {
        Self { warmer, is_stopping: AtomicBool::new(false) }
    }

    /// From now on requests are better sent elsewhere.
    pub(super) fn stopping(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// What there is to wait for, if anything.
    pub(super) fn waits_for(&self) -> Option<&'static str> {
        if self.is_stopping.load(Ordering::Relaxed) {
            return Some("the server is being stopped");
        }
        let is_warming = self.warmer.as_ref().is_some_and(|warmer| !warmer.is_warm());
        is_warming.then_some("the first warming is not done yet")
    }
}
