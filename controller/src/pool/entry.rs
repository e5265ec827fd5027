//! The types of the pool's state: instances, their phases, and the orders that they get.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::job::{GroupKey, Job};
use crate::function::{TenantId, Version};

/// An order to an idle instance.
#[derive(Debug)]
pub(crate) enum Order {
    /// Run this invocation.
    Run(Job),
    /// Measure pings.
    Ping {
        /// Number of pings.
        count: u32,
        /// The time of each in microseconds, or why the measurement failed.
        reply: oneshot::Sender<Result<Vec<u64>, String>>,
    },
    /// End.
    End,
}

/// The decision for an instance that has finished an invocation.
#[derive(Debug)]
pub(crate) enum Parked {
    /// Run this invocation, which waits in the queue.
    Run(Job),
    /// Become idle, and wait for an order.
    Wait(oneshot::Receiver<Order>),
    /// End.
    End,
}

/// The decision for an instance whose shell is ready.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Run this invocation, which waits in the queue.
    Job(Job),
    /// Start without an invocation: it is part of the provisioned concurrency.
    Ready,
    /// Don't start: it is not needed any more.
    Nothing,
}

/// An instance to start.
#[derive(Debug, Clone)]
pub(crate) struct StartOrder {
    pub(crate) id: u64,
    pub(crate) version: Arc<Version>,
    /// How long the invocation has waited for which the instance starts. `None` for one that nobody waits
    /// for.
    pub(crate) waited: Option<Duration>,
}

/// Where a new invocation went.
#[derive(Debug)]
pub(crate) enum Placed {
    /// To an idle instance.
    Given,
    /// Into the queue; the caller must start these instances.
    Waits(Vec<StartOrder>),
    /// Nowhere: as many invocations of its function wait as may.
    Full,
}

/// The decision for an invocation that has waited for the maximum time.
#[derive(Debug)]
pub(crate) enum GiveUp {
    /// It can't be served in time: it was removed from the queue.
    Removed,
    /// An instance is starting or about to be free for it, or it may wait longer for a start slot.
    Coming,
    /// It is running, or has ended.
    Started,
}

/// Limits of all instances together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    pub(crate) max_instances: usize,
    pub(crate) max_per_function: usize,
    pub(crate) memory_mib: u64,
    /// Memory of all instances of one function.
    pub(crate) memory_per_function_mib: u64,
    /// Number of start slots. Each start uses a CPU for a while, so more starts at once than CPUs would
    /// delay all of them.
    pub(crate) max_starts: usize,
    /// Maximum number of waiting invocations of one function.
    pub(crate) max_waiting: usize,
    /// Maximum time that an invocation waits for a start slot.
    pub(crate) start_wait: Duration,
    /// For how long an instance that has sent its result counts as about to be free. After that a waiting
    /// invocation gets a new instance.
    pub(crate) finish_grace: Duration,
}

/// The provisioned concurrency of one version.
#[derive(Debug)]
pub(super) struct Provision {
    pub(super) version: Arc<Version>,
    pub(super) wanted: usize,
    /// Number of failed starts since the last success, and why the last one failed.
    pub(super) failures: u32,
    pub(super) why: String,
    /// Whether a limit of the host has prevented the last start.
    pub(super) crowded: bool,
}

/// One instance.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) version: Arc<Version>,
    /// The only tenant that it serves, if the version isolates tenants.
    pub(crate) tenant: Option<TenantId>,
    pub(crate) phase: Phase,
    /// Whether its start holds a start slot.
    pub(crate) holds_slot: bool,
    /// Whether its start waits for the version's artefacts.
    pub(crate) prepares: bool,
    pub(crate) started: Instant,
    pub(crate) pid: Option<u32>,
    pub(crate) invocations: u64,
}

impl Entry {
    pub(super) fn group(&self) -> GroupKey {
        GroupKey {
            serial: self.version.serial,
            tenant: self.tenant.clone(),
        }
    }

    pub(super) fn is_of(&self, key: &GroupKey) -> bool {
        self.version.serial == key.serial && self.tenant == key.tenant
    }
}

/// The phase of an instance. Only an idle one can get orders.
#[derive(Debug)]
pub(crate) enum Phase {
    Starting,
    Busy,
    Finishing {
        since: Instant,
    },
    Idle {
        since: Instant,
        wake: oneshot::Sender<Order>,
    },
}

impl Phase {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Busy => "busy",
            Self::Finishing { .. } => "finishing",
            Self::Idle { .. } => "idle",
        }
    }
}
