//! The verbs of [`Cache`] that forget: by key, pattern, prefix, namespace, tag, or all of it.
//!
//! All of them are durable when they return (but with durability `none`) and say how many live entries that were, each
//! once. What they do is in `engine/invalidate.rs`.

use crate::entry::Entry;
use crate::error::Result;
use crate::key::{KeyRef, Namespace, Parsed, Tag};
use crate::pattern::Pattern;

use super::invalidate::{self, Selector};
use super::{Cache, Event};

impl Cache {
    /// Invalidates everything that `selector` covers, durably: it does not come back, whatever happens to the process.
    /// Returns how many live entries that were, each once; for tags an upper bound. Waits for the disk.
    ///
    /// ```
    /// use hifz::{Cache, Pattern, Selector};
    ///
    /// let cache = Cache::builder().memory(1 << 20).open()?;
    /// cache.set_many([("a:1:x", "1"), ("a:2:x", "2"), ("b:1:x", "3")])?;
    /// let selector = Selector::Pattern(Pattern::parse("?:1:*")?);
    /// assert_eq!(cache.would_invalidate(&selector)?, 2);
    /// assert_eq!(cache.invalidate(&selector)?, 2);
    /// assert_eq!(cache.invalidate(&selector)?, 0);
    /// # Ok::<(), hifz::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::DiskFailed`](crate::ErrorKind::DiskFailed) when it could not be made durable; memory has forgotten
    /// them all the same. [`ErrorKind::Closed`](crate::ErrorKind::Closed) after [`Cache::close`].
    pub fn invalidate(&self, selector: &Selector) -> Result<u64> {
        self.refuse_if_closed()?;
        let state = self.state();
        let count = invalidate::invalidate(state, selector)?;
        if matches!(selector, Selector::Namespace(_) | Selector::All | Selector::Tags(_)) {
            self.0.sweeper.wake();
        }
        state.events.tell(|| Event::Invalidated { what: selector.to_string(), count });
        Ok(count)
    }

    /// How many live entries [`Cache::invalidate`] would invalidate now; changes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) after [`Cache::close`].
    pub fn would_invalidate(&self, selector: &Selector) -> Result<u64> {
        self.refuse_if_closed()?;
        Ok(invalidate::would_invalidate(self.state(), selector))
    }

