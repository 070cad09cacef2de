//! How many entries of each namespace are dead and still stand, so that the next invalidation does not count them again.
//!
//! An invalidation costs the same however much it kills, so what it killed is taken out later, by the sweeper.

use crate::sync::Mutex;
use std::collections::HashMap;

/// The dead that the sweeper has not come to yet, by namespace.
#[derive(Debug, Default)]
pub(super) struct Doomed(Mutex<HashMap<Box<str>, u64>>);

impl Doomed {
    /// Kills, by calling `kill`, the `standing` entries of each namespace named; how many of them were still alive.
    pub(super) fn kill<'n>(
        &self,
        standing: impl Iterator<Item = (&'n str, u64)>,
        kill: impl FnOnce(),
    ) -> u64 {
        let mut doomed = self.0.lock();
        kill();
        let mut alive = 0;
        for (namespace, stands) in standing {
            let dead = doomed.entry(namespace.into()).or_default();
            alive += stands.saturating_sub(*dead);
            *dead = stands;
        }
        alive
    }

    /// One of the dead of `namespace` has been taken out.
    pub(super) fn buried(&self, namespace: &str) {
        if let Some(dead) = self.0.lock().get_mut(namespace) {
            *dead = dead.saturating_sub(1);
        }
    }

    /// All have been taken out, unless `is_more` says that there were new ones meanwhile.
    pub(super) fn all_buried(&self, is_more: impl FnOnce() -> bool) {
        let mut doomed = self.0.lock();
        if !is_more() {
            doomed.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_are_counted_once() {
        let doomed = Doomed::default();
        assert_eq!(doomed.kill([("a", 3)].into_iter(), || ()), 3);
        assert_eq!(doomed.kill([("a", 3)].into_iter(), || ()), 0);
        assert_eq!(doomed.kill([("a", 5), ("b", 1)].into_iter(), || ()), 3);
        doomed.buried("a");
        assert_eq!(doomed.kill([("a", 4)].into_iter(), || ()), 0);
        doomed.all_buried(|| false);
        assert_eq!(doomed.kill([("a", 1)].into_iter(), || ()), 1);
    }
}
