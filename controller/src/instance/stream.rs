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
    outbound: VecDeque<Bytes>,
}

impl Stream {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            inbox: BytesMut::new(),
            open: true,
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
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                    self.open = false;
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        if ready.is_writable() && self.open {
            match self.flush() {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.outbound.clear(),
                flushed => flushed?,
            }
        }
        Ok(())
    }
}
