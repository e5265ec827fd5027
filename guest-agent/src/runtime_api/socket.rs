//! The socket of a client of the Runtime API: loopback, as Lambda's contract has it, or the local socket
//! of the runtimes in Hearth's images. A message over the local socket costs the guest kernel half of
//! one over TCP.

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// A client's socket, non-blocking.
#[derive(Debug)]
pub(crate) enum Socket {
    Loopback(TcpStream),
    Local(UnixStream),
}

impl Socket {
    /// Whether the client is a runtime of Hearth's images: it sends its answer together with its request
    /// for the next event, and waits for both replies.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }
}

impl Read for &Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Loopback(socket) => (&*socket).read(buf),
            Socket::Local(socket) => (&*socket).read(buf),
        }
    }
}

impl Write for &Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Loopback(socket) => (&*socket).write(buf),
            Socket::Local(socket) => (&*socket).write(buf),
        }
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Loopback(socket) => (&*socket).write_vectored(bufs),
            Socket::Local(socket) => (&*socket).write_vectored(bufs),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Loopback(socket) => socket.as_fd(),
            Self::Local(socket) => socket.as_fd(),
        }
    }
}
