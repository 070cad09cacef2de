//! What of the file to give up and what to write anew: a decision made from numbers, carried out by `disk/batch.rs`.
//!
//! Whole groups go when nothing in them is alive. Groups that are mostly dead, or small, are written anew together.
//! When the file has no room, the oldest go, with what is alive in them. Every transaction that removes a group must
//! also write down all the dead that are not written down yet, so removing is done in large steps.

use super::catalog::{Catalog, GROUPS_MAX, Group};

/// What to do with groups, by id.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tidying {
    /// Nothing in them is alive.
    pub(crate) empty: Vec<u64>,
    /// What is alive in them is written anew.
    pub(crate) moved: Vec<u64>,
    /// What is alive in them is given up.
    pub(crate) evicted: Vec<u64>,
}

impl Tidying {
    #[cfg(test)]
    fn is_nothing(&self) -> bool {
        self.empty.is_empty() && self.moved.is_empty() && self.evicted.is_empty()
    }
}

/// What there is room for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// What is about to be written.
    pub(crate) incoming_bytes: u64,
    /// What all groups may take.
    pub(crate) budget_bytes: u64,
    /// How many records the index has memory for.
    pub(crate) records_max: u64,
    /// There is nothing else to do, so also what is only worth doing then.
    pub(crate) is_idle: bool,
}

/// What to do so that all stays within `room`.
pub(crate) fn choose(catalog: &Catalog, room: &Room) -> Tidying {
    let Room { incoming_bytes, budget_bytes, records_max, is_idle } = *room;
    let mut tidying = Tidying::default();
    let stored_bytes = catalog.sums.stored_bytes;
    let empty: Vec<&Group> = catalog.groups().filter(|group| group.live == 0).collect();
    let empty_bytes: u64 = empty.iter().map(|group| group.stored_bytes).sum();
    let mut over_bytes = (stored_bytes + incoming_bytes).saturating_sub(budget_bytes);
    if catalog.len() + GROUPS_SPARE > GROUPS_MAX || catalog.sums.records > records_max {
        over_bytes = over_bytes.max(stored_bytes / 64);
    }
    if !empty.is_empty()
        && (is_idle || over_bytes > 0 || empty_bytes >= (stored_bytes / 32).max(STEP_BYTES_MIN))
    {
        tidying.empty = empty.iter().map(|group| group.id).collect();
    }
    let mut over_bytes = over_bytes.saturating_sub(empty_bytes);
    choose_moved(catalog, budget_bytes, is_idle, &mut tidying);
    if over_bytes > 0 {
        // Room for some batches at once.
        over_bytes += budget_bytes / 32;
        for group in catalog.groups().filter(|group| group.live > 0 && !tidying.moved.contains(&group.id)) {
            if over_bytes == 0 {
                break;
            }
            over_bytes = over_bytes.saturating_sub(group.stored_bytes);
            tidying.evicted.push(group.id);
        }
    }
    tidying
}

fn choose_moved(catalog: &Catalog, budget_bytes: u64, is_idle: bool, tidying: &mut Tidying) {
    let sums = catalog.sums;
    let dead_bytes = sums.stored_bytes.saturating_sub(sums.live_bytes);
    let most_bytes = MOVED_BYTES_MAX.min(budget_bytes / 16);
    let mut moved_bytes = 0;
    let mut move_all = |groups: Vec<&Group>, moved: &mut Vec<u64>| {
        for group in groups {
            if moved_bytes + group.live_bytes > most_bytes {
                break;
            }
            moved_bytes += group.live_bytes;
            moved.push(group.id);
        }
    };
    let is_worth = dead_bytes > (sums.live_bytes / 2).max(DEAD_BYTES_MIN);
    if is_worth || (is_idle && dead_bytes > (sums.live_bytes / 4).max(DEAD_BYTES_MIN)) {
        let mut half_dead: Vec<&Group> = catalog.groups().filter(|group| is_half_dead(group)).collect();
        half_dead.sort_by_key(|group| group.live_bytes * 1024 / group.stored_bytes.max(1));
        move_all(half_dead, &mut tidying.moved);
    }
    let small: Vec<&Group> = catalog
        .groups()
        .filter(|group| {
            group.live > 0 && group.stored_bytes < SMALL_BYTES && !tidying.moved.contains(&group.id)
        })
        .collect();
    if small.len() > SMALL_GROUPS_MAX {
        move_all(small, &mut tidying.moved);
    }
}

