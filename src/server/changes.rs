//! From the content store's outbox to the cache: the one bridge between what changed and what is invalidated.
//!
//! A change is written together with its outbox line; the line goes only when the invalidation is durable. So whatever
//! happens between the two, the next start finishes it before anything is served.

use std::time::Duration;

use crate::content::{Change, Store, Target};
use crate::engine::{Cache, Event};
use crate::error::Result;

/// Invalidates what depends on `change`, durably, and takes its line out of the outbox. Blocks on the disk.
pub(super) fn apply(cache: &Cache, store: &Store, change: &Change) -> Result<()> {
    let mut keys = Vec::new();
    for target in &change.targets {
        match target {
            Target::Key(key) => keys.push(key.clone()),
            Target::Namespace(namespace) => {
                cache.invalidate_namespace(namespace)?;
            }
        }
    }
    if !keys.is_empty() {
        cache.delete_many(&keys)?;
    }
    tracing::info!(
        change = change.id,
        targets = change.targets.len(),
        "content changed, dependent entries invalidated"
    );
    store.change_done(change.id)?;
    let named = change.targets.iter().take(TARGETS_TOLD_MAX).map(|target| match target {
        Target::Key(key) => key.to_string(),
        Target::Namespace(namespace) => format!("namespace {namespace}"),
    });
    let mut what = named.collect::<Vec<_>>().join(", ");
    if let Some(more @ 1..) = change.targets.len().checked_sub(TARGETS_TOLD_MAX) {
        what = format!("{what} and {more} more");
    }
    cache.tell(Event::SourceChanged { what });
    Ok(())
}

/// Finishes what an earlier process had begun. Blocks on the disk.
pub(super) fn finish(cache: &Cache, store: &Store) -> Result<()> {
    let changes = drain(cache, store)?;
    if changes > 0 {
        tracing::info!(changes, "finished what an earlier process had begun");
    }
    Ok(())
}

/// Tries again, for as long as the process lives, what a failing disk kept from being finished.
pub(super) async fn keep_draining(cache: Cache, store: Store) {
    loop {
        tokio::time::sleep(RETRY_INTERVAL).await;
        let (cache, store) = (cache.clone(), store.clone());
        match blocking::unblock(move || drain(&cache, &store)).await {
            Ok(0) => {}
            Ok(changes) => tracing::info!(changes, "finished changes that had been left"),
            Err(error) => tracing::warn!(error = %error.chain(), "changes wait to be finished"),
        }
    }
}

/// Applies every change that an earlier process, or a failed attempt, left in the outbox. Blocks on the disk.
pub(super) fn drain(cache: &Cache, store: &Store) -> Result<usize> {
    let pending = store.pending_changes()?;
    for change in &pending {
        apply(cache, store, change)?;
    }
    Ok(pending.len())
}

/// So many of the keys that a change concerns are told to listeners by name.
const TARGETS_TOLD_MAX: usize = 4;

/// How often it is looked whether a change was left.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
