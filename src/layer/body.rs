//! The body of a response that went through the layer: kept bytes, or what the service sends, unbuffered.
//!
//! What was read ahead to be kept, and then was not, comes first, frame by frame as it was read; the rest of the
//! service's body, or the error it ended with, follows. Nothing is dropped, joined or sent twice.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

/// The body of a response that went through a [`ResponseCache`](super::ResponseCache).
pub struct CacheBody<B: Body> {
    /// What was read already, in order.
    read: VecDeque<Frame<Bytes>>,
    rest: Rest<B>,
}

enum Rest<B: Body> {
    /// What the service still sends.
    Service(Pin<Box<B>>),
    /// What its body ended with.
    Failed(B::Error),
    End,
}

impl<B: Body> CacheBody<B> {
    pub(super) fn empty() -> Self {
        Self { read: VecDeque::new(), rest: Rest::End }
    }

    pub(super) fn whole(bytes: Bytes) -> Self {
        let read = if bytes.is_empty() { None } else { Some(Frame::data(bytes)) };
        Self { read: read.into_iter().collect(), rest: Rest::End }
    }

    /// The service's own.
    pub(super) fn passed(body: B) -> Self {
        Self::resumed(VecDeque::new(), Box::pin(body))
    }

    /// What was `read` of the service's, and the rest of it.
    pub(super) fn resumed(read: VecDeque<Frame<Bytes>>, rest: Pin<Box<B>>) -> Self {
        Self { read, rest: Rest::Service(rest) }
    }

    /// What was `read` of the service's before it failed.
    pub(super) fn broken(read: VecDeque<Frame<Bytes>>, error: B::Error) -> Self {
        Self { read, rest: Rest::Failed(error) }
    }

    /// All of it was `read`.
    pub(super) fn ended(read: VecDeque<Frame<Bytes>>) -> Self {
        Self { read, rest: Rest::End }
    }

    fn read_bytes(&self) -> u64 {
        self.read.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum()
    }
}

/// The frame with its data as shared bytes; those are not copied if they were such already.
pub(super) fn shared<D: Buf>(frame: Frame<D>) -> Frame<Bytes> {
    frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
}

// Nothing in it is ever pinned but the service's body, which has a place of its own.
impl<B: Body> Unpin for CacheBody<B> {}

impl<B: Body> Body for CacheBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(frame) = self.read.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Rest::Service(body) = &mut self.rest {
            return body.as_mut().poll_frame(cx).map(|frame| frame.map(|frame| frame.map(shared)));
        }
        match std::mem::replace(&mut self.rest, Rest::End) {
            Rest::Failed(error) => Poll::Ready(Some(Err(error))),
            _ => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty()
            && match &self.rest {
                Rest::Service(body) => body.is_end_stream(),
                Rest::Failed(_) => false,
                Rest::End => true,
            }
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read_bytes();
        match &self.rest {
            Rest::End => SizeHint::with_exact(read),
            // How long it was to be, nobody can tell.
            Rest::Failed(_) => SizeHint::default(),
            Rest::Service(body) => {
                let of_rest = body.size_hint();
                let mut hint = SizeHint::default();
                hint.set_lower(read.saturating_add(of_rest.lower()));
                if let Some(upper) = of_rest.upper().and_then(|upper| upper.checked_add(read)) {
                    hint.set_upper(upper);
                }
                hint
            }
        }
    }
}

impl<B: Body> fmt::Debug for CacheBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheBody").field("read_bytes", &self.read_bytes()).finish_non_exhaustive()
    }
}
