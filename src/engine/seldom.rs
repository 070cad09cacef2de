//! Lines of the log that would be repeated for as long as something is broken: each is written once in a while, with how
//! often it was left out since. What they sum up is in the log one by one at level `debug`.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::monotonic_now;

/// The lines of one cache.
#[derive(Debug, Default)]
pub(super) struct Repeated {
    /// Something stale was served because the source failed.
    pub(super) fallback: Seldom,
    /// The source failed and there was nothing to serve.
    pub(super) failed: Seldom,
    /// A value was refused.
    pub(super) rejected: Seldom,
    /// A load was slow.
    pub(super) slow: Seldom,
}

/// One line that is written seldom.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    /// Calls `write` with how often the line was left out, unless that was done a moment ago.
    pub(super) fn say(&self, write: impl FnOnce(u64)) {
        if let Some(left_out) = self.due(monotonic_now()) {
            write(left_out);
        }
    }

    fn due(&self, now: Instant) -> Option<u64> {
        let mut said = self.0.lock();
        if said.last.is_some_and(|last| now.duration_since(last) < EVERY) {
            said.left_out += 1;
            return None;
        }
        said.last = Some(now);
        Some(std::mem::take(&mut said.left_out))
    }
}

/// A line is written at most once in this time.
const EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_once_in_a_while_with_how_often_it_was_left_out() {
        let (seldom, began) = (Seldom::default(), monotonic_now());
        let due = |after: Duration| seldom.due(began + after);
        assert_eq!(due(Duration::ZERO), Some(0));
        assert_eq!((due(Duration::ZERO), due(EVERY / 2)), (None, None));
        assert_eq!(due(EVERY), Some(2));
        assert_eq!(due(EVERY * 2), Some(0));
    }
}
