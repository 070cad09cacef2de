//! A line before a room of so many bytes: who asks is let in, in the order of arrival, once what is inside leaves space.
//!
//! Promises: what is inside together never exceeds what the room had when the last of it came in, but for one that is
//! larger than the whole room and alone in it; nobody overtakes; who gives up waiting leaves no trace. How large the room
//! is may change at any time: made smaller, nobody is put out, and nobody comes in before there is space again. Knows
//! nothing of what the bytes are for.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::sync::Mutex;

/// The line and its room; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Line(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    bytes_max: u64,
    /// What is inside, who was let in and has not noticed yet included.
    held: u64,
    /// The number of the next to wait.
    next: u64,
    /// In the order of arrival, which is that of their numbers.
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    /// What is asked for beyond `own`, which is inside already.
    more: u64,
    own: u64,
    is_let_in: bool,
    waker: Option<Waker>,
}

/// A part of the room; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    line: Line,
    bytes: u64,
}

impl Line {
    /// Before a room of so many bytes.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner { bytes_max, held: 0, next: 0, waiting: VecDeque::new() })))
    }

    /// The room has so many bytes from now on.
    pub(crate) fn set_bytes_max(&self, bytes_max: u64) {
        self.change(|inner| inner.bytes_max = bytes_max);
    }

    /// Part of nothing yet.
    pub(crate) fn empty_share(&self) -> Share {
        Share { line: self.clone(), bytes: 0 }
    }

    /// Waits for `bytes`.
    pub(crate) async fn take(&self, bytes: u64) -> Share {
        let mut share = self.empty_share();
        share.grow(bytes).await;
        share
    }

    /// Whether somebody waits.
    #[cfg(any(test, feature = "server"))]
    pub(crate) fn is_anybody_waiting(&self) -> bool {
        self.0.lock().waiting.iter().any(|waiting| !waiting.is_let_in)
    }

    /// Changes what is inside, then lets in whom there is space for.
    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.0.lock();
        change(&mut inner);
        let wakers = inner.let_in();
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Inner {
    fn has_space(&self, more: u64, own: u64) -> bool {
        // Nobody else is inside, or it fits.
        self.held == own || self.held.saturating_add(more) <= self.bytes_max
    }

    #[must_use]
    fn let_in(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some(at) = self.waiting.iter().position(|waiting| !waiting.is_let_in) {
            let Some((more, own)) = self.waiting.get(at).map(|next| (next.more, next.own)) else { break };
            if !self.has_space(more, own) {
                break;
            }
            self.held = self.held.saturating_add(more);
            if let Some(next) = self.waiting.get_mut(at) {
                next.is_let_in = true;
                wakers.extend(next.waker.take());
            }
        }
        wakers
    }

    fn place(&self, number: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&number, |waiting| waiting.number).ok()
    }
}