fn is_half_dead(group: &Group) -> bool {
    group.live > 0 && group.live_bytes < group.stored_bytes / 2
}

/// Less than this of empty groups is not worth a removal by itself.
const STEP_BYTES_MIN: u64 = 4 << 20;

/// How many more groups a few batches may bring.
const GROUPS_SPARE: usize = 1024;

/// Less dead than this is left alone.
const DEAD_BYTES_MIN: u64 = 4 << 20;

/// A batch writes at most so much anew.
const MOVED_BYTES_MAX: u64 = 4 << 20;

/// A group smaller than this is a small one; more than so many of them are joined.
const SMALL_BYTES: u64 = 256 << 10;
pub(crate) const SMALL_GROUPS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::catalog::Rows;
    use crate::disk::pack::{Directory, Line, UNTIL_NEVER, rough_size};

    /// A group of `count` records of 10 kB each.
    fn add(catalog: &mut Catalog, id: u64, count: u64) {
        let line = |number: u64| Line {
            fingerprint: (id * 1000 + number).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            sequence: id,
            until_ms: UNTIL_NEVER,
            size: rough_size(10_000),
            heat: 0,
        };
        let lines: Vec<Line> = (0..count).map(line).collect();
        let directory = Directory { id, starts: vec![0], lines, bytes: count * 10_000 };
        let rows = Rows { directory_sum: 1, notes_sum: 0, directory_pieces: 1, bytes: count * 10_000 };
        let slot = catalog.add(&directory, &rows).unwrap();
        for (record, line) in (0..).zip(&directory.lines) {
            catalog.point(line.fingerprint, slot, record);
        }
    }

    fn room(incoming_bytes: u64, budget_bytes: u64, is_idle: bool) -> Room {
        Room { incoming_bytes, budget_bytes, records_max: 1 << 20, is_idle }
    }

    fn bury(catalog: &mut Catalog, id: u64, count: usize) {
        for (_, place) in catalog.live_places(id).into_iter().take(count) {
            catalog.bury(0, place);
        }
    }

    #[test]
    fn what_fits_and_lives_is_left_alone() {
        let mut catalog = Catalog::default();
        (1..10).for_each(|id| add(&mut catalog, id, 100));
        assert!(choose(&catalog, &room(1 << 20, 1 << 30, true)).is_nothing());
    }

    #[test]
    fn without_room_the_empty_go_first_and_then_the_oldest() {
        let mut catalog = Catalog::default();
        (1..11).for_each(|id| add(&mut catalog, id, 100));
        bury(&mut catalog, 5, 100);
        let tidying = choose(&catalog, &room(1_000_000, 10_000_000, false));
        assert_eq!((tidying.empty, tidying.evicted), (vec![5], vec![]));
        let tidying = choose(&catalog, &room(2_000_000, 10_000_000, false));
        assert_eq!(
            (tidying.empty, tidying.evicted),
            (vec![5], vec![1, 2]),
            "two, so as not to come back at once"
        );
    }

    #[test]
    fn more_records_than_the_index_has_room_for_go_from_the_oldest_on() {
        let mut catalog = Catalog::default();
        (1..11).for_each(|id| add(&mut catalog, id, 100));
        let room = Room { records_max: 999, ..room(0, 1 << 30, false) };
        assert!(choose(&catalog, &room).evicted.starts_with(&[1]));
    }

    #[test]
    fn the_mostly_dead_and_many_small_ones_are_written_anew() {
        let mut catalog = Catalog::default();
        (1..21).for_each(|id| add(&mut catalog, id, 100));
        (1..11).for_each(|id| bury(&mut catalog, id, 90));
        let tidying = choose(&catalog, &room(0, 1 << 30, false));
        assert_eq!(tidying.moved, (1..11).collect::<Vec<_>>());
        let mut catalog = Catalog::default();
        (1..40).for_each(|id| add(&mut catalog, id, 1));
        assert_eq!(choose(&catalog, &room(0, 1 << 30, false)).moved.len(), 39);
    }
}
