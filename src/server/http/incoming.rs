//! Bodies that are being received: read whole, within limits of size and patience, and within one account for all.
//!
//! Promises: what bodies hold together is bounded, by a part of the memory limit and a little more, and charged to the
//! cache, whose entries give way. A body that finds no room for a while is told 503 and when to come back. While others
//! wait for room, a large body has to go on arriving at a least pace, so that one that stalls holds up nobody for long.
//! What is done with a body takes its turn at the cache, in the order of arrival. For that it waits longer than for room,
//! since it has been read; not for ever, because slow readers of large answers hold turns too.
//!
//! Small bodies cost a few short locks and some additions.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::http::{HeaderValue, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::engine::{Cache, Charge, Line, Share, Turn};
use crate::error::{Error, ErrorKind};
use crate::server::traffic::{Traffic, Want};

use super::Site;
use super::problem::{Problem, RETRY_AFTER_SECS};

/// The account of all bodies; cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::server) struct Incoming(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    cache: Cache,
    traffic: Arc<Traffic>,
    /// Before what bodies may hold until they are done.
    room: Line,
    imports: Arc<Semaphore>,
    exports: Arc<Semaphore>,
    backups: Arc<Semaphore>,
    /// How long what has been read waits for its turn.
    read_patience: Duration,
}

impl Incoming {
    /// Beside `cache`, which gives way.
    pub(in crate::server) fn new(cache: &Cache, traffic: Arc<Traffic>) -> Self {
        Self(Arc::new(Shared {
            cache: cache.clone(),
            traffic,
            room: Line::new(room_bytes_max(cache)),
            imports: Arc::new(Semaphore::new(TRANSFERS_MAX)),
            exports: Arc::new(Semaphore::new(TRANSFERS_MAX)),
            backups: Arc::new(Semaphore::new(1)),
            read_patience: READ_PATIENCE,
        }))
    }

    /// A turn to import; the upload goes to a file, and each holds a thread.
    pub(super) fn import(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let busy = "4 imports are under way already; try again shortly";
        self.0.imports.clone().try_acquire_owned().map_err(|_| self.no_turn(busy))
    }

    /// A turn to export; each holds a thread for as long as its reader takes. With bookmarks one at a time: it holds a file
    /// of the archive, and in it the largest list there is.
    pub(super) fn export(&self, with_bookmarks: bool) -> Result<OwnedSemaphorePermit, Problem> {
        let (exports, busy) = if with_bookmarks {
            (&self.0.backups, "an export with bookmarks is under way already; try again when it has ended")
        } else {
            (&self.0.exports, "4 exports are under way already; try again shortly")
        };
        exports.clone().try_acquire_owned().map_err(|_| self.no_turn(busy))
    }

    fn no_turn(&self, detail: &'static str) -> Problem {
        self.0.traffic.turn_away(Want::Body);
        busy(detail)
    }

    /// Waits for its turn to make something that takes `bytes`; not for long. Who has such a turn, or a body, must not ask.
    pub(super) async fn turn(&self, bytes: u64) -> crate::Result<Option<Turn>> {
        self.turn_within(ROOM_PATIENCE, bytes).await
    }

    async fn turn_within(&self, patience: Duration, bytes: u64) -> crate::Result<Option<Turn>> {
        if bytes == 0 {
            return Ok(None);
        }
        let Ok(turn) = timeout(patience, self.0.cache.turn(bytes)).await else {
            self.0.traffic.turn_away(Want::Body);
            let busy = "too much of what is large is being changed at once; try again shortly";
            return Err(Error::new(ErrorKind::Busy, busy));
        };
        turn.map(Some)
    }

    /// As [`Incoming::turn`], on a thread that may block.
    pub(super) fn turn_blocking(&self, bytes: u64) -> crate::Result<Option<Turn>> {
        tokio::runtime::Handle::current().block_on(self.turn(bytes))
    }

    /// The largest body that may be held where what is made of it takes `times` as much.
    fn bytes_max(&self, times: u64) -> u64 {
        self.0.cache.turn_alone_bytes_max() / times
    }

    fn is_crowded(&self) -> bool {
        self.0.room.is_anybody_waiting()
    }

    /// Waits until `share` has `bytes` in all; not for long.
    async fn room(&self, share: &mut Share, bytes: u64) -> Result<(), Problem> {
        if bytes <= share.bytes() {
            return Ok(());
        }
        self.0.room.set_bytes_max(room_bytes_max(&self.0.cache));
        if timeout(ROOM_PATIENCE, share.grow(bytes)).await.is_ok() {
            return Ok(());
        }
        self.0.traffic.turn_away(Want::Body);
        Err(busy("too many large bodies are being received at once; try again shortly"))
    }
}

