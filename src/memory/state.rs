//! The parts a tier is made of, and the calls on one key.
//!
//! What a hit costs: one hash, one shared lock of one of many shards, one comparison of the key, one stamp, one count
//! of the entry; no allocation, no copy of the body, no line that another core's hit on another key writes.
//!
//! Lock order: the evictor, then one shard, then the marks of a namespace; never two shards. Nothing is dropped or called back under a shard's lock
//! but `admit`, which must be short and take no lock of the tier.

use std::hash::{BuildHasher, Hasher};

use super::budget::{Budget, Limits};
use super::events::{Cause, Events};
use super::eviction::Evictor;
use super::expiry::Hand;
use super::huge::Gathered;
use super::idle::Idle;
use super::namespaces::{Namespace, Namespaces};
use super::resident::Resident;
use super::shard::{Inner, Shard, Tally};
use super::table::{Due, Id, NEVER_DUE};
use super::ticks;
use crate::clock::{Clock, Timestamp};
use crate::entry::{Entry, Parts};
use crate::error::{Error, ErrorKind, Result};
use crate::key::KeyRef;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering};

#[derive(Debug)]
pub(super) struct State {
    pub(super) budget: Budget,
    pub(super) shards: Box<[Shard]>,
    hasher: foldhash::quality::RandomState,
    pub(super) namespaces: Namespaces,
    /// Who evicts holds this; it guards the queues of victims.
    pub(super) evictor: Mutex<Evictor>,
    /// While order is loose, what was last touched at this tick or before may be evicted by anyone. Written by whoever
    /// holds the evictor.
    pub(super) cut: AtomicU64,
    /// How far the sweep has come.
    pub(super) hand: Mutex<Hand>,
    pub(super) events: Events,
    pub(super) resident: Resident,
    /// Held by whoever gathers pages.
    pub(super) gathered: Mutex<Gathered>,
    /// Asked where a namespace has an idle lifetime, and for those who ask for the time with an entry.
    clock: Clock,
    /// Whether any namespace ever had one.
    has_idle: AtomicBool,
    /// Where coarse deadlines begin to count.
    started_at: Timestamp,
}

/// What became of an entry that was to be inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insertion {
    /// It stands under a key that had none.
    Inserted,
    /// It stands in the place of an older one.
    Replaced,
    /// What stands there already is not to be replaced by it, most often because its sequence is higher.
    Outdated,
    /// The caller did not admit it; nothing changed.
    Refused,
    /// It is larger than its share, so it is not kept; neither is what it was to replace.
    Bypassed,
}

impl State {
    pub(super) fn new(limits: Limits, clock: Clock) -> Self {
        let shards = shard_count(limits);
        Self {
            budget: Budget::new(limits, shards),
            shards: (0..shards).map(|_| Shard::new(ticks::now())).collect(),
            hasher: foldhash::quality::RandomState::default(),
            namespaces: Namespaces::new(),
            evictor: Mutex::new(Evictor::new(shards)),
            cut: AtomicU64::new(0),
            hand: Mutex::default(),
            events: Events::new(),
            resident: Resident::default(),
            gathered: Mutex::default(),
            started_at: clock.now(),
            has_idle: AtomicBool::new(false),
            clock,
        }
    }

    /// What stands under `key`, and what `meanwhile` gives, which is called while its slot is on the way.
    #[inline]
    pub(super) fn get<T>(&self, key: KeyRef<'_>, meanwhile: impl FnOnce(&Clock) -> T) -> Option<(Entry, T)> {
        let key = key.as_str().as_bytes();
        let (shard, hash) = self.locate(key);
        shard.bring_home_near(hash);
        let given = meanwhile(&self.clock);
        let inner = shard.inner.read();
        let (_, slot, entry) = inner.table.find(hash, key)?;
        if let Some(idle) = self.idle_of(entry) {
            let now = self.clock.now();
            if inner.tick_of(slot.stamp()) < idle.floor(now) {
                return None;
            }
            slot.touch(inner.stamp_near(idle.touch(now)), 1);
            return Some((entry.clone(), given));
        }
        let is_strict = self.budget.is_strict();
        slot.touch(inner.stamp_near(ticks::next(is_strict)), ticks::least_apart(is_strict));
        Some((entry.clone(), given))
    }

    pub(super) fn peek(&self, key: KeyRef<'_>) -> Option<Entry> {
        let key = key.as_str().as_bytes();
        let (shard, hash) = self.locate(key);
        let inner = shard.inner.read();
        let (_, slot, entry) = inner.table.find(hash, key)?;
        let is_idle = self
            .idle_of(entry)
            .is_some_and(|idle| inner.tick_of(slot.stamp()) < idle.floor(self.clock.now()));
        (!is_idle).then(|| entry.clone())
    }

