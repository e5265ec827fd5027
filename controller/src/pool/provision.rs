//! Provisioned concurrency: instances of a version that are kept ready.
//!
//! All instances of the version count, also those that were started for an invocation. Missing instances
//! are restored without an invocation, a few at a time. Provisioned instances are neither evicted nor
//! ended after the idle timeout.

use std::sync::Arc;
use std::time::Instant;

use super::dispatch::Pool;
use super::entry::{Phase, Provision, StartOrder};
use super::job::GroupKey;
use super::state::{Group, State};
use crate::function::Version;

/// Number of failed starts in a row after which no more are tried.
const MAX_FAILURES: u32 = 3;

/// The state of a version's provisioned concurrency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Provisioned {
    /// Number of instances that are ready or busy, at most the wanted number.
    pub(crate) ready: u32,
    /// Why there are not more; `None` while more are starting.
    pub(crate) failed: Option<String>,
}

impl State {
    /// Sets the number of instances of a version that are kept ready.
    pub(super) fn set_provisioned(
        &mut self,
        version: &Arc<Version>,
        wanted: usize,
        now: Instant,
    ) -> Vec<StartOrder> {
        if wanted == 0 {
            self.provisions.remove(&version.serial);
            return Vec::new();
        }
        let provision = Provision {
            version: version.clone(),
            wanted,
            failures: 0,
            why: String::new(),
            crowded: false,
        };
        self.provisions.insert(version.serial, provision);
        self.admit(now)
    }

    /// Starts missing instances within the limits, in the start slots that no invocation needs.
    pub(super) fn provision_all(&mut self, now: Instant) -> Vec<StartOrder> {
        let mut orders = Vec::new();
        if self.provisions.is_empty() {
            return orders;
        }
        let mut serials: Vec<u64> = self.provisions.keys().copied().collect();
        serials.sort_unstable();
        for serial in serials {
            let mut crowded = false;
            while !crowded
                && self.slots_used < self.capacity.max_starts
                && let Some(version) = self.missing(serial)
            {
                if self.evict_for(&version, now) {
                    orders.push(self.begin(&version, None, now));
                } else {
                    crowded = true;
                }
            }
            if let Some(provision) = self.provisions.get_mut(&serial) {
                provision.crowded = crowded;
            }
        }
        orders
    }

    /// The version, if it needs another instance.
    fn missing(&self, serial: u64) -> Option<Arc<Version>> {
        let provision = self.provisions.get(&serial)?;
        let enough = self.count(serial) >= provision.wanted;
        let preparing = self.group(serial).is_some_and(|g| g.preparing > 0);
        (!enough && !preparing && provision.failures < MAX_FAILURES)
            .then(|| provision.version.clone())
    }

    fn count(&self, serial: u64) -> usize {
        self.group(serial).map_or(0, |group| group.instances)
    }

    /// A version's group. Versions that isolate tenants have none, and no provisioned concurrency.
    fn group(&self, serial: u64) -> Option<&Group> {
        self.groups.get(&GroupKey::without_tenant(serial))
    }

    /// Whether an idle instance of this version is part of the provisioned concurrency.
    pub(super) fn is_wanted(&self, serial: u64) -> bool {
        let provision = self.provisions.get(&serial);
        provision.is_some_and(|provision| self.count(serial) <= provision.wanted)
    }

    /// An instance has started without an invocation. Returns what to start next.
    pub(super) fn warmed(&mut self, id: u64, now: Instant) -> Vec<StartOrder> {
        let Some(entry) = self.instances.get_mut(&id) else {
            return Vec::new();
        };
        entry.phase = Phase::Finishing { since: now };
        let key = entry.group();
        self.started(id);
        if let Some(group) = self.groups.get_mut(&key) {
            group.starting -= 1;
        }
        if let Some(provision) = self.provisions.get_mut(&key.serial) {
            provision.failures = 0;
        }
        self.admit(now)
    }

    /// An instance could not be started.
    pub(super) fn provision_failed(&mut self, serial: u64, why: &str) {
        if let Some(provision) = self.provisions.get_mut(&serial) {
            provision.failures += 1;
            provision.why = why.into();
        }
    }

    fn wants(&self, serial: u64) -> usize {
        self.provisions.get(&serial).map_or(0, |p| p.wanted)
    }

    pub(super) fn provisioned(&self, serial: u64) -> Provisioned {
        let Some(provision) = self.provisions.get(&serial) else {
            return Provisioned {
                ready: 0,
                failed: None,
            };
        };
        let begun = self.group(serial);
        let begun = begun.map_or(0, |group| group.instances - group.starting);
        let ready = begun.min(provision.wanted);
        let failed = if ready == provision.wanted {
            None
        } else if provision.failures >= MAX_FAILURES {
            Some(provision.why.clone())
        } else {
            provision
                .crowded
                .then(|| "there is no room for more instances on this host".into())
        };
        Provisioned {
            ready: u32::try_from(ready).unwrap_or(u32::MAX),
            failed,
        }
    }
}

impl Pool {
    /// Sets the number of instances of a version that are kept ready.
    pub(crate) fn set_provisioned(&self, version: &Arc<Version>, wanted: u32) {
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let orders = {
            let mut state = self.shared.state();
            if state.wants(version.serial) == wanted {
                return;
            }
            state.set_provisioned(version, wanted, Instant::now())
        };
        self.shared.start(orders);
        // Instances that are not provisioned any more may have passed the idle timeout.
        self.shared.notify_unwanted();
    }

    /// The state of a version's provisioned concurrency.
    pub(crate) fn provisioned(&self, version: &Version) -> Provisioned {
        self.shared.state().provisioned(version.serial)
    }

    /// Tries again to start instances after too many failures.
    pub(crate) fn provision_again(&self, version: &Arc<Version>) {
        let orders = {
            let mut state = self.shared.state();
            let wanted = state.wants(version.serial);
            state.set_provisioned(version, wanted, Instant::now())
        };
        self.shared.start(orders);
    }
}
