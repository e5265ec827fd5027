//! A byte stream to a sandbox: what has come and was not taken, and what waits to be written. Neither
//! side waits for the other: a guest that does not read its 6 MB event while it floods its log can't
//! bring both to a standstill.
//!
//! Room to write is waited for only while something needs it. A UNIX socket tells its owner of room
//! whenever its peer has read, so with a socket that is always watched for both (tokio's own) each
//! event that a sandbox reads would wake the controller for nothing, at the sandbox's expense.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Pieces that one write hands to the kernel at most.
const MAX_SLICES: usize = 8;
/// Bytes that one read has room for at least: most messages are a few hundred.
const ROOM: usize = 4096;

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// Watched for what comes.
    socket: AsyncFd<UnixStream>,
    /// The same, watched for room, while there is too little.
    crowded: Option<AsyncFd<UnixStream>>,
    pub(super) inbox: BytesMut,
    /// Whether the sandbox may still say something.
    open: bool,
    /// Whether the sandbox ended before it had read all that was sent.
    unread: bool,
    outbound: VecDeque<Bytes>,
}

impl Stream {
    /// A stream over `socket`. Must be called within a runtime, which watches it from then on.
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: watch(socket, Interest::READABLE)?,
            crowded: None,
            inbox: BytesMut::new(),
            open: true,
            unread: false,
            outbound: VecDeque::new(),
        })
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
            let mut written = match self.socket.get_ref().write_vectored(&slices) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.crowded.is_none() {
                        let same = self.socket.get_ref().try_clone()?;
                        self.crowded = Some(watch(same, Interest::WRITABLE)?);
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
        self.crowded = None;
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

    /// Waits until there is something to read, or room for what has to be written, and reads or writes
    /// as far as it goes. Nothing is lost when the future is dropped.
    pub(super) async fn go_on(&mut self) -> io::Result<()> {
        let room = async {
            match &self.crowded {
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
                    // The process is ending; the control channel will say how.
                    Ok(Received::End) => self.open = false,
                    // What a UNIX socket's end comes to for its peer if there was something left to
                    // read.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                        self.open = false;
                        self.unread = true;
                    }
                    Err(error) => return Err(error),
                }
            }
            room = room => {
                room?;
                match self.flush() {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                        self.outbound.clear();
                        self.crowded = None;
                        self.unread = true;
                    }
                    flushed => flushed?,
                }
            }
        }
        Ok(())
    }
}

/// Has the runtime watch a socket for one thing alone.
fn watch(socket: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    // SAFETY: a socket keeps its descriptor, and it open, for as long as it lives; it is the `AsyncFd`'s
    // from here on, and is only ever borrowed.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

/// What one read came to.
enum Received {
    /// There was less than there was room for: nothing is left.
    All,
    /// There may be more.
    Some,
    /// There will be no more.
    End,
}

/// Reads once, into the room that there is and at least [`ROOM`].
fn receive(socket: &UnixStream, inbox: &mut BytesMut) -> io::Result<Received> {
    inbox.reserve(ROOM);
    let room = inbox.spare_capacity_mut();
    let size = room.len();
    // SAFETY: the kernel writes into `room`, and no more than fits.
    let count = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            room.as_mut_ptr().cast(),
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
    // SAFETY: that much of the room was written by the kernel.
    unsafe { inbox.set_len(inbox.len() + count) };
    Ok(match count {
        0 => Received::End,
        count if count < size => Received::All,
        _ => Received::Some,
    })
}

/// The owner's end of a stream, and the sandbox's.
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

    /// Whether an end that reads `taken` of `sent` bytes and goes leaves something unread.
    async fn left_unread(sent: usize, taken: usize) -> bool {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut stream = Stream::new(ours).unwrap();
        stream.queue(vec![b'x'; sent].into());
        stream.flush().unwrap();
        theirs.read_exact(&mut vec![0; taken]).unwrap();
        drop(theirs);
        while stream.is_open() {
            stream.go_on().await.unwrap();
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
