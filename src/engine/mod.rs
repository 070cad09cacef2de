//! The engine: one cache over the memory tier, the disk tier and a source.
//!
//! [`Cache`] is a handle; clones share everything. Its verbs live in files of their own, each over the same `State`:
//! reading, invalidating, sweeping, warm restart. It does not know HTTP, what bodies mean, or how the tiers work inside.

mod builder;
mod charge;
mod doomed;
mod events;
mod explain;
mod flight;
mod forget;
mod gate;
mod graces;
mod invalidate;
mod latency;
mod list;
mod load;
mod namespace;
mod outcome;
#[cfg(any(feature = "tower", feature = "typed"))]
mod owed;
mod policy;
#[cfg(test)]
mod races;
mod read;
mod recency;
mod recovery;
mod remembered;
mod retry;
mod seldom;
mod spawn;
mod state;
mod stats;
mod sweeper;
mod timer;
mod ttl;
#[cfg(feature = "typed")]
mod typed;
mod verify;
mod warm;
mod write;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

/// What listeners are told of removals.
#[cfg(feature = "server")]
pub(crate) use crate::memory::Removal;
/// Why entries leave memory, and the name that namespaces beyond the most are counted under.
pub use crate::memory::{Cause, OVERFLOW_NAME};
pub use builder::{CacheBuilder, Durability};
pub use charge::Charge;
pub use events::{Event, Subscription};
pub use explain::{Explanation, StoredCopy};
pub use gate::{Breaker, SourceStatus};
pub use invalidate::Selector;
pub use list::{Filter, ListCursor, Listed, Listing};
pub use namespace::InNamespace;
pub use outcome::{Answer, Outcome};
#[cfg(any(feature = "tower", feature = "typed"))]
pub(crate) use owed::Owed;
pub use policy::Policy;
pub use spawn::Task;
pub use stats::{Happened, Latencies, MissReason, NamespaceStats, Operation, Stats};
pub use ttl::Ttl;
#[cfg(feature = "typed")]
pub(crate) use typed::VALUE_MEDIA_TYPE;
pub use warm::{WarmReport, Warmed, Warmth};
pub use write::{SetOptions, TAGS_MAX};

use crate::clock::Timestamp;
use crate::disk::DiskStatus;
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, KeyRef, Namespace, Parsed};
use crate::memory::{Cursor, Held, Limits, Memory, Verdict};
use crate::source::Source;

use read::Asking;
use recovery::Recovery;
use spawn::Caller;
use state::State;
use stats::Counters;
use sweeper::Sweeper;
use write::Terms;

/// A bounded cache with its own persistent store; cheap to clone, every clone is the same cache.
///
/// ```
/// let cache = hifz::Cache::builder().memory(16 << 20).open()?;
/// cache.set("greetings:en", "good morning")?;
/// assert_eq!(cache.get("greetings:en")?.unwrap().body(), b"good morning");
/// assert_eq!(cache.invalidate_prefix("greetings:")?, 1);
/// assert!(cache.get("greetings:en")?.is_none());
/// cache.close()?;
/// # Ok::<(), hifz::Error>(())
/// ```
#[derive(Clone)]
pub struct Cache(Arc<Shared>);

struct Shared {
    state: Arc<State>,
    sweeper: Sweeper,
    recovery: Recovery,
}

impl Cache {
    /// A builder with the defaults of every setting.
    pub fn builder() -> CacheBuilder {
        CacheBuilder::new()
    }

    fn assemble(state: State) -> Result<Self> {
        let state = Arc::new(state);
        let sweeper = Sweeper::start(&state)?;
        let recovery = Recovery::start(&state)?;
        Ok(Self(Arc::new(Shared { state, sweeper, recovery })))
    }

    fn state(&self) -> &State {
        &self.0.state
    }

    fn shared_state(&self) -> Arc<State> {
        self.0.state.clone()
    }

