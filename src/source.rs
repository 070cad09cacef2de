//! Where a value comes from on a miss.
//!
//! A [`Source`] is asked for one key at a time and says what it has: a value with, where it knows better than the
//! policy of its namespace, lifetimes of its own; that nothing changed since it was last asked; that there is none; or
//! that it does not know, which is an error. It does not know who asks, nor what is kept of its answer.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::Timestamp;
use crate::entry::{FORMS_MAX, Form, Forms};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, KeyRef};
use crate::sync::{AtomicU64, Ordering};

/// A value as its source gave it.
///
/// ```
/// use std::time::Duration;
/// use hifz::source::Loaded;
///
/// let loaded = Loaded::new("{}").content_type("application/json").ttl(Duration::from_secs(60)).tag("pages");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loaded {
    /// The value.
    pub body: Vec<u8>,
    /// Its media type.
    pub content_type: Cow<'static, str>,
    /// When the content was last changed; `None`: when it was loaded.
    pub modified_at: Option<Timestamp>,
    /// The tags it can be invalidated by.
    pub tags: Vec<Cow<'static, str>>,
    /// How long it is fresh; `None`: as its namespace says.
    pub ttl: Option<Duration>,
    /// How long it may be served after that while it is loaded anew; `None`: as its namespace says.
    pub stale_while_revalidate: Option<Duration>,
    /// How long it may be served after that when its source fails; `None`: as its namespace says.
    pub stale_if_error: Option<Duration>,
    /// What the source will know this state of the value by when it is asked again, such as an entity tag.
    pub validator: Option<String>,
    /// Whether it may be kept, and shared with others who ask at the same time.
    pub is_stored: bool,
    /// Other forms of the value that its door made ahead; by default none.
    pub forms: Box<LoadedForms>,
}

/// Coded forms of a value; see [`Forms`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadedForms {
    /// Digest and length of the plain form, where the body is not it.
    pub plain: Option<(u128, u64)>,
    /// The forms there are.
    pub kept: [Option<Form>; FORMS_MAX],
    /// Their bytes, one after the other.
    pub coded: Vec<u8>,
}

impl LoadedForms {
    /// As they stand in a head.
    pub(crate) fn as_forms(&self) -> Forms<'_> {
        Forms { plain_bytes: self.plain.map(|(_, bytes)| bytes), kept: self.kept, coded: &self.coded }
    }
}

impl Loaded {
    /// A value to be kept for as long as its namespace says.
    #[must_use]
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            content_type: Cow::Borrowed("application/octet-stream"),
            modified_at: None,
            tags: Vec::new(),
            ttl: None,
            stale_while_revalidate: None,
            stale_if_error: None,
            validator: None,
            is_stored: true,
            forms: Box::default(),
        }
    }

    /// The same value, of this media type. Default: `application/octet-stream`.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<Cow<'static, str>>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// The same value, last changed then. Default: when it was loaded.
    #[must_use]
    pub fn modified_at(mut self, at: Timestamp) -> Self {
        self.modified_at = Some(at);
        self
    }

    /// The same value, with one more tag to be invalidated by.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<Cow<'static, str>>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// The same value, fresh for so long. Default: as its namespace says.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The same value, to be served for so long after that while it is loaded anew. Default: as its namespace says.
    #[must_use]
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.stale_while_revalidate = Some(window);
        self
    }

    /// The same value, to be served for so long after that when the source fails. Default: as its namespace says.
    #[must_use]
    pub fn stale_if_error(mut self, window: Duration) -> Self {
        self.stale_if_error = Some(window);
        self
    }

    /// The same value, which the source will know by `validator` when it is asked again. Default: none.
    #[must_use]
    pub fn validator(mut self, validator: impl Into<String>) -> Self {
        self.validator = Some(validator.into());
        self
    }

    /// The same value, for the caller alone: not kept, and not given to others who wait for it.
    #[must_use]
    pub fn do_not_store(mut self) -> Self {
        self.is_stored = false;
        self
    }
}

/// What a source answered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Load {
    /// This is the value.
    Value(Loaded),
    /// The value that [`Ask::validator`] or [`Ask::modified_at`] speaks of is still the right one.
    NotModified,
    /// There is none. Remembered for as long as the namespace says.
    Absent,
}

