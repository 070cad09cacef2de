//! The sweeper thread: takes out what is due or of a dead generation, unread.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::monotonic_now;
use crate::disk::DiskState;
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{Cause, Cursor, Verdict};

use super::events::Event;
use super::recency;
use super::state::State;

/// The handle on the thread `hifz-sweeper`.
#[derive(Debug)]
pub(super) struct Sweeper {
    signal: Arc<Signal>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Signal {
    /// What the sweeper should do next; set by anyone, taken back by the sweeper.
    next: Mutex<Next>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Next {
    #[default]
    Wait,
    Sweep,
    Stop,
}

impl Sweeper {
    pub(super) fn start(state: &Arc<State>) -> Result<Self> {
        let signal = Arc::new(Signal::default());
        let (state, own_signal) = (Arc::downgrade(state), signal.clone());
        let thread = std::thread::Builder::new()
            .name("hifz-sweeper".into())
            .spawn(move || run(&state, &own_signal))
            .map_err(|error| {
                Error::new(ErrorKind::Busy, "the sweeper thread cannot be started").because(error)
            })?;
        Ok(Self { signal, thread: Mutex::new(Some(thread)) })
    }

    /// Sweeps soon instead of at the next tick.
    pub(super) fn wake(&self) {
        self.signal.set(Next::Sweep);
    }

    /// Whether the thread is at work.
    pub(super) fn is_alive(&self) -> bool {
        self.thread.lock().as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends the thread and waits for it.
    pub(super) fn stop(&self) {
        self.signal.set(Next::Stop);
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the sweeper thread had panicked");
        }
    }
}

impl Signal {
    fn set(&self, next: Next) {
        let mut standing = self.next.lock();
        if *standing != Next::Stop {
            *standing = next;
        }
        drop(standing);
        self.changed.notify_one();
    }

    /// Waits for a tick or a signal; false when it is time to stop.
    fn wait(&self) -> bool {
        let mut next = self.next.lock();
        if *next == Next::Wait {
            self.changed.wait_for(&mut next, TICK);
        }
        if *next == Next::Sweep {
            *next = Next::Wait;
        }
        *next != Next::Stop
    }
}

fn run(state: &Weak<State>, signal: &Signal) {
    let (mut floor_swept, mut uses_told_at) = (0, monotonic_now());
    while signal.wait() {
        let Some(state) = state.upgrade() else { return };
        state.clock.observe_wall();
        while state.memory.sweep(state.clock.now()).is_more_due {}
        for remembered in [&state.absent, &state.failed, &state.unstored] {
            remembered.sweep(state.clock.now());
        }
        state.events.deliver(&state.memory);
        state.charge_beside();
        if let Some(disk) = &state.disk {
            for change in disk.changes() {
                state.events.tell(|| told(change));
            }
        }
        state.memory.look_at_resident();
        // The rest at the next tick: gathering must not hold up the sweep.
        state.memory.gather();
        if uses_told_at.elapsed() > USES_INTERVAL {
            recency::tell(&state);
            uses_told_at = monotonic_now();
        }
        let raised = state.generations.latest();
        if raised != floor_swept {
            remove_dead(&state, raised);
            floor_swept = raised;
        }
    }
}

fn told(change: DiskState) -> Event {
    let (state, reason) = match change {
        DiskState::Healthy => ("ok", String::new()),
        DiskState::Degraded(reason) => ("degraded", reason),
    };
    Event::StateChanged { part: "disk", state, reason }
}

/// Gives back what is of a dead generation, in steps between which others go on.
fn remove_dead(state: &State, raised: u64) {
    let mut next = Some(Cursor::default());
    while let Some(at) = next {
        let judge = |entry: &Entry| {
            if state.generations.is_alive(entry) {
                return Verdict::Keep;
            }
            state.doomed.buried(entry.key().namespace());
            Verdict::Remove(Cause::Invalidated)
        };
        next = state.memory.scan(at, SCAN_STEPS, judge).next;
    }
    state.doomed.all_buried(|| state.generations.latest() != raised);
}

/// How many entries one step looks at.
const SCAN_STEPS: usize = 256;

/// How often the disk tier is told what is in use.
const USES_INTERVAL: Duration = Duration::from_mins(1);

/// How often it looks for what is due.
const TICK: Duration = Duration::from_millis(250);
