//! Memory that the program holds beside the cache and on the cache's account: entries give way to it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::state::State;

/// So many bytes of the memory limit given up to something else, until this is dropped; from [`Cache::charge`].
///
/// [`Cache::charge`]: super::Cache::charge
pub struct Charge {
    state: Arc<State>,
    bytes: u64,
}

impl Charge {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self { state, bytes: 0 }
    }

    /// What is charged.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Charges `bytes` from now on instead of what was charged before. Entries have given way when this returns, to within
    /// a megabyte of all charges; those together take at most three quarters of the limit.
    pub fn set(&mut self, bytes: u64) {
        let sum = &self.state.charged_bytes;
        let change = bytes.abs_diff(self.bytes);
        let before = if bytes > self.bytes {
            sum.fetch_add(change, Ordering::Relaxed)
        } else {
            sum.fetch_sub(change, Ordering::Relaxed)
        };
        let after = before.wrapping_add(bytes).wrapping_sub(self.bytes);
        self.bytes = bytes;
        if before / STEP_BYTES != after / STEP_BYTES || after == 0 && change > 0 {
            self.state.charge_beside();
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charge").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Entries give way by so much at a time, so that many small charges cost little.
const STEP_BYTES: u64 = 1 << 20;
