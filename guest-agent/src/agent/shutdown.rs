//! The state of an orderly shutdown: first the runtime ends, then the extensions receive `SHUTDOWN` and
//! get what is left of Lambda's two seconds.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use crate::extensions::shutdown_event;

/// Maximum time of a shutdown with external extensions.
const EXTERNAL_TIMEOUT: Duration = Duration::from_millis(2000);
/// Maximum time of that for the runtime.
const RUNTIME_TIMEOUT: Duration = Duration::from_millis(600);
/// Maximum time for the runtime, if all extensions are internal.
const INTERNAL_TIMEOUT: Duration = Duration::from_millis(500);

/// The extensions that a shutdown waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExtensionKind {
    /// There are none, hence nothing to wait for.
    None,
    Internal,
    External,
}

/// Whose end the shutdown waits for.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// The runtime's, until then.
    Runtime { until: Instant },
    /// The external extensions', until [`Shutdown::deadline`].
    Extensions,
}

/// A shutdown in progress.
#[derive(Debug)]
pub(super) struct Shutdown {
    reason: String,
    deadline: Instant,
    /// The same for extensions: milliseconds since the epoch.
    deadline_ms: u64,
    stage: Stage,
}

impl Shutdown {
    /// Begins now, for this reason.
    pub(super) fn new(reason: &str, extensions: ExtensionKind) -> Self {
        let (whole, runtimes) = match extensions {
            ExtensionKind::None => (Duration::ZERO, Duration::ZERO),
            ExtensionKind::External => (EXTERNAL_TIMEOUT, RUNTIME_TIMEOUT),
            ExtensionKind::Internal => (INTERNAL_TIMEOUT, INTERNAL_TIMEOUT),
        };
        let now = Instant::now();
        let wall = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            reason: reason.to_owned(),
            deadline: now + whole,
            deadline_ms: u64::try_from((wall + whole).as_millis()).unwrap_or(u64::MAX),
            stage: Stage::Runtime {
                until: now + runtimes,
            },
        }
    }

    /// When something is due.
    pub(super) fn due(&self) -> Instant {
        match self.stage {
            Stage::Runtime { until } => until,
            Stage::Extensions => self.deadline,
        }
    }

    /// Whether the shutdown still waits for the runtime's end.
    pub(super) fn waits_for_runtime(&self) -> bool {
        matches!(self.stage, Stage::Runtime { .. })
    }

    /// The runtime has ended, or its time is over. The `SHUTDOWN` event for extensions.
    pub(super) fn proceed_to_extensions(&mut self) -> Bytes {
        self.stage = Stage::Extensions;
        shutdown_event(&self.reason, self.deadline_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_extensions_everything_is_due_at_once() {
        let mut shutdown = Shutdown::new("spindown", ExtensionKind::None);
        assert!(shutdown.waits_for_runtime() && shutdown.due() <= Instant::now());
        shutdown.proceed_to_extensions();
        assert!(!shutdown.waits_for_runtime() && shutdown.due() <= Instant::now());
    }

    #[test]
    fn external_extensions_get_what_the_runtime_leaves_of_two_seconds() {
        let began = Instant::now();
        let mut shutdown = Shutdown::new("spindown", ExtensionKind::External);
        assert!(shutdown.due() >= began + RUNTIME_TIMEOUT);
        let event = shutdown.proceed_to_extensions();
        assert!(shutdown.due() >= began + EXTERNAL_TIMEOUT);
        let event: serde_json::Value = serde_json::from_slice(&event).unwrap();
        assert_eq!(event["eventType"], "SHUTDOWN");
        assert_eq!(event["shutdownReason"], "spindown");
        assert_eq!(event["deadlineMs"], shutdown.deadline_ms);
    }
}
