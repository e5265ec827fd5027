//! What the log lines about a microVM belong to: an instance or a deploy, and an invocation.

use std::sync::{Arc, Mutex};

use tracing::Span;

use crate::locks::lock;

/// The span of an instance or a deploy, and the invocation that it serves. The tasks that read a sandbox's
/// log and reap its process share it, because neither runs within that span.
#[derive(Debug, Clone)]
pub(crate) struct LogSubject(Arc<Subject>);

#[derive(Debug)]
struct Subject {
    /// Enabled at every level, so it must not be entered for a warm invocation: see `process_log`.
    span: Span,
    /// Of the invocation that the instance serves, or has served last: a sandbox's lines may arrive later
    /// than the answer. Empty if there was none. Overwritten in place, because each warm invocation does it.
    request_id: Mutex<String>,
}

impl LogSubject {
    pub(crate) fn new(span: Span) -> Self {
        let request_id = Mutex::default();
        Self(Arc::new(Subject { span, request_id }))
    }

    pub(crate) fn span(&self) -> &Span {
        &self.0.span
    }

    /// From now on lines belong to this invocation.
    pub(crate) fn serves(&self, request_id: &str) {
        let id = &mut lock(&self.0.request_id);
        id.clear();
        id.push_str(request_id);
    }

    /// Calls `write` in the span, to write one line. It gets the request id for the line, if there is one.
    pub(crate) fn log(&self, write: impl FnOnce(Option<&str>)) {
        let id = lock(&self.0.request_id).clone();
        let id = Some(id.as_str()).filter(|id| !id.is_empty());
        self.0.span.in_scope(|| write(id));
    }
}
