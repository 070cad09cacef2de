//! Asking through the cache: what stands there, else what a source has, by the policy of the namespace.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::key::{Key, KeyRef, Parsed};
use crate::source::Source;

use super::Cache;
use super::gate::SourceStatus;
use super::outcome::{self, Answer, Outcome};
use super::read::{self, Asking};
use super::spawn::Caller;
use super::stats::{Counters, MissReason};
use super::warm::{self, WarmReport, Warmed};

impl Cache {
    /// What stands under `key`, or what `source` has for it, which is then kept; how, the [`Policy`](crate::Policy) of
    /// its namespace says. However many callers ask at once, the source is asked once; the load goes on when its
    /// callers have gone, on a clone of `source`. Past its lifetime an entry is served only within the windows of its
    /// policy, and [`Answer::outcome`] says so. Waits at most as long as [`Policy::patience`](crate::Policy::patience);
    /// to wait less, drop the future.
    ///
    /// # Errors
    /// What the source reports when nothing may be served instead,
    /// [`ErrorKind::SourceTimedOut`](crate::ErrorKind::SourceTimedOut),
    /// [`ErrorKind::SourceRefused`](crate::ErrorKind::SourceRefused) for a value that is not acceptable,
    /// [`ErrorKind::Busy`](crate::ErrorKind::Busy) when too many loads are under way, or
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) after [`Cache::close`].
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
    fn hit<S>(&self, key: KeyRef<'_>, source: &S, caller: Caller) -> std::result::Result<Answer, MissReason>
    where
        S: Source + Clone + 'static,
    {
        let (state, begun) = (self.state(), Counters::begin());
        let entry = state.find(key)?;
        state.count_hit(&entry, begun);
        if state.is_any_eager() {
            read::refresh_ahead(self, &entry, || Arc::new(source.clone()), caller);
        }
        Ok(Answer::of(entry, Outcome::Hit))
    }

    /// Boxed, so that a future that ends as a hit stays small.
    #[cold]
    fn miss<'a>(
        &'a self,
        key: KeyRef<'a>,
        reason: MissReason,
        source: Arc<dyn Source>,
        caller: Caller,
    ) -> Pin<Box<dyn Future<Output = Result<Answer>> + Send + 'a>> {
        Box::pin(async move {
            let answered = read::get_or_load(self, &Asking { key, source, caller }).await;
            outcome::settle(self.state(), key, reason, &answered);
            answered
        })
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
}
