//! Settings: one table, four layers (flags, environment, file, default), one typed result.
//!
//! Everything that is wrong is said at once, with the key, where it was set, the value and what is accepted; a secret
//! is never shown. Neither logs nor exits: warnings are handed to the caller.

mod given;
mod kind;
mod layers;
mod parse;
mod table;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

pub(crate) use given::{Problem, Problems, Warning};
pub(crate) use kind::{Row, Status, show_duration, show_size};
pub(crate) use layers::Flags;
pub(crate) use parse::{parse_cron, parse_duration, parse_listen_local};
pub(crate) use table::{
    Alerts, Limits, NamespaceSettings, SECTIONS, Section, SourceSettings, Tls, Warm, flag_of,
};
pub(crate) use value::{ContentAuth, Durability, ListenAddress, LogFormat, Network, Secret};

use given::{Given, Origin, Raw};
use layers::{CONFIG_VARIABLE, Layers, config_path};
use table::{CONTENT_DEFAULTS, CONTENT_NAMESPACES, Logging, Place, Tiers, Values, given_or_default};

/// Every setting, checked.
#[derive(Debug, Clone)]
#[expect(dead_code, reason = "some of these wait for their feature")]
pub(crate) struct Settings {
    /// Directory of everything that is stored.
    pub(crate) data_dir: PathBuf,
    /// Where to listen; never empty.
    pub(crate) listen: Vec<ListenAddress>,
    /// Where to listen for admin routes; empty: the same listeners.
    pub(crate) admin_listen: Vec<ListenAddress>,
    /// The configured admin token; without one it is in the data directory.
    pub(crate) admin_token: Option<Secret>,
    /// Secret of HS256 user tokens.
    pub(crate) jwt_secret: Option<Secret>,
    /// Key set of user tokens.
    pub(crate) jwks_file: Option<PathBuf>,
    /// Audience of user tokens.
    pub(crate) jwt_audience: Option<String>,
    /// Issuer of user tokens.
    pub(crate) jwt_issuer: Option<String>,
    /// Who may read content.
    pub(crate) content_auth: ContentAuth,
    /// HTTPS.
    pub(crate) tls: Tls,
    /// Most bytes the cache makes the process take.
    pub(crate) memory: u64,
    /// Most entries in memory.
    pub(crate) max_entries: Option<u64>,
    /// Most bytes of `cache.redb`; 0: memory only.
    pub(crate) disk: u64,
    /// When cache writes are made durable.
    pub(crate) durability: Durability,
    /// Longest time a cache write waits.
    pub(crate) flush_interval: Duration,
    /// Stands before built-in keys.
    pub(crate) key_prefix: Option<String>,
    /// By name: those of built-in content, and what the file names.
    pub(crate) namespaces: BTreeMap<String, NamespaceSettings>,
    /// For every namespace that [`Settings::namespaces`] does not name.
    pub(crate) namespace_default: NamespaceSettings,
    /// What one client may take.
    pub(crate) limits: Limits,
    /// Where content comes from.
    pub(crate) source: SourceSettings,
    /// Filling the cache ahead.
    pub(crate) warm: Warm,
    /// When to raise an alarm.
    pub(crate) alerts: Alerts,
    /// `RUST_LOG` syntax.
    pub(crate) log: String,
    /// Form of the log.
    pub(crate) log_format: LogFormat,
    /// Where faults are reported.
    pub(crate) sentry_dsn: Option<Secret>,
    effective: Vec<Effective>,
}

/// One setting as it holds, for people: its value (secrets hidden) and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Effective {
    /// `key` or `table.key`.
    pub(crate) key: String,
    /// The value, as it would be written.
    pub(crate) value: String,
    /// Flag, environment variable, file and line, or default.
    pub(crate) origin: String,
    /// What it will be once the process has been started again, where that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after_restart: Option<AfterRestart>,
    /// Tells a hidden value from another.
    #[serde(skip)]
    mark: u64,
    #[serde(skip)]
    reloadable: Reloadable,
}

