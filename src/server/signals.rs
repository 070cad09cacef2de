//! The signals that a server hears: stop, read the settings again, and a second one that does not wait.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Error, ErrorKind, Result};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Stop,
    Reload,
}

/// The signals that are heard; registered before anything is opened, so that none is missed.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn register() -> Result<Self> {
        let failed = |error| Error::new(ErrorKind::Busy, "signals cannot be awaited").because(error);
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            hangup: signal(SignalKind::hangup()).map_err(failed)?,
        })
    }

    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}

/// Ends the process at the next signal to stop, whatever is under way.
pub(super) async fn exit_at_second_signal(mut signals: Signals) {
    while signals.next().await == Asked::Reload {
        tracing::warn!("stopping already, the settings are not read again");
    }
    tracing::warn!("second signal: leaving at once");
    std::process::exit(EXIT_AT_ONCE);
}

/// The exit code of a stop that did not wait.
const EXIT_AT_ONCE: i32 = 1;
