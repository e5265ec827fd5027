//! The state of all instances and waiting invocations: pure decisions, without I/O.
//!
//! An instance counts against the limits from the decision to start it to the decision to end it.
//! Invocations of a version wait in one queue, in the order of their arrival, events last; those of a
//! function with tenant isolation in one for each tenant, and its instances belong to one tenant. The next
//! instance that can serve takes the first: an idle one, one that has just sent a result, or a new one.
//! `admission` decides when a new one starts.
//!
//! ```text
//!           take              finishing           park
//! Starting ──────▶ Busy ◀───────────▶ Finishing ──────▶ Idle
//!    │ (nothing left  ▲       next                       │
//!    ▼  to do)        └──────────────────────────────────┘ submit
//!  gone
//! ```

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use tokio::sync::oneshot;

use super::entry::{
    Capacity, Entry, GiveUp, Order, Parked, Phase, Placed, Provision, StartOrder, Taken,
};
use super::job::{GroupKey, Job};
use super::reservations::Reservations;
use crate::function::FunctionName;
use crate::metrics::Census;

/// The instances and waiting invocations of one version, or of one tenant of it.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Ids of idle instances, least recently used first.
    pub(super) idle: Vec<u64>,
    pub(super) queue: VecDeque<Job>,
    /// Number of instances in any phase.
    pub(super) instances: usize,
    /// Number of instances in the phase `Starting`.
    pub(super) starting: usize,
    /// Number of these that wait for the version's artefacts.
    pub(super) preparing: usize,
}

/// All instances and all waiting invocations.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) capacity: Capacity,
    pub(super) groups: HashMap<GroupKey, Group>,
    pub(super) instances: BTreeMap<u64, Entry>,
    pub(super) memory_mib: u64,
    /// By the version's serial.
    pub(super) provisions: HashMap<u64, Provision>,
    pub(super) reservations: Reservations,
    pub(super) next_id: u64,
    /// Number of start slots in use.
    pub(super) slots_used: usize,
    /// The functions with waiting invocations, in the order in which they get slots.
    pub(super) turns: VecDeque<FunctionName>,
    /// Whether the host's CPUs have had time left lately.
    pub(super) spare_cpus: bool,
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
            reservations: Reservations::default(),
            next_id: 1,
            slots_used: 0,
            turns: VecDeque::new(),
            spare_cpus: true,
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
        if !job.invocation.background && !self.may_wait(&version.name) {
            return Placed::Full;
        }
        self.take_turn(&version.name);
        let key = job.invocation.group();
        let group = self.groups.entry(key.clone()).or_default();
        let place = if job.invocation.background {
            group.queue.len()
        } else {
            group.callers()
        };
        group.queue.insert(place, job);
        if !self.may_start(&key, now) {
            return Placed::Waits(Vec::new());
        }
        Placed::Waits(self.admit(now))
    }

    /// Puts an invocation that its instance could not begin at the head of the queue, an event behind the
    /// callers.
    pub(crate) fn resubmit(&mut self, job: Job, now: Instant) -> Vec<StartOrder> {
        let version = job.invocation.version.clone();
        let Some(job) = self.wake(job) else {
            return Vec::new();
        };
        self.take_turn(&version.name);
        let group = self.groups.entry(job.invocation.group()).or_default();
        let place = if job.invocation.background {
            group.callers()
        } else {
            0
        };
        group.queue.insert(place, job);
        self.admit(now)
    }

    /// Gives a function with a waiting invocation a place among those that get start slots: the last one, if
    /// none of its invocations waits already.
    fn take_turn(&mut self, function: &FunctionName) {
        let waits = self.groups.values().any(|group| {
            let first = group.queue.front();
            first.is_some_and(|job| job.invocation.version.name == *function)
        });
        if !waits {
            self.turns.retain(|other| other != function);
        }
        if !self.turns.contains(function) {
            self.turns.push_back(function.clone());
        }
    }

    fn wake(&mut self, mut job: Job) -> Option<Job> {
        let Some(group) = self.groups.get_mut(&job.invocation.group()) else {
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
        let key = entry.group();
        let Some(job) = self.pop(&key) else {
            if self.is_wanted(key.serial) && !self.ending {
                return Taken::Ready;
            }
            self.remove(id);
            return Taken::Nothing;
        };
        let entry = self.instances.get_mut(&id).expect("looked up above");
        entry.phase = Phase::Busy;
        entry.invocations += 1;
        if let Some(group) = self.groups.get_mut(&key) {
            group.starting -= 1;
        }
        Taken::Job(job)
    }

    /// Takes the first invocation of a group's queue whose caller still waits.
    fn pop(&mut self, key: &GroupKey) -> Option<Job> {
        let queue = &mut self.groups.get_mut(key)?.queue;
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
        let key = self.instances.get(&id)?.group();
        let job = self.pop(&key)?;
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
        self.groups.entry(entry.group()).or_default().idle.push(id);
        Parked::Wait(orders)
    }

    /// An instance has ended. Returns the instances to start in its place.
    pub(crate) fn gone(&mut self, id: u64, now: Instant) -> Vec<StartOrder> {
        self.remove(id);
        self.admit(now)
    }

    /// A start has failed: removes the instance, and returns the first waiting invocation.
    pub(crate) fn start_failed(&mut self, id: u64, why: &str) -> Option<Job> {
        let key = self.instances.get(&id)?.group();
        self.provision_failed(key.serial, why);
        let job = self.pop(&key);
        self.remove(id);
        job
    }

    /// Decides about an invocation that has waited for as long as it may for an instance to become free. It
    /// may wait longer for a start slot.
    pub(crate) fn give_up(&mut self, key: &GroupKey, ticket: u64, now: Instant) -> GiveUp {
        let soon = self.soon_free(key, now);
        let Some(group) = self.groups.get(key) else {
            return GiveUp::Started;
        };
        let Some(position) = group.queue.iter().position(|job| job.ticket == ticket) else {
            return GiveUp::Started;
        };
        let invocation = &group.queue[position].invocation;
        let in_time = now < invocation.accepted + self.capacity.start_wait;
        if position < group.starting + soon
            || group.preparing > 0
            || (in_time && self.fits(&invocation.version, now))
        {
            return GiveUp::Coming;
        }
        if let Some(group) = self.groups.get_mut(key) {
            group.queue.remove(position);
        }
        self.forget_empty(key);
        GiveUp::Removed
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.ending
    }

    /// Orders the idle instance of a version that was used last to measure pings; with tenants, that of any
    /// of them.
    pub(crate) fn ping(
        &mut self,
        serial: u64,
        count: u32,
        reply: oneshot::Sender<Result<Vec<u64>, String>>,
    ) -> bool {
        let mut of_version = self
            .groups
            .iter_mut()
            .filter(|(key, _)| key.serial == serial);
        let Some(id) = of_version.find_map(|(_, group)| group.idle.pop()) else {
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
            starts: self.slots_used,
            waiting: self.waiting(),
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

#[cfg(test)]
#[path = "tenant_tests.rs"]
mod tenant_tests;
