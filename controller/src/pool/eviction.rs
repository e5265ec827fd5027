//! Ends instances: those of old versions, those that were idle for long, and all at the end.

use std::time::{Duration, Instant};

use super::entry::{Entry, Order, Phase, StartOrder};
use super::job::{GroupKey, Job};
use super::state::State;

impl State {
    /// Ends an idle instance. It stops counting against the limits at once.
    pub(super) fn end(&mut self, id: u64) {
        if let Some(entry) = self.remove(id)
            && let Phase::Idle { wake, .. } = entry.phase
        {
            // If its task has dropped the receiver, the instance is ending already.
            let _ = wake.send(Order::End);
        }
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Entry> {
        self.started(id);
        let entry = self.instances.remove(&id)?;
        self.memory_mib -= u64::from(entry.version.config.memory_mib);
        let key = entry.group();
        if let Some(group) = self.groups.get_mut(&key) {
            group.idle.retain(|idle| *idle != id);
            group.instances -= 1;
            if matches!(entry.phase, Phase::Starting) {
                group.starting -= 1;
            }
            group.preparing -= usize::from(entry.prepares);
        }
        self.forget_empty(&key);
        Some(entry)
    }

    pub(super) fn forget_empty(&mut self, key: &GroupKey) {
        let group = self.groups.get(key);
        if group.is_some_and(|group| group.instances == 0 && group.queue.is_empty()) {
            self.groups.remove(key);
        }
    }

    /// Ends the idle instances of a version that was replaced or deleted. Busy instances end after their
    /// invocation, but first serve the version's queue.
    pub(crate) fn retire(&mut self, serial: u64, now: Instant) -> Vec<StartOrder> {
        self.provisions.remove(&serial);
        let of_version = self.groups.iter().filter(|(key, _)| key.serial == serial);
        let idle: Vec<u64> = of_version
            .flat_map(|(_, group)| group.idle.iter().copied())
            .collect();
        for id in idle {
            self.end(id);
        }
        self.admit(now)
    }

    /// Ends instances that have been idle for `limit`. Returns when the next one will have been.
    pub(crate) fn reap(&mut self, limit: Duration, now: Instant) -> Option<Instant> {
        let mut next = None;
        let mut over = Vec::new();
        for (id, entry) in &self.instances {
            if let Phase::Idle { since, .. } = entry.phase {
                let end = since + limit;
                if end <= now {
                    over.push((*id, entry.version.serial));
                } else {
                    next = Some(next.map_or(end, |next: Instant| next.min(end)));
                }
            }
        }
        for (id, serial) in over {
            // Checked again for each instance: the end of another one may make this one part of the
            // provisioned concurrency.
            if !self.is_wanted(serial) {
                self.end(id);
            }
        }
        next
    }

    /// Closes the pool: no further instance starts, idle ones end. Returns the waiting invocations, which
    /// will not run.
    pub(crate) fn close(&mut self) -> Vec<Job> {
        self.ending = true;
        let idle: Vec<u64> = self
            .groups
            .values()
            .flat_map(|group| group.idle.iter().copied())
            .collect();
        for id in idle {
            self.end(id);
        }
        self.groups
            .values_mut()
            .flat_map(|group| group.queue.drain(..))
            .collect()
    }

    /// The number of evictions since the last call.
    pub(crate) fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }
}
