//! The words of the disk tier: how it is to behave, and how it is.

use std::time::Duration;

use super::marks::Floor;

/// When what is written is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Entries after the flush interval, deletes and invalidations before they are acknowledged.
    #[default]
    Interval,
    /// As `Interval`; and the caller flushes before it acknowledges a write.
    Always,
    /// Nothing is waited for.
    None,
}

/// How the disk tier is to behave.
#[derive(Debug, Clone)]
pub(crate) struct DiskOptions {
    /// The bound of the bulk's file.
    pub(crate) bytes_max: u64,
    pub(crate) durability: Durability,
    /// How long an entry waits to be written at most, while the disk keeps up.
    pub(crate) flush_interval: Duration,
    /// How many bytes of entries may wait to be written.
    pub(crate) queue_bytes_max: u64,
    /// What the index of the records may take of memory; more records than that are not kept.
    pub(crate) index_bytes_max: u64,
}

impl DiskOptions {
    /// How many removals may wait to be written.
    pub(crate) fn removals_max(&self) -> usize {
        usize::try_from(self.queue_bytes_max / super::queue::REMOVE_BYTES).unwrap_or(usize::MAX)
    }
}

/// What the truth said at the open.
#[derive(Debug)]
pub(crate) struct Truth {
    /// Everything below these is dead.
    pub(crate) floors: Vec<(Floor, u64)>,
    /// Above every sequence ever given before.
    pub(crate) first_sequence: u64,
}

/// Whether the tier persists.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskState {
    /// It persists.
    Healthy,
    /// Memory only for now, because of this.
    Degraded(String),
}

/// The tier in numbers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DiskStatus {
    /// Whether it persists.
    pub state: DiskState,
    /// What the records that may still be served take, within an eighth.
    pub live_bytes: u64,
    /// What of the file is not live.
    pub dead_bytes: u64,
    /// What the file takes.
    pub file_bytes: u64,
    /// How many records it holds.
    pub entries: u64,
    /// What waits to be written.
    pub queued_bytes: u64,
    /// How many of them wait to be written.
    pub queued: usize,
    /// Puts that found no room in the queue.
    pub dropped: u64,
    /// Puts that were dead on arrival.
    pub refused: u64,
    /// Records dropped to stay within the bound.
    pub evicted: u64,
    /// Records whose checksum did not hold.
    pub broken: u64,
    /// Records that expired and were given up without being read.
    pub expired: u64,
    /// What the index of the records takes of memory.
    pub index_bytes: u64,
}