impl From<Loaded> for Load {
    fn from(loaded: Loaded) -> Self {
        Self::Value(loaded)
    }
}

impl From<Option<Loaded>> for Load {
    fn from(found: Option<Loaded>) -> Self {
        found.map_or(Self::Absent, Self::Value)
    }
}

/// What a source is asked.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Ask<'a> {
    /// The key.
    pub key: KeyRef<'a>,
    /// The validator that came with the value that is still held; answer [`Load::NotModified`] if it still holds.
    pub validator: Option<&'a str>,
    /// When the value that is still held was last changed.
    pub modified_at: Option<Timestamp>,
    room: &'a Room,
}

impl<'a> Ask<'a> {
    /// A question for `key`, whose answer takes its room from `room`.
    #[must_use]
    pub fn new(key: KeyRef<'a>, room: &'a Room) -> Self {
        Self { key, validator: None, modified_at: None, room }
    }

    /// Takes room for so many more bytes of memory for the answer. A source that reads a body piece by piece asks before
    /// it makes its buffer larger, so that all loads under way together stay within their bound, and entries give way to
    /// them; what arrives in one piece is counted by the cache.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when there is none left.
    pub fn take_room(&self, bytes: u64) -> Result<()> {
        self.room.take(bytes)
    }

    /// What work that is not dropped with this load, as on a thread of its own, holds until it ends: the room that
    /// [`Source::weigh`] has made. A load that takes too long is given up and tried again; the room is neither given to
    /// others nor held twice meanwhile, since the next attempt waits here for the work of the one before. Whoever asks a
    /// second time while holding it waits for itself.
    ///
    /// ```
    /// # use hifz::source::{Ask, Loaded, Loading};
    /// fn load(ask: Ask<'_>) -> Loading<'_> {
    ///     Box::pin(async move {
    ///         let held = ask.hold_room().await;
    ///         let made = blocking::unblock(move || {
    ///             let _held = held;
    ///             vec![0; 10_000_000]
    ///         });
    ///         Ok(Loaded::new(made.await).into())
    ///     })
    /// }
    /// ```
    pub async fn hold_room(&self) -> Held {
        let Some(work) = &self.room.work else { return Held { _turn: None, _gate: None } };
        // Closed by nobody.
        let gate = work.gate.clone().acquire_owned().await.ok();
        Held { _turn: Some(work.turn.clone()), _gate: gate }
    }

    /// What the answer may hold so far.
    pub(crate) fn taken_room(&self) -> u64 {
        self.room.ahead + self.room.taken()
    }
}

/// From [`Ask::hold_room`]; given back when dropped.
pub struct Held {
    // In this order: who waits at the gate finds the room given back, if nobody else needs it.
    _turn: Option<Arc<dyn Any + Send + Sync>>,
    _gate: Option<OwnedSemaphorePermit>,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}

/// What was made room for before a load began.
struct Work {
    turn: Arc<dyn Any + Send + Sync>,
    /// One attempt's work at a time.
    gate: Arc<Semaphore>,
}

/// What one load may hold of the bytes that all loads share; given back when dropped.
pub struct Room {
    shared: Arc<AtomicU64>,
    bytes_max: u64,
    /// What was made room for before the load began, beside the account.
    ahead: u64,
    work: Option<Work>,
    /// What this load holds beyond that. Raised by its own task only.
    taken: AtomicU64,
    /// Called when what all loads hold has changed by much.
    changed: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Room {
    /// A share of the bytes counted in `shared`, of which there are `bytes_max`; `changed` hears when much was taken or
    /// given back.
    pub(crate) fn of(
        shared: Arc<AtomicU64>,
        bytes_max: u64,
        changed: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            shared,
            bytes_max,
            ahead: 0,
            work: None,
            taken: AtomicU64::new(0),
            changed: Some(Box::new(changed)),
        }
    }

    /// Room of its own: for tests of sources.
    #[must_use]
    pub fn alone(bytes_max: u64) -> Self {
        Self {
            shared: Arc::default(),
            bytes_max,
            ahead: 0,
            work: None,
            taken: AtomicU64::new(0),
            changed: None,
        }
    }

    /// The same, for a load that `bytes` were made room for before it began, which `turn` holds.
    pub(crate) fn ahead(mut self, bytes: u64, turn: Arc<dyn Any + Send + Sync>) -> Self {
        self.ahead = bytes;
        self.work = Some(Work { turn, gate: Arc::new(Semaphore::new(1)) });
        self
    }

