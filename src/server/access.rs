//! Who is let in: the admin by one token, users by signed ones. Replaced as a whole when the settings are read again.
//!
//! Promises: the admin token is compared in constant time and kept as a digest; which of the two a bearer is, is decided
//! in one place; nothing here shows a token or the id of a user. Does not know which routes ask for whom.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use subtle::ConstantTimeEq;

use crate::clock::Timestamp;
use crate::content::keys::{User, UserId};
use crate::error::Result;

use super::config::{ContentAuth, Settings};
use super::jwks;
use super::jwt::{Refusal, Verifier, VerifyingKey};
use super::keyring::Keyring;

/// What bearers are compared with.
pub(super) struct Access {
    admin: [u8; 32],
    users: Verifier,
    content: ContentAuth,
    keyring: Keyring,
}

/// Who brought a request.
#[derive(Debug)]
pub(super) enum Caller {
    /// Whoever has the admin token.
    Admin,
    /// A user.
    User(UserId),
    /// Somebody with a token that is nobody's.
    Unknown(Refusal),
}

impl Access {
    /// As `settings` say; without a secret or key set of their own, user tokens are those signed with the keyring.
    pub(super) fn new(settings: &Settings, admin_token: &str, keyring: Keyring) -> Result<Self> {
        let mut keys = Vec::new();
        if let Some(secret) = &settings.jwt_secret {
            keys.push(VerifyingKey::secret(secret.expose().as_bytes()));
        }
        if let Some(file) = &settings.jwks_file {
            keys.extend(jwks::read(file)?);
        }
        let users = if keys.is_empty() {
            // Signed and checked by the same clock.
            Verifier::new(vec![VerifyingKey::secret(keyring.user_tokens())], Duration::ZERO)
        } else {
            Verifier::new(keys, CLOCKS_APART_MAX)
        };
        let users = users.expecting(settings.jwt_audience.clone(), settings.jwt_issuer.clone());
        Ok(Self { admin: digest(admin_token), users, content: settings.content_auth, keyring })
    }

    /// Who brings `token`.
    pub(super) fn caller(&self, token: &str, now: Timestamp) -> Caller {
        // Digests are compared, so that neither the length nor the beginning of a guess can be told from the time.
        if bool::from(digest(token).ct_eq(&self.admin)) {
            return Caller::Admin;
        }
        match self.users.verify(token, now) {
            Ok(user) => Caller::User(user),
            Err(refusal) => Caller::Unknown(refusal),
        }
    }

    /// Whether content too is for users alone.
    pub(super) fn is_content_for_users(&self) -> bool {
        self.content == ContentAuth::User
    }

    /// `id` with the hash under which it is cached and spoken of.
    pub(super) fn user(&self, id: UserId) -> User {
        User { hash: self.keyring.user_hash(&id), id }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Access(..)")
    }
}

/// The access that holds now; every request takes it once.
#[derive(Debug, Clone)]
pub(super) struct Gate(Arc<RwLock<Arc<Access>>>);

impl Gate {
    pub(super) fn new(access: Access) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(access))))
    }

    /// Lets `access` hold from now on; who is inside already stays.
    pub(super) fn replace(&self, access: Access) {
        *self.0.write() = Arc::new(access);
    }

    /// What holds now.
    pub(super) fn access(&self) -> Arc<Access> {
        Arc::clone(&self.0.read())
    }
}

fn digest(token: &str) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(token.as_bytes()).into()
}

/// How far the clock of an identity provider may be from ours.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(5);
