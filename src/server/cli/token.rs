//! `hifz token`: signs a user token with what the server checks them by, whether it runs or not. One that runs on the data
//! directory is asked whether it takes the token: it may have been given another secret than this command sees.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::output::{Failure, note, say, say_json};
use super::target;
use crate::clock::Clock;
use crate::content::keys::UserId;
use crate::datadir::DataDir;
use crate::error::{Error, ErrorKind, Result};
use crate::server::config::{Settings, parse_duration, show_duration};
use crate::server::jwt::{self, Signed};
use crate::server::keyring::Keyring;

/// `hifz token USER [--ttl 1h]`
pub(crate) fn token(
    settings: &Settings,
    user: &str,
    ttl: &str,
    is_json: bool,
) -> std::result::Result<(), Failure> {
    let user = UserId::parse(user).map_err(|error| Failure::Refused(error.message().to_owned()))?;
    let ttl = parsed_ttl(ttl)?;
    let (secret, secret_from) = secret(settings)?;
    let iat = Clock::system().now().as_secs();
    let exp = iat.saturating_add(ttl.as_secs());
    let claims = Signed {
        sub: user.as_str(),
        iat,
        exp,
        aud: settings.jwt_audience.as_deref(),
        iss: settings.jwt_issuer.as_deref(),
    };
    let token = jwt::sign(&secret, &claims)?;
    if let Some(place) = target::refuses_token(settings, &user, &token)? {
        return Err(not_taken(&place, secret_from).into());
    }
    if is_json {
        return say_json(&json!({
            "token": token, "user": user.as_str(), "issued_at": iat, "expires_at": exp, "signed_with": secret_from,
        }));
    }
    note(&format!("signed with {secret_from}, valid for {}", show_duration(ttl)));
    say(&token)
}

fn not_taken(place: &str, secret_from: &str) -> Error {
    let message = format!(
        "{place} refuses a token signed with {secret_from}: it checks them by something else than this command sees; \
         give it the same jwt_secret, jwt_audience and jwt_issuer (HIFZ_JWT_SECRET, HIFZ_JWT_SECRET_FILE or --config), \
         or have the keys of its jwks_file sign"
    );
    Error::new(ErrorKind::Settings, message)
}

fn parsed_ttl(text: &str) -> std::result::Result<Duration, Failure> {
    let refused = |why: String| {
        Failure::Refused(format!(
            "--ttl {text:?} {why}; accepted: a duration from 1s to {}",
            show_duration(TTL_MAX)
        ))
    };
    let ttl = parse_duration(text).map_err(refused)?;
    if (TTL_MIN..=TTL_MAX).contains(&ttl) { Ok(ttl) } else { Err(refused("is out of bounds".into())) }
}

/// What the server checks tokens by, and what it is called.
fn secret(settings: &Settings) -> Result<(Vec<u8>, &'static str)> {
    if let Some(secret) = &settings.jwt_secret {
        return Ok((secret.expose().as_bytes().to_vec(), "jwt_secret"));
    }
    if let Some(file) = &settings.jwks_file {
        let message = "the server accepts only tokens of the keys in this set, and their private parts are not here: \
                       have your identity provider sign the token, or set jwt_secret as well";
        return Err(Error::new(ErrorKind::Settings, message).at(format!("jwks_file {}", file.display())));
    }
    Ok((keyring(&settings.data_dir)?.user_tokens().to_vec(), "hifz.key of the data directory"))
}

/// The keys of the data directory; made there where no server has been yet, but never a directory for a slip of the pen.
fn keyring(directory: &Path) -> Result<Keyring> {
    if let Some(keyring) = Keyring::read(directory)? {
        return Ok(keyring);
    }
    if !directory.is_dir() {
        let message = "there is no such data directory; start hifz once, or name another with --data-dir";
        return Err(Error::new(ErrorKind::NotFound, message).at(directory.display().to_string()));
    }
    Keyring::open(&DataDir::open(directory)?)
}

const TTL_MIN: Duration = Duration::from_secs(1);

/// Ten years: what is meant to last longer is better signed again.
const TTL_MAX: Duration = Duration::from_hours(24 * 3650);
