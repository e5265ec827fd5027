//! The state of all instances and waiting invocations: pure decisions, without I/O.
//!
//! An instance counts against the limits from the decision to start it to the decision to end it.
//! Invocations of a version wait in one queue, in the order of their arrival, events last. The next
//! instance that can serve takes the first: an idle one, one that has just sent a result, or a new one.
//!
//! ```text
//!           take              finishing           park
//! Starting ──────▶ Busy ◀───────────▶ Finishing ──────▶ Idle
//!    │ (nothing left  ▲       next                       │
//!    ▼  to do)        └──────────────────────────────────┘ submit
//!  gone
//! ```

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::entry::{
    Capacity, Entry, GiveUp, Order, Parked, Phase, Placed, Provision, StartOrder, Taken,
};
use super::job::Job;
use crate::function::Version;
use crate::metrics::Census;

/// The instances and waiting invocations of one version.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Ids of idle instances, least recently used first.
    pub(super) idle: Vec<u64>,
    pub(super) queue: VecDeque<Job>,
    /// Number of instances in any phase.
    pub(super) instances: usize,
    /// Number of instances in the phase `Starting`.
    pub(super) starting: usize,
}

/// All instances and all waiting invocations.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) capacity: Capacity,
    pub(super) groups: HashMap<u64, Group>,
    pub(super) instances: BTreeMap<u64, Entry>,
    pub(super) memory_mib: u64,
    /// By the version's serial.
    pub(super) provisions: HashMap<u64, Provision>,
    next_id: u64,
    pub(super) ending: bool,
    pub(super) evicted: u64,
}

