//! One namespace of a cache, as a handle of its own.

use crate::entry::Entry;
use crate::error::Result;
use crate::key::{Key, Namespace};

use super::{Cache, SetOptions, Ttl};

/// A [`Cache`] seen from inside one namespace: what is called `en` here stands under `greetings:en` there.
///
/// ```
/// let cache = hifz::Cache::builder().memory(1 << 20).open()?;
/// let greetings = cache.namespace("greetings")?;
/// greetings.set("en", "good morning")?;
/// assert_eq!(cache.get("greetings:en")?.unwrap().body(), b"good morning");
/// assert_eq!(greetings.invalidate()?, 1);
/// # Ok::<(), hifz::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct InNamespace {
    cache: Cache,
    namespace: Namespace,
}

impl InNamespace {
    pub(super) fn new(cache: Cache, namespace: Namespace) -> Self {
        Self { cache, namespace }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Namespace {
        &self.namespace
    }

    /// The whole cache.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The whole key of `name`.
    ///
    /// # Errors
    /// [`ErrorKind::KeyInvalid`](crate::ErrorKind::KeyInvalid) says which rule it breaks.
    pub fn key(&self, name: &str) -> Result<Key> {
        Key::parse(format!("{}:{name}", self.namespace))
    }

    /// As [`Cache::get`].
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub fn get(&self, name: &str) -> Result<Option<Entry>> {
        self.cache.get(&self.key(name)?)
    }

    /// As [`Cache::set`].
    ///
    /// # Errors
    /// As [`Cache::set`].
    pub fn set(&self, name: &str, value: impl AsRef<[u8]>) -> Result<()> {
        self.cache.set(&self.key(name)?, value)
    }

    /// As [`Cache::set_with`].
    ///
    /// # Errors
    /// As [`Cache::set_with`].
    pub fn set_with(&self, name: &str, value: impl AsRef<[u8]>, options: &SetOptions) -> Result<()> {
        self.cache.set_with(&self.key(name)?, value, options)
    }

    /// As [`Cache::exists`].
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub fn exists(&self, name: &str) -> Result<bool> {
        self.cache.exists(&self.key(name)?)
    }

    /// As [`Cache::ttl`].
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub fn ttl(&self, name: &str) -> Result<Option<Ttl>> {
        self.cache.ttl(&self.key(name)?)
    }

    /// As [`Cache::touch`].
    ///
    /// # Errors
    /// As [`Cache::touch`].
    pub fn touch(&self, name: &str) -> Result<bool> {
        self.cache.touch(&self.key(name)?)
    }

    /// As [`Cache::delete`].
    ///
    /// # Errors
    /// As [`Cache::delete`].
    pub fn delete(&self, name: &str) -> Result<bool> {
        self.cache.delete(&self.key(name)?)
    }

    /// Invalidates everything in it; see [`Cache::invalidate_namespace`].
    ///
    /// # Errors
    /// As [`Cache::invalidate_namespace`].
    pub fn invalidate(&self) -> Result<u64> {
        self.cache.invalidate_namespace(&self.namespace)
    }
}