    /// What stands under `key` in memory or on disk, if it is fresh. Never fails because of the disk, but may wait for
    /// it: in async code use [`Cache::get_async`].
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after [`Cache::close`], [`ErrorKind::KeyInvalid`] for text that is no key.
    pub fn get<'k>(&self, key: impl Parsed<KeyRef<'k>>) -> Result<Option<Entry>> {
        let key = key.parsed()?;
        self.refuse_if_closed()?;
        let (state, begun) = (self.state(), Counters::begin());
        Ok(self.counted(key, begun, read::get(state, key)))
    }

    /// What stands fresh under `key` in memory, counted as a hit. `None` says nothing of the disk and counts as nothing:
    /// for a caller who then asks in another way.
    #[must_use]
    pub fn get_in_memory(&self, key: KeyRef<'_>) -> Option<Entry> {
        let (state, begun) = (self.state(), Counters::begin());
        let entry = state.find(key).ok().filter(|_| !state.is_closed())?;
        state.count_hit(&entry, begun);
        Some(entry)
    }

    /// As [`Cache::get`], without ever blocking the executor: a look at the disk is made on a thread that may.
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub async fn get_async<'k>(&self, key: impl Parsed<KeyRef<'k>>) -> Result<Option<Entry>> {
        let key = key.parsed()?;
        self.refuse_if_closed()?;
        let (state, begun) = (self.state(), Counters::begin());
        let mut found = state.find(key);
        if found.is_err() && state.disk.as_ref().is_some_and(|disk| disk.may_contain(key)) {
            let (state, key) = (self.0.state.clone(), key.to_key());
            found = blocking::unblock(move || read::get(&state, key.as_key_ref())).await;
        }
        Ok(self.counted(key, begun, found))
    }

    /// The value under `key` as shared bytes, without a copy; see [`Cache::get`].
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub fn get_bytes<'k>(&self, key: impl Parsed<KeyRef<'k>>) -> Result<Option<Bytes>> {
        Ok(self.get(key)?.map(|entry| entry.body_shared()))
    }

    /// What stands under each of `keys`, in their order; see [`Cache::get`].
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub fn get_many<'k, K: Parsed<KeyRef<'k>>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Entry>>> {
        let keys = keys.into_iter().map(K::parsed).collect::<Result<Vec<_>>>()?;
        self.refuse_if_closed()?;
        let state = self.state();
        let mut found = Vec::with_capacity(keys.len());
        for few in keys.chunks(Memory::READ_AHEAD) {
            state.memory.read_ahead(few);
            found.extend(few.iter().map(|key| {
                let begun = Counters::begin();
                self.counted(*key, begun, read::get(state, *key))
            }));
        }
        Ok(found)
    }

    /// As [`Cache::get`], but it counts as neither hit nor miss, and not as a use.
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub fn peek<'k>(&self, key: impl Parsed<KeyRef<'k>>) -> Result<Option<Entry>> {
        let key = key.parsed()?;
        self.refuse_if_closed()?;
        Ok(read::peek(self.state(), key))
    }

    /// Counts what was found, or why nothing was.
    #[inline]
    fn counted(
        &self,
        key: KeyRef<'_>,
        begun: Option<Instant>,
        found: std::result::Result<Entry, MissReason>,
    ) -> Option<Entry> {
        match &found {
            Ok(entry) => self.state().count_hit(entry, begun),
            Err(reason) => self.state().count_miss(key, *reason),
        }
        found.ok()
    }

    /// What stands under `key`, or what `source` has for it, which is then kept; how, the [`Policy`] of its namespace
    /// says. However many callers ask at once, the source is asked once; the load goes on when its callers have gone,
    /// on a clone of `source`. Past its lifetime an entry is served only within the windows of its policy, and
    /// [`Answer::outcome`] says so. Waits at most as long as [`Policy::patience`]; to wait less, drop the future.
    ///
    /// # Errors
    /// What the source reports when nothing may be served instead, [`ErrorKind::SourceTimedOut`],
    /// [`ErrorKind::SourceRefused`] for a value that is not acceptable, [`ErrorKind::Busy`] when too many loads are
    /// under way, or [`ErrorKind::Closed`] after [`Cache::close`].
    pub async fn get_or_load<'k, S>(&self, key: impl Parsed<KeyRef<'k>>, source: &S) -> Result<Answer>
    where
        S: Source + Clone + 'static,
    {
        let key = key.parsed()?;
        match self.hit(key, source, Caller::Awaits) {
            Ok(answer) => Ok(answer),
            Err(reason) => self.miss(key, reason, Arc::new(source.clone()), Caller::Awaits).await,
        }
    }

    /// As [`Cache::get_or_load`], for callers that are not async: waits on this thread. Never call it from a task of a
    /// runtime with a single thread, which it would stop.
    ///
    /// # Errors
    /// As [`Cache::get_or_load`].
    pub fn get_or_load_blocking<'k, S>(&self, key: impl Parsed<KeyRef<'k>>, source: &S) -> Result<Answer>
    where
        S: Source + Clone + 'static,
    {
        let key = key.parsed()?;
        match self.hit(key, source, Caller::Blocks) {
            Ok(answer) => Ok(answer),
            Err(reason) => {
                let missed = self.miss(key, reason, Arc::new(source.clone()), Caller::Blocks);
                futures_lite::future::block_on(missed)
            }
        }
    }

    #[inline]
    fn hit<S>(
        &self,
        key: KeyRef<'_>,
        source: &S,
        caller: Caller,
    ) -> std::result::Result<Answer, stats::MissReason>
    where
        S: Source + Clone + 'static,
    {
        let (state, begun) = (self.state(), Counters::begin());
        let entry = state.find(key)?;
        state.count_hit(&entry, begun);
        if state.is_any_eager() {
            read::refresh_ahead(self, &entry, || Arc::new(source.clone()), caller);
        }
        Ok(Answer { entry: Some(entry), outcome: Outcome::Hit })
    }

    async fn miss(
        &self,
        key: KeyRef<'_>,
        reason: MissReason,
        source: Arc<dyn Source>,
        caller: Caller,
    ) -> Result<Answer> {
        let asking = Asking { key, source, caller };
        let answered = Box::pin(read::get_or_load(self, &asking)).await;
        outcome::settle(self.state(), key, reason, &answered);
        answered
    }

    /// Loads what is not fresh among `keys`, a few at a time and after ordinary callers; `tell` hears of each that is
    /// done. What fails ends nothing, and warming again costs the source nothing.
    ///
    /// ```
    /// use hifz::source::{Loaded, from_fn};
    /// use hifz::{Cache, Key};
    ///
    /// let cache = Cache::builder().memory(1 << 20).open()?;
    /// let pages = from_fn("pages", |key: Key| async move { Ok(Some(Loaded::new(key.as_str()))) });
    /// let keys = (1..=3).filter_map(|number| Key::parse(format!("page:{number}")).ok());
    /// let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// let report = runtime.block_on(cache.warm(keys, &pages, |_| ()));
    /// assert_eq!((report.loaded, report.failed), (3, 0));
    /// assert!(cache.exists("page:2")?);
    /// # Ok::<(), hifz::Error>(())
    /// ```
    pub async fn warm<S>(
        &self,
        keys: impl IntoIterator<Item = Key, IntoIter: Send>,
        source: &S,
        mut tell: impl FnMut(&Warmed) + Send,
    ) -> WarmReport
    where
        S: Source + Clone + 'static,
    {
        let source: Arc<dyn Source> = Arc::new(source.clone());
        warm::warm(self, keys.into_iter(), &source, &mut tell).await
    }

    /// How each source that was asked so far is.
    #[must_use]
    pub fn sources(&self) -> Vec<SourceStatus> {
        self.state().gates.status()
    }

    /// Until when it is remembered that the source has nothing under `key`; `None` when it is not.
    #[must_use]
    pub fn absent_until(&self, key: KeyRef<'_>) -> Option<Timestamp> {
        self.state().absent.until(key, self.state().clock.now())
    }

    /// Whether something fresh stands under `key`; counts as neither hit nor miss and touches no order.
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub fn exists<'k>(&self, key: impl Parsed<KeyRef<'k>>) -> Result<bool> {
        Ok(self.peek(key)?.is_some())
    }

    /// How long what stands under `key` stays fresh: `None` when nothing does.
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub fn ttl<'k>(&self, key: impl Parsed<KeyRef<'k>>) -> Result<Option<Ttl>> {
        Ok(self.peek(key)?.map(|entry| Ttl::of(&entry, self.now())))
    }

    /// Puts `value` under `key` with the lifetime of its namespace. From the return on, no read sees an older value.
    ///
    /// # Errors
    /// [`ErrorKind::ValueTooLarge`] when it is larger than the limit for one value or than half of the memory limit,
    /// [`ErrorKind::DiskFailed`] when durability `always` was asked for and the disk failed, and as [`Cache::get`].
    pub fn set<'k>(&self, key: impl Parsed<KeyRef<'k>>, value: impl AsRef<[u8]>) -> Result<()> {
        self.put_all(&[(key.parsed()?, value.as_ref())], &Terms::PLAIN)
    }

    /// As [`Cache::set`], with a lifetime, tags or media type of its own.
    ///
    /// # Errors
    /// As [`Cache::set`]; [`ErrorKind::ArgumentInvalid`] or [`ErrorKind::KeyInvalid`] says which option is not accepted.
    pub fn set_with<'k>(
        &self,
        key: impl Parsed<KeyRef<'k>>,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<()> {
        self.put_all(&[(key.parsed()?, value.as_ref())], &Terms::check(options)?)
    }

    /// Puts `value` under `key` until `expires_at`.
    ///
    /// # Errors
    /// As [`Cache::set`].
    pub fn set_until<'k>(
        &self,
        key: impl Parsed<KeyRef<'k>>,
        value: impl AsRef<[u8]>,
        expires_at: Timestamp,
    ) -> Result<()> {
        self.set_with(key, value, &SetOptions::new().until(expires_at))
    }

    /// Puts each value under its key with the lifetime of its namespace, all or nothing: what is refused of one
    /// changes nothing. With durability `always` one wait for the disk serves them all.
    ///
    /// # Errors
    /// As [`Cache::set`]; [`Error::place`] names the key at fault.
    pub fn set_many<'k, K: Parsed<KeyRef<'k>>, V: AsRef<[u8]>>(
        &self,
        values: impl IntoIterator<Item = (K, V)>,
    ) -> Result<()> {
        self.set_many_with(values, &SetOptions::new())
    }

    /// As [`Cache::set_many`], each with these options.
    ///
    /// # Errors
    /// As [`Cache::set_many`] and [`Cache::set_with`].
    pub fn set_many_with<'k, K: Parsed<KeyRef<'k>>, V: AsRef<[u8]>>(
        &self,
        values: impl IntoIterator<Item = (K, V)>,
        options: &SetOptions,
    ) -> Result<()> {
        let parsed = values.into_iter().map(|(key, value)| Ok((key.parsed()?, value)));
        let values = parsed.collect::<Result<Vec<(KeyRef<'k>, V)>>>()?;
        let values: Vec<_> = values.iter().map(|(key, value)| (*key, value.as_ref())).collect();
        self.put_all(&values, &Terms::check(options)?)
    }

    /// Gives what stands under `key` the lifetime of its namespace again, from now; whether something stood. The value
    /// stays as it is, and so does what can invalidate it.
    ///
    /// # Errors
    /// As [`Cache::get`]; [`ErrorKind::DiskFailed`] when an earlier deadline could not be made durable.
    pub fn touch<'k>(&self, key: impl Parsed<KeyRef<'k>>) -> Result<bool> {
        self.touch_with(key, &SetOptions::new())
    }

    /// As [`Cache::touch`], with the lifetime that `options` name; the rest of them is ignored.
    ///
    /// # Errors
    /// As [`Cache::touch`] and [`Cache::set_with`].
    pub fn touch_with<'k>(&self, key: impl Parsed<KeyRef<'k>>, options: &SetOptions) -> Result<bool> {
        let (key, terms) = (key.parsed()?, Terms::check(options)?);
        self.refuse_if_closed()?;
        write::touch(self.state(), key, &terms)
    }

    /// As [`Cache::set_with`], if `check`, shown what stands there, does not refuse. No other write of the key comes in
    /// between.
    ///
    /// ```
    /// use hifz::{Cache, Error, ErrorKind, SetOptions};
    ///
    /// let cache = Cache::builder().memory(1 << 20).open()?;
    /// let only_new = |standing: Option<&hifz::entry::Entry>| match standing {
    ///     Some(_) => Err(Error::new(ErrorKind::PreconditionFailed, "it stands already")),
    ///     None => Ok(()),
    /// };
    /// cache.set_if("a:1", "first", &SetOptions::new(), only_new)?;
    /// assert!(cache.set_if("a:1", "second", &SetOptions::new(), only_new).is_err());
    /// assert_eq!(cache.get("a:1")?.unwrap().body(), b"first");
    /// # Ok::<(), hifz::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Cache::set_with`], and what `check` says.
    pub fn set_if<'k>(
        &self,
        key: impl Parsed<KeyRef<'k>>,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
        check: impl FnOnce(Option<&Entry>) -> Result<()>,
    ) -> Result<()> {
        let (key, terms) = (key.parsed()?, Terms::check(options)?);
        self.refuse_if_closed()?;
        write::put_if(self.state(), key, value.as_ref(), &terms, check)?;
        self.acknowledge()
    }

    /// As [`Cache::set_many`], each value with options of its own.
    ///
    /// # Errors
    /// As [`Cache::set_many`] and [`Cache::set_with`].
    pub fn set_each<'k, 'v, K: Parsed<KeyRef<'k>>>(
        &self,
        values: impl IntoIterator<Item = (K, &'v [u8], &'v SetOptions)>,
    ) -> Result<()> {
        let parsed = values
            .into_iter()
            .map(|(key, value, options)| Ok((key.parsed()?, value, Terms::check(options)?)));
        let values = parsed.collect::<Result<Vec<_>>>()?;
        self.refuse_if_closed()?;
        write::put_each(self.state(), &values)?;
        self.acknowledge()
    }

    fn put_all(&self, values: &[(KeyRef<'_>, &[u8])], terms: &Terms<'_>) -> Result<()> {
        self.refuse_if_closed()?;
        write::put_all(self.state(), values, terms)?;
        self.acknowledge()
    }

    /// Waits for the disk where a write is to be on it before it is acknowledged.
    fn acknowledge(&self) -> Result<()> {
        if self.state().flushes_writes { self.flush() } else { Ok(()) }
    }

    /// The cache as seen from inside one namespace: keys without it, and nothing beyond it within reach.
    ///
    /// # Errors
    /// [`ErrorKind::KeyInvalid`] says which rule `namespace` breaks.
    pub fn namespace(&self, namespace: impl Parsed<Namespace>) -> Result<InNamespace> {
        Ok(InNamespace::new(self.clone(), namespace.parsed()?))
    }

    /// Some keys that stand fresh in memory, from `from` on, about `most` of them, and where to go on. Whatever stands
    /// all the while is met exactly once or, when the tier grows meanwhile, at least once.
    #[must_use]
    pub fn keys(&self, from: Cursor, most: usize) -> (Vec<Key>, Option<Cursor>) {
        let (state, mut keys) = (self.state(), Vec::new());
        let scanned = state.memory.scan(from, most, |entry| {
            if state.is_live(entry) {
                keys.push(entry.key().to_key());
            }
            Verdict::Keep
        });
        (keys, scanned.next)
    }

    /// Some of the entries, in memory or on disk, that pass `filter`, from `from` on, at most `most` of them, and where to go on. What stands all the while is met exactly once; a
    /// step may bring fewer than `most`, and even none, and there may still be more. Blocks on the disk.
    ///
    /// ```
    /// use hifz::{Cache, Filter};
    ///
    /// let cache = Cache::builder().memory(1 << 20).open()?;
    /// cache.set_many([("a:1", "one"), ("a:2", "two"), ("b:1", "three")])?;
    /// let (mut keys, mut next) = (Vec::new(), Some(Default::default()));
    /// while let Some(from) = next {
    ///     let listing = cache.list(&Filter::new().namespace("a"), from, 100)?;
    ///     keys.extend(listing.entries.into_iter().map(|listed| listed.key.to_string()));
    ///     next = listing.next;
    /// }
    /// keys.sort();
    /// assert_eq!(keys, ["a:1", "a:2"]);
    /// # Ok::<(), hifz::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after [`Cache::close`].
    pub fn list(&self, filter: &Filter, from: ListCursor, most: usize) -> Result<Listing> {
        self.refuse_if_closed()?;
        Ok(list::list(self.state(), &|key| filter.passes(key), from, most))
    }

    /// What each namespace holds, in memory or only on disk, and what happened in it. Blocks on the disk.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after [`Cache::close`].
    pub fn census(&self) -> Result<Vec<NamespaceStats>> {
        self.refuse_if_closed()?;
        Ok(list::census(self.state()))
    }

    /// Everything about `key`: where it stands, how long yet, or why it is not served. Blocks on the disk.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after [`Cache::close`], [`ErrorKind::KeyInvalid`] for text that is no key.
    pub fn explain<'k>(&self, key: impl Parsed<KeyRef<'k>>) -> Result<Explanation> {
        let key = key.parsed()?;
        self.refuse_if_closed()?;
        Ok(explain::explain(self.state(), key))
    }

    /// What each namespace holds in memory.
    #[must_use]
    pub fn namespaces(&self) -> Vec<(String, Held)> {
        self.state().memory.usage_by_namespace()
    }

    /// Changes the bound of the cache file. Lowered below what the file has, it gives up the coldest at once and shrinks
    /// at the next clean stop. Without a disk tier nothing happens.
    pub fn set_disk(&self, bytes: u64) {
        if let Some(disk) = &self.state().disk {
            disk.set_bytes_max(bytes);
        }
    }

    /// Changes the memory limit; what is over it leaves before this returns.
    pub fn set_memory(&self, bytes: u64) {
        let state = self.state();
        state.memory.set_limits(Limits { bytes, entries: state.entries_max });
    }

    /// Charges what the program holds beside the cache to the cache's memory limit; nothing yet, see [`Charge::set`].
    ///
    /// ```
    /// # let cache = hifz::Cache::builder().memory(16 << 20).open()?;
    /// let mut charge = cache.charge();
    /// let buffer = vec![0_u8; 1 << 20];
    /// charge.set(buffer.len() as u64);
    /// assert_eq!(cache.stats().memory_withheld_bytes, 1 << 20);
    /// # drop(charge);
    /// # assert_eq!(cache.stats().memory_withheld_bytes, 0);
    /// # cache.close()?;
    /// # Ok::<(), hifz::Error>(())
    /// ```
    #[must_use]
    pub fn charge(&self) -> Charge {
        Charge::new(self.shared_state())
    }

    /// Whether memory still keeps this very entry under its key.
    #[must_use]
    pub fn keeps(&self, entry: &Entry) -> bool {
        self.state().memory.peek(entry.key()).is_some_and(|own| own.is_same(entry))
    }

    /// The memory limit, in bytes.
    #[must_use]
    pub fn memory_limit(&self) -> u64 {
        self.state().memory.usage().limit_bytes
    }

    /// Tells from now on what leaves memory and why, within a quarter of a second, and at once what is invalidated or
    /// changes its state.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.state().events.subscribe(&self.state().memory)
    }

    /// Tells listeners of something that happened around the cache.
    pub fn tell(&self, event: Event) {
        self.state().events.tell(|| event);
    }

    /// The number of the last event told; see [`Subscription::next_numbered`].
    #[must_use]
    pub fn last_event(&self) -> u64 {
        self.state().events.last()
    }

    /// The lifetimes of `namespace`.
    #[must_use]
    pub fn policy(&self, namespace: &str) -> Policy {
        self.state().policy(namespace)
    }

    /// Gives `namespace` another policy from now on. Lifetimes of what stands there stay as they are; windows and
    /// everything else follow the new one at once.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] when too many namespaces have a share of their own.
    pub fn set_policy(&self, namespace: &Namespace, policy: Policy) -> Result<()> {
        self.state().set_policy(Some(namespace.as_str()), policy)
    }

    /// The clock its deadlines are measured by.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.state().clock.now()
    }

    /// Its figures at this moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.state().stats()
    }

    /// How the disk tier is; `None` without one.
    #[must_use]
    pub fn disk_status(&self) -> Option<DiskStatus> {
        self.state().disk.as_ref().map(crate::disk::Disk::status)
    }

    /// Whether the background sweeper is at work.
    #[must_use]
    pub fn is_sweeping(&self) -> bool {
        self.0.sweeper.is_alive()
    }

    /// Waits until everything put so far is on disk.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] with what went wrong.
    pub fn flush(&self) -> Result<()> {
        self.state().disk.as_ref().map_or(Ok(()), crate::disk::Disk::flush)
    }

    /// Stops the background threads and writes what is queued. Later calls are refused; a second close does nothing.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`] when what was queued could not be written.
    pub fn close(&self) -> Result<()> {
        self.0.close()
    }

    fn refuse_if_closed(&self) -> Result<()> {
        if self.state().is_closed() {
            return Err(Error::new(ErrorKind::Closed, "the cache has been closed"));
        }
        Ok(())
    }
}

impl Shared {
    fn close(&self) -> Result<()> {
        if !self.state.close() {
            return Ok(());
        }
        self.recovery.stop();
        self.sweeper.stop();
        recency::tell(&self.state);
        self.state.loads.close();
        self.state.timer.close();
        self.state.disk.as_ref().map_or(Ok(()), crate::disk::Disk::close)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(error = %error.chain(), "the cache could not be closed cleanly");
        }
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
