//! An invocation on its way to an instance, and what comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::concurrency::Slot;
use super::streaming::Sink;
use crate::function::Version;

/// What a caller wants run. Checked where it came in.
#[derive(Debug, Clone)]
pub(crate) struct Invocation {
    pub(crate) request_id: String,
    pub(crate) version: Arc<Version>,
    /// As it came in.
    pub(crate) event: Bytes,
    /// What the function sees as the ARN that was invoked.
    pub(crate) function_arn: String,
    pub(crate) trace_id: Option<String>,
    /// JSON.
    pub(crate) client_context: Option<String>,
    pub(crate) limits: Limits,
    /// Whether the caller wants the end of the log.
    pub(crate) tail: bool,
    /// Nobody waits for the answer: those for whom somebody does go first.
    pub(crate) background: bool,
    pub(crate) accepted: Instant,
}

/// Limits of one invocation, never above its function's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) timeout: Duration,
    /// `None`: the function's own.
    pub(crate) memory_mib: Option<u32>,
    /// `None`: bounded by the timeout alone.
    pub(crate) cpu: Option<Duration>,
}

impl Limits {
    /// Whether there are any besides the time.
    pub(crate) fn any(&self) -> bool {
        self.memory_mib.is_some() || self.cpu.is_some()
    }
}

/// An invocation in the pool, with the way back to its caller.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) ticket: u64,
    pub(crate) invocation: Box<Invocation>,
    /// Instances that ended before it could have begun on them.
    pub(crate) attempts: u8,
    /// Its right to run.
    pub(crate) slot: Option<Slot>,
    /// Where a result that comes in pieces goes; without it, it is collected.
    pub(super) sink: Option<Sink>,
    pub(crate) reply: oneshot::Sender<Result<Completed, NotRun>>,
}

impl Job {
    /// Answers the caller, who may have gone; the function's result is then nobody's.
    pub(crate) fn answer(mut self, result: Result<Completed, NotRun>) {
        // First: the caller may be back with the next invocation at once.
        self.slot = None;
        // Its end is the end of the pieces.
        self.sink = None;
        let _ = self.reply.send(result);
    }
}

/// How the instance was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Restored from the function's snapshot, or from its runtime's with init after that.
    Cold,
    /// Had served before.
    Warm,
}

/// Where the time went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Phases {
    pub(crate) queue: Duration,
    /// Init included, where that runs in each instance.
    pub(crate) restore: Duration,
    pub(crate) run: Duration,
    pub(crate) total: Duration,
}

/// The function ran, well or not.
#[derive(Debug)]
pub(crate) struct Completed {
    /// Empty if the result went to the caller in pieces.
    pub(crate) payload: Bytes,
    /// The runtime's `Content-Type`, of a result that came in pieces.
    pub(crate) content_type: Option<String>,
    /// Whether `payload` tells of a function error.
    pub(crate) failed: bool,
    /// The error's own name, if it has one.
    pub(crate) error_type: Option<String>,
    pub(crate) start: Start,
    pub(crate) duration: Duration,
    pub(crate) cpu: Duration,
    pub(crate) max_memory_mib: u64,
    pub(crate) phases: Phases,
    pub(crate) tail: Option<Vec<u8>>,
}

/// The function provably did not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotRun {
    /// The account's limit was reached; or one of instances or memory, and no instance came free in
    /// time.
    #[error("every instance that there may be is busy")]
    Throttled,
    /// The function's reserved concurrency is in use.
    #[error("as many as the function has reserved run")]
    ReservedConcurrency,
    /// What its runtime had to do after the restore failed. Lambda's name of the error.
    #[error("a hook failed after the restore: {0}")]
    RestoreHook(String),
    /// That took longer than it may.
    #[error("hooks took more than {} s after the restore", .0.as_secs())]
    RestoreTimeout(Duration),
    /// No instance could be started.
    #[error("no instance could be started: {0}")]
    Unavailable(String),
    /// The controller is ending.
    #[error("the controller is ending")]
    Ending,
}
