//! The one connection to the host: frames in, frames out, over a non-blocking vsock stream.
//!
//! Log lines are not urgent: they are sent together with the next urgent frame, or alone after
//! [`FLUSH_DELAY`]. On the path of an invocation that saves a system call and a wake-up of the host.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use hearth_protocol::agent::{
    AgentMessage, Frame, FrameDecoder, FrameError, HostMessage, MessageError,
};
use hearth_protocol::guest::MAX_PAYLOAD;
use nix::poll::{PollFd, PollFlags};

use crate::outbox::Outbox;
use crate::vsock::HostStream;

/// Maximum time that log lines wait for an urgent frame: longer than most invocations, those on
/// software KVM included, and short enough that little is lost when the host ends the microVM of a
/// function that timed out.
pub(crate) const FLUSH_DELAY: Duration = Duration::from_millis(100);
/// Maximum time that the host gets to read the last frame before the agent powers off, milliseconds.
const FINAL_SEND_TIMEOUT_MS: u16 = 1_000;

/// Why the connection cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the host closed the connection")]
    Closed,
    #[error("connection to the host: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// The connection to the host.
#[derive(Debug)]
pub(crate) struct HostLink {
    stream: HostStream,
    decoder: FrameDecoder,
    input: BytesMut,
    out: Outbox,
    /// A flush is due now.
    urgent: bool,
    /// When a flush is due at the latest, for what is in `out` or what the caller keeps back.
    deadline: Option<Instant>,
    /// The host did not take all of the last flush.
    blocked: bool,
    /// Something was sent since [`take_sent`](Self::take_sent).
    sent: bool,
    /// Whether epoll reports when the connection can be written to.
    pub(crate) waits_for_room: bool,
}

impl HostLink {
    /// Uses the connected `stream`.
    pub(crate) fn new(stream: HostStream) -> Self {
        Self {
            stream,
            decoder: FrameDecoder::new(MAX_PAYLOAD),
            input: BytesMut::new(),
            out: Outbox::default(),
            urgent: false,
            deadline: None,
            blocked: false,
            sent: false,
            waits_for_room: false,
        }
    }

