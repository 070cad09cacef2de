//! Whether to send this process requests: set by those who know, read by `/readyz`.

use std::sync::atomic::{AtomicBool, Ordering};

/// What keeps the process from being ready; nothing does by default.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    /// Raised before the doors open when requests are to wait for the first warming; lowered once by whoever warms.
    is_warming: AtomicBool,
    /// Raised once, by the first signal to stop.
    is_stopping: AtomicBool,
}

impl Readiness {
    /// Waits from now on until [`Readiness::warmed`].
    #[expect(dead_code, reason = "the first warming raises it")]
    pub(super) fn wait_for_warming(&self) {
        self.is_warming.store(true, Ordering::Relaxed);
    }

    /// The first warming is over.
    #[expect(dead_code, reason = "the first warming lowers it")]
    pub(super) fn warmed(&self) {
        self.is_warming.store(false, Ordering::Relaxed);
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
        self.is_warming.load(Ordering::Relaxed).then_some("the first warming is not done yet")
    }
}
