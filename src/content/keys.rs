//! The keys of built-in content, made from checked arguments and read back.
//!
//! Promises: what is built here is always a valid [`Key`], two spellings never name the same content, and reading a key
//! back yields exactly the arguments it was built from. Knows nothing of what is stored under a key.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, KeyRef, prefix};

/// The number of a surah: 1 to 114.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SurahNumber(u8);

impl SurahNumber {
    /// The last surah.
    pub const MAX: u8 = 114;

    /// Takes `number` as that of a surah.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] outside of 1 to 114.
    pub fn new(number: u64) -> Result<Self> {
        match u8::try_from(number) {
            Ok(number @ 1..=Self::MAX) => Ok(Self(number)),
            _ => Err(no_such("surah", &number.to_string(), "surahs are numbered 1 to 114")),
        }
    }

    /// Reads `text` as the number of a surah, in digits without sign or leading zero.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let is_plain = text.len() <= 3 && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number) if is_plain => Self::new(number),
            _ => Err(no_such("surah", text, "surahs are numbered 1 to 114")),
        }
    }

    /// Every surah, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..=Self::MAX).map(Self)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for SurahNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The longest id of a reciter or a translation, in bytes.
pub const ID_BYTES_MAX: usize = 64;

/// Defines an id type: a slug of lower-case letters, digits and single inner hyphens.
macro_rules! slug {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks `text` and takes it as an id: 1 to 64 of `a-z0-9`, with `-` between them.
            ///
            /// # Errors
            /// [`ErrorKind::NotFound`] for anything else: nothing can exist under it.
            pub fn parse(text: &str) -> Result<Self> {
                if is_slug(text) { Ok(Self(text.into())) } else { Err(no_such($what, text, SLUG_RULE)) }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

slug!(
    /// The id of a reciter, such as `al-husary-murattal`.
    ReciterId,
    "reciter"
);
slug!(
    /// The id of a translation, such as `en` or `transliteration`.
    TranslationId,
    "translation"
);

/// The number of an ayah within its surah, and the surah: `2:255`. Whether the surah has so many is not known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Verse {
    surah: SurahNumber,
    ayah: u16,
}

impl Verse {
    /// Ayah `ayah` of `surah`.
    #[must_use]
    pub const fn new(surah: SurahNumber, ayah: u16) -> Self {
        Self { surah, ayah }
    }

    /// What was checked before it was stored.
    pub(super) const fn known(surah: u8, ayah: u16) -> Self {
        Self { surah: SurahNumber(surah), ayah }
    }

    /// Reads `{surah}:{ayah}`, both in digits without sign or leading zero.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let none = || no_such("ayah", text, "write {surah}:{ayah}, such as 2:255");
        let (surah, ayah) = text.split_once(':').ok_or_else(none)?;
        let number: u16 = ayah.parse().map_err(|_| none())?;
        if number == 0 || number.to_string() != ayah {
            return Err(none());
        }
        Ok(Self { surah: SurahNumber::parse(surah)?, ayah: number })
    }

    /// The surah.
    #[must_use]
    pub const fn surah(self) -> SurahNumber {
        self.surah
    }

    /// The ayah within it.
    #[must_use]
    pub const fn ayah(self) -> u16 {
        self.ayah
    }
}

impl fmt::Display for Verse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.surah, self.ayah)
    }
}

/// The longest id of a user, in bytes.
pub const USER_ID_BYTES_MAX: usize = 256;

/// The id of a user, as the token names it. It is personal: printing it prints nothing of it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UserId(Box<str>);

impl UserId {
    /// Takes `text` as the id of a user: 1 to 256 bytes of UTF-8 without control characters.
    ///
    /// # Errors
    /// [`ErrorKind::KeyInvalid`] for anything else, without repeating it.
    pub fn parse(text: &str) -> Result<Self> {
        let is_id = (1..=USER_ID_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
        if !is_id {
            let rule =
                format!("a user id is 1 to {USER_ID_BYTES_MAX} bytes of text without control characters");
            return Err(Error::new(ErrorKind::KeyInvalid, rule));
        }
        Ok(Self(text.into()))
    }

    /// The text, for comparing and storing; never for printing.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserId(..)")
    }
}

