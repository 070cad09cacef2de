//! hifz (Arabic: keeping, memorising): an embedded cache engine with its own persistent store.

pub mod clock;
mod codec;
#[cfg(feature = "content")]
pub mod content;
mod datadir;
mod disk;
pub mod entry;
mod error;
mod key;
#[cfg(feature = "server")]
pub mod server;
pub mod source;

#[cfg(feature = "content")]
pub use content::keys;
pub use datadir::DataDir;
pub use error::{Error, ErrorKind, Result};
pub use key::{DEFAULT_NAMESPACE, KEY_BYTES_MAX, Key, KeyRef, Namespace, TAG_BYTES_MAX, Tag};
