//! Admission: which waiting invocation gets the next start, and when.
//!
//! A start uses a CPU for as long as it takes. More starts at once than CPUs would not be faster: each
//! gets a smaller share, until none of them ends in time. So there are
//! [`max_starts`](super::entry::Capacity::max_starts) start slots. A start holds one from the decision to
//! start until one of these:
//!
//! * The instance has answered its first invocation. Until then its guest touches its memory for the first
//!   time, which is the greater part of a start.
//! * The guest has had the pool's `start_tail` of time after the restore, without the time in which it
//!   waited for a CPU. By then it runs the function's own code: a long handler, an init or an after-restore
//!   hook. Such code may sleep for minutes, so it must not hold a slot. Its CPU time is limited by the
//!   function's share. If guests wait for CPUs, the next start waits too: where other programs or guests
//!   that run use the CPUs, a start in each tail would be more and more guests of which none gets on.
//! * The version's artefacts are not at hand: they must be compared with their seal or rebuilt, which may
//!   take as long as a deploy. The slot is released at once, and when they are there, the start begins
//!   again in its turn. Meanwhile there is no other start of the version.
//! * The instance ends, for whatever reason.
//!
//! Slots go to functions in turn, and within a function to the invocation that has waited longest. Events
//! get the slots that no caller waits for, and provisioned concurrency those that no event needs. A function
//! that does not fit into the limits keeps its turn.
//!
//! On a host whose CPUs are busy, another instance of a version makes its others slower. So a version that
//! has an instance gets a further one only if the host has CPU time left, or if an invocation has waited
//! for [`PATIENCE`]: then its instances are too few, or they wait for something other than a CPU.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entry::{Entry, Phase, StartOrder};
use super::job::{GroupKey, Invocation};
use super::state::{Group, State};
use crate::function::{FunctionName, TenantId, Version};

/// For how long an invocation waits for the instances that its version has before it may get a new one
/// although the host's CPUs are busy.
pub(super) const PATIENCE: Duration = Duration::from_millis(250);

/// An invocation for which an instance may start.
#[derive(Debug)]
struct Candidate {
    version: Arc<Version>,
    tenant: Option<TenantId>,
    waited: Duration,
    /// Whether it is an event.
    background: bool,
}

impl Candidate {
    /// Whether it goes before another one of its function.
    fn goes_before(&self, other: &Self) -> bool {
        (self.background, other.waited) < (other.background, self.waited)
    }
}

impl Group {
    /// Number of waiting invocations that are not events.
    pub(super) fn callers(&self) -> usize {
        self.queue
            .partition_point(|waiting| !waiting.invocation.background)
    }

    /// Removes the invocations whose callers have been dropped: nothing must be started for them.
    fn forget_the_dropped(&mut self) {
        self.queue.retain(|job| !job.reply.is_closed());
    }
}

impl State {
    /// Starts what may start now. Must be called after each change that frees a slot or makes room, and
    /// from time to time while invocations wait.
    pub(crate) fn admit(&mut self, now: Instant) -> Vec<StartOrder> {
        let mut orders = Vec::new();
        if self.ending {
            return orders;
        }
        for background in [false, true] {
            while !self.turns.is_empty()
                && self.slots_used < self.capacity.max_starts
                && let Some(order) = self.next_start(background, now)
            {
                orders.push(order);
            }
        }
        orders.extend(self.provision_all(now));
        orders
    }

    /// Starts an instance for the next function in turn. `background`: for an event.
    fn next_start(&mut self, background: bool, now: Instant) -> Option<StartOrder> {
        let mut hungry = self.hungry(now);
        // Functions without waiting invocations leave their place.
        self.turns.retain(|function| hungry.contains_key(function));
        for place in 0..self.turns.len() {
            let Some(Some(next)) = hungry.remove(&self.turns[place]) else {
                continue;
            };
            if next.background != background || !self.evict_for(&next.version, now) {
                continue;
            }
            if let Some(function) = self.turns.remove(place) {
                self.turns.push_back(function);
            }
            return Some(StartOrder {
                waited: (!background).then_some(next.waited),
                ..self.begin(&next.version, next.tenant, now)
            });
        }
        None
    }

    /// The functions with waiting invocations, each with its next start if it may have one now.
    fn hungry(&mut self, now: Instant) -> HashMap<FunctionName, Option<Candidate>> {
        self.groups.retain(|_, group| {
            group.forget_the_dropped();
            group.instances > 0 || !group.queue.is_empty()
        });
        let mut hungry: HashMap<FunctionName, Option<Candidate>> = HashMap::new();
        for (key, group) in &self.groups {
            let Some(first) = group.queue.front() else {
                continue;
            };
            let function = first.invocation.version.name.clone();
            let best = hungry.entry(function).or_default();
            let Some(invocation) = self.unserved(key, group, now) else {
                continue;
            };
            let candidate = Candidate {
                version: invocation.version.clone(),
                tenant: invocation.tenant.clone(),
                waited: now.saturating_duration_since(invocation.accepted),
                background: invocation.background,
            };
            if best.as_ref().is_none_or(|best| candidate.goes_before(best)) {
                *best = Some(candidate);
            }
        }
        hungry
    }

