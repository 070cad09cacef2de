//! Holding the process to its limit: looks at the resident size now and then, and gives way.
//!
//! What the entries are charged is not all that a process holds: freed memory that the allocator keeps, pages pinned
//! by one small block, and whatever else the program does. After every few megabytes inserted, whoever inserts takes
//! one step here: reads the resident size; if it is near what it may be, withholds a little of the limit, so that the
//! tier evicts and the next entries take what became free; if that does not help, has the allocator return what is
//! free; if it is too large all the same, withholds the excess. What is withheld is given back slowly.
//!
//! Cost: a read of one small file per step, a walk of the allocator's free lists when memory is to be returned.
//! Off until [`Resident::watch`] names a base. It knows nothing of entries.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::release;

#[derive(Debug, Default)]
pub(super) struct Resident {
    /// Resident bytes of the process with an empty tier; 0 while nobody watches.
    base: AtomicU64,
    /// Bytes inserted since the last step.
    inserted: AtomicI64,
    /// Held by whoever takes the step; what the last one that returned memory saw.
    step: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    /// Resident bytes after the allocator last returned what was free.
    after_release: u64,
    file: Option<std::fs::File>,
}

impl Resident {
    pub(super) fn watch(&self, base: u64) {
        self.base.store(base, Ordering::Relaxed);
    }

    /// Notes bytes that were inserted; says whether it is time for a step.
    #[inline]
    pub(super) fn is_time(&self, inserted: i64, limit: u64) -> bool {
        if inserted <= 0 || self.base.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let sum = self.inserted.fetch_add(inserted, Ordering::Relaxed) + inserted;
        sum > i64::try_from(limit / STEPS_PER_LIMIT).unwrap_or(i64::MAX).clamp(STEP_MIN, STEP_MAX)
    }

    /// Whether so much more may become resident, with as much to spare as makes free memory not worth returning.
    pub(super) fn has_room_for(&self, bytes: u64, limit: u64) -> bool {
        let base = self.base.load(Ordering::Relaxed);
        if base == 0 {
            return true;
        }
        let room = room(base, limit) - limit / HEADROOM_PART;
        resident_now().is_some_and(|resident| resident + bytes < room)
    }

    /// Has the allocator return what is free where so much more at once would be too much beside it.
    pub(super) fn return_for(&self, bytes: u64, limit: u64) {
        if bytes >= AT_ONCE_BYTES && !self.has_room_for(bytes, limit) {
            release::free_memory();
        }
    }

    /// One step, unless another thread is taking it: how much of the limit to withhold from now on.
    pub(super) fn look(&self, limit: u64, before: u64) -> Option<u64> {
        let base = self.base.load(Ordering::Relaxed);
        if base == 0 {
            return None;
        }
        let mut last = self.step.try_lock()?;
        self.inserted.store(0, Ordering::Relaxed);
        let room = room(base, limit);
        let mut resident = last.resident()?;
        let wanted = room - limit / HEADROOM_PART;
        // What is free serves the next entries without a page fault, so it is returned only when a little less of the
        // limit has not been enough, and when enough may have become free since the last time.
        let is_patient = resident <= room && before < limit / PATIENCE_PART;
        let is_worth = resident > last.after_release.saturating_add(limit / RELEASE_PART);
        if resident > wanted && !is_patient && (is_worth || resident > room) {
            release::free_memory();
            resident = last.resident()?;
            last.after_release = resident;
        }
        let withhold = if resident > room {
            before + (resident - room)
        } else if resident > wanted {
            before + (resident - wanted) / 4
        } else {
            // Slowly near the mark, so that it is not passed again at once.
            let spare = wanted - resident;
            let part = if spare > limit / HEADROOM_PART { 8 } else { 64 };
            before - (before / part).min(spare / 2)
        };
        Some(withhold.min(limit / 2))
    }
}

/// The most the process may hold.
fn room(base: u64, limit: u64) -> u64 {
    base + limit + (limit / ROOM_PART).max(ROOM_MIN)
}

impl Last {
    fn resident(&mut self) -> Option<u64> {
        resident_bytes(&mut self.file)
    }
}

/// The resident size of this process, where the system tells.
#[cfg(target_os = "linux")]
fn resident_bytes(file: &mut Option<std::fs::File>) -> Option<u64> {
    use std::os::unix::fs::FileExt;
    if file.is_none() {
        *file = std::fs::File::open("/proc/self/statm").ok();
    }
    let mut text = [0; 128];
    let len = file.as_ref()?.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..len)?).ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(not(target_os = "linux"))]
fn resident_bytes(_: &mut Option<std::fs::File>) -> Option<u64> {
    None
}

/// The resident size of this process, in bytes, where the system tells it.
#[must_use]
pub fn resident_now() -> Option<u64> {
    resident_bytes(&mut None)
}

/// The resident size may exceed base and limit by one part in so many.
const ROOM_PART: u64 = 15;

/// But by so much always: next to a small cache the rest of the process is not small.
const ROOM_MIN: u64 = 24 << 20;

/// Something is done about it when less than one part in so many of the limit is left below that.
const HEADROOM_PART: u64 = 32;

/// Free memory is returned when more than one part in so many of the limit had to be withheld.
const PATIENCE_PART: u64 = 16;

/// It is returned again after the resident size grew by one part in so many of the limit.
const RELEASE_PART: u64 = 64;

/// So much at once is not waited for until a step finds it resident.
const AT_ONCE_BYTES: u64 = 4 << 20;

const STEPS_PER_LIMIT: u64 = 128;
const STEP_MIN: i64 = 256 << 10;
const STEP_MAX: i64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_watching_costs_nothing_and_withholds_nothing() {
        let resident = Resident::default();
        assert!(!resident.is_time(i64::MAX / 2, 1 << 20));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_excess_is_withheld_and_given_back_when_it_is_over() {
        let ballast = vec![1_u8; 64 << 20];
        let now = resident_now().unwrap();
        let resident = Resident::default();
        // With next to nothing as base this process is far above a limit of a megabyte.
        resident.watch(1);
        assert!(resident.is_time(1 << 20, 1 << 20));
        assert_eq!(resident.look(1 << 20, 0), Some(1 << 19));
        resident.watch(now * 2);
        let mut withheld = 1 << 19;
        for _ in 0..100 {
            withheld = resident.look(1 << 20, withheld).unwrap();
        }
        assert!(withheld < 100, "{withheld}");
        drop(ballast);
    }
}
