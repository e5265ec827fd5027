//! What the book-keeping keeps: instances, what they do, what they are told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::job::Job;
use crate::function::Version;

/// What an idle instance is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Run this.
    Run(Job),
    /// Answer pings: a measurement.
    Ping {
        /// How many.
        count: u32,
        /// Microseconds of each, or why not.
        reply: oneshot::Sender<Result<Vec<u64>, String>>,
    },
    /// End.
    End,
}

/// What an instance does when it has nothing to do.
#[derive(Debug)]
pub(crate) enum Parked {
    /// There is something after all.
    Run(Job),
    /// Wait for an order.
    Wait(oneshot::Receiver<Order>),
    /// End.
    End,
}

/// What a starting instance begins with.
#[derive(Debug)]
pub(crate) enum Taken {
    /// An invocation waits.
    Job(Job),
    /// It is to be kept ready.
    Ready,
    /// Neither: it is not needed any more.
    Nothing,
}

/// An instance to start.
#[derive(Debug, Clone)]
pub(crate) struct StartOrder {
    pub(crate) id: u64,
    pub(crate) version: Arc<Version>,
}

/// Where a new invocation is.
#[derive(Debug)]
pub(crate) enum Placed {
    /// With an instance that was idle.
    Given,
    /// In the queue; these are to be started for it.
    Waits(Vec<StartOrder>),
}

/// What became of an invocation that has waited long enough.
#[derive(Debug)]
pub(crate) enum GiveUp {
    /// It was still waiting and nothing is on its way for it.
    Removed,
    /// An instance is on its way.
    Coming,
    /// It runs, or has run.
    Started,
}

/// Limits of all instances together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    pub(crate) max_instances: usize,
    pub(crate) max_per_function: usize,
    pub(crate) memory_mib: u64,
    /// Instances that nobody waits for begin only while fewer than this many are starting: each
    /// start takes a CPU for a while, and many at once would all be late.
    pub(crate) starts_ahead: usize,
    /// How long an instance that has answered counts as one that will soon be free. After that a
    /// waiting invocation gets a new one.
    pub(crate) finish_grace: Duration,
}

/// One instance.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) version: Arc<Version>,
    pub(crate) phase: Phase,
    pub(crate) started: Instant,
    pub(crate) pid: Option<u32>,
    pub(crate) invocations: u64,
}

/// What an instance does. Only an idle one has somebody to give orders to.
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
