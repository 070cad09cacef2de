//! The keys that are derived from the one secret in `hifz.key`: one for each purpose, so that none tells anything of
//! another, and what one purpose gives away (a hash in a key, a signature in a token) is worth nothing elsewhere.
//!
//! Whoever replaces the file ends every token that was signed with it; bookmarks stay where they are, only the keys
//! they are cached under change.

use std::fmt;
use std::path::Path;

use rand::Rng as _;
use ring::hmac;

use crate::content::keys::{UserHash, UserId};
use crate::datadir::DataDir;
use crate::error::{Error, ErrorKind, Result};

/// The derived keys of a process.
#[derive(Clone)]
pub(super) struct Keyring {
    user_hash: hmac::Key,
    user_tokens: [u8; 32],
    mark: hmac::Key,
}

impl Keyring {
    /// The keys of `directory`, whose secret is made where there is none.
    pub(super) fn open(directory: &DataDir) -> Result<Self> {
        let secret = directory.secret(FILE, || {
            let mut bytes = [0_u8; 32];
            rand::rng().fill(&mut bytes);
            bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
        })?;
        Self::of(&secret, directory.path())
    }

    /// The keys of the directory at `path`, which another process may hold; `None` where it has no secret yet.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        match std::fs::read_to_string(path.join(FILE)) {
            Ok(secret) => Self::of(secret.trim(), path).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::new(ErrorKind::DiskFailed, format!("cannot be read: {error}"))
                .at(path.join(FILE).display().to_string())
                .because(error)),
        }
    }

    fn of(secret: &str, directory: &Path) -> Result<Self> {
        if secret.len() < SECRET_BYTES_MIN {
            let message = format!(
                "has {} characters and could be guessed; at least {SECRET_BYTES_MIN} are accepted, or delete the file \
                 to have one made",
                secret.len()
            );
            return Err(
                Error::new(ErrorKind::Settings, message).at(directory.join(FILE).display().to_string())
            );
        }
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let derived = |purpose: &str| bytes(&hmac::sign(&root, purpose.as_bytes()));
        Ok(Self {
            user_hash: hmac::Key::new(hmac::HMAC_SHA256, &derived("hifz 1 hash of user ids")),
            user_tokens: derived("hifz 1 signatures of user tokens"),
            mark: hmac::Key::new(hmac::HMAC_SHA256, &derived("hifz 1 marks of what keys are made with")),
        })
    }

    /// The hash under which what belongs to `user` is cached, logged and listed.
    pub(super) fn user_hash(&self, user: &UserId) -> UserHash {
        let hash = bytes(&hmac::sign(&self.user_hash, user.as_str().as_bytes()));
        UserHash(hash.iter().take(16).fold(0, |sum, byte| sum << 8 | u128::from(*byte)))
    }

    /// Tells one secret and prefix from another, and nothing about either: what the keys of the cache are made with.
    pub(super) fn key_basis(&self, prefix: &str) -> [u8; 32] {
        bytes(&hmac::sign(&self.mark, prefix.as_bytes()))
    }

    /// Signs and checks user tokens where nothing else is configured.
    pub(super) fn user_tokens(&self) -> &[u8] {
        &self.user_tokens
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring(..)")
    }
}

/// The 32 bytes of an HMAC-SHA256.
fn bytes(tag: &hmac::Tag) -> [u8; 32] {
    let mut out = [0; 32];
    out.iter_mut().zip(tag.as_ref()).for_each(|(out, byte)| *out = *byte);
    out
}

/// The file of the secret in the data directory.
const FILE: &str = "hifz.key";

/// What is made here has 64.
const SECRET_BYTES_MIN: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_the_same_for_one_secret_and_differ_by_secret_and_purpose() {
        let temp = tempfile::tempdir().unwrap();
        let directory = DataDir::open(temp.path()).unwrap();
        assert!(Keyring::read(temp.path()).unwrap().is_none());
        let user = UserId::parse("amina@example.org").unwrap();
        let first = Keyring::open(&directory).unwrap();
        let again = Keyring::read(temp.path()).unwrap().unwrap();
        assert_eq!(first.user_hash(&user), again.user_hash(&user));
        assert_eq!(first.user_tokens(), again.user_tokens());
        assert_ne!(first.user_hash(&user), first.user_hash(&UserId::parse("amina").unwrap()));
        let other = Keyring::of(&"x".repeat(32), temp.path()).unwrap();
        assert_ne!(first.user_hash(&user), other.user_hash(&user));
        let short = Keyring::of("short", temp.path()).unwrap_err();
        assert!(short.to_string().contains("hifz.key") && !short.to_string().contains("short"), "{short}");
    }
}
