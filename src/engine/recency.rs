//! Which entries are in use, told to the disk tier now and then: a restart begins with them, and what is given up there
//! for want of space is what nobody uses.

use crate::entry::Entry;
use crate::memory::Cursor;

use super::state::State;

/// Tells the disk tier how recently each entry in memory was used; what is not in memory cools down.
pub(super) fn tell(state: &State) {
    let Some(disk) = &state.disk else { return };
    disk.cool();
    let mut next = Some(Cursor::default());
    while let Some(at) = next {
        let tell = |entry: &Entry, age: u64| disk.note_use(entry.key(), heat(age));
        next = state.memory.scan_ages(at, SCAN_STEPS, tell).next;
    }
}

/// From 255 for what was used last down to 128, four steps for each doubling of the age in uses.
fn heat(age: u64) -> u8 {
    let age = age.min(u64::from(u32::MAX / 8)) + 4;
    let doublings = age.ilog2();
    let quarter = u32::try_from(age >> (doublings - 2)).unwrap_or(0) & 3;
    255 - u8::try_from((doublings - 2) * 4 + quarter).unwrap_or(127).min(127)
}

/// How many entries one step looks at.
const SCAN_STEPS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_later_is_never_colder() {
        assert_eq!(heat(0), 255);
        let heats: Vec<u8> = (0..100_000).step_by(7).map(heat).collect();
        assert!(heats.is_sorted_by(|a, b| a >= b));
        assert!(heat(u64::MAX) >= 128 && heat(u64::MAX) < heat(1_000_000));
    }
}
