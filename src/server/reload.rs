//! SIGHUP: the settings are read again while the server runs.
//!
//! Promises: either all of what can change while running is taken from the new settings, or, when anything in them is
//! refused, nothing is; what needs a restart is named each time until it has had one; the log says which it was and why,
//! without secrets. Tokens, key sets and certificates are read again also where the settings themselves are the same,
//! because their files may have changed.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::datadir::DataDir;
use crate::engine::Policy;
use crate::error::Result;
use crate::key::Namespace;

use super::access::Access;
use super::config::{Effective, Problems, Reloadable, Settings, Warning};
use super::http::Site;
use super::keyring::Keyring;
use super::log::{self, Filter};
use super::opening::{self, AdminToken, Stores};
use super::tls::Tls;

/// Reads the settings as they were read at the start.
pub(crate) type Reread =
    Arc<dyn Fn() -> std::result::Result<(Settings, Vec<Warning>), Problems> + Send + Sync>;

/// The settings as they hold at this moment, for people.
#[derive(Debug)]
pub(super) struct InEffect(RwLock<Arc<[Effective]>>);

impl InEffect {
    /// As `settings` say, which the process begins with.
    pub(super) fn new(settings: &Settings) -> Self {
        Self(RwLock::new(settings.effective().into()))
    }

    /// What holds now.
    pub(super) fn now(&self) -> Arc<[Effective]> {
        self.0.read().clone()
    }
}

/// What changes while the server runs.
pub(super) struct Reload {
    reread: Reread,
    /// What the process began with; what needs a restart still holds as it stands here.
    began_with: Settings,
    /// What was last taken.
    holds: Settings,
    directory: DataDir,
    keyring: Keyring,
    site: Site,
    filter: Filter,
    /// Where HTTPS is on; turning it on or off needs a restart.
    tls: Option<Tls>,
}

impl Reload {
    /// Changes what `site` answers from; the process began with `settings`.
    pub(super) fn new(
        settings: &Settings,
        reread: Reread,
        stores: &Stores,
        site: &Site,
        (filter, tls): (Filter, Option<Tls>),
    ) -> Self {
        Self {
            reread,
            began_with: settings.clone(),
            holds: settings.clone(),
            directory: stores.directory.clone(),
            keyring: stores.keyring.clone(),
            site: site.clone(),
            filter,
            tls,
        }
    }

    /// Reads the settings again and takes what can be taken. Blocks on files.
    pub(super) fn again(&mut self) {
        match (self.reread)() {
            Err(problems) => refused(&problems),
            Ok((next, warnings)) => {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                if let Err(error) = self.take(next) {
                    refused(&error.chain());
                }
            }
        }
    }

    fn take(&mut self, mut next: Settings) -> Result<()> {
        let needs_restart = self.needs_restart(&next);
        let mut changed = self.holds.changed(&next, Reloadable::Yes);
        changed.retain(|key| !needs_restart.contains(key));
        let is_disk_switched = needs_restart.contains("disk");
        let in_effect = self.began_with.in_effect(&next, &needs_restart);
        next.content_auth = self.began_with.content_auth;
        // First everything that may be refused, and only then the first change.
        let admin = AdminToken::of(&next, &self.directory)?;
        let access = Access::new(&next, &admin.token, self.keyring.clone())?;
        let filter = log::parse(&next.log)?;
        let policies = self.policies(&next)?;
        if let Some(tls) = &self.tls {
            tls.reload(&next.tls)?;
        }
        for (namespace, policy) in policies {
            self.site.cache.set_policy(&namespace, policy)?;
        }
        self.site.gate.replace(access);
        self.filter.replace(filter);
        self.site.cache.set_memory(next.memory);
        if !is_disk_switched {
            self.site.cache.set_disk(next.disk);
        }
        *self.site.operations.in_effect.0.write() = in_effect.into();
        self.holds = next;
        let (changed, needs_restart) = (joined(&changed), joined(&needs_restart));
        tracing::info!(changed, "the settings were read again; tokens and keys too");
        if !needs_restart.is_empty() {
            tracing::warn!(
                settings = needs_restart,
                "these settings have changed and hold only after a restart"
            );
        }
        Ok(())
    }

    /// The settings that `next` has otherwise than the process began with and that a start alone can take.
    fn needs_restart(&self, next: &Settings) -> BTreeSet<String> {
        let mut keys: BTreeSet<_> = self.began_with.changed(next, Reloadable::No).into_iter().collect();
        // What is on can be changed; whether it is on at all, only a start decides.
        let is_disk_switched = (next.disk == 0) != (self.began_with.disk == 0);
        let is_tls_switched = next.tls.cert.is_some() != self.began_with.tls.cert.is_some();
        for (key, is_switched) in
            [("disk", is_disk_switched), ("tls.cert", is_tls_switched), ("tls.key", is_tls_switched)]
        {
            if is_switched {
                keys.insert(key.to_owned());
            }
        }
        keys
    }

    /// The policy of every namespace that is named, or was and has the default from now on.
    fn policies(&self, next: &Settings) -> Result<Vec<(Namespace, Policy)>> {
        let names: BTreeSet<_> = self.holds.namespaces.keys().chain(next.namespaces.keys()).collect();
        let policies = names.into_iter().map(|name| {
            let policy = opening::policy(&self.began_with.source, next.namespace(name));
            Ok((Namespace::parse(name.as_str())?, policy))
        });
        policies.collect()
    }
}

fn refused(why: &dyn fmt::Display) {
    tracing::error!(reason = %why, "the settings were read again and are refused; nothing has changed");
}

fn joined<'k>(keys: impl IntoIterator<Item = &'k String>) -> String {
    keys.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
