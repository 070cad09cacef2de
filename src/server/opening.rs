//! What is opened before the doors are: the data directory, the stores in it, the cache over them, and who is let in.
//!
//! The order matters: nothing is opened before the lock is held, and nothing stale is left when this returns.

use std::collections::HashSet;

use rand::Rng as _;

use crate::clock::Clock;
use crate::content::Store;
use crate::datadir::DataDir;
use crate::engine::{Cache, Durability, Policy};
use crate::error::Result;
use crate::key::Namespace;

use super::changes;
use super::config::{self, NamespaceSettings, Settings, SourceSettings};
use super::keyring::Keyring;

/// What a process holds open while it serves.
pub(super) struct Stores {
    pub(super) directory: DataDir,
    pub(super) keyring: Keyring,
    pub(super) content: Store,
    pub(super) cache: Cache,
    pub(super) admin: AdminToken,
}

/// The admin token, and where a person finds it.
pub(super) struct AdminToken {
    pub(super) token: String,
    pub(super) place: String,
}

impl Stores {
    /// Opens what `settings` name, and finishes what an earlier process left unfinished.
    pub(super) fn open(settings: &Settings) -> Result<Self> {
        let directory = DataDir::open(&settings.data_dir)?;
        let admin = AdminToken::of(settings, &directory)?;
        let keyring = Keyring::open(&directory)?;
        let clock = Clock::system();
        let content = Store::open(&directory.content_file(), clock.clone())?;
        let cache = open_cache(settings, &directory, clock)?;
        forget_other_keys(&cache, &content, &keyring)?;
        changes::finish(&cache, &content)?;
        Ok(Self { directory, keyring, content, cache, admin })
    }
}

impl AdminToken {
    /// The configured one, else the one of the directory, which is made where there is none.
    pub(super) fn of(settings: &Settings, directory: &DataDir) -> Result<Self> {
        if let Some(token) = &settings.admin_token {
            return Ok(Self { token: token.expose().to_owned(), place: "as configured".into() });
        }
        let token = directory.secret("admin.token", || {
            let mut bytes = [0_u8; 32];
            rand::rng().fill(&mut bytes);
            bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
        })?;
        Ok(Self { token, place: directory.path().join("admin.token").display().to_string() })
    }
}

/// The cache that `settings` describe, on `directory`.
pub(crate) fn open_cache(settings: &Settings, directory: &DataDir, clock: Clock) -> Result<Cache> {
    if let Some(prefix) = &settings.key_prefix {
        crate::key::set_prefix(prefix)?;
    }
    let mut builder = Cache::builder()
        .memory(settings.memory)
        .max_entries(settings.max_entries)
        .disk(settings.disk)
        .durability(durability(settings.durability))
        .flush_interval(settings.flush_interval)
        .loads_max(usize::try_from(settings.limits.source_loads).unwrap_or(usize::MAX))
        .value_max(settings.limits.value)
        .data_dir(directory.clone())
        .bound_process(true)
        .clock(clock);
    for (namespace, own) in &settings.namespaces {
        builder = builder.policy(&Namespace::parse(namespace.as_str())?, policy(&settings.source, own));
    }
    builder.open()
}

/// How the entries of one namespace live, and how their source is asked.
pub(super) fn policy(source: &SourceSettings, own: &NamespaceSettings) -> Policy {
    let count = |setting: u64| u32::try_from(setting).unwrap_or(u32::MAX);
    let policy = Policy::with_ttl(own.ttl)
        .client_max_age(own.client_max_age.unwrap_or(own.ttl))
        .jitter(own.jitter)
        .idle_ttl(own.idle_ttl)
        .max_share(own.max_share)
        .stale_while_revalidate(own.stale_while_revalidate)
        .stale_if_error(own.stale_if_error)
        .negative_ttl(own.negative_ttl)
        .timeout(source.timeout)
        .soft_timeout(source.soft_timeout)
        .attempts(count(source.attempts))
        .backoff(source.backoff)
        .breaker_failures(count(source.breaker_failures))
        .breaker_open(source.breaker_open)
        .slow(source.slow);
    // At the very end of its lifetime nothing is ahead of time any more.
    if own.eager_after < 1.0 { policy.eager_after(own.eager_after) } else { policy }
}

fn durability(setting: config::Durability) -> Durability {
    match setting {
        config::Durability::Interval => Durability::Interval,
        config::Durability::Always => Durability::Always,
        config::Durability::None => Durability::None,
    }
}

/// The namespaces that keep only the compressed form.
pub(super) fn compressed_only(settings: &Settings) -> HashSet<String> {
    let namespaces = settings.namespaces.iter().filter(|(_, own)| own.compressed_only);
    namespaces.map(|(name, _)| name.clone()).collect()
}

/// Whether content may be answered without the router: nobody has to be known, counted or kept apart for it.
pub(super) fn answers_plainly(settings: &Settings) -> bool {
    let is_open = settings.content_auth == config::ContentAuth::Public && settings.limits.rate_reads == 0;
    is_open && settings.key_prefix.is_none()
}

/// Entries under keys that were made with another prefix or secret are not reached by changes any more: should that
/// prefix or secret come back, they would be served though they are stale. So they go when it changes.
fn forget_other_keys(cache: &Cache, store: &Store, keyring: &Keyring) -> Result<()> {
    let basis = keyring.key_basis(crate::key::prefix());
    match store.key_basis()? {
        Some(known) if known == basis => return Ok(()),
        Some(_) => {
            let forgotten = cache.clear_all()?;
            tracing::info!(
                forgotten,
                "keys are made with another prefix or secret from now on; the cache begins cold"
            );
        }
        // No server has made keys of content in this directory yet: what else stands here is somebody's own.
        None => {
            for namespace in BUILT_IN_NAMESPACES {
                cache.invalidate_namespace(namespace)?;
            }
        }
    }
    store.set_key_basis(&basis)
}

/// Where the keys of content stand.
const BUILT_IN_NAMESPACES: [&str; 6] =
    ["quran", "reciters", "reciter", "translations", "translation", "user"];