/// What bodies may hold while they arrive.
fn room_bytes_max(cache: &Cache) -> u64 {
    (cache.turn_bytes_max() / 3).min(ROOM_BYTES_MAX)
}

/// A body in memory, with its part of what all bodies together may take.
#[derive(Debug)]
pub(super) struct Whole {
    bytes: Vec<u8>,
    incoming: Incoming,
    room: Share,
    charge: Charge,
    turn: Option<Turn>,
}

impl Deref for Whole {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        // Given back before it is said to be.
        self.bytes = Vec::new();
        self.charge.set(0);
    }
}

impl Whole {
    fn new(incoming: &Incoming) -> Self {
        let (room, charge) = (incoming.0.room.empty_share(), incoming.0.cache.charge());
        Self { bytes: Vec::new(), incoming: incoming.clone(), room, charge, turn: None }
    }

    /// Waits for room for `bytes` in all.
    async fn reserve(&mut self, bytes: usize) -> Result<(), Problem> {
        self.incoming.room(&mut self.room, bytes as u64).await
    }

    /// Takes one more piece, for which room is reserved.
    fn add(&mut self, piece: &[u8], announced: usize) {
        if self.bytes.is_empty() {
            // So that it does not grow by doubling; untouched memory is not yet taken.
            self.bytes.reserve_exact(announced.max(piece.len()));
        }
        self.charge.set((self.bytes.len() + piece.len()) as u64);
        self.bytes.extend_from_slice(piece);
    }

    /// Waits for its turn to be made something of that takes `times` as much, and so many bytes beside.
    async fn prepare(&mut self, times: u64, beside: u64) -> Result<(), Problem> {
        let more = self.bytes.len() as u64 * times.saturating_sub(1) + beside;
        self.turn = self.incoming.turn_within(self.incoming.0.read_patience, more).await?;
        Ok(())
    }
}

/// The whole body of at most `limits.body`, of which something is made that takes `times` as much.
pub(super) async fn read_whole(site: &Site, body: Body, times: u64) -> Result<Whole, Problem> {
    read_whole_beside(site, body, times, 0).await
}

/// As [`read_whole`], where what is made takes so many bytes beside.
pub(super) async fn read_whole_beside(
    site: &Site,
    body: Body,
    times: u64,
    beside: u64,
) -> Result<Whole, Problem> {
    let mut whole = read(site, body, (site.limits.body, times), too_large).await?;
    whole.prepare(times, beside).await?;
    Ok(whole)
}

/// The whole body of at most so many bytes, of which something is made that takes so many times as much.
pub(super) async fn read_at_most(
    site: &Site,
    body: Body,
    (bytes_max, times): (u64, u64),
    too_large: impl FnOnce(u64) -> Error,
) -> Result<Whole, Problem> {
    let mut whole = read(site, body, (bytes_max, times), too_large).await?;
    whole.prepare(times, 0).await?;
    Ok(whole)
}

async fn read(
    site: &Site,
    mut body: Body,
    (bytes_max, times): (u64, u64),
    too_large: impl FnOnce(u64) -> Error,
) -> Result<Whole, Problem> {
    let bytes_max = bytes_max.min(site.incoming.bytes_max(times));
    let announced = usize::try_from(body.size_hint().lower().min(bytes_max)).unwrap_or(0);
    let mut whole = Whole::new(&site.incoming);
    let mut pace = Pace::new(site.limits.body_timeout);
    loop {
        let chunk = pace.next(&mut body, &whole).await?;
        let Some(chunk) = chunk else { break };
        if (whole.len() + chunk.len()) as u64 > bytes_max {
            drop(whole);
            skim(site, body).await;
            return Err(too_large(bytes_max).into());
        }
        // As announced: of two large ones that have no room together, one is read, and not a half of each.
        let wanted = announced.max(whole.len() + chunk.len());
        if let Err(no_room) = whole.reserve(wanted).await {
            drop(whole);
            skim(site, body).await;
            return Err(no_room);
        }
        whole.add(&chunk, announced);
    }
    Ok(whole)
}

/// How a body arrives.
struct Pace {
    patience: Duration,
    /// Since when its pace is looked at, and what has arrived since.
    since: Instant,
    bytes: usize,
}

impl Pace {
    fn new(patience: Duration) -> Self {
        Self { patience, since: Instant::now(), bytes: 0 }
    }

    /// The next piece, as patiently as the settings say, or as others that wait for room let it.
    async fn next(&mut self, body: &mut Body, whole: &Whole) -> Result<Option<Bytes>, Problem> {
        let began = Instant::now();
        loop {
            let left = self.patience.saturating_sub(began.elapsed());
            match timeout(left.min(LOOK_INTERVAL), chunk_of(body)).await {
                Ok(chunk) => {
                    let chunk = chunk?;
                    self.bytes += chunk.as_ref().map_or(0, Bytes::len);
                    return Ok(chunk);
                }
                Err(_) if began.elapsed() >= self.patience => return Err(timed_out()),
                Err(_) if self.holds_up(whole) => return Err(too_slow()),
                Err(_) => {}
            }
        }
    }

