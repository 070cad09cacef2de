//! Keys and namespaces, parsed once at the door and valid ever after.
//!
//! A key is 1–1024 bytes of UTF-8 without control characters, written `namespace:rest`. The namespace is the text
//! before the first `:`; a key without one is in `default`, and a key that begins with `:` is refused. A process may have
//! a prefix that stands before its built-in keys: it belongs to no namespace, which begins after it.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::OnceLock;

use crate::error::{Error, ErrorKind, Result};

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// The namespace of keys that name none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// A valid key that borrows its text; what every lookup takes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyRef<'k>(&'k str);

impl<'k> KeyRef<'k> {
    /// Checks `text` and takes it as a key.
    ///
    /// # Errors
    /// [`ErrorKind::KeyInvalid`] says which rule it breaks.
    pub fn parse(text: &'k str) -> Result<Self> {
        if text.is_empty() {
            return Err(invalid("is empty"));
        }
        if text.len() > KEY_BYTES_MAX {
            return Err(invalid(format!("has {} bytes, the most is {KEY_BYTES_MAX}", text.len())));
        }
        if text.starts_with(':') {
            return Err(invalid("begins with ':', a namespace cannot be empty"));
        }
        if text.chars().any(char::is_control) {
            return Err(invalid("contains a control character"));
        }
        Ok(Self(text))
    }

    /// Takes text that was a [`Key`] before: read back from a record whose checksum held.
    pub(crate) fn known(text: &'k str) -> Self {
        debug_assert!(Self::parse(text).is_ok(), "only text that was a key before");
        Self(text)
    }

    /// The whole text.
    #[must_use]
    pub fn as_str(self) -> &'k str {
        self.0
    }

    /// The text before the first `:`, or `default`.
    #[must_use]
    pub fn namespace(self) -> &'k str {
        let text = without_prefix(self.0);
        text.split_once(':').map_or(DEFAULT_NAMESPACE, |(namespace, _)| namespace)
    }

    /// The same key with text of its own.
    #[must_use]
    pub fn to_key(self) -> Key {
        Key(self.0.into())
    }
}

impl fmt::Debug for KeyRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for KeyRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Lets `text` stand before the built-in keys of this process from now on. The caller guarantees that no key has been
/// made yet: where a namespace begins must not change under entries that are kept.
///
/// # Errors
/// [`ErrorKind::Settings`] for a prefix that no key can begin with, or when there is another one already.
#[cfg(feature = "server")]
pub(crate) fn set_prefix(text: &str) -> Result<()> {
    if text.len() > PREFIX_BYTES_MAX || KeyRef::parse(text).is_err() {
        let message = format!(
            "{text:?} cannot stand before a key: 1 to {PREFIX_BYTES_MAX} bytes without control characters, not \
             beginning with ':', are accepted"
        );
        return Err(Error::new(ErrorKind::Settings, message).at("key_prefix"));
    }
    PREFIX.set(text.into()).map_err(|_| Error::new(ErrorKind::Settings, "is set already").at("key_prefix"))
}

/// What stands before the built-in keys of this process; mostly nothing.
pub(crate) fn prefix() -> &'static str {
    PREFIX.get().map_or("", |prefix| prefix)
}

/// `text` without the prefix of this process, where a key is left over.
pub(crate) fn without_prefix(text: &str) -> &str {
    let Some(prefix) = PREFIX.get() else { return text };
    text.strip_prefix(&**prefix).filter(|rest| !rest.is_empty() && !rest.starts_with(':')).unwrap_or(text)
}

/// Written once, before the first key is made.
static PREFIX: OnceLock<Box<str>> = OnceLock::new();

/// The longest prefix; so much of a key is left for what stands behind it.
#[cfg(feature = "server")]
const PREFIX_BYTES_MAX: usize = 256;

/// A valid key that owns its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Box<str>);

impl Key {
    /// Checks `text` and takes it as a key.
    ///
    /// # Errors
    /// [`ErrorKind::KeyInvalid`] says which rule it breaks.
    ///
    /// ```
    /// let key = hifz::Key::parse("quran:surah:2")?;
    /// assert_eq!(key.namespace(), "quran");
    /// assert!(hifz::Key::parse(":nobody").is_err());
    /// # Ok::<(), hifz::Error>(())
    /// ```
    pub fn parse(text: impl Into<Box<str>>) -> Result<Self> {
        let text = text.into();
        KeyRef::parse(&text)?;
        Ok(Self(text))
    }

    /// The same key, borrowed.
    #[must_use]
    pub fn as_key_ref(&self) -> KeyRef<'_> {
        KeyRef(&self.0)
    }

    /// The whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text before the first `:`, or `default`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.as_key_ref().namespace()
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

// As `str` hashes, so that a map of keys can be asked with borrowed text.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.as_key_ref(), f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A valid namespace: the part of a key before its first `:`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Namespace(Box<str>);