impl State {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            groups: HashMap::new(),
            instances: BTreeMap::new(),
            memory_mib: 0,
            provisions: HashMap::new(),
            next_id: 1,
            ending: false,
            evicted: 0,
        }
    }

    /// Gives an invocation to the idle instance that was used last, or puts it into the queue.
    pub(crate) fn submit(&mut self, job: Job, now: Instant) -> Placed {
        let version = job.invocation.version.clone();
        let Some(job) = self.wake(job) else {
            return Placed::Given;
        };
        let queue = &mut self.groups.entry(version.serial).or_default().queue;
        let place = if job.invocation.background {
            queue.len()
        } else {
            queue.partition_point(|waiting| !waiting.invocation.background)
        };
        queue.insert(place, job);
        Placed::Waits(self.provide(&version, now))
    }

    /// Puts an invocation that its instance could not begin at the head of the queue.
    pub(crate) fn resubmit(&mut self, job: Job, now: Instant) -> Vec<StartOrder> {
        let version = job.invocation.version.clone();
        let Some(job) = self.wake(job) else {
            return Vec::new();
        };
        self.groups
            .entry(version.serial)
            .or_default()
            .queue
            .push_front(job);
        self.provide(&version, now)
    }

    fn wake(&mut self, mut job: Job) -> Option<Job> {
        let Some(group) = self.groups.get_mut(&job.invocation.version.serial) else {
            return Some(job);
        };
        while let Some(id) = group.idle.pop() {
            let entry = self
                .instances
                .get_mut(&id)
                .expect("idle instances have an entry");
            let Phase::Idle { wake, .. } = std::mem::replace(&mut entry.phase, Phase::Busy) else {
                unreachable!("instances in the idle list are idle");
            };
            match wake.send(Order::Run(job)) {
                Ok(()) => {
                    entry.invocations += 1;
                    return None;
                }
                // The instance has just died, and its task will remove it. Try the next one.
                Err(Order::Run(back)) => job = back,
                Err(_) => unreachable!("the order comes back as it was"),
            }
        }
        Some(job)
    }

    /// Starts as many instances of a version as its queue needs, within the limits.
    pub(crate) fn provide(&mut self, version: &Arc<Version>, now: Instant) -> Vec<StartOrder> {
        let mut orders = Vec::new();
        loop {
            let soon = self.soon_free(version.serial, now);
            let Some(group) = self.groups.get(&version.serial) else {
                break;
            };
            if group.queue.len() <= group.starting + soon || !self.evict_for(version) {
                break;
            }
            orders.push(self.begin(version, now));
        }
        orders
    }

    /// Adds an instance that fits, in the phase `Starting`.
    pub(super) fn begin(&mut self, version: &Arc<Version>, now: Instant) -> StartOrder {
        let id = self.next_id;
        self.next_id += 1;
        self.memory_mib += u64::from(version.config.memory_mib);
        let entry = Entry {
            version: version.clone(),
            phase: Phase::Starting,
            started: now,
            pid: None,
            invocations: 0,
        };
        self.instances.insert(id, entry);
        let group = self.groups.entry(version.serial).or_default();
        group.instances += 1;
        group.starting += 1;
        StartOrder {
            id,
            version: version.clone(),
        }
    }

    /// [`Self::provide`] for a version of which only the serial is known.
    pub(crate) fn provide_serial(&mut self, serial: u64, now: Instant) -> Vec<StartOrder> {
        let waiting = self
            .groups
            .get(&serial)
            .and_then(|group| group.queue.front());
        match waiting.map(|job| job.invocation.version.clone()) {
            Some(version) => self.provide(&version, now),
            None => Vec::new(),
        }
    }

    /// Starts instances for the queues of all versions, the longest-waiting invocation first.
    pub(super) fn provide_all(&mut self, now: Instant) -> Vec<StartOrder> {
        let mut waiting: Vec<((bool, Instant), Arc<Version>)> = self
            .groups
            .values()
            .filter_map(|group| group.queue.front())
            .map(|job| &job.invocation)
            .map(|next| ((next.background, next.accepted), next.version.clone()))
            .collect();
        waiting.sort_by_key(|(order, _)| *order);
        waiting
            .into_iter()
            .flat_map(|(_, version)| self.provide(&version, now))
            .collect()
    }

    /// Number of instances that have sent their result and should be free at any moment.
    fn soon_free(&self, serial: u64, now: Instant) -> usize {
        self.instances
            .values()
            .filter(|entry| match entry.phase {
                Phase::Finishing { since } => {
                    entry.version.serial == serial && now < since + self.capacity.finish_grace
                }
                _ => false,
            })
            .count()
    }

    /// Whether invocations of a version wait for instances that have sent their result.
    pub(crate) fn counts_on_finishing(&self, serial: u64, now: Instant) -> bool {
        self.groups.get(&serial).is_some_and(|group| {
            group.queue.len() > group.starting && self.soon_free(serial, now) > 0
        })
    }

    /// A starting instance has a process.
    pub(crate) fn claimed(&mut self, id: u64, pid: u32) {
        if let Some(entry) = self.instances.get_mut(&id) {
            entry.pid = Some(pid);
        }
    }

    /// Decides what a starting instance with a shell does. An instance without an invocation is removed,
    /// unless it is part of the provisioned concurrency.
    pub(crate) fn take(&mut self, id: u64) -> Taken {
        let Some(entry) = self.instances.get(&id) else {
            return Taken::Nothing;
        };
        let serial = entry.version.serial;
        let Some(job) = self.pop(serial) else {
            if self.is_wanted(serial) && !self.ending {
                return Taken::Ready;
            }
            self.remove(id);
            return Taken::Nothing;
        };
        let entry = self.instances.get_mut(&id).expect("looked up above");
        entry.phase = Phase::Busy;
        entry.invocations += 1;
        if let Some(group) = self.groups.get_mut(&serial) {
            group.starting -= 1;
        }
        Taken::Job(job)
    }

    /// Takes the first invocation of a version's queue whose caller still waits.
    fn pop(&mut self, serial: u64) -> Option<Job> {
        let queue = &mut self.groups.get_mut(&serial)?.queue;
        loop {
            let job = queue.pop_front()?;
            if !job.reply.is_closed() {
                return Some(job);
            }
        }
    }

    /// An instance has sent its result, but its runtime has not asked for the next event yet.
    pub(crate) fn finishing(&mut self, id: u64, now: Instant) {
        if let Some(entry) = self.instances.get_mut(&id) {
            entry.phase = Phase::Finishing { since: now };
        }
    }

    /// An instance's runtime has asked for the next event: the next invocation, if one waits.
    pub(crate) fn next(&mut self, id: u64) -> Option<Job> {
        let serial = self.instances.get(&id)?.version.serial;
        let job = self.pop(serial)?;
        let entry = self.instances.get_mut(&id).expect("looked up above");
        entry.phase = Phase::Busy;
        entry.invocations += 1;
        Some(job)
    }

    /// Decides what an instance without an invocation does.
    pub(crate) fn park(&mut self, id: u64, now: Instant) -> Parked {
        if let Some(job) = self.next(id) {
            return Parked::Run(job);
        }
        let Some(entry) = self.instances.get_mut(&id) else {
            return Parked::End;
        };
        if self.ending || entry.version.is_retired() {
            return Parked::End;
        }
        let (wake, orders) = oneshot::channel();
        entry.phase = Phase::Idle { since: now, wake };
        self.groups
            .entry(entry.version.serial)
            .or_default()
            .idle
            .push(id);
        Parked::Wait(orders)
    }

    /// An instance has ended. Returns the instances to start in its place.
    pub(crate) fn gone(&mut self, id: u64, now: Instant) -> Vec<StartOrder> {
        self.remove(id);
        // Waiting invocations first, then provisioned concurrency.
        let mut orders = self.provide_all(now);
        orders.extend(self.provision_all(now));
        orders
    }

    /// A start has failed: removes the instance, and returns the first waiting invocation.
    pub(crate) fn start_failed(&mut self, id: u64, why: &str) -> Option<Job> {
        let serial = self.instances.get(&id)?.version.serial;
        self.provision_failed(serial, why);
        let job = self.pop(serial);
        self.remove(id);
        job
    }

    /// Decides about an invocation that has waited for the maximum time.
    pub(crate) fn give_up(&mut self, serial: u64, ticket: u64, now: Instant) -> GiveUp {
        let soon = self.soon_free(serial, now);
        let Some(group) = self.groups.get_mut(&serial) else {
            return GiveUp::Started;
        };
        let Some(position) = group.queue.iter().position(|job| job.ticket == ticket) else {
            return GiveUp::Started;
        };
        if position < group.starting + soon {
            return GiveUp::Coming;
        }
        group.queue.remove(position);
        self.forget_empty(serial);
        GiveUp::Removed
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.ending
    }

    /// Orders the idle instance that was used last to measure pings.
    pub(crate) fn ping(
        &mut self,
        serial: u64,
        count: u32,
        reply: oneshot::Sender<Result<Vec<u64>, String>>,
    ) -> bool {
        let Some(id) = self
            .groups
            .get_mut(&serial)
            .and_then(|group| group.idle.pop())
        else {
            return false;
        };
        let entry = self
            .instances
            .get_mut(&id)
            .expect("idle instances have an entry");
        match std::mem::replace(&mut entry.phase, Phase::Busy) {
            Phase::Idle { wake, .. } => wake.send(Order::Ping { count, reply }).is_ok(),
            _ => unreachable!("instances in the idle list are idle"),
        }
    }

    pub(crate) fn instances(&self) -> impl Iterator<Item = (u64, &Entry)> {
        self.instances.iter().map(|(id, entry)| (*id, entry))
    }

    pub(crate) fn census(&self) -> Census {
        let mut census = Census {
            memory_mib: self.memory_mib,
            ..Census::default()
        };
        for entry in self.instances.values() {
            match entry.phase {
                Phase::Starting => census.starting += 1,
                Phase::Busy => census.busy += 1,
                Phase::Finishing { .. } => census.finishing += 1,
                Phase::Idle { .. } => census.idle += 1,
            }
        }
        census
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
pub(super) mod tests;
