//! Provisioned concurrency: instances of a version that are kept ready, whether it is invoked or
//! not.
//!
//! Any instance of the version counts, whatever it was started for. Those that are missing are
//! started, restored and thawed without an invocation, a few at a time; those that are wanted neither
//! make room for others nor end for being idle.

use std::sync::Arc;
use std::time::Instant;

use super::dispatch::Pool;
use super::entry::{Phase, StartOrder};
use super::state::State;
use crate::function::Version;

/// Starts that may fail one after another before no more are tried.
const MAX_FAILURES: u32 = 3;

/// What is wanted of one version.
#[derive(Debug)]
pub(super) struct Provision {
    version: Arc<Version>,
    wanted: usize,
    /// Starts that failed since one succeeded, and why the last did.
    failures: u32,
    why: String,
    /// Whether there was no room for all when it was looked for last.
    crowded: bool,
}

/// How far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Provisioned {
    /// Instances that are ready or serve, at most as many as are wanted.
    pub(crate) ready: u32,
    /// Why there are not more; `None` while more are on their way.
    pub(crate) failed: Option<String>,
}

impl State {
    /// Wants that many instances of a version kept ready from now on.
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
        self.provision_all(now)
    }

    /// Starts what is missing of what is wanted, as far as there is room and not all at once: to be
    /// asked again whenever a start is over.
    pub(super) fn provision_all(&mut self, now: Instant) -> Vec<StartOrder> {
        let mut orders = Vec::new();
        if self.provisions.is_empty() {
            return orders;
        }
        let mut starting: usize = self.groups.values().map(|group| group.starting).sum();
        let mut serials: Vec<u64> = self.provisions.keys().copied().collect();
        serials.sort_unstable();
        for serial in serials {
            let mut crowded = false;
            while !crowded
                && starting < self.capacity.starts_ahead
                && let Some(version) = self.missing(serial)
            {
                if self.make_room(&version) {
                    orders.push(self.begin(&version, now));
                    starting += 1;
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

    /// A version of which an instance is to be started.
    fn missing(&self, serial: u64) -> Option<Arc<Version>> {
        let provision = self.provisions.get(&serial)?;
        let enough = self.count(serial) >= provision.wanted;
        (!enough && provision.failures < MAX_FAILURES).then(|| provision.version.clone())
    }

    fn count(&self, serial: u64) -> usize {
        self.groups.get(&serial).map_or(0, |group| group.instances)
    }

    /// Whether an instance of that version is wanted although it has nothing to do.
    pub(super) fn is_wanted(&self, serial: u64) -> bool {
        let provision = self.provisions.get(&serial);
        provision.is_some_and(|provision| self.count(serial) <= provision.wanted)
    }

    /// An instance that was started without an invocation runs. Returns what to start next.
    pub(super) fn warmed(&mut self, id: u64, now: Instant) -> Vec<StartOrder> {
        let Some(entry) = self.instances.get_mut(&id) else {
            return Vec::new();
        };
        entry.phase = Phase::Finishing { since: now };
        let serial = entry.version.serial;
        if let Some(group) = self.groups.get_mut(&serial) {
            group.starting -= 1;
        }
        if let Some(provision) = self.provisions.get_mut(&serial) {
            provision.failures = 0;
        }
        self.provision_all(now)
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
        let begun = self.groups.get(&serial);
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
    /// Keeps that many instances of a version ready from now on.
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
        // Those that are not wanted any more may have been idle for long.
        self.shared.notify_unwanted();
    }

    /// How far the instances of a version that are to be kept ready are.
    pub(crate) fn provisioned(&self, version: &Version) -> Provisioned {
        self.shared.state().provisioned(version.serial)
    }

    /// Tries again what was given up.
    pub(crate) fn provision_again(&self, version: &Arc<Version>) {
        let orders = {
            let mut state = self.shared.state();
            let wanted = state.wants(version.serial);
            state.set_provisioned(version, wanted, Instant::now())
        };
        self.shared.start(orders);
    }
}
