//! Idle lifetimes: what nobody has used for so long is over, exactly as if its deadline had passed.
//!
//! An entry keeps no time of its last use, only the tick in its slot. A namespace with an idle lifetime keeps marks
//! instead: at this time the count of touches stood there. An entry touched at a mark's tick or later was used at that
//! mark's time or later. There is a mark every 64th of the lifetime, so what is over may go a 64th early, never late.
//!
//! Only namespaces that have such a lifetime pay for it: an exact clock and one small lock a hit.

use std::collections::VecDeque;

use super::ticks;
use crate::clock::Timestamp;
use crate::sync::{AtomicU64, Mutex, Ordering};

#[derive(Debug, Default)]
pub(super) struct Idle {
    /// The lifetime; 0 for none.
    lifetime_ms: AtomicU64,
    /// In order of time and tick; at most as many as there are parts of a lifetime, and two.
    marks: Mutex<VecDeque<Mark>>,
}

/// Touches with this tick or a later one were at this time or later.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Timestamp,
    tick: u64,
}

impl Idle {
    pub(super) fn lifetime_ms(&self) -> u64 {
        self.lifetime_ms.load(Ordering::Relaxed)
    }

    /// Sets the lifetime from now on; what stands already counts as used now.
    pub(super) fn set(&self, lifetime_ms: u64, now: Timestamp) {
        let mut marks = self.marks.lock();
        *marks = VecDeque::from([Mark { at: now, tick: 0 }]);
        self.lifetime_ms.store(lifetime_ms, Ordering::Relaxed);
    }

    /// The tick of a use at `now`.
    pub(super) fn touch(&self, now: Timestamp) -> u64 {
        let lifetime_ms = self.lifetime_ms();
        let mut marks = self.marks.lock();
        while marks.front().is_some_and(|mark| is_over(*mark, lifetime_ms, now)) {
            marks.pop_front();
        }
        let part_ms = (lifetime_ms / PARTS).max(1);
        let is_due = |mark: &Mark| now.as_millis() >= mark.at.as_millis().saturating_add(part_ms);
        if marks.back().is_none_or(is_due) {
            // The time was read before this tick is taken: whoever takes a later one is not earlier.
            marks.push_back(Mark { at: now, tick: ticks::next(true) });
        }
        ticks::next(true)
    }

    /// What was last touched before this tick is over at `now`.
    pub(super) fn floor(&self, now: Timestamp) -> u64 {
        let lifetime_ms = self.lifetime_ms();
        let marks = self.marks.lock();
        marks.iter().find(|mark| !is_over(**mark, lifetime_ms, now)).map_or(u64::MAX, |mark| mark.tick)
    }

    /// When what was last touched at `tick` is over, or a little before that.
    pub(super) fn over_at(&self, tick: u64) -> Timestamp {
        let marks = self.marks.lock();
        let last = marks.iter().rev().find(|mark| mark.tick <= tick).copied();
        let at = last.map_or(Timestamp::default(), |mark| mark.at);
        Timestamp::from_millis(at.as_millis().saturating_add(self.lifetime_ms()))
    }
}

fn is_over(mark: Mark, lifetime_ms: u64, now: Timestamp) -> bool {
    mark.at.as_millis().saturating_add(lifetime_ms) <= now.as_millis()
}

/// Marks per lifetime.
const PARTS: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn what_is_touched_lives_on_and_what_is_not_is_over_never_late() {
        let idle = Idle::default();
        idle.set(6400, at(0));
        let old = idle.touch(at(10));
        let ticks: Vec<_> = (1..200).map(|step| (step * 50, idle.touch(at(step * 50)))).collect();
        for (used_ms, tick) in &ticks {
            for now_ms in [used_ms + 6300, used_ms + 6399, used_ms + 6400, used_ms + 9000] {
                let is_alive = *tick >= idle.floor(at(now_ms));
                assert!(!is_alive || now_ms < used_ms + 6400, "late: used at {used_ms}, now {now_ms}");
                let is_marked = *used_ms + 6400 > 199 * 50;
                assert!(is_alive || now_ms >= used_ms + 6300 || !is_marked, "early: {used_ms}, {now_ms}");
            }
            let over_at = idle.over_at(*tick).as_millis();
            assert!(over_at <= used_ms + 6400);
        }
        assert!(old < idle.floor(at(6411)));
        assert!(idle.marks.lock().len() <= 66);
    }
}
