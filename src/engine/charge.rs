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

    /// Charges `bytes` from now on instead of what was charged before. Entries have given way when this returns; all
    /// charges together take at most three quarters of the limit.
    pub fn set(&mut self, bytes: u64) {
        let sum = &self.state.charged_bytes;
        if bytes > self.bytes {
            sum.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            sum.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        if bytes != std::mem::replace(&mut self.bytes, bytes) {
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