    /// Puts `entry` under its key if `may_take`, shown what stands there, and then `admit` say so.
    pub(super) fn insert(
        &self,
        entry: Entry,
        may_take: impl FnOnce(Option<&Entry>) -> bool,
        admit: impl FnOnce(&mut Entry) -> bool,
    ) -> Insertion {
        let place = self.approach(entry.key_bytes());
        self.insert_at(place, entry, may_take, admit)
    }

    /// As [`State::insert`], of an entry made here, while its place in the index is on the way from memory.
    pub(super) fn put(
        &self,
        key: KeyRef<'_>,
        parts: &Parts<'_>,
        may_take: impl FnOnce(Option<&Entry>) -> bool,
        admit: impl FnOnce(&mut Entry) -> bool,
    ) -> Insertion {
        let place = self.approach(key.as_str().as_bytes());
        self.insert_at(place, Entry::new(key, parts), may_take, admit)
    }

    /// As [`State::locate`], for whoever will look there soon.
    #[inline]
    fn approach(&self, key: &[u8]) -> (&Shard, u32) {
        let (shard, hash) = self.locate(key);
        shard.bring_home_near(hash);
        (shard, hash)
    }

    #[inline]
    fn insert_at(
        &self,
        (shard, hash): (&Shard, u32),
        mut entry: Entry,
        may_take: impl FnOnce(Option<&Entry>) -> bool,
        admit: impl FnOnce(&mut Entry) -> bool,
    ) -> Insertion {
        let number = self.namespaces.number(entry.namespace_bytes());
        entry.set_namespace_number(number);
        let namespace = self.namespaces.get(number);
        let is_too_large = entry.weight() as u64 > self.weight_max_in(namespace);
        let mut inner = shard.inner.write();
        let place = inner.table.look(hash, entry.key_bytes());
        if !may_take(place.ok().and_then(|at| inner.table.slot(at)?.entry())) {
            return Insertion::Outdated;
        }
        if !admit(&mut entry) {
            return Insertion::Refused;
        }
        let (insertion, old) = match place {
            _ if is_too_large => (Insertion::Bypassed, place.ok().and_then(|at| self.take(&mut inner, at))),
            Ok(at) => (Insertion::Replaced, self.replace(&mut inner, at, entry, namespace)),
            Err(at) => {
                self.add(&mut inner, (at, hash), entry, namespace);
                (Insertion::Inserted, None)
            }
        };
        let mut gone = Vec::new();
        if let Some(over) = self.over_here(&inner) {
            self.evict_here(&mut inner, over, &mut gone);
        }
        let is_settled = self.settle(&mut inner) || !gone.is_empty();
        let arrived =
            if is_settled || inner.arrived > ARRIVED_MAX { std::mem::take(&mut inner.arrived) } else { 0 };
        shard.note_homes(&inner);
        drop(inner);
        if self.resident.is_time(arrived, self.budget.bytes_max()) {
            self.look_at_resident();
        }
        if let Some(old) = old {
            self.events.record(&old, Cause::Replaced);
        }
        self.let_go(&mut gone);
        if insertion != Insertion::Bypassed {
            self.keep_within(is_settled, number, namespace);
        }
        insertion
    }

    pub(super) fn remove(&self, key: KeyRef<'_>, cause: Cause) -> Option<Entry> {
        self.remove_if(key, cause, |_| true)
    }

    /// Takes out what stands under `key` if `is_it`, asked under the lock, says so.
    pub(super) fn remove_if(
        &self,
        key: KeyRef<'_>,
        cause: Cause,
        is_it: impl FnOnce(&Entry) -> bool,
    ) -> Option<Entry> {
        let key = key.as_str().as_bytes();
        let (shard, hash) = self.locate(key);
        let mut inner = shard.inner.write();
        let (at, _, entry) = inner.table.find(hash, key)?;
        if !is_it(entry) {
            return None;
        }
        let entry = self.take(&mut inner, at)?;
        inner.table.shrink();
        self.settle(&mut inner);
        drop(inner);
        self.events.record(&entry, cause);
        Some(entry)
    }