    /// What was made room for before is held by the work that goes on alone from now on.
    pub(crate) fn end_work(&mut self) {
        self.work = None;
    }

    /// What this load holds on the account.
    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    pub(crate) fn take(&self, bytes: u64) -> Result<()> {
        let before = self.shared.fetch_add(bytes, Ordering::Relaxed);
        let after = before.saturating_add(bytes);
        if after > self.bytes_max {
            self.shared.fetch_sub(bytes, Ordering::Relaxed);
            let most = self.bytes_max;
            let message =
                format!("loads under way hold {before} bytes, {bytes} more are over the {most} they may");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        if before / MUCH != after / MUCH {
            self.tell();
        }
        Ok(())
    }

    fn tell(&self) {
        if let Some(changed) = &self.changed {
            changed();
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.fetch_sub(self.taken(), Ordering::Relaxed);
        if self.taken() >= MUCH {
            self.tell();
        }
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (taken, bytes_max) = (self.taken(), self.bytes_max);
        f.debug_struct("Room").field("taken", &taken).field("bytes_max", &bytes_max).finish_non_exhaustive()
    }
}

/// So many bytes more or less are worth making room for at once; the rest is seen to at the next sweep.
const MUCH: u64 = 1 << 20;

/// What a load will take, about.
pub type Weighing<'l> = Pin<Box<dyn Future<Output = Result<Weight>> + Send + 'l>>;

/// What a load takes of memory while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Weight {
    /// How many bytes the answer will have, about, its coded forms included.
    pub answer_bytes: u64,
    /// How many the source holds beside the answer while it makes it.
    pub making_bytes: u64,
}

impl Weight {
    /// Of an answer that has `bytes`, of which nothing else is held while it is made.
    #[must_use]
    pub fn of(bytes: u64) -> Self {
        Self { answer_bytes: bytes, making_bytes: 0 }
    }

    /// The same, of which so many bytes are held beside while it is made.
    #[must_use]
    pub fn making(self, bytes: u64) -> Self {
        Self { making_bytes: bytes, ..self }
    }

    /// What is held at most: the answer while it is made, or later beside the entry that is made of it.
    pub(crate) fn at_most(self) -> u64 {
        self.answer_bytes.saturating_add(self.making_bytes.max(self.answer_bytes))
    }
}

/// A load under way: what the source has, or an error when it does not know.
pub type Loading<'l> = Pin<Box<dyn Future<Output = Result<Load>> + Send + 'l>>;

/// A system of record that the cache stands before.
///
/// The caller guarantees at most one load a key at a time, but for values that the source says not to store. The
/// implementation must answer [`Load::Absent`] for what does not exist (an error means "unknown"), must not block the
/// executor, and must tolerate being dropped at any await, which is how a load that takes too long ends. A load goes on
/// when the caller who began it has gone, so a source is handed to the cache as something cheap to clone: a handle, or
/// an [`Arc`].
///
/// ```
/// use std::sync::Arc;
/// use hifz::source::{Ask, Load, Loaded, Loading, Source};
/// use hifz::{Cache, Key, Outcome};
///
/// #[derive(Debug)]
/// struct Greetings;
///
/// impl Source for Greetings {
///     fn load<'l>(&'l self, ask: Ask<'l>) -> Loading<'l> {
///         Box::pin(async move {
///             Ok(match ask.key.as_str() {
///                 "greetings:en" => Loaded::new("good morning").content_type("text/plain").into(),
///                 _ => Load::Absent,
///             })
///         })
///     }
/// }
///
/// let (cache, source) = (Cache::builder().open()?, Arc::new(Greetings));
/// let key = Key::parse("greetings:en")?;
/// let answer = cache.get_or_load_blocking(key.as_key_ref(), &source)?;
/// assert_eq!(answer.outcome, Outcome::Miss);
/// assert_eq!(answer.entry.unwrap().body(), b"good morning");
/// assert_eq!(cache.get_or_load_blocking(key.as_key_ref(), &source)?.outcome, Outcome::Hit);
/// # Ok::<(), hifz::Error>(())
/// ```
pub trait Source: Send + Sync + fmt::Debug {
    /// What there is under the key now.
    fn load<'l>(&'l self, ask: Ask<'l>) -> Loading<'l>;

