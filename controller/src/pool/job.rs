//! An invocation with its limits, and its result.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::concurrency::Slot;
use super::parts::Sink;
use crate::function::{TenantId, Version};

/// What an instance and an invocation must have in common: the version, and the tenant if the version
/// isolates tenants. Instances and invocations of two keys never meet, so no instance serves two tenants.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct GroupKey {
    /// The version's.
    pub(super) serial: u64,
    pub(super) tenant: Option<TenantId>,
}

impl GroupKey {
    /// The key of invocations without a tenant.
    pub(super) fn without_tenant(serial: u64) -> Self {
        let tenant = None;
        Self { serial, tenant }
    }
}

/// An invocation. The API has checked it.
#[derive(Debug, Clone)]
pub(crate) struct Invocation {
    pub(crate) request_id: String,
    pub(crate) version: Arc<Version>,
    /// The payload as the client has sent it.
    pub(crate) event: Bytes,
    /// The invoked ARN, which the function gets in its context.
    pub(crate) function_arn: String,
    pub(crate) trace_id: Option<String>,
    /// JSON.
    pub(crate) client_context: Option<String>,
    /// There is one if and only if the version isolates tenants.
    pub(crate) tenant: Option<TenantId>,
    pub(crate) limits: Limits,
    /// Whether the client has asked for the end of the log.
    pub(crate) tail: bool,
    /// Whether this is an event. Synchronous invocations go first.
    pub(crate) background: bool,
    pub(crate) accepted: Instant,
}

impl Invocation {
    /// An invocation whose client waits for the result, accepted now, with the version's own limits. All
    /// invocations are made here: by the operations of `Invoke`, by function URLs and by the event queue,
    /// which set the other fields.
    pub(crate) fn new(
        request_id: String,
        version: Arc<Version>,
        function_arn: String,
        event: Bytes,
    ) -> Self {
        Self {
            limits: Limits::of(&version),
            request_id,
            version,
            event,
            function_arn,
            trace_id: None,
            client_context: None,
            tenant: None,
            tail: false,
            background: false,
            accepted: Instant::now(),
        }
    }
}

impl Invocation {
    /// The instances that may serve it.
    pub(super) fn group(&self) -> GroupKey {
        GroupKey {
            serial: self.version.serial,
            tenant: self.tenant.clone(),
        }
    }
}

/// Limits of one invocation, never above its function's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) timeout: Duration,
    /// `None`: the function's memory size.
    pub(crate) memory_mib: Option<u32>,
    /// `None`: no limit besides the timeout.
    pub(crate) cpu: Option<Duration>,
}

impl Limits {
    /// The version's own.
    pub(crate) fn of(version: &Version) -> Self {
        Self {
            timeout: version.timeout(),
            memory_mib: None,
            cpu: None,
        }
    }

    /// Whether there are limits besides the timeout.
    pub(crate) fn any(&self) -> bool {
        self.memory_mib.is_some() || self.cpu.is_some()
    }
}

/// An invocation in the pool, with the channels to its caller.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) ticket: u64,
    pub(crate) invocation: Box<Invocation>,
    /// Number of instances that have failed before the invocation began.
    pub(crate) attempts: u8,
    /// Its share of the concurrency.
    pub(crate) slot: Option<Slot>,
    /// The channel for the parts of a streamed result; without it the result is collected.
    pub(super) sink: Option<Sink>,
    pub(crate) reply: oneshot::Sender<Result<Completed, NotRun>>,
}

impl Job {
    /// Sends the result to the caller, or drops it if the caller has been dropped.
    pub(crate) fn answer(mut self, result: Result<Completed, NotRun>) {
        // Before the result is sent: the caller may submit its next invocation at once.
        self.slot = None;
        // Closing the channel ends the stream.
        self.sink = None;
        let _ = self.reply.send(result);
    }
}

/// Whether an invocation was cold or warm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// An instance was restored for it: from the function snapshot, or from the runtime snapshot with
    /// init after that.
    Cold,
    /// An instance served it that had been idle or busy before.
    Warm,
}

/// The duration of each phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Phases {
    pub(crate) queue: Duration,
    /// Includes init, if that runs in each instance.
    pub(crate) restore: Duration,
    pub(crate) run: Duration,
    pub(crate) total: Duration,
}

/// The function has run, successfully or not.
#[derive(Debug)]
pub(crate) struct Completed {
    /// Empty if the result was streamed to the caller.
    pub(crate) payload: Bytes,
    /// The runtime's `Content-Type` of a streamed result.
    pub(crate) content_type: Option<String>,
    /// Whether `payload` is a function error.
    pub(crate) failed: bool,
    /// The error's name, if it has one.
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
    /// The account's concurrency is used up; or a limit of instances or memory is reached, and no
    /// instance became free in time.
    #[error("a limit of concurrency, instances or memory is reached")]
    Throttled,
    /// The function's reserved concurrency is used up.
    #[error("the function's reserved concurrency is used up")]
    ReservedConcurrency,
    /// The runtime's after-restore hook has failed. Holds Lambda's name of the error.
    #[error("the after-restore hook failed: {0}")]
    RestoreHook(String),
    /// The runtime's after-restore hook took too long.
    #[error("the after-restore hook took more than {} s", .0.as_secs())]
    RestoreTimeout(Duration),
    /// The controller could not start an instance.
    #[error("the controller could not start an instance: {0}")]
    Unavailable(String),
    /// The controller is ending.
    #[error("the controller is ending")]
    Ending,
}
