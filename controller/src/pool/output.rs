//! Writes an invocation's output to the function's log, and to the tail if the client has asked for it.

use std::time::Duration;

use bytes::Bytes;
use hearth_protocol::agent::Log;
use hearth_protocol::output::Lines;

use super::job::Invocation;
use crate::function::TenantId;
use crate::logs::{Kind, LogStore, Origin, PlatformEvent, Tail, Text};

/// Writes the log records of one invocation.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    pub(crate) store: &'a LogStore,
    pub(crate) invocation: &'a Invocation,
    pub(crate) tail: Option<Tail>,
}

impl Output<'_> {
    /// Output of the function. If the guest names this invocation, the records get its request id;
    /// otherwise they get none, because the guest could name any other.
    pub(super) fn function(&mut self, message: &Log, lines: Bytes) {
        let id = self.invocation.request_id.as_str();
        let own = message.request_id.as_deref() == Some(id);
        if message.dropped_bytes > 0 {
            self.platform(&format!(
                "({} bytes of output were lost)",
                message.dropped_bytes
            ));
        }
        if let Some(tail) = &mut self.tail {
            tail.push(&lines);
        }
        let origin = Origin::of(&self.invocation.version, own.then_some(id));
        let text = Text::of_guest(message, lines);
        self.store.append(origin, Kind::Function, text);
    }

    /// Output of the function that came through the mailbox.
    pub(super) fn at_mailbox(&mut self, lines: Lines) {
        let message = Log {
            request_id: Some(self.invocation.request_id.clone()),
            multiline: lines.multiline,
            dropped_bytes: lines.dropped,
        };
        self.function(&message, lines.bytes);
    }

    /// Output of the after-restore hook, before the invocation began.
    pub(super) fn hook(&self, message: &Log, lines: Bytes) {
        let origin = Origin::of(&self.invocation.version, None);
        let text = Text::of_guest(message, lines);
        self.store.append(origin, Kind::Function, text);
    }

    pub(super) fn start(&mut self) {
        let version = self.invocation.version.id.to_string();
        let invocation = self.invocation;
        self.event(PlatformEvent::Start {
            request_id: &invocation.request_id,
            version: &version,
            tenant: invocation.tenant.as_ref().map(TenantId::as_str),
        });
    }

    /// A platform event.
    pub(crate) fn event(&mut self, event: PlatformEvent<'_>) {
        for record in event.records(&self.invocation.version.config.logging.format) {
            self.platform(&record);
        }
    }

    /// The report of a restore with hooks. It has no request id, because the invocation has not begun.
    pub(super) fn restore_report(&self, took: Duration, failed: Option<&str>) {
        let version = &self.invocation.version;
        let event = PlatformEvent::Restore { took, failed };
        for record in event.records(&version.config.logging.format) {
            let origin = Origin::of(version, None);
            let text = Text::whole(record.into());
            self.store.append(origin, Kind::Platform, text);
        }
    }

    pub(super) fn platform(&mut self, line: &str) {
        if let Some(tail) = &mut self.tail {
            tail.push_line(line);
        }
        let id = &self.invocation.request_id;
        let origin = Origin::of(&self.invocation.version, Some(id));
        let text = Text::whole(line.to_owned().into());
        self.store.append(origin, Kind::Platform, text);
    }
}