/// What a setting will be, and where that was said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct AfterRestart {
    /// The value, as it would be written.
    pub(crate) value: String,
    /// Flag, environment variable, file and line, or default.
    pub(crate) origin: String,
}

/// Whether a change of a setting holds at once or only after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reloadable {
    /// At once.
    Yes,
    /// After a restart.
    No,
}

impl Settings {
    /// Reads all layers: `flags`, `environment`, and the file `config` (or `HIFZ_CONFIG`, or `./hifz.toml` if there).
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub(crate) fn load(
        flags: &Flags,
        environment: impl Iterator<Item = (OsString, OsString)>,
        config: Option<&Path>,
    ) -> Result<(Self, Vec<Warning>), Problems> {
        let variables: Vec<(OsString, OsString)> = environment.collect();
        let config_variable = variables.iter().find(|(name, _)| name == CONFIG_VARIABLE);
        let (path, is_named) = config_path(config, config_variable.map(|(_, path)| path.clone()));
        let mut layers = Layers::default();
        layers.take_file(&path, is_named);
        layers.take_environment(variables.into_iter());
        layers.take_flags(flags);
        Self::of(layers)
    }

    /// What holds for the namespace `name`.
    pub(crate) fn namespace(&self, name: &str) -> &NamespaceSettings {
        self.namespaces.get(name).unwrap_or(&self.namespace_default)
    }

    /// Every setting with its value (secrets hidden) and origin, in the order of the table.
    pub(crate) fn effective(&self) -> &[Effective] {
        &self.effective
    }

    /// The settings of one kind that `next` sets otherwise, by their keys.
    pub(crate) fn changed(&self, next: &Self, kind: Reloadable) -> Vec<String> {
        let own = self.effective.iter().chain(&next.effective).filter(|one| one.reloadable == kind);
        let keys: BTreeSet<_> = own.map(|one| one.key.as_str()).collect();
        let is_other = |key: &&str| self.shown(key).is_some_and(|one| !one.is_same(next.shown(key).as_ref()));
        keys.into_iter().filter(is_other).map(str::to_owned).collect()
    }

    /// What holds in a process that began with these settings and has read `next` meanwhile: `next`, but those of
    /// `needs_restart` as it began with them.
    pub(crate) fn in_effect(&self, next: &Self, needs_restart: &BTreeSet<String>) -> Vec<Effective> {
        let named = |settings: &Self, key: &str| settings.effective.iter().any(|one| one.key == key);
        let gone = self.effective.iter().filter(|one| !named(next, &one.key));
        let gone = gone.filter(|one| needs_restart.contains(&one.key));
        next.effective
            .iter()
            .chain(gone)
            .map(|one| {
                let (now, then) = (self.shown(&one.key), next.shown(&one.key));
                match (needs_restart.contains(&one.key), now, then) {
                    (true, Some(now), Some(Effective { value, origin, .. })) => {
                        Effective { after_restart: Some(AfterRestart { value, origin }), ..now }
                    }
                    _ => one.clone(),
                }
            })
            .collect()
    }

    /// One setting as it holds: of a namespace that is not named, the default.
    fn shown(&self, key: &str) -> Option<Effective> {
        let own = self.effective.iter().find(|one| one.key == key);
        own.cloned().or_else(|| {
            let (_, key_of_namespace) = key.strip_prefix("namespaces.")?.rsplit_once('.')?;
            let row = NamespaceSettings::SECTION.rows.iter().find(|row| row.key == key_of_namespace)?;
            Some(show(key.to_owned(), row, &given_or_default(&BTreeMap::new(), row)))
        })
    }