/// A user: the id under which data is stored, and the hash under which it is cached and spoken of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// As the token names the user.
    pub id: UserId,
    /// The keyed hash of it.
    pub hash: UserHash,
}

/// The keyed hash under which a user's bookmarks are cached; the raw id never becomes a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UserHash(pub u128);

/// What a built-in key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// The list of surahs.
    Surahs,
    /// One surah, alone or with a translation.
    Surah(SurahNumber, Option<TranslationId>),
    /// The list of reciters.
    Reciters,
    /// One reciter.
    Reciter(ReciterId),
    /// The list of translations.
    Translations,
    /// One translation's description.
    Translation(TranslationId),
    /// One user's bookmarks.
    Bookmarks(UserHash),
}

impl Content {
    /// What `key` stands for, `None` for a key that is not built in.
    #[must_use]
    pub fn of(key: KeyRef<'_>) -> Option<Self> {
        let text = key.as_str().strip_prefix(prefix())?;
        let mut parts = text.split(':');
        let words = [parts.next(), parts.next(), parts.next(), parts.next(), parts.next()];
        match words {
            [Some("quran"), Some("surahs"), None, ..] => Some(Self::Surahs),
            [Some("quran"), Some("surah"), Some(number), translation, None] => {
                let translation = translation.map(TranslationId::parse).transpose().ok()?;
                Some(Self::Surah(SurahNumber::parse(number).ok()?, translation))
            }
            [Some("reciters"), Some("list"), None, ..] => Some(Self::Reciters),
            [Some("reciter"), Some(id), None, ..] => ReciterId::parse(id).ok().map(Self::Reciter),
            [Some("translations"), Some("list"), None, ..] => Some(Self::Translations),
            [Some("translation"), Some(id), None, ..] => TranslationId::parse(id).ok().map(Self::Translation),
            [Some("user"), Some(hash), Some("bookmarks"), None, _] => user_hash(hash).map(Self::Bookmarks),
            _ => None,
        }
    }

    /// The key it is cached under.
    #[must_use]
    pub fn key(&self) -> Key {
        let text = match self {
            Self::Surahs => "quran:surahs".to_owned(),
            Self::Surah(number, None) => format!("quran:surah:{number}"),
            Self::Surah(number, Some(translation)) => format!("quran:surah:{number}:{translation}"),
            Self::Reciters => "reciters:list".to_owned(),
            Self::Reciter(id) => format!("reciter:{id}"),
            Self::Translations => "translations:list".to_owned(),
            Self::Translation(id) => format!("translation:{id}"),
            Self::Bookmarks(hash) => format!("user:{:032x}:bookmarks", hash.0),
        };
        KeyRef::known(&[prefix(), text.as_str()].concat()).to_key()
    }

    /// The tag it can be invalidated by.
    #[must_use]
    pub fn tag(&self) -> &'static str {
        match self {
            Self::Surahs | Self::Surah(..) => "surahs",
            Self::Reciters | Self::Reciter(_) => "reciters",
            Self::Translations | Self::Translation(_) => "translations",
            Self::Bookmarks(_) => "bookmarks",
        }
    }
}

/// `quran:surah:{number}`, with `:{translation}` where one is asked for.
#[must_use]
pub fn surah(number: SurahNumber, translation: Option<&TranslationId>) -> Key {
    Content::Surah(number, translation.cloned()).key()
}

/// `quran:surahs`
#[must_use]
pub fn surahs() -> Key {
    Content::Surahs.key()
}

/// `reciters:list`
#[must_use]
pub fn reciters() -> Key {
    Content::Reciters.key()
}

/// `reciter:{id}`
#[must_use]
pub fn reciter(id: &ReciterId) -> Key {
    Content::Reciter(id.clone()).key()
}

/// `translations:list`
#[must_use]
pub fn translations() -> Key {
    Content::Translations.key()
}

/// `translation:{id}`
#[must_use]
pub fn translation(id: &TranslationId) -> Key {
    Content::Translation(id.clone()).key()
}

/// `user:{keyed hash}:bookmarks`
#[must_use]
pub fn bookmarks(user: UserHash) -> Key {
    Content::Bookmarks(user).key()
}

