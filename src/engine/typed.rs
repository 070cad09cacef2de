//! Typed values: anything that serde can take apart, as bincode or, by choice, as JSON.
//!
//! The media type of an entry says which of the two it is, so that reading needs no choice; bytes that are neither are
//! refused, and so are those of another type where that can be told. The type is not stored: what was written as one
//! type is to be read as that one.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::entry::{Entry, Head};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{KeyRef, Parsed};

use super::{Cache, SetOptions};

impl Cache {
    /// Puts `value` under `key`, in a compact form that [`Cache::get_value`] reads.
    ///
    /// ```
    /// let cache = hifz::Cache::builder().memory(1 << 20).open()?;
    /// cache.set_value("counts:today", &vec![("home".to_owned(), 17_u64)])?;
    /// let counts: Option<Vec<(String, u64)>> = cache.get_value("counts:today")?;
    /// assert_eq!(counts.unwrap()[0].1, 17);
    /// assert_eq!(cache.get_value::<u64>("counts:yesterday")?, None);
    /// # Ok::<(), hifz::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Cache::set`]; [`ErrorKind::DocumentInvalid`] when serde cannot take it apart.
    pub fn set_value<'k, T: Serialize + ?Sized>(
        &self,
        key: impl Parsed<KeyRef<'k>>,
        value: &T,
    ) -> Result<()> {
        self.set_value_with(key, value, SetOptions::new())
    }

    /// As [`Cache::set_value`], with options; their media type is replaced by that of the form.
    ///
    /// # Errors
    /// As [`Cache::set_value`] and [`Cache::set_with`].
    pub fn set_value_with<'k, T: Serialize + ?Sized>(
        &self,
        key: impl Parsed<KeyRef<'k>>,
        value: &T,
        options: SetOptions,
    ) -> Result<()> {
        #[cfg(feature = "json")]
        if options.is_json {
            let json = serde_json::to_vec(value).map_err(|error| {
                Error::new(ErrorKind::DocumentInvalid, "the value cannot be written as JSON").because(error)
            })?;
            return self.set_with(key, json, &options.content_type(JSON));
        }
        self.set_with(key, crate::codec::encode_serde(value)?, &options.content_type(VALUE_MEDIA_TYPE))
    }

    /// The value under `key`, as [`Cache::set_value`] or a JSON document put it there; see [`Cache::get`].
    ///
    /// # Errors
    /// As [`Cache::get`]; [`ErrorKind::DocumentInvalid`] when what stands there is not a value of this type.
    pub fn get_value<'k, T: DeserializeOwned>(&self, key: impl Parsed<KeyRef<'k>>) -> Result<Option<T>> {
        self.get(key)?.map(|entry| value_of(&entry)).transpose()
    }
}

impl SetOptions {
    /// A typed value is kept as JSON, which other programs read too, instead of as bincode.
    #[cfg(feature = "json")]
    pub fn json(mut self) -> Self {
        self.is_json = true;
        self
    }
}

fn value_of<T: DeserializeOwned>(entry: &Entry) -> Result<T> {
    let head = Head::decode(entry.head()).map_or("", |head| head.content_type);
    let read = match head {
        VALUE_MEDIA_TYPE => crate::codec::decode_serde(entry.body()),
        #[cfg(feature = "json")]
        JSON => serde_json::from_slice(entry.body()).map_err(|error| {
            Error::new(ErrorKind::DocumentInvalid, "the JSON document is not of this type").because(error)
        }),
        _ => Err(Error::new(ErrorKind::DocumentInvalid, "what stands there is plain bytes, not a value")),
    };
    read.map_err(|error| error.at(entry.key().as_str()))
}

/// The media type of values in bincode's form.
pub(crate) const VALUE_MEDIA_TYPE: &str = "application/x-hifz-value";

/// The media type of values as JSON.
#[cfg(feature = "json")]
const JSON: &str = "application/json";