    /// Reads once; epoll reports again what is left. Large payloads arrive in many pieces, so a full
    /// buffer is followed by another read at once.
    pub(crate) fn receive(&mut self, scratch: &mut [u8]) -> Result<(), LinkError> {
        loop {
            match (&self.stream).read(scratch) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(count) => {
                    self.input.extend_from_slice(&scratch[..count]);
                    if count < scratch.len() {
                        return Ok(());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Takes the next whole message.
    pub(crate) fn next(&mut self) -> Result<Option<HostMessage>, LinkError> {
        match self.decoder.decode(&mut self.input)? {
            Some(frame) => {
                if self.input.is_empty() {
                    // The payload is a slice of this buffer. Kept, the buffer would keep the payload's
                    // memory allocated after the payload has been dropped.
                    self.input = BytesMut::new();
                }
                Ok(Some(HostMessage::try_from(frame)?))
            }
            None => Ok(None),
        }
    }

    /// Queues a message, to be sent at the end of this turn of the event loop.
    pub(crate) fn queue(&mut self, message: AgentMessage) -> Result<(), LinkError> {
        self.urgent = true;
        self.push(message)
    }

    /// A flush is due after [`FLUSH_DELAY`], unless there is one before.
    pub(crate) fn flush_later(&mut self) {
        self.deadline
            .get_or_insert_with(|| Instant::now() + FLUSH_DELAY);
    }

    /// A flush is due at the end of this turn of the event loop.
    pub(crate) fn flush_soon(&mut self) {
        self.urgent = true;
    }

    /// Bytes that wait to be sent.
    pub(crate) fn queued(&self) -> usize {
        self.out.len()
    }

    /// When a delayed flush is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether a flush is due.
    pub(crate) fn is_due(&self) -> bool {
        self.urgent || self.deadline.is_some_and(|at| at <= Instant::now())
    }

    /// Sends as much of what is queued as the host takes.
    pub(crate) fn flush(&mut self) -> Result<(), LinkError> {
        self.urgent = false;
        self.deadline = None;
        self.sent |= !self.out.is_empty();
        self.out.send(&self.stream)?;
        self.blocked = !self.out.is_empty();
        Ok(())
    }

    /// Whether anything was sent or queued since [`take_sent`](Self::take_sent).
    pub(crate) fn has_sent(&self) -> bool {
        self.sent || !self.out.is_empty()
    }

    /// Whether anything was sent since the last call.
    pub(crate) fn take_sent(&mut self) -> bool {
        std::mem::take(&mut self.sent)
    }

    /// What the delayed flush was for has reached the host by the mailbox.
    pub(crate) fn cancel_delayed_flush(&mut self) {
        self.deadline = None;
    }

    /// Whether bytes wait until the host takes more.
    pub(crate) fn blocked(&self) -> bool {
        self.blocked
    }

    /// Waits until the host ends the microVM, [`FINAL_SEND_TIMEOUT_MS`] at most. Powering off at once
    /// would lose what is still in the device's queue.
    pub(crate) fn wait_for_host(&mut self) {
        let mut poll = [PollFd::new(self.stream.as_fd(), PollFlags::POLLHUP)];
        // The agent powers off next, whether this timed out or not.
        let _ = nix::poll::poll(&mut poll, FINAL_SEND_TIMEOUT_MS);
    }

    fn push(&mut self, message: AgentMessage) -> Result<(), LinkError> {
        let frame = Frame::from(message);
        let mut head = BytesMut::with_capacity(256);
        frame.encode_head(&mut head)?;
        self.out.push(head.freeze());
        self.out.push(frame.payload);
        Ok(())
    }
}

impl AsFd for HostLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use bytes::Bytes;
    use hearth_protocol::agent::HEADER_LEN;

    use super::*;

    fn pair() -> (HostLink, UnixStream) {
        let (agent, host) = UnixStream::pair().unwrap();
        host.set_nonblocking(true).unwrap();
        let stream = HostStream::new(agent.into()).unwrap();
        (HostLink::new(stream), host)
    }

    fn kinds(host: &mut UnixStream) -> Vec<u8> {
        let mut buffer = BytesMut::zeroed(1 << 16);
        let count = host.read(&mut buffer).unwrap_or(0);
        buffer.truncate(count);
        let decoder = FrameDecoder::new(MAX_PAYLOAD);
        std::iter::from_fn(|| decoder.decode(&mut buffer).unwrap().map(|frame| frame.kind))
            .collect()
    }

    #[test]
    fn a_message_that_is_not_urgent_is_sent_with_the_next_urgent_one() {
        let (mut link, mut host) = pair();
        link.flush_later();
        link.push(AgentMessage::Thawed).unwrap();
        assert!(!link.is_due() && link.deadline().is_some());
        link.queue(AgentMessage::Pong(Bytes::new())).unwrap();
        assert!(link.is_due());
        link.flush().unwrap();
        assert_eq!(kinds(&mut host), [0x83, 0x82]);
        assert!(!link.is_due() && link.deadline().is_none() && !link.blocked());
    }

    #[test]
    fn messages_are_taken_in_order_and_whole() {
        let (mut link, mut host) = pair();
        let mut wire = BytesMut::new();
        for message in [
            HostMessage::Ping(Bytes::from_static(b"1")),
            HostMessage::Shutdown,
        ] {
            Frame::from(message).encode(&mut wire).unwrap();
        }
        let (first, second) = wire.split_at(11);
        let mut scratch = [0; 64];
        host.write_all(first).unwrap();
        link.receive(&mut scratch).unwrap();
        assert_eq!(
            link.next().unwrap(),
            Some(HostMessage::Ping(Bytes::from_static(b"1")))
        );
        assert_eq!(link.next().unwrap(), None);
        host.write_all(second).unwrap();
        link.receive(&mut scratch).unwrap();
        assert_eq!(link.next().unwrap(), Some(HostMessage::Shutdown));
    }

    #[test]
    fn a_host_that_does_not_read_blocks_the_link_until_it_does() {
        let (mut link, mut host) = pair();
        let big = Bytes::from(vec![0; 4 << 20]);
        link.queue(AgentMessage::Pong(big.clone())).unwrap();
        link.flush().unwrap();
        assert!(link.blocked());
        let mut seen = 0;
        let mut part = vec![0; 1 << 16];
        while seen < HEADER_LEN + big.len() {
            match host.read(&mut part) {
                Ok(count) => seen += count,
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
            }
            link.flush().unwrap();
        }
        assert!(!link.blocked());
    }

    #[test]
    fn a_closed_connection_is_an_error() {
        let (mut link, host) = pair();
        drop(host);
        assert!(matches!(link.receive(&mut [0; 8]), Err(LinkError::Closed)));
    }
}
