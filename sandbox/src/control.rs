//! The control socket: commands and their descriptors come in, replies and events go out.
//!
//! The kernel delivers descriptors with the first byte of the write that they were sent with, and
//! one read never returns the descriptors of two writes. So they are queued in the order of their
//! messages, and each message takes as many as it needs from the front. When no received byte is
//! left after a message, all queued descriptors came with that message.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::BytesMut;
use hearth_protocol::sandbox::{self as protocol, ControlError, MAX_DESCRIPTORS, Message, Request};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// A controller that does not read its replies for this long counts as gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
const READ_CHUNK: usize = 16 * 1024;

/// Why the control socket can't be used any longer.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The controller closed it.
    #[error("the control socket was closed")]
    Closed,
    /// It failed.
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
    /// The received bytes are no message.
    #[error(transparent)]
    Protocol(#[from] ControlError),
    /// More descriptors than a message may carry, or than any message has claimed.
    #[error("more than {MAX_DESCRIPTORS} descriptors are waiting for their commands")]
    Descriptors,
}

/// A request and all descriptors that came with it. Their number is not checked yet.
#[derive(Debug)]
pub struct Received {
    /// The request.
    pub request: Request,
    /// Its descriptors.
    pub descriptors: Vec<OwnedFd>,
}

/// The sandbox's end of the control socket.
#[derive(Debug)]
pub struct ControlChannel {
    stream: UnixStream,
    received: BytesMut,
    descriptors: VecDeque<OwnedFd>,
}

impl ControlChannel {
    /// Takes over a connected socket.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self {
            stream,
            received: BytesMut::new(),
            descriptors: VecDeque::new(),
        })
    }

    /// Reads what has arrived and returns the complete requests. Call this only when the socket is
    /// readable; otherwise it blocks.
    pub fn receive(&mut self) -> Result<Vec<Received>, ChannelError> {
        self.read()?;
        let mut all = Vec::new();
        while let Some(request) = protocol::decode::<Request>(&mut self.received)? {
            let own = if self.received.is_empty() {
                self.descriptors.len()
            } else {
                request.command.descriptors().min(self.descriptors.len())
            };
            all.push(Received {
                request,
                descriptors: self.descriptors.drain(..own).collect(),
            });
        }
        Ok(all)
    }

    fn read(&mut self) -> Result<(), ChannelError> {
        let mut chunk = [0; READ_CHUNK];
        let mut pieces = [IoSliceMut::new(&mut chunk)];
        let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
        let message = recvmsg::<()>(
            self.stream.as_raw_fd(),
            &mut pieces,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        );
        let message = match message {
            Ok(message) => message,
            Err(Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(io::Error::from(errno).into()),
        };
        // An error means that there were more descriptors than space for them. The process ends
        // then, which closes those that were received.
        let control = message.cmsgs().map_err(|_| ChannelError::Descriptors)?;
        for part in control {
            if let ControlMessageOwned::ScmRights(raw) = part {
                // SAFETY: the kernel has just created these descriptors for this process, so
                // nothing else uses them.
                let owned = raw.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) });
                self.descriptors.extend(owned);
            }
        }
        let len = message.bytes;
        if len == 0 {
            return Err(ChannelError::Closed);
        }
        if self.descriptors.len() > MAX_DESCRIPTORS {
            return Err(ChannelError::Descriptors);
        }
        self.received.extend_from_slice(&chunk[..len]);
        Ok(())
    }

    /// Sends one whole message.
    pub fn send(&mut self, message: &Message) -> Result<(), ChannelError> {
        Ok(self.stream.write_all(&protocol::encode(message)?)?)
    }
}

impl AsRawFd for ControlChannel {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use hearth_protocol::sandbox::{Command, Snapshot};
    use nix::sys::socket::{ControlMessage, sendmsg};

    use super::*;

    fn request(id: u64, command: Command) -> Vec<u8> {
        protocol::encode(&Request { id, command }).unwrap()
    }