    /// The shard of a key, and the hash of the key within it.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of one hash")]
    pub(super) fn locate(&self, key: &[u8]) -> (&Shard, u32) {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key);
        let hash = hasher.finish();
        let at = (hash >> 32) as usize & (self.shards.len() - 1);
        #[expect(clippy::indexing_slicing, reason = "masked by the number of shards, a power of two")]
        (&self.shards[at], hash as u32)
    }

    /// The coarse deadline of an entry last used at `tick`: when the sweeper should look at it.
    pub(super) fn due_of(&self, entry: &Entry, tick: u64) -> Due {
        self.due_in(self.namespaces.get(entry.namespace_number()), entry, tick)
    }

    /// As [`State::due_of`], for whoever has the entry's namespace.
    #[inline]
    fn due_in(&self, namespace: Option<&Namespace>, entry: &Entry, tick: u64) -> Due {
        let idle_due = self.idle_of(entry).map_or(NEVER_DUE, |idle| self.due_at(idle.over_at(tick)));
        let expires_at = entry.expires_at();
        if expires_at == Timestamp::NEVER {
            return idle_due;
        }
        let grace_ms = namespace.map_or(0, Namespace::grace_ms);
        idle_due.min(self.due_at(Timestamp::from_millis(expires_at.as_millis().saturating_add(grace_ms))))
    }

    /// The idle lifetime of an entry's namespace, where it has one.
    #[inline]
    pub(super) fn idle_of(&self, entry: &Entry) -> Option<&Idle> {
        // Read by every hit, written once at most.
        if !self.has_idle.load(Ordering::Relaxed) {
            return None;
        }
        let idle = &self.namespaces.get(entry.namespace_number())?.idle;
        (idle.lifetime_ms() > 0).then_some(idle)
    }

    /// Sets how long entries of a namespace live that nobody uses; 0 for as long as their deadline says.
    pub(super) fn set_idle(&self, name: &str, lifetime_ms: u64) {
        let Some(namespace) = self.namespaces.get(self.namespaces.number(name.as_bytes())) else { return };
        namespace.idle.set(lifetime_ms, self.clock.now());
        self.has_idle.store(true, Ordering::Relaxed);
        self.forget_dues();
    }

    /// The tick of a use of this entry now.
    fn tick(&self, entry: &Entry) -> u64 {
        match self.idle_of(entry) {
            Some(idle) => idle.touch(self.clock.now()),
            None => ticks::next(self.budget.is_strict()),
        }
    }

    /// The coarse mark of a point in time, rounded down.
    pub(super) fn due_at(&self, at: Timestamp) -> Due {
        let units = at.as_millis().saturating_sub(self.started_at.as_millis()) / DUE_UNIT_MS;
        Due::try_from(units).unwrap_or(NEVER_DUE).min(NEVER_DUE - 1)
    }

    /// Takes the entry at `at` out of a shard and out of every account.
    pub(super) fn take(&self, inner: &mut Inner, at: usize) -> Option<Entry> {
        let (id, entry) = inner.table.remove(at)?;
        self.count(inner, id, &entry, Tally::of(&entry).negated());
        Some(entry)
    }

    #[inline]
    pub(super) fn count(&self, inner: &mut Inner, id: Id, entry: &Entry, tally: Tally) {
        let number = entry.namespace_number();
        inner.count(number, tally);
        if id.class() != 0
            && let Some(namespace) = self.namespaces.get(number)
        {
            namespace.count(tally.bytes);
        }
    }

    /// Brings a shard's changes to the sums when it is time; says whether it was.
    pub(super) fn settle(&self, inner: &mut Inner) -> bool {
        let must = self.budget.must_settle(inner.unsettled);
        if must {
            self.budget.settle(std::mem::take(&mut inner.unsettled));
        }
        must
    }

    /// What is too much, when a shard is about to settle and may evict by itself.
    #[inline]
    fn over_here(&self, inner: &Inner) -> Option<Tally> {
        if self.budget.is_strict() || !self.budget.must_settle(inner.unsettled) {
            return None;
        }
        self.budget.over_with(inner.unsettled)
    }

    /// Gives way where the process holds more than it should.
    #[cold]
    pub(super) fn look_at_resident(&self) {
        let (limit, withheld) = (self.budget.bytes_max(), self.budget.withheld());
        if let Some(withhold) = self.resident.look(limit, withheld)
            && withhold != withheld
        {
            self.budget.withhold(withhold);
            self.evict();
        }
    }

    /// Entries gave way to `bytes` of something else: has the allocator return what they leave, where both together
    /// would be too much.
    pub(super) fn make_room_for(&self, bytes: u64) {
        let limit = self.budget.bytes_max();
        self.resident.return_for(bytes, limit);
        if self.resident.is_time(i64::try_from(bytes).unwrap_or(i64::MAX), limit) {
            self.look_at_resident();
        }
    }

    /// Brings every shard's changes to the sums.
    pub(super) fn settle_all(&self) {
        for shard in &self.shards {
            let unsettled = std::mem::take(&mut shard.inner.write().unsettled);
            self.budget.settle(unsettled);
        }
    }

    /// Gives a namespace a share, and a class if it is its first; then what stands already is brought into it.
    pub(super) fn set_share(&self, name: &str, share: f64) -> Result<()> {
        let number = self.namespaces.number(name.as_bytes());
        let Some(namespace) = self.namespaces.get(number).filter(|_| number != 0) else { return Ok(()) };
        if namespace.class() == 0 {
            if share >= 1.0 {
                return Ok(());
            }
            let Some(class) = self.namespaces.next_class() else {
                let message = "255 namespaces have a max_share already, more are not told apart";
                return Err(
                    Error::new(ErrorKind::Settings, message).at(format!("namespaces.{name}.max_share"))
                );
            };
            namespace.set_share(share);
            namespace.set_class(class);
            for shard in &self.shards {
                Self::classify(&mut shard.inner.write(), number, namespace);
            }
        }
        namespace.set_share(share);
        self.evict_from(number);
        Ok(())
    }

    fn classify(inner: &mut Inner, number: u16, namespace: &Namespace) {
        for at in 0..inner.table.slots().len() {
            let Some(slot) = inner.table.slot(at) else { continue };
            let is_new = slot.id().class() == 0;
            let Some(entry) = slot.entry().filter(|entry| is_new && entry.namespace_number() == number)
            else {
                continue;
            };
            namespace.count(Tally::of(entry).bytes);
            inner.table.set_class(at, namespace.class());
        }
    }

    fn add(
        &self,
        inner: &mut Inner,
        (place, hash): (usize, u32),
        entry: Entry,
        namespace: Option<&Namespace>,
    ) {
        // Asked under the lock: `set_share` walks the shards after it has set the class.
        let class = namespace.map_or(0, Namespace::class);
        let tick = self.tick(&entry);
        let (id, due) = (Id::new(hash, class), self.due_in(namespace, &entry, tick));
        let tally = Tally::of(&entry);
        inner.arrived += tally.bytes;
        self.count(inner, id, &entry, tally);
        inner.insert(place, id, entry, (tick, due));
    }

    fn replace(
        &self,
        inner: &mut Inner,
        at: usize,
        entry: Entry,
        namespace: Option<&Namespace>,
    ) -> Option<Entry> {
        let id = inner.table.slot(at)?.id();
        let tick = self.tick(&entry);
        let due = self.due_in(namespace, &entry, tick);
        let (mut change, number) = (Tally::of(&entry), entry.namespace_number());
        inner.arrived += change.bytes;
        let old = inner.replace(at, entry, tick, due)?;
        // Two entries of one key are of one namespace, and most weigh the same: then no account changes.
        debug_assert_eq!(number, old.namespace_number());
        change.add(Tally::of(&old).negated());
        if change != Tally::default() {
            self.count(inner, id, &old, change);
        }
        Some(old)
    }

    /// The largest entry of a namespace that is kept.
    pub(super) fn weight_max(&self, number: u16) -> u64 {
        self.weight_max_in(self.namespaces.get(number))
    }

    #[inline]
    fn weight_max_in(&self, namespace: Option<&Namespace>) -> u64 {
        let limit = self.budget.bytes_max();
        let share = namespace.map_or(limit, |namespace| namespace.bytes_max(limit));
        self.budget.weight_max().min(share)
    }
}

/// One shard for each 4 MiB, so that what is done under one lock stays short however large the tier.
fn shard_count(limits: Limits) -> usize {
    let by_entries = limits.entries.unwrap_or(u64::MAX) / SHARD_ENTRIES;
    let wanted = usize::try_from(by_entries.min(limits.bytes / SHARD_BYTES)).unwrap_or(usize::MAX);
    wanted.clamp(SHARDS_MIN, SHARDS_MAX).next_power_of_two()
}

/// Bytes that may arrive in a shard before the watch of the resident size hears of them.
const ARRIVED_MAX: i64 = 64 << 10;

const SHARD_BYTES: u64 = 4 << 20;
const SHARD_ENTRIES: u64 = 2048;
const SHARDS_MIN: usize = 16;
const SHARDS_MAX: usize = 1024;

/// Coarse deadlines count in steps of 8 ms: 32 bits of them last 397 days, and what is further away is looked at then.
const DUE_UNIT_MS: u64 = 8;
