//! A response that a function streams: how much of it was passed on, and whether it waits for the host
//! or was broken off.
//!
//! The agent holds little of it. While the host does not take what was passed on, the agent does not
//! read the runtime's connection, so that the guest kernel makes the function wait.
//!
//! The end of a runtime's process may first be seen as the end of its connection. The exit says more
//! than a truncated response does, so the agent waits [`EXIT_TIMEOUT`] for it.

use std::time::{Duration, Instant};

use hearth_protocol::guest::MAX_STREAMED;

use crate::lifecycle::ConnectionId;

/// Bytes waiting for the host above which a runtime's connection is not read, and below which it is
/// read again.
pub(super) const HIGH_WATER: usize = 256 * 1024;
const LOW_WATER: usize = 64 * 1024;
/// Maximum time from the end of a connection to the end of the process that had it.
const EXIT_TIMEOUT: Duration = Duration::from_millis(500);

/// What the agent keeps of a streamed response.
#[derive(Debug, Default)]
pub(super) struct ResponseStream {
    /// Bytes passed on.
    passed: u64,
    /// The connection that is not read at the moment.
    paused: Option<ConnectionId>,
    /// When a response that was broken off is reported as truncated.
    give_up_at: Option<Instant>,
}

impl ResponseStream {
    /// Counts a piece of `len` bytes. `false`: the response is longer than Lambda allows.
    pub(super) fn count(&mut self, len: usize) -> bool {
        self.passed += len as u64;
        self.passed <= MAX_STREAMED
    }

    /// Bytes passed on.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// The connection is not read until the host has caught up.
    pub(super) fn pause(&mut self, connection: ConnectionId) {
        self.paused = Some(connection);
    }

    /// The connection to read again, now that `queued` bytes wait for the host.
    pub(super) fn resume(&mut self, queued: usize) -> Option<ConnectionId> {
        self.paused.take_if(|_| queued <= LOW_WATER)
    }

    /// The response was broken off: it is reported as truncated after [`EXIT_TIMEOUT`].
    pub(super) fn break_off(&mut self) {
        self.give_up_at
            .get_or_insert_with(|| Instant::now() + EXIT_TIMEOUT);
    }

    /// When a response that was broken off is to be reported.
    pub(super) fn give_up_at(&self) -> Option<Instant> {
        self.give_up_at
    }

    /// The wait for the exit is over.
    pub(super) fn give_up(&mut self) {
        self.give_up_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_counted_up_to_lambdas_limit() {
        let mut stream = ResponseStream::default();
        let limit = usize::try_from(MAX_STREAMED).unwrap();
        assert!(stream.count(limit));
        assert_eq!(stream.passed(), MAX_STREAMED);
        assert!(!stream.count(1));
    }

    #[test]
    fn a_paused_connection_is_read_again_once_when_the_host_has_caught_up() {
        let mut stream = ResponseStream::default();
        assert_eq!(stream.resume(0), None);
        stream.pause(ConnectionId(3));
        assert_eq!(stream.resume(LOW_WATER + 1), None);
        assert_eq!(stream.resume(LOW_WATER), Some(ConnectionId(3)));
        assert_eq!(stream.resume(0), None);
    }

    #[test]
    fn the_wait_for_the_exit_begins_with_the_first_closed_connection() {
        let mut stream = ResponseStream::default();
        stream.break_off();
        let first = stream.give_up_at();
        assert!(first.is_some());
        stream.break_off();
        assert_eq!(stream.give_up_at(), first);
        stream.give_up();
        assert_eq!(stream.give_up_at(), None);
    }
}
