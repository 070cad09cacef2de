//! How long entries are kept past their lifetime, so that there is something stale to serve.

use std::collections::HashMap;
use std::time::Duration;

use crate::disk::Disk;
use crate::memory::{Memory, NAMESPACES_MAX};
use crate::sync::RwLock;

use super::policy::Policies;

/// The graces of all namespaces, as both tiers were told them.
#[derive(Debug, Default)]
pub(super) struct Graces(RwLock<HashMap<Box<str>, Duration>>);

/// The tiers that keep entries.
#[derive(Clone, Copy)]
pub(super) struct Tiers<'t> {
    pub(super) memory: &'t Memory,
    pub(super) disk: Option<&'t Disk>,
}

impl Tiers<'_> {
    fn set(self, namespace: &str, grace: Duration) {
        self.memory.set_grace(namespace, grace);
        if let Some(disk) = self.disk {
            disk.set_grace(namespace, grace);
        }
    }
}

impl Graces {
    /// Gives each namespace what its policy asks for.
    pub(super) fn set_all(&self, tiers: Tiers<'_>, policies: &Policies) {
        let mut graces = self.0.write();
        for (namespace, grace) in policies.graces() {
            if grace.is_zero() && !graces.contains_key(namespace) {
                continue;
            }
            graces.insert(namespace.into(), grace);
            tiers.set(namespace, grace);
        }
    }

    /// Gives `namespace` this much, if it has less.
    pub(super) fn widen(&self, tiers: Tiers<'_>, namespace: &str, grace: Duration) {
        if self.0.read().get(namespace).copied().unwrap_or_default() >= grace {
            return;
        }
        let mut graces = self.0.write();
        if graces.len() < usize::from(NAMESPACES_MAX) || graces.contains_key(namespace) {
            graces.insert(namespace.into(), grace);
            tiers.set(namespace, grace);
        }
    }
}
