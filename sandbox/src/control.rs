//! The control socket: one owner, commands in, replies and events out.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::BytesMut;
use hearth_protocol::sandbox::{self as protocol, ControlError, Message, Request};

/// An owner that does not read its replies for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
const READ_CHUNK: usize = 16 * 1024;

/// Why the control socket can't be used any longer.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The owner closed it.
    #[error("the control socket was closed")]
    Closed,
    /// It failed.
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
    /// What came is no message.
    #[error(transparent)]
    Protocol(#[from] ControlError),
}

/// The sandbox's end of the control socket.
#[derive(Debug)]
pub struct ControlChannel {
    stream: UnixStream,
    received: BytesMut,
}

impl ControlChannel {
    /// Takes over a connected socket.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self {
            stream,
            received: BytesMut::new(),
        })
    }

    /// Reads what is there and returns the requests that are complete. Call it when the socket is
    /// readable; it blocks otherwise.
    pub fn receive(&mut self) -> Result<Vec<Request>, ChannelError> {
        let mut chunk = [0; READ_CHUNK];
        match self.stream.read(&mut chunk) {
            Ok(0) => return Err(ChannelError::Closed),
            Ok(n) => self.received.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
        let mut requests = Vec::new();
        while let Some(request) = protocol::decode(&mut self.received)? {
            requests.push(request);
        }
        Ok(requests)
    }

    /// Sends one message, whole.
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
    use hearth_protocol::sandbox::Command;

    use super::*;

    #[test]
    fn requests_come_out_whole_however_they_were_cut() {
        let (mut owner, ours) = UnixStream::pair().unwrap();
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
        owner.write_all(&bytes[..7]).unwrap();
        assert!(channel.receive().unwrap().is_empty());
        owner.write_all(&bytes[7..]).unwrap();
        let ids: Vec<u64> = channel.receive().unwrap().iter().map(|r| r.id).collect();
        assert_eq!(ids, [1, 2]);
    }

    #[test]
    fn a_closed_socket_and_a_lying_length_are_errors() {
        let (mut owner, ours) = UnixStream::pair().unwrap();
        let mut channel = ControlChannel::new(ours).unwrap();
        owner.write_all(&[0xff; 8]).unwrap();
        assert!(matches!(channel.receive(), Err(ChannelError::Protocol(_))));
        let (owner, ours) = UnixStream::pair().unwrap();
        let mut channel = ControlChannel::new(ours).unwrap();
        drop(owner);
        assert!(matches!(channel.receive(), Err(ChannelError::Closed)));
    }
}