impl Share {
    /// How many bytes it is.
    #[cfg(any(test, feature = "server"))]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Waits until it has `bytes` in all; at once where it has as many. Whoever waits here holds what it has meanwhile.
    pub(crate) async fn grow(&mut self, bytes: u64) {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return;
        }
        let mut place = Place { line: self.line.clone(), number: None };
        poll_fn(|cx| place.poll(cx, more, self.bytes)).await;
        self.bytes += more;
    }

    /// Keeps no more than `bytes`.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        let less = self.bytes.saturating_sub(bytes);
        if less > 0 {
            self.bytes -= less;
            self.line.change(|inner| inner.held -= less);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

/// A place in the line, once there is a number; left when dropped.
struct Place {
    line: Line,
    number: Option<u64>,
}

impl Place {
    fn poll(&mut self, cx: &mut Context<'_>, more: u64, own: u64) -> Poll<()> {
        let mut inner = self.line.0.lock();
        let Some(number) = self.number else {
            let is_first = inner.waiting.iter().all(|waiting| waiting.is_let_in);
            if is_first && inner.has_space(more, own) {
                inner.held = inner.held.saturating_add(more);
                return Poll::Ready(());
            }
            let number = inner.next;
            inner.next += 1;
            let waker = Some(cx.waker().clone());
            inner.waiting.push_back(Waiting { number, more, own, is_let_in: false, waker });
            self.number = Some(number);
            return Poll::Pending;
        };
        let Some(at) = inner.place(number) else { return Poll::Ready(()) };
        if let Some(waiting) = inner.waiting.get_mut(at).filter(|waiting| !waiting.is_let_in) {
            waiting.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        inner.waiting.remove(at);
        self.number = None;
        Poll::Ready(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        self.line.change(|inner| {
            let left = inner.place(number).and_then(|at| inner.waiting.remove(at));
            // Let in, and gone before it noticed.
            if let Some(left) = left.filter(|left| left.is_let_in) {
                inner.held -= left.more;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    fn is_in<F: Future>(waiting: std::pin::Pin<&mut F>) -> Option<F::Output> {
        block_on(poll_once(waiting))
    }

    #[test]
    fn who_comes_first_goes_first_and_what_is_too_large_goes_alone() {
        let line = Line::new(100);
        let first = block_on(line.take(60));
        let mut large = pin!(line.take(1000));
        let mut small = pin!(line.take(10));
        assert!(
            is_in(large.as_mut()).is_none() && is_in(small.as_mut()).is_none() && line.is_anybody_waiting()
        );
        drop(first);
        let large = is_in(large.as_mut()).unwrap();
        assert!(is_in(small.as_mut()).is_none());
        drop(large);
        assert_eq!(is_in(small.as_mut()).unwrap().bytes(), 10);
        assert_eq!(line.0.lock().held, 0);
    }

    #[test]
    fn who_gives_up_leaves_no_trace_let_in_or_not() {
        let line = Line::new(100);
        let first = block_on(line.take(100));
        let mut next = pin!(line.take(40));
        {
            let mut gone = Box::pin(line.take(90));
            assert!(is_in(gone.as_mut()).is_none() && is_in(next.as_mut()).is_none());
        }
        {
            let mut let_in = Box::pin(line.take(50));
            assert!(is_in(let_in.as_mut()).is_none());
            drop(first);
            assert_eq!(line.0.lock().held, 90);
        }
        assert_eq!(line.0.lock().held, 40);
        drop(is_in(next.as_mut()).unwrap());
        assert_eq!(line.0.lock().held, 0);
        assert!(line.0.lock().waiting.is_empty());
    }

    #[test]
    fn a_room_made_smaller_or_larger_counts_for_whoever_comes_next() {
        let line = Line::new(100);
        let mut first = block_on(line.take(80));
        line.set_bytes_max(50);
        let mut next = pin!(line.take(20));
        assert!(is_in(next.as_mut()).is_none());
        first.shrink(40);
        assert!(is_in(next.as_mut()).is_none());
        line.set_bytes_max(60);
        let next = is_in(next.as_mut()).unwrap();
        // What it waits for was the whole room when it asked.
        let mut all = pin!(line.take(60));
        assert!(is_in(all.as_mut()).is_none());
        line.set_bytes_max(10);
        drop((first, next));
        assert_eq!(is_in(all.as_mut()).unwrap().bytes(), 60, "alone");
    }

    #[test]
    fn a_share_grows_in_place_and_beyond_the_room_when_it_is_alone() {
        let line = Line::new(100);
        let (mut one, other) = (block_on(line.take(50)), block_on(line.take(50)));
        {
            let mut growing = pin!(one.grow(200));
            assert!(is_in(growing.as_mut()).is_none());
            drop(other);
            assert!(is_in(growing.as_mut()).is_some());
        }
        assert_eq!((one.bytes(), line.0.lock().held), (200, 200));
        drop(one);
        assert_eq!(line.0.lock().held, 0);
    }
}