    /// Whether it holds much that others wait for and goes on too slowly.
    fn holds_up(&mut self, whole: &Whole) -> bool {
        if self.since.elapsed() < PACE_INTERVAL {
            return false;
        }
        let is_slow = self.bytes < PACE_BYTES_MIN;
        (self.since, self.bytes) = (Instant::now(), 0);
        is_slow && whole.room.bytes() > SMALL_BYTES && whole.incoming.is_crowded()
    }
}

/// Reads on and drops, as much as one body may have, so that a client that still sends gets to see why it was refused.
pub(super) async fn skim(site: &Site, mut body: Body) {
    let mut skimmed = 0;
    while let Ok(Some(chunk)) = next_chunk(&mut body, site.limits.body_timeout).await {
        skimmed += chunk.len() as u64;
        if skimmed > site.limits.body {
            return;
        }
    }
}

/// The next piece of a body, within `patience`.
pub(super) async fn next_chunk(body: &mut Body, patience: Duration) -> Result<Option<Bytes>, Problem> {
    timeout(patience, chunk_of(body)).await.map_err(|_| timed_out())?
}

/// The next piece; nothing is lost when this is dropped while it waits.
async fn chunk_of(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    loop {
        let Some(frame) = body.frame().await else { return Ok(None) };
        let frame = frame.map_err(|_| {
            Problem::new(StatusCode::BAD_REQUEST, "BODY_BROKEN", "the body ended before its announced length")
        })?;
        if let Ok(chunk) = frame.into_data() {
            return Ok(Some(chunk));
        }
    }
}

/// That a body has more than `bytes_max`.
pub(super) fn too_large(bytes_max: u64) -> Error {
    let why = "what limits.body and the memory limit leave room for";
    Error::new(ErrorKind::DocumentTooLarge, format!("the body is larger than {bytes_max} bytes, {why}"))
}

fn timed_out() -> Problem {
    late("the body made no progress for too long")
}

fn too_slow() -> Problem {
    late("the body arrived too slowly while others waited for its room")
}

fn late(detail: &'static str) -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "BODY_TIMED_OUT", detail)
}

fn busy(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "BUSY", detail)
        .with(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECS))
}

/// How much memory is taken for each byte of a body until its request is done, the body included: of a list of keys, the
/// keys; of a value, its entry; of a batch, what is decoded and the entry under way; of a document or a list of bookmarks,
/// what is parsed, encoded, rendered and held by the transaction.
pub(super) const KEYS_TIMES: u64 = 4;
pub(super) const VALUE_TIMES: u64 = 2;
pub(super) const BATCH_TIMES: u64 = 3;
pub(super) const DOCUMENT_TIMES: u64 = 5;
pub(super) const BOOKMARKS_TIMES: u64 = 6;

/// The most that bodies hold while they arrive, whatever the memory limit is.
const ROOM_BYTES_MAX: u64 = 64 << 20;

/// Imports and exports at a time, each.
const TRANSFERS_MAX: usize = 4;

/// How long a body waits for room.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);

/// How long a body that has been read waits for its turn.
const READ_PATIENCE: Duration = Duration::from_secs(30);

/// How often a body that does not arrive is looked after.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// While others wait for room, so much of a large body has to arrive
const PACE_BYTES_MIN: usize = 16 << 10;

/// in so much time.
const PACE_INTERVAL: Duration = Duration::from_secs(2);

/// A body that holds no more than this holds nobody up.
const SMALL_BYTES: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_has_been_read_does_not_wait_for_ever_behind_a_turn_that_does_not_end() {
        let cache = Cache::builder().memory(16 << 20).open().unwrap();
        let mut incoming = Incoming::new(&cache, Arc::default());
        Arc::get_mut(&mut incoming.0).unwrap().read_patience = Duration::from_millis(1);
        let held = cache.turn(cache.turn_alone_bytes_max()).await.unwrap();
        let mut whole = Whole::new(&incoming);
        whole.reserve(1000).await.unwrap();
        whole.add(&[b'x'; 1000], 1000);
        assert!(whole.prepare(3, 0).await.is_err());
        assert_eq!(incoming.0.traffic.turned_away(Want::Body), 1);
        drop(held);
        whole.prepare(3, 0).await.unwrap();
        assert_eq!(whole.turn.as_ref().map(Turn::bytes), Some(2000));
    }
}
