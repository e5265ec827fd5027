//! A byte stream to a sandbox: what has come and was not taken, and what waits to be written. Neither
//! side waits for the other: a guest that does not read its 6 MB event while it floods its log can't
//! bring both to a standstill.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{Interest, Ready};
use tokio::net::UnixStream;
use tokio_util::io::poll_read_buf;

/// Pieces that one write hands to the kernel at most.
const MAX_SLICES: usize = 8;
/// Bytes that one read has room for at least: most messages are a few hundred.
const ROOM: usize = 4096;

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    socket: UnixStream,
    pub(super) inbox: BytesMut,
    /// Whether the sandbox may still say something.
    open: bool,
    /// Whether the sandbox ended before it had read all that was sent.
    unread: bool,
    outbound: VecDeque<Bytes>,
}

impl Stream {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            inbox: BytesMut::new(),
            open: true,
            unread: false,
            outbound: VecDeque::new(),
        }
    }

    /// Has bytes written, with the next [`Self::flush`] or later.
    pub(super) fn queue(&mut self, bytes: Bytes) {
        self.outbound.push_back(bytes);
    }

    /// Writes queued bytes until the socket is full.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.outbound.is_empty() {
            let slices: Vec<IoSlice<'_>> = self
                .outbound
                .iter()
                .take(MAX_SLICES)
                .map(|bytes| IoSlice::new(bytes))
                .collect();
            let mut written = match self.socket.try_write_vectored(&slices) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            while let Some(front) = self.outbound.front_mut() {
                if written < front.len() {
                    front.advance(written);
                    break;
                }
                written -= front.len();
                self.outbound.pop_front();
            }
        }
        Ok(())
    }

    /// Whether there is anything to wait for.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Whether the sandbox ended before it had read all that was sent: what was sent last has not
    /// reached its guest whole.
    pub(super) fn left_unread(&self) -> bool {
        self.unread
    }

    /// Whether everything was written.
    #[cfg(test)]
    pub(super) fn is_flushed(&self) -> bool {
        self.outbound.is_empty()
    }

    /// Waits until there is something to read, or room for what has to be written.
    pub(super) async fn ready(&self) -> io::Result<Ready> {
        let interest = if self.outbound.is_empty() {
            Interest::READABLE
        } else {
            Interest::READABLE | Interest::WRITABLE
        };
        self.socket.ready(interest).await
    }

    /// Reads and writes as far as it goes.
    pub(super) fn go_on(&mut self, ready: Ready) -> io::Result<()> {
        if ready.is_readable() {
            self.inbox.reserve(ROOM);
            // Not `try_read_buf`, by which a read that took all there was has to be tried once more.
            let mut nobody = Context::from_waker(Waker::noop());
            match poll_read_buf(Pin::new(&mut self.socket), &mut nobody, &mut self.inbox) {
                // The process is ending; the control channel will say how.
                Poll::Ready(Ok(0)) => self.open = false,
                Poll::Ready(Ok(_)) | Poll::Pending => {}
                // What a UNIX socket's end comes to for its peer if there was something left to read.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                    self.open = false;
                    self.unread = true;
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        if ready.is_writable() && self.open {
            match self.flush() {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.outbound.clear();
                    self.unread = true;
                }
                flushed => flushed?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Whether an end that reads `taken` of `sent` bytes and goes leaves something unread.
    async fn left_unread(sent: usize, taken: usize) -> bool {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut stream = Stream::new(ours);
        stream.queue(vec![b'x'; sent].into());
        stream.flush().unwrap();
        theirs.read_exact(&mut vec![0; taken]).await.unwrap();
        drop(theirs);
        while stream.is_open() {
            let ready = stream.ready().await.unwrap();
            stream.go_on(ready).unwrap();
        }
        stream.left_unread()
    }

    #[tokio::test]
    async fn whether_a_sandbox_that_ended_had_read_everything_is_known() {
        assert!(!left_unread(100, 100).await);
        assert!(left_unread(100, 99).await);
        assert!(left_unread(100, 0).await);
        // More than the socket takes.
        assert!(left_unread(8 << 20, 0).await);
        assert!(left_unread(8 << 20, 1000).await);
    }
}
