//! An event: an invocation whose client does not wait for its result.

use std::time::Duration;

use bytes::Bytes;

use crate::function::{FunctionName, TenantId, Version};
use crate::pool::Limits;

/// Approximate size of an event without its payload, in bytes: its row and its entries in two indexes.
const OVERHEAD: u64 = 256;

/// An event as its client has sent it. The API has checked it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EventRequest {
    /// The same in every run.
    pub(crate) request_id: String,
    pub(crate) function: FunctionName,
    /// As the client has given it. Every attempt resolves it again, because an alias may have changed.
    pub(crate) qualifier: Option<String>,
    pub(crate) payload: Bytes,
    pub(crate) trace_id: Option<String>,
    /// The tenant that it is for, of a function with tenant isolation.
    pub(crate) tenant: Option<TenantId>,
    pub(crate) limits: EventLimits,
}

impl EventRequest {
    /// The size with which it counts in the queue, in bytes.
    pub(crate) fn cost(&self) -> u64 {
        cost(self.payload.len() as u64)
    }
}

/// The size with which an event with a payload of this length counts in the queue, in bytes.
pub(crate) fn cost(payload: u64) -> u64 {
    payload + OVERHEAD
}

/// The limits of one event where they are below its function's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct EventLimits {
    pub(crate) timeout_ms: Option<u32>,
    pub(crate) memory_mib: Option<u32>,
    pub(crate) cpu_ms: Option<u32>,
}

impl EventLimits {
    /// Those of `limits` that are below the version's own.
    pub(crate) fn of(limits: &Limits, version: &Version) -> Self {
        let millis = |time: Duration| u32::try_from(time.as_millis()).ok();
        Self {
            timeout_ms: millis(limits.timeout).filter(|_| limits.timeout < version.timeout()),
            memory_mib: limits.memory_mib,
            cpu_ms: limits.cpu.and_then(millis),
        }
    }

    /// These limits for a version, whose own limits may be lower by now.
    pub(crate) fn on(self, version: &Version) -> Limits {
        let millis = |ms: u32| Duration::from_millis(ms.into());
        let own = version.timeout();
        Limits {
            timeout: self.timeout_ms.map_or(own, |ms| millis(ms).min(own)),
            memory_mib: self
                .memory_mib
                .filter(|mib| *mib <= version.config.memory_mib),
            cpu: self.cpu_ms.map(|ms| millis(ms).min(own)),
        }
    }
}

/// An event in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Ascends in the order of acceptance.
    pub(crate) id: i64,
    /// Milliseconds since 1970.
    pub(crate) accepted_ms: i64,
    /// How often the function has run with it.
    pub(crate) runs: u32,
    pub(crate) request: EventRequest,
}
