//! Says in a function's log why the client of its URL received a 502 although the function did not fail.

use std::fmt::Display;
use std::sync::Arc;

use crate::function::Version;
use crate::logs::{Kind, LogStore, Origin, PlatformEvent, Text};
use crate::pool::Invocation;

/// The function's log, for what is found wrong after an invocation.
pub(super) struct RefusedResult {
    logs: LogStore,
    version: Arc<Version>,
    request_id: String,
}

impl RefusedResult {
    pub(super) fn of(invocation: &Invocation, logs: &LogStore) -> Self {
        Self {
            logs: logs.clone(),
            version: invocation.version.clone(),
            request_id: invocation.request_id.clone(),
        }
    }

    /// Writes the reason. It must not repeat what the function has sent.
    pub(super) fn because(&self, reason: &dyn Display) {
        let reason = reason.to_string();
        tracing::debug!(
            function = %self.version.name,
            error = reason,
            "the function's result is no valid HTTP response"
        );
        let event = PlatformEvent::RefusedResult {
            request_id: &self.request_id,
            reason: &reason,
        };
        for record in event.records(&self.version.config.logging.format) {
            let origin = Origin::of(&self.version, Some(&self.request_id));
            self.logs
                .append(origin, Kind::Platform, Text::whole(record.into()));
        }
    }
}
