//! SIGHUP: the settings are read again while the server runs.
//!
//! Promises: either all of what can change while running is taken from the new settings, or, when anything in them is
//! refused, nothing is; what needs a restart is named each time until it has had one; the log says which it was and why,
//! without secrets. Tokens, key sets and certificates are read again also where the settings themselves are the same,
//! because their files may have changed.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::datadir::DataDir;
use crate::engine::{Cache, Policy};
use crate::error::Result;
use crate::key::Namespace;

use super::access::{Access, Gate};
use super::config::{Problems, Reloadable, Settings, Warning};
use super::keyring::Keyring;
use super::log::{self, Filter};
use super::tls::Tls;

/// Reads the settings as they were read at the start.
pub(crate) type Reread =
    Arc<dyn Fn() -> std::result::Result<(Settings, Vec<Warning>), Problems> + Send + Sync>;

/// What changes while the server runs.
pub(super) struct Reload {
    pub(super) reread: Reread,
    /// What the process began with; what needs a restart still holds as it stands here.
    pub(super) began_with: Settings,
    /// What was last taken.
    pub(super) holds: Settings,
    pub(super) directory: DataDir,
    pub(super) keyring: Keyring,
    pub(super) gate: Gate,
    pub(super) cache: Cache,
    pub(super) filter: Filter,
    /// Where HTTPS is on; turning it on or off needs a restart.
    pub(super) tls: Option<Tls>,
}

impl Reload {
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
        let mut needs_restart = self.began_with.changed(&next, Reloadable::No);
        let mut changed = self.holds.changed(&next, Reloadable::Yes);
        // What is on can be changed; whether it is on at all, only a start decides.
        let is_disk_switched = (next.disk == 0) != (self.began_with.disk == 0);
        let is_tls_switched = next.tls.cert.is_some() != self.began_with.tls.cert.is_some();
        for (key, is_switched) in
            [("disk", is_disk_switched), ("tls.cert", is_tls_switched), ("tls.key", is_tls_switched)]
        {
            if is_switched {
                changed.retain(|changed| changed != key);
                needs_restart.push(key.to_owned());
            }
        }
        next.content_auth = self.began_with.content_auth;
        // First everything that may be refused, and only then the first change.
        let (token, _) = super::admin_token(&next, &self.directory)?;
        let access = Access::new(&next, &token, self.keyring.clone())?;
        let filter = log::parse(&next.log)?;
        let policies = self.policies(&next)?;
        if let Some(tls) = &self.tls {
            tls.reload(&next.tls)?;
        }
        for (namespace, policy) in policies {
            self.cache.set_policy(&namespace, policy)?;
        }
        self.gate.replace(access);
        self.filter.replace(filter);
        self.cache.set_memory(next.memory);
        if !is_disk_switched {
            self.cache.set_disk(next.disk);
        }
        self.holds = next;
        let (changed, needs_restart) = (changed.join(", "), needs_restart.join(", "));
        tracing::info!(changed, "the settings were read again; tokens and keys too");
        if !needs_restart.is_empty() {
            tracing::warn!(
                settings = needs_restart,
                "these settings have changed and hold only after a restart"
            );
        }
        Ok(())
    }
}

impl Reload {
    /// The policy of every namespace that is named, or was and has the default from now on.
    fn policies(&self, next: &Settings) -> Result<Vec<(Namespace, Policy)>> {
        let names: BTreeSet<_> = self.holds.namespaces.keys().chain(next.namespaces.keys()).collect();
        let policies = names.into_iter().map(|name| {
            let policy = super::policy(&self.began_with.source, next.namespace(name));
            Ok((Namespace::parse(name.as_str())?, policy))
        });
        policies.collect()
    }
}

fn refused(why: &dyn fmt::Display) {
    tracing::error!(reason = %why, "the settings were read again and are refused; nothing has changed");
}