/// Every namespace that built-in content lives in.
pub const NAMESPACES: [&str; 6] = ["quran", "reciter", "reciters", "translation", "translations", "user"];

/// Whether `key` is, or could come to be, one that only the content store may fill.
#[must_use]
pub fn is_reserved(key: KeyRef<'_>) -> bool {
    match key.namespace() {
        // Other keys of users are free for all.
        "user" => key.as_str().ends_with(":bookmarks"),
        namespace => NAMESPACES.contains(&namespace),
    }
}

/// Whether what stands under `key` is for one user's eyes alone.
#[must_use]
pub fn is_private(key: KeyRef<'_>) -> bool {
    key.namespace() == "user" && is_reserved(key)
}

const SLUG_RULE: &str = "an id is 1 to 64 of a-z and 0-9, with - between them";

fn is_slug(text: &str) -> bool {
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.len() <= ID_BYTES_MAX && text.split('-').all(is_word)
}

fn user_hash(text: &str) -> Option<UserHash> {
    let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != 32 || !text.bytes().all(is_hex) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(UserHash)
}

fn no_such(what: &str, text: &str, rule: &str) -> Error {
    let shown = text.chars().take(ID_BYTES_MAX).collect::<String>();
    Error::new(ErrorKind::NotFound, format!("there is no {what} {shown:?}; {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_reads_back_as_what_it_was_built_from() {
        let (en, id) = (TranslationId::parse("en").unwrap(), ReciterId::parse("al-husary-muallim").unwrap());
        let two = SurahNumber::new(2).unwrap();
        let table = [
            (Content::Surahs, "quran:surahs"),
            (Content::Surah(two, None), "quran:surah:2"),
            (Content::Surah(two, Some(en.clone())), "quran:surah:2:en"),
            (Content::Reciters, "reciters:list"),
            (Content::Reciter(id), "reciter:al-husary-muallim"),
            (Content::Translations, "translations:list"),
            (Content::Translation(en), "translation:en"),
            (Content::Bookmarks(UserHash(7)), "user:00000000000000000000000000000007:bookmarks"),
        ];
        for (content, text) in table {
            assert_eq!(content.key().as_str(), text);
            assert!(NAMESPACES.contains(&content.key().namespace()));
            assert_eq!(Content::of(content.key().as_key_ref()), Some(content));
        }
    }

    #[test]
    fn a_user_id_is_any_text_within_its_limit_and_never_prints_itself() {
        for id in ["a", "amina@example.org", "auth0|42", "آمنة", "a b/..?%"] {
            assert!(!format!("{:?}", UserId::parse(id).unwrap()).contains(id));
        }
        for id in ["", "a\n", "a\u{85}", &"x".repeat(USER_ID_BYTES_MAX + 1)] {
            assert!(UserId::parse(id).is_err());
        }
    }

    #[test]
    fn other_spellings_are_not_built_in_keys() {
        let texts = [
            "quran:surah:0",
            "quran:surah:115",
            "quran:surah:02",
            "quran:surah:+2",
            "quran:surah:2:",
            "quran:surah:2:EN",
            "quran:surah:2:en:x",
            "quran:surah",
            "quran:surahs:x",
            "quran",
            "reciters:list:",
            "reciter:",
            "reciter:a_b",
            "reciter:-a",
            "reciter:a--b",
            "translation:../x",
            "user:7:bookmarks",
            "user:0000000000000000000000000000000G:bookmarks",
            "user:00000000000000000000000000000007:bookmarks:x",
        ];
        for text in texts {
            assert_eq!(Content::of(KeyRef::parse(text).unwrap()), None, "{text}");
        }
        assert!(ReciterId::parse(&"a".repeat(ID_BYTES_MAX + 1)).is_err());
        assert_eq!(Verse::parse("2:255").unwrap().to_string(), "2:255");
        for text in ["", "2", "2:", ":1", "02:1", "2:01", "2:0", "2:+1", "115:1", "2:1:1", "2:65536", " 2:1"]
        {
            assert!(Verse::parse(text).is_err(), "{text}");
        }
        assert_eq!(SurahNumber::new(115).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
