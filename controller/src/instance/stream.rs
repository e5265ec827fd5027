//! A byte stream to and from a sandbox, with a buffer for each direction. Reads and writes do not wait
//! for each other: otherwise a guest that floods its log instead of reading a 6 MB event would block both
//! sides.
//!
//! The socket is watched for writability only while there is something to write. A UNIX socket becomes
//! writable again whenever its peer has read. tokio's own socket watches for both, so each event that a
//! sandbox reads would wake the controller for nothing.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Maximum number of pieces in one write.
const MAX_SLICES: usize = 8;
/// Minimum space for one read, in bytes: most messages are a few hundred.
const MIN_READ: usize = 4096;

/// A stream to a sandbox.
#[derive(Debug)]
pub(super) struct Stream {
    /// Watched for readability.
    socket: AsyncFd<UnixStream>,
    /// A second descriptor of the socket, watched for writability while the socket's buffer is full.
    full: Option<AsyncFd<UnixStream>>,
    pub(super) inbox: BytesMut,
    /// Whether the sandbox may still send.
    open: bool,
    /// Whether the sandbox has ended before it had read all sent bytes.
    unread: bool,
    outbound: VecDeque<Bytes>,
}

impl Stream {
    /// A stream over `socket`. Must be called within a tokio runtime.
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: watch(socket, Interest::READABLE)?,
            full: None,
            inbox: BytesMut::new(),
            open: true,
            unread: false,
            outbound: VecDeque::new(),
        })
    }

    /// Queues bytes, to be written by the next [`Self::flush`] or later.
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
            let mut written = match self.socket.get_ref().write_vectored(&slices) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.full.is_none() {
                        let same = self.socket.get_ref().try_clone()?;
                        self.full = Some(watch(same, Interest::WRITABLE)?);
                    }
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
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
        self.full = None;
        Ok(())
    }

    /// Whether the sandbox may still send.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Whether the sandbox has ended before it had read all sent bytes: then the last message has not
    /// reached the guest completely.
    pub(super) fn left_unread(&self) -> bool {
        self.unread
    }

    /// Whether all queued bytes have been written.
    #[cfg(test)]
    pub(super) fn is_flushed(&self) -> bool {
        self.outbound.is_empty()
    }

    /// Waits until the socket is readable, or writable if there is something to write, and reads or
    /// writes. Dropping the future loses nothing.
    pub(super) async fn read_or_write(&mut self) -> io::Result<()> {
        let writable = async {
            match &self.full {
                Some(socket) => socket.writable().await.map(|mut guard| guard.clear_ready()),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            readable = self.socket.readable() => {
                let mut guard = readable?;
                match receive(guard.get_inner(), &mut self.inbox) {
                    Ok(Received::All) => guard.clear_ready(),
                    Ok(Received::Some) => {}
                    // The process is ending; the control channel reports the reason.
                    Ok(Received::End) => self.open = false,
                    // A UNIX socket that is closed with unread bytes resets the connection.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                        self.open = false;
                        self.unread = true;
                    }
                    Err(error) => return Err(error),
                }
            }
            writable = writable => {
                writable?;
                match self.flush() {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                        self.outbound.clear();
                        self.full = None;
                        self.unread = true;
                    }
                    flushed => flushed?,
                }
            }
        }
        Ok(())
    }
}

/// Makes tokio watch a socket for one kind of readiness only.
fn watch(socket: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    // SAFETY: a socket keeps its descriptor, and it open, for as long as it lives; it is the `AsyncFd`'s
    // from here on, and is only ever borrowed.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

/// The result of one read.
enum Received {
    /// The socket is empty.
    All,
    /// There may be more bytes.
    Some,
    /// The sandbox has closed its end.
    End,
}

/// Reads once, at least [`MIN_READ`] bytes if there are as many.
fn receive(socket: &UnixStream, inbox: &mut BytesMut) -> io::Result<Received> {
    inbox.reserve(MIN_READ);
    let spare = inbox.spare_capacity_mut();
    let size = spare.len();
    // SAFETY: the kernel writes at most `size` bytes into `spare`.
    let count = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            spare.as_mut_ptr().cast(),
            size,
            libc::MSG_DONTWAIT,
        )
    };
    let Ok(count) = usize::try_from(count) else {
        return match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::All),
            error if error.kind() == io::ErrorKind::Interrupted => Ok(Received::Some),
            error => Err(error),
        };
    };
    // SAFETY: the kernel has written `count` bytes.
    unsafe { inbox.set_len(inbox.len() + count) };
    Ok(match count {
        0 => Received::End,
        count if count < size => Received::All,
        _ => Received::Some,
    })
}

/// The controller's end of a stream, and the sandbox's.
#[cfg(test)]
pub(crate) fn socket_pair() -> (UnixStream, tokio::net::UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    (ours, tokio::net::UnixStream::from_std(theirs).unwrap())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Whether bytes are unread if the other end reads `taken` of `sent` bytes and closes.
    async fn left_unread(sent: usize, taken: usize) -> bool {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut stream = Stream::new(ours).unwrap();
        stream.queue(vec![b'x'; sent].into());
        stream.flush().unwrap();
        theirs.read_exact(&mut vec![0; taken]).unwrap();
        drop(theirs);
        while stream.is_open() {
            stream.read_or_write().await.unwrap();
        }
        stream.left_unread()
    }

    #[tokio::test]
    async fn a_stream_knows_whether_an_ended_sandbox_has_read_everything() {
        assert!(!left_unread(100, 100).await);
        assert!(left_unread(100, 99).await);
        assert!(left_unread(100, 0).await);
        // More than the socket's buffer holds.
        assert!(left_unread(8 << 20, 0).await);
        assert!(left_unread(8 << 20, 1000).await);
    }
}