    /// About how many bytes the answer to a load of `key` will have, and what is held to make it, for a source that can
    /// tell before it reads them; nothing, the default, where that is little or not known. So much and what is made of it
    /// is made room for before the load begins: it waits until other large loads have ended, and is turned away as
    /// [`ErrorKind::Busy`] where that takes too long, or as [`ErrorKind::MemoryTooSmall`] where there never is so much. A load whose weight is not told within the time an attempt has is given up, and counts as an attempt
    /// that took too long; any other error says nothing. Work that cannot be dropped holds the room by [`Ask::hold_room`].
    fn weigh<'l>(&'l self, key: KeyRef<'l>) -> Weighing<'l> {
        let _ = key;
        Box::pin(std::future::ready(Ok(Weight::default())))
    }

    /// Whether `loaded` may be kept and served under `key`. What is refused never takes the place of a good value.
    ///
    /// # Errors
    /// With what is wrong about it.
    fn validate(&self, key: KeyRef<'_>, loaded: &Loaded) -> Result<()> {
        let _ = (key, loaded);
        Ok(())
    }

    /// What it is called in health and logs. Sources of one name share one breaker.
    fn name(&self) -> &str {
        std::any::type_name::<Self>()
    }
}

impl<S: Source + ?Sized> Source for Arc<S> {
    fn load<'l>(&'l self, ask: Ask<'l>) -> Loading<'l> {
        (**self).load(ask)
    }

    fn weigh<'l>(&'l self, key: KeyRef<'l>) -> Weighing<'l> {
        (**self).weigh(key)
    }

    fn validate(&self, key: KeyRef<'_>, loaded: &Loaded) -> Result<()> {
        (**self).validate(key, loaded)
    }

    fn name(&self) -> &str {
        (**self).name()
    }
}

/// A source out of an async function from a key to a value or "there is none".
///
/// ```
/// use hifz::source::{Loaded, from_fn};
/// use hifz::{Cache, Key};
///
/// let cache = Cache::builder().open()?;
/// let lengths = from_fn("lengths", |key: Key| async move {
///     Ok(Some(Loaded::new(key.as_str().len().to_string())))
/// });
/// let answer = cache.get_or_load_blocking(Key::parse("length:12")?.as_key_ref(), &lengths)?;
/// assert_eq!(answer.entry.unwrap().body(), b"9");
/// # Ok::<(), hifz::Error>(())
/// ```
pub fn from_fn<F, L>(name: &'static str, load: F) -> FromFn<F>
where
    F: Fn(Key) -> L + Send + Sync,
    L: Future<Output = Result<Option<Loaded>>> + Send + 'static,
{
    FromFn { name, load }
}

/// What [`from_fn`] makes.
#[derive(Clone)]
pub struct FromFn<F> {
    name: &'static str,
    load: F,
}

impl<F, L> Source for FromFn<F>
where
    F: Fn(Key) -> L + Send + Sync,
    L: Future<Output = Result<Option<Loaded>>> + Send + 'static,
{
    fn load<'l>(&'l self, ask: Ask<'l>) -> Loading<'l> {
        let loading = (self.load)(ask.key.to_key());
        Box::pin(async move { Ok(loading.await?.into()) })
    }

    fn name(&self) -> &str {
        self.name
    }
}

impl<F> fmt::Debug for FromFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FromFn").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn what_loads_hold_together_is_bounded_given_back_and_told_when_it_is_much() {
        let (shared, told) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
        let room = || {
            let told = told.clone();
            Room::of(shared.clone(), 4 * MUCH, move || {
                told.fetch_add(1, Ordering::Relaxed);
            })
        };
        let (first, second) = (room(), room());
        first.take(10).unwrap();
        assert_eq!(told.load(Ordering::Relaxed), 0);
        first.take(3 * MUCH).unwrap();
        assert_eq!(told.load(Ordering::Relaxed), 1);
        assert_eq!(second.take(MUCH).unwrap_err().kind(), ErrorKind::Busy);
        second.take(100).unwrap();
        drop(first);
        assert_eq!((told.load(Ordering::Relaxed), shared.load(Ordering::Relaxed)), (2, 100));
        second.take(MUCH).unwrap();
        drop(second);
        assert_eq!(shared.load(Ordering::Relaxed), 0);
    }
}