    fn send_with(controller: &UnixStream, bytes: &[u8], descriptors: usize) {
        let files = vec![controller.as_raw_fd(); descriptors];
        let rights = [ControlMessage::ScmRights(&files)];
        let flags = MsgFlags::empty();
        let pieces = [IoSlice::new(bytes)];
        sendmsg::<()>(controller.as_raw_fd(), &pieces, &rights, flags, None).unwrap();
    }

    #[test]
    fn descriptors_belong_to_the_message_that_they_were_sent_with() {
        let (mut controller, ours) = UnixStream::pair().unwrap();
        let mut channel = ControlChannel::new(ours).unwrap();
        controller.write_all(&request(1, Command::Status)).unwrap();
        send_with(
            &controller,
            &request(2, Command::Snapshot(Snapshot::default())),
            2,
        );
        controller.write_all(&request(3, Command::Pause)).unwrap();
        let mut all = Vec::new();
        while all.len() < 3 {
            all.extend(channel.receive().unwrap());
        }
        let counts: Vec<_> = all
            .iter()
            .map(|r| (r.request.id, r.descriptors.len()))
            .collect();
        assert_eq!(counts, [(1, 0), (2, 2), (3, 0)]);
    }

    #[test]
    fn missing_and_surplus_descriptors_are_seen_at_their_message() {
        for count in [0, 1, 3, MAX_DESCRIPTORS] {
            let (controller, ours) = UnixStream::pair().unwrap();
            let mut channel = ControlChannel::new(ours).unwrap();
            if count == 0 {
                (&controller)
                    .write_all(&request(1, Command::Snapshot(Snapshot::default())))
                    .unwrap();
            } else {
                send_with(
                    &controller,
                    &request(1, Command::Snapshot(Snapshot::default())),
                    count,
                );
            }
            let received = channel.receive().unwrap();
            assert_eq!(received[0].descriptors.len(), count);
        }
    }

    #[test]
    fn descriptors_without_end_are_an_error() {
        let (controller, ours) = UnixStream::pair().unwrap();
        let mut channel = ControlChannel::new(ours).unwrap();
        send_with(&controller, &[9], MAX_DESCRIPTORS + 1);
        assert!(matches!(channel.receive(), Err(ChannelError::Descriptors)));
        let (controller, ours) = UnixStream::pair().unwrap();
        let mut channel = ControlChannel::new(ours).unwrap();
        // One byte of the length prefix at a time, each with descriptors.
        send_with(&controller, &[9], MAX_DESCRIPTORS);
        assert!(channel.receive().unwrap().is_empty());
        send_with(&controller, &[0], 1);
        assert!(matches!(channel.receive(), Err(ChannelError::Descriptors)));
    }

    #[test]
    fn requests_come_out_whole_however_they_were_cut() {
        let (mut controller, ours) = UnixStream::pair().unwrap();
        let mut channel = ControlChannel::new(ours).unwrap();
        let one = protocol::encode(&Request {
            id: 1,
            command: Command::Pause,
        })
        .unwrap();
        let two = protocol::encode(&Request {
            id: 2,
            command: Command::Status,
        })
        .unwrap();
        let bytes = [one, two].concat();
        controller.write_all(&bytes[..7]).unwrap();
        assert!(channel.receive().unwrap().is_empty());
        controller.write_all(&bytes[7..]).unwrap();
        let ids: Vec<u64> = channel
            .receive()
            .unwrap()
            .iter()
            .map(|r| r.request.id)
            .collect();
        assert_eq!(ids, [1, 2]);
    }

    #[test]
    fn a_closed_socket_and_a_lying_length_are_errors() {
        let (mut controller, ours) = UnixStream::pair().unwrap();
        let mut channel = ControlChannel::new(ours).unwrap();
        controller.write_all(&[0xff; 8]).unwrap();
        assert!(matches!(channel.receive(), Err(ChannelError::Protocol(_))));
        let (controller, ours) = UnixStream::pair().unwrap();
        let mut channel = ControlChannel::new(ours).unwrap();
        drop(controller);
        assert!(matches!(channel.receive(), Err(ChannelError::Closed)));
    }
}