    /// Takes out what stands under `key`, durably; whether it stood. See [`Cache::invalidate`].
    ///
    /// # Errors
    /// As [`Cache::invalidate`]; [`ErrorKind::KeyInvalid`](crate::ErrorKind::KeyInvalid) for text that is no key.
    pub fn delete<'k>(&self, key: impl Parsed<KeyRef<'k>>) -> Result<bool> {
        Ok(self.delete_many([key.parsed()?])? > 0)
    }

    /// As [`Cache::delete`], if `check`, shown what stands there, does not refuse. No write of the key by
    /// [`Cache::set_if`] or another call comes in between.
    ///
    /// ```
    /// use hifz::{Cache, Error, ErrorKind};
    ///
    /// let cache = Cache::builder().memory(1 << 20).open()?;
    /// cache.set("a:1", "second")?;
    /// let still_first = |standing: Option<&hifz::entry::Entry>| match standing {
    ///     Some(entry) if entry.body() == b"first" => Ok(()),
    ///     _ => Err(Error::new(ErrorKind::PreconditionFailed, "it has changed")),
    /// };
    /// assert!(cache.delete_if("a:1", still_first).is_err());
    /// assert!(cache.exists("a:1")?);
    /// assert!(cache.delete_if("a:1", |_| Ok(()))?);
    /// # Ok::<(), hifz::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Cache::delete`], and what `check` says.
    pub fn delete_if<'k>(
        &self,
        key: impl Parsed<KeyRef<'k>>,
        check: impl FnOnce(Option<&Entry>) -> Result<()>,
    ) -> Result<bool> {
        let key = key.parsed()?.to_key();
        self.refuse_if_closed()?;
        let state = self.state();
        let stood = invalidate::key_if(state, &key, check)?;
        let what = || Selector::Keys(vec![key.clone()]).to_string();
        state.events.tell(|| Event::Invalidated { what: what(), count: u64::from(stood) });
        Ok(stood)
    }

    /// Takes out what stands under each of `keys`, durably; how many of them stood. See [`Cache::invalidate`].
    ///
    /// # Errors
    /// As [`Cache::delete`].
    pub fn delete_many<'k, K: Parsed<KeyRef<'k>>>(&self, keys: impl IntoIterator<Item = K>) -> Result<u64> {
        let keys = keys.into_iter().map(|key| Ok(key.parsed()?.to_key())).collect::<Result<Vec<_>>>()?;
        self.invalidate(&Selector::Keys(keys))
    }

    /// Takes out every key that `pattern` covers, durably, in steps that readers pass between; how many of them stood.
    /// See [`Pattern`] for its signs, and [`Cache::invalidate`].
    ///
    /// # Errors
    /// As [`Cache::invalidate`]; [`ErrorKind::KeyInvalid`](crate::ErrorKind::KeyInvalid) for text that is no pattern.
    pub fn delete_pattern(&self, pattern: impl Parsed<Pattern>) -> Result<u64> {
        self.invalidate(&Selector::Pattern(pattern.parsed()?))
    }

    /// The same as [`Cache::delete_many`], by its other name.
    ///
    /// # Errors
    /// As [`Cache::delete`].
    pub fn invalidate_keys<'k, K: Parsed<KeyRef<'k>>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<u64> {
        self.delete_many(keys)
    }

    /// The same as [`Cache::delete_pattern`], by its other name.
    ///
    /// # Errors
    /// As [`Cache::delete_pattern`].
    pub fn invalidate_pattern(&self, pattern: impl Parsed<Pattern>) -> Result<u64> {
        self.delete_pattern(pattern)
    }

    /// Invalidates every key that begins with `prefix`, taken literally; see [`Cache::invalidate`].
    ///
    /// # Errors
    /// As [`Cache::delete_pattern`]; an empty prefix is refused, [`Cache::clear_all`] says that plainly.
    pub fn invalidate_prefix(&self, prefix: &str) -> Result<u64> {
        self.invalidate(&Selector::prefix(prefix)?)
    }

    /// Invalidates everything in `namespace`, at a cost that does not depend on how much that is; see
    /// [`Cache::invalidate`].
    ///
    /// # Errors
    /// As [`Cache::invalidate`]; [`ErrorKind::KeyInvalid`](crate::ErrorKind::KeyInvalid) for text that is no namespace.
    pub fn invalidate_namespace(&self, namespace: impl Parsed<Namespace>) -> Result<u64> {
        self.invalidate(&Selector::Namespace(namespace.parsed()?))
    }

    /// Invalidates everything tagged `tag`; visible at once, the memory is given back after it. See
    /// [`Cache::invalidate`].
    ///
    /// # Errors
    /// As [`Cache::invalidate`]; [`ErrorKind::KeyInvalid`](crate::ErrorKind::KeyInvalid) for text that is no tag.
    pub fn invalidate_tag(&self, tag: impl Parsed<Tag>) -> Result<u64> {
        self.invalidate_tags([tag])
    }

    /// Invalidates everything that has at least one of `tags`; see [`Cache::invalidate_tag`].
    ///
    /// # Errors
    /// As [`Cache::invalidate_tag`].
    pub fn invalidate_tags<T: Parsed<Tag>>(&self, tags: impl IntoIterator<Item = T>) -> Result<u64> {
        let tags = tags.into_iter().map(T::parsed).collect::<Result<Vec<_>>>()?;
        self.invalidate(&Selector::Tags(tags))
    }

    /// Invalidates everything; see [`Cache::invalidate`].
    ///
    /// # Errors
    /// As [`Cache::invalidate`].
    pub fn clear_all(&self) -> Result<u64> {
        self.invalidate(&Selector::All)
    }
}
