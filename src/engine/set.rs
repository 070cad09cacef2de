//! Putting values under keys: one, many, on a condition; and giving what stands there a new lifetime.

use crate::clock::Timestamp;
use crate::entry::Entry;
use crate::error::Result;
use crate::key::{KeyRef, Parsed};

use super::Cache;
use super::write::{self, SetOptions, Terms};

impl Cache {
    /// Puts `value` under `key` with the lifetime of its namespace. From the return on, no read sees an older value.
    ///
    /// # Errors
    /// [`ErrorKind::ValueTooLarge`](crate::ErrorKind::ValueTooLarge) when it is larger than the limit for one value or
    /// than half of the memory limit, [`ErrorKind::DiskFailed`](crate::ErrorKind::DiskFailed) when durability `always`
    /// was asked for and the disk failed, or when it fails so badly that a kill would bring an older value back (in
    /// memory the value holds all the same), and as [`Cache::get`].
    pub fn set<'k>(&self, key: impl Parsed<KeyRef<'k>>, value: impl AsRef<[u8]>) -> Result<()> {
        self.put_all(&[(key.parsed()?, value.as_ref())], &Terms::PLAIN)
    }

    /// As [`Cache::set`], with a lifetime, tags or media type of its own.
    ///
    /// # Errors
    /// As [`Cache::set`]; [`ErrorKind::ArgumentInvalid`](crate::ErrorKind::ArgumentInvalid) or
    /// [`ErrorKind::KeyInvalid`](crate::ErrorKind::KeyInvalid) says which option is not accepted.
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
    /// As [`Cache::set`]; [`Error::place`](crate::Error::place) names the key at fault.
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

    /// Gives what stands under `key` the lifetime of its namespace again, from now; whether something stood. The value
    /// stays as it is, and so does what can invalidate it.
    ///
    /// # Errors
    /// As [`Cache::get`]; [`ErrorKind::DiskFailed`](crate::ErrorKind::DiskFailed) when an earlier deadline could not be
    /// made durable.
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

    fn put_all(&self, values: &[(KeyRef<'_>, &[u8])], terms: &Terms<'_>) -> Result<()> {
        self.refuse_if_closed()?;
        write::put_all(self.state(), values, terms)?;
        self.acknowledge()
    }

    /// Waits for the disk where a write is to be on it before it is acknowledged; and no write is where what is older
    /// could come back.
    fn acknowledge(&self) -> Result<()> {
        let state = self.state();
        if state.flushes_writes {
            self.flush()?;
        }
        match &state.disk {
            Some(disk) if state.flushes_at_all => disk.check_overwrites(),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::datadir::DataDir;
    use crate::engine::Cache;
    use crate::error::ErrorKind;

    #[test]
    fn no_write_is_acknowledged_while_what_is_older_can_neither_be_marked_nor_removed() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::builder().data_dir(DataDir::open(temp.path()).unwrap()).open().unwrap();
        cache.set("a:1", "old").unwrap();
        cache.flush().unwrap();
        // Folders stand where the marks are left, and where the file is to be removed.
        let [bulk, logs @ ..] =
            ["cache.redb", "cache-marks-0.log", "cache-marks-1.log"].map(|name| temp.path().join(name));
        for log in &logs {
            fs::create_dir(log).unwrap();
        }
        fs::rename(&bulk, temp.path().join("away")).unwrap();
        fs::create_dir(&bulk).unwrap();
        let error = cache.set("a:1", "new").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DiskFailed, "{error}");
        assert_eq!(cache.get("a:1").unwrap().unwrap().body(), b"new", "in memory it holds");
        // What else is in the file nobody knows any more.
        assert_eq!(cache.set("a:2", "new").unwrap_err().kind(), ErrorKind::DiskFailed);
        fs::remove_dir(&bulk).unwrap();
        for log in &logs {
            fs::remove_dir(log).unwrap();
        }
        while cache.flush().is_err() {}
        cache.set("a:1", "newer").unwrap();
        cache.flush().unwrap();
        cache.close().unwrap();
    }
}
