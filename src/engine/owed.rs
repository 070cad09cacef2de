//! An invalidation that is owed for a change made elsewhere: to be settled before the change is acknowledged.
//!
//! Taken on before the change is begun. Whoever makes the change and then leaves or panics before settling it has it
//! settled all the same, a moment later: whether the change took place, nobody can tell by then.

use crate::error::Result;
use crate::key::{Key, Namespace};
use crate::pattern::Pattern;

use super::Cache;

/// What is to be invalidated once a change has been made.
#[derive(Debug)]
#[must_use]
pub(crate) struct Owed {
    cache: Cache,
    /// Taken when it is settled or forgiven.
    what: Option<What>,
}

#[derive(Debug, Clone)]
struct What {
    keys: Vec<Key>,
    namespaces: Vec<Namespace>,
    pattern: Option<Pattern>,
}

impl Owed {
    pub(crate) fn keys(cache: &Cache, keys: Vec<Key>) -> Self {
        Self::new(cache, What { keys, namespaces: Vec::new(), pattern: None })
    }

    #[cfg(feature = "typed")]
    pub(crate) fn keys_and_namespace(cache: &Cache, keys: Vec<Key>, namespace: Namespace) -> Self {
        Self::new(cache, What { keys, namespaces: vec![namespace], pattern: None })
    }

    #[cfg(feature = "tower")]
    pub(crate) fn pattern(cache: &Cache, pattern: Pattern) -> Self {
        Self::new(cache, What { keys: Vec::new(), namespaces: Vec::new(), pattern: Some(pattern) })
    }

    fn new(cache: &Cache, what: What) -> Self {
        Self { cache: cache.clone(), what: Some(what) }
    }

    /// Invalidates it, durably, on a thread that may block.
    pub(crate) async fn settle(mut self) -> Result<()> {
        let (cache, what) = (self.cache.clone(), self.what.clone());
        let settled = blocking::unblock(move || what.map_or(Ok(()), |what| what.invalidate(&cache))).await;
        // Not before: a caller who leaves in the middle has it done by the drop.
        self.what = None;
        settled
    }

    /// There was no change.
    #[cfg(feature = "tower")]
    pub(crate) fn forgive(mut self) {
        self.what = None;
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        let Some(what) = self.what.take() else { return };
        let cache = self.cache.clone();
        blocking::unblock(move || {
            if let Err(error) = what.invalidate(&cache) {
                tracing::error!(error = %error.chain(), "what a change left behind could not be taken out durably");
            }
        })
        .detach();
    }
}

impl What {
    /// All of it, whatever fails; the first error.
    fn invalidate(&self, cache: &Cache) -> Result<()> {
        let mut settled = if self.keys.is_empty() { Ok(0) } else { cache.delete_many(&self.keys) };
        for namespace in &self.namespaces {
            settled = settled.and(cache.invalidate_namespace(namespace));
        }
        if let Some(pattern) = &self.pattern {
            settled = settled.and(cache.delete_pattern(pattern));
        }
        settled.map(|_| ())
    }
}