    fn of(mut layers: Layers) -> Result<(Self, Vec<Warning>), Problems> {
        layers.check();
        if !layers.problems.is_empty() {
            return Err(Problems(layers.problems));
        }
        let values = with_content_defaults(layers.values);
        let settings = Self::build(&values).map_err(|problem| Problems(vec![problem]))?;
        Ok((settings, layers.warnings))
    }

    fn build(values: &Values) -> Result<Self, Problem> {
        let given = &values.given;
        let (place, tiers, logging) = (Place::read(given)?, Tiers::read(given)?, Logging::read(given)?);
        let named = values.namespaces.iter();
        let namespaces = named.map(|(name, given)| Ok((name.clone(), NamespaceSettings::read(given)?)));
        Ok(Self {
            data_dir: place.data_dir,
            listen: place.listen,
            admin_listen: place.admin_listen,
            admin_token: place.admin_token,
            jwt_secret: place.jwt_secret,
            jwks_file: place.jwks_file,
            jwt_audience: place.jwt_audience,
            jwt_issuer: place.jwt_issuer,
            content_auth: place.content_auth,
            tls: Tls::read(given)?,
            memory: tiers.memory,
            max_entries: tiers.max_entries,
            disk: tiers.disk,
            durability: tiers.durability,
            flush_interval: tiers.flush_interval,
            key_prefix: tiers.key_prefix,
            namespaces: namespaces.collect::<Result<_, Problem>>()?,
            namespace_default: NamespaceSettings::read(&BTreeMap::new())?,
            limits: Limits::read(given)?,
            source: SourceSettings::read(given)?,
            warm: Warm::read(given)?,
            alerts: Alerts::read(given)?,
            log: logging.log,
            log_format: logging.log_format,
            sentry_dsn: logging.sentry_dsn,
            effective: effective_of(values),
        })
    }
}

/// Adds the namespaces of built-in content, whose defaults differ from those of the others.
fn with_content_defaults(mut values: Values) -> Values {
    for name in CONTENT_NAMESPACES {
        let entries = values.namespaces.entry((*name).to_owned()).or_default();
        for (key, text) in CONTENT_DEFAULTS {
            let default = Given { raw: Raw::One((*text).to_owned()), origin: Origin::Default };
            entries.entry((*key).to_owned()).or_insert(default);
        }
    }
    values
}

impl Effective {
    /// Whether `other` is the same value, wherever it came from; of what is hidden, the mark tells.
    fn is_same(&self, other: Option<&Self>) -> bool {
        other.is_some_and(|other| (&self.value, self.mark) == (&other.value, other.mark))
    }
}

fn show(key: String, row: &Row, given: &Given) -> Effective {
    let value = (row.check)(&row.kind, &given.raw).unwrap_or_else(|refusal| refusal);
    // What is shown tells apart what is not hidden, however it was written.
    let marked = if row.kind.is_hidden() { given.raw.to_string() } else { value.clone() };
    Effective {
        key,
        mark: xxhash_rust::xxh3::xxh3_64(marked.as_bytes()),
        value,
        origin: given.origin.to_string(),
        after_restart: None,
        reloadable: if row.is_reloadable { Reloadable::Yes } else { Reloadable::No },
    }
}

fn effective_of(values: &Values) -> Vec<Effective> {
    let mut effective: Vec<Effective> = table::rows()
        .map(|row| show(row.key.to_owned(), row, &given_or_default(&values.given, row)))
        .collect();
    for (name, entries) in &values.namespaces {
        effective.extend(
            NamespaceSettings::SECTION.rows.iter().map(|row| {
                show(format!("namespaces.{name}.{}", row.key), row, &given_or_default(entries, row))
            }),
        );
    }
    effective
}

/// Hands any bytes to every parser and to the layer of the file; see [`crate::fuzzing`].
#[cfg(feature = "fuzzing")]
pub(crate) fn drive(bytes: &[u8]) {
    parse::drive(bytes);
    for line in bytes.split(|byte| *byte == b'\n') {
        parse::drive(line);
    }
}

#[cfg(test)]
mod tests;