    /// The first invocation of a group's queue for which an instance may start now.
    fn unserved<'a>(
        &self,
        key: &GroupKey,
        group: &'a Group,
        now: Instant,
    ) -> Option<&'a Invocation> {
        if group.preparing > 0 {
            return None;
        }
        let first = &group.queue.front()?.invocation;
        let has_none = group.instances == group.idle.len();
        let has_waited = first.accepted + PATIENCE <= now;
        if !has_none && !has_waited && !self.spare_cpus {
            return None;
        }
        let served = group.starting + self.soon_free(key, now);
        group.queue.get(served).map(|job| &*job.invocation)
    }

    /// Adds an instance that fits, in the phase `Starting`.
    pub(super) fn begin(
        &mut self,
        version: &Arc<Version>,
        tenant: Option<TenantId>,
        now: Instant,
    ) -> StartOrder {
        let id = self.next_id;
        self.next_id += 1;
        self.slots_used += 1;
        self.memory_mib += u64::from(version.config.memory_mib);
        let entry = Entry {
            version: version.clone(),
            tenant,
            phase: Phase::Starting,
            holds_slot: true,
            prepares: false,
            started: now,
            pid: None,
            invocations: 0,
        };
        let group = self.groups.entry(entry.group()).or_default();
        group.instances += 1;
        group.starting += 1;
        self.instances.insert(id, entry);
        StartOrder {
            id,
            version: version.clone(),
            waited: None,
        }
    }

    /// A start is over, or does not need the host any more: releases its slot. Returns whether it had one.
    pub(crate) fn started(&mut self, id: u64) -> bool {
        let entry = self.instances.get_mut(&id);
        let held = entry.is_some_and(|entry| std::mem::take(&mut entry.holds_slot));
        self.slots_used -= usize::from(held);
        held
    }

    /// A start waits for its version's artefacts.
    pub(crate) fn prepares(&mut self, id: u64) {
        self.started(id);
        let Some(entry) = self.instances.get_mut(&id) else {
            return;
        };
        if !std::mem::replace(&mut entry.prepares, true)
            && let Some(group) = self.groups.get_mut(&entry.group())
        {
            group.preparing += 1;
        }
    }

    /// Whether the host's CPUs have had time left lately.
    pub(crate) fn set_spare_cpus(&mut self, spare: bool) {
        self.spare_cpus = spare;
    }

    /// Number of instances that have sent their result and should be free at any moment.
    pub(super) fn soon_free(&self, key: &GroupKey, now: Instant) -> usize {
        self.instances
            .values()
            .filter(|entry| match entry.phase {
                Phase::Finishing { since } => {
                    entry.is_of(key) && now < since + self.capacity.finish_grace
                }
                _ => false,
            })
            .count()
    }

    /// Whether submitting an invocation of this version can make a start possible: a cheap question, since
    /// an overloaded host asks it for each invocation.
    pub(super) fn may_start(&self, key: &GroupKey, now: Instant) -> bool {
        let group = self.groups.get(key);
        self.slots_used < self.capacity.max_starts
            && group.is_some_and(|group| self.unserved(key, group, now).is_some())
    }

    /// Whether one more caller of a function may wait. The queue of events has its own limits.
    pub(super) fn may_wait(&mut self, function: &FunctionName) -> bool {
        let most = self.capacity.max_waiting;
        let of_function = self.groups.values_mut().filter(|group| {
            let first = group.queue.front();
            first.is_some_and(|job| job.invocation.version.name == *function)
        });
        let callers = of_function.map(|group| {
            if group.callers() >= most {
                group.forget_the_dropped();
            }
            group.callers()
        });
        callers.sum::<usize>() < most
    }

    /// Number of invocations that wait for an instance.
    pub(crate) fn waiting(&self) -> usize {
        self.groups.values().map(|group| group.queue.len()).sum()
    }

    /// Whether a caller waits for a start that could begin if the host had a slot or CPU time. Work that
    /// nobody waits for comes after those.
    pub(crate) fn callers_wait(&self) -> bool {
        self.groups.values().any(|group| {
            let first = group.queue.front();
            group.preparing == 0 && first.is_some_and(|job| !job.invocation.background)
        })
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