impl Namespace {
    /// Checks `text` and takes it as a namespace: 1–1024 bytes without `:` and control characters.
    ///
    /// # Errors
    /// [`ErrorKind::KeyInvalid`] says which rule it breaks.
    pub fn parse(text: impl Into<Box<str>>) -> Result<Self> {
        let text = text.into();
        KeyRef::parse(&text)?;
        if text.contains(':') {
            return Err(Error::new(ErrorKind::KeyInvalid, format!("namespace {text:?} contains ':'")));
        }
        Ok(Self(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Namespace {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A valid tag: a word that entries share so that they can be invalidated together.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Tag(Box<str>);

impl Tag {
    /// Checks `text` and takes it as a tag: 1–128 bytes of UTF-8 without `,` and control characters.
    ///
    /// # Errors
    /// [`ErrorKind::KeyInvalid`] says which rule it breaks.
    pub fn parse(text: impl Into<Box<str>>) -> Result<Self> {
        let text = text.into();
        let is_tag = (1..=TAG_BYTES_MAX).contains(&text.len())
            && !text.contains(',')
            && !text.chars().any(char::is_control);
        if !is_tag {
            let message = format!(
                "a tag is 1 to {TAG_BYTES_MAX} bytes without ',' and control characters, got {text:?}"
            );
            return Err(Error::new(ErrorKind::KeyInvalid, message));
        }
        Ok(Self(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Tag {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What a verb takes where it needs a `T`: the parsed thing, or text that is checked on the spot.
///
/// ```
/// use hifz::{Cache, Key};
///
/// let cache = Cache::builder().memory(1 << 20).open()?;
/// let key = Key::parse("greetings:en")?;
/// cache.set("greetings:en", "good morning")?;
/// assert!(cache.exists(&key)? && cache.exists("greetings:en")?);
/// assert!(cache.exists("").is_err());
/// # Ok::<(), hifz::Error>(())
/// ```
pub trait Parsed<T> {
    /// The thing.
    ///
    /// # Errors
    /// Which rule the text breaks.
    fn parsed(self) -> Result<T>;
}

impl<'k> Parsed<KeyRef<'k>> for KeyRef<'k> {
    fn parsed(self) -> Result<KeyRef<'k>> {
        Ok(self)
    }
}

impl<'k> Parsed<KeyRef<'k>> for &KeyRef<'k> {
    fn parsed(self) -> Result<KeyRef<'k>> {
        Ok(*self)
    }
}

impl<'k> Parsed<KeyRef<'k>> for &'k Key {
    fn parsed(self) -> Result<KeyRef<'k>> {
        Ok(self.as_key_ref())
    }
}

impl<'k> Parsed<KeyRef<'k>> for &'k str {
    fn parsed(self) -> Result<KeyRef<'k>> {
        KeyRef::parse(self)
    }
}

impl<'k> Parsed<KeyRef<'k>> for &'k String {
    fn parsed(self) -> Result<KeyRef<'k>> {
        KeyRef::parse(self)
    }
}

impl<'k> Parsed<KeyRef<'k>> for &&'k str {
    fn parsed(self) -> Result<KeyRef<'k>> {
        KeyRef::parse(self)
    }
}

/// Words that are owned are cloned or read from text.
macro_rules! owned_is_parsed {
    ($($word:ty),*) => { $(
        impl Parsed<$word> for $word {
            fn parsed(self) -> Result<$word> {
                Ok(self)
            }
        }

        impl Parsed<$word> for &$word {
            fn parsed(self) -> Result<$word> {
                Ok(self.clone())
            }
        }

        impl Parsed<$word> for &str {
            fn parsed(self) -> Result<$word> {
                <$word>::parse(self)
            }
        }

        impl Parsed<$word> for &String {
            fn parsed(self) -> Result<$word> {
                <$word>::parse(self.as_str())
            }
        }

        impl Parsed<$word> for &&str {
            fn parsed(self) -> Result<$word> {
                <$word>::parse(*self)
            }
        }
    )* };
}
pub(crate) use owned_is_parsed;

owned_is_parsed!(Namespace, Tag);

/// The longest tag, in bytes.
pub const TAG_BYTES_MAX: usize = 128;

fn invalid(why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::KeyInvalid, format!("the key {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_ends_at_the_first_colon() {
        assert_eq!(KeyRef::parse("a:b:c").unwrap().namespace(), "a");
        assert_eq!(KeyRef::parse("plain").unwrap().namespace(), "default");
        assert_eq!(KeyRef::parse("a:").unwrap().namespace(), "a");
    }

    #[test]
    fn what_is_not_a_key_is_refused_with_the_rule() {
        for (text, rule) in
            [("", "empty"), (":a", "begins with"), ("a\nb", "control"), ("a\u{85}", "control")]
        {
            let error = Key::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::KeyInvalid);
            assert!(error.message().contains(rule), "{text:?}: {error}");
        }
        assert!(Key::parse("k".repeat(KEY_BYTES_MAX)).is_ok());
        assert!(Key::parse("k".repeat(KEY_BYTES_MAX + 1)).is_err());
        assert!(Namespace::parse("a:b").is_err());
    }
}
