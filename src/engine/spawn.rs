//! Where loads run: beside whoever asked, so that a caller who leaves ends nobody's load.
//!
//! On what the builder was given, else on the tokio runtime the caller runs on, else on threads of its own that end when
//! there is nothing to do. It starts no runtime.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future::block_on;
use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;

use crate::error::{Error, ErrorKind, Result};

/// Work that goes on by itself.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whether the caller's thread goes on running its executor meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    Awaits,
    Blocks,
}

/// Runs tasks; a clone is the same.
#[derive(Clone)]
pub(super) struct Spawner {
    own: Option<Arc<dyn Fn(Task) + Send + Sync>>,
    threads: Threads,
}

impl Spawner {
    /// On `own`, or where the caller is.
    pub(super) fn new(own: Option<Arc<dyn Fn(Task) + Send + Sync>>, threads_max: usize) -> Self {
        Self { own, threads: Threads(Arc::new(Shared { threads_max, ..Shared::default() })) }
    }

    /// Has `task` run.
    pub(super) fn spawn(&self, task: Task, caller: Caller) -> Result<()> {
        if let Some(own) = &self.own {
            own(task);
            return Ok(());
        }
        match (Handle::try_current(), caller) {
            (Ok(runtime), Caller::Awaits) => {
                runtime.spawn(task);
                Ok(())
            }
            // This thread is about to block: it may be the only one its runtime has.
            (Ok(runtime), Caller::Blocks) => self.threads.spawn(Box::pin(async move {
                let _inside = runtime.enter();
                block_on(task);
            })),
            (Err(_), _) => self.threads.spawn(task),
        }
    }
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawner").field("is_own", &self.own.is_some()).finish_non_exhaustive()
    }
}

/// Threads for tasks where there is no executor: one a task, a bounded number, each ending after a while without work.
#[derive(Debug, Clone)]
struct Threads(Arc<Shared>);

#[derive(Default)]
struct Shared {
    threads_max: usize,
    work: Mutex<Work>,
    more: Condvar,
}

#[derive(Default)]
struct Work {
    /// What no thread has taken yet.
    queue: VecDeque<Task>,
    /// How many threads there are, and how many of them wait for work.
    threads: usize,
    idle: usize,
}

impl Threads {
    fn spawn(&self, task: Task) -> Result<()> {
        let mut work = self.0.work.lock();
        work.queue.push_back(task);
        if work.idle >= work.queue.len() || work.threads >= self.0.threads_max.max(1) {
            drop(work);
            self.0.more.notify_one();
            return Ok(());
        }
        let shared = self.0.clone();
        match std::thread::Builder::new().name("hifz-load".into()).spawn(move || shared.run()) {
            Ok(_) => work.threads += 1,
            Err(_) if work.threads > 0 => {}
            Err(error) => {
                work.queue.pop_back();
                return Err(Error::new(ErrorKind::Busy, "no thread can be started to load").because(error));
            }
        }
        Ok(())
    }
}

impl Shared {
    fn run(&self) {
        let mut work = self.work.lock();
        loop {
            if let Some(task) = work.queue.pop_front() {
                drop(work);
                block_on(task);
                work = self.work.lock();
                continue;
            }
            work.idle += 1;
            let waited = self.more.wait_for(&mut work, IDLE_MAX);
            work.idle -= 1;
            if waited.timed_out() && work.queue.is_empty() {
                work.threads -= 1;
                return;
            }
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").field("threads_max", &self.threads_max).finish_non_exhaustive()
    }
}

/// A thread without work for so long ends.
const IDLE_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn tasks_run_beside_each_other_without_any_executor() {
        let spawner = Spawner::new(None, 4);
        let meeting = Arc::new(Barrier::new(4));
        for _ in 0..3 {
            let meeting = meeting.clone();
            let task = Box::pin(async move {
                meeting.wait();
            });
            spawner.spawn(task, Caller::Awaits).unwrap();
        }
        meeting.wait();
        assert!(spawner.threads.0.work.lock().threads <= 4);
    }
}
