//! The host's end of the connection: a non-blocking Unix stream socket, and a buffer of the guest's
//! bytes that it has not taken yet. The connection's credit bounds that buffer; the caller must not
//! pass in bytes without it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{MsgFlags, recv, send};

use crate::devices::GuestMemory;
use crate::devices::virtio::chain::Segment;
use crate::devices::virtio::device::DeviceError;
use crate::devices::virtio::guest_io;

/// A socket and the bytes that wait for it.
#[derive(Debug)]
pub struct HostStream {
    socket: UnixStream,
    waiting: VecDeque<u8>,
}

/// The result of reading.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// This many bytes, at least one.
    Bytes(u32),
    /// Nothing at the moment.
    Empty,
    /// The end of the stream.
    Closed,
}

impl HostStream {
    /// Takes a connected socket.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            waiting: VecDeque::new(),
        })
    }

    /// Number of bytes that wait for the socket.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sends `len` bytes of `segments`, from `skip` on. What the socket takes goes directly from
    /// guest memory; the rest is buffered. Returns how many bytes the socket has taken, or `None`
    /// if it is closed.
    pub fn send_from_guest(
        &mut self,
        memory: &GuestMemory,
        segments: &[Segment],
        skip: usize,
        len: usize,
    ) -> Result<Option<u32>, DeviceError> {
        let mut taken = 0;
        // While earlier bytes wait, later ones have to wait too, to keep the order.
        while self.waiting.is_empty() && taken < len {
            let result = guest_io::write_stream(
                self.socket.as_fd(),
                memory,
                segments,
                skip + taken,
                len - taken,
            );
            match result {
                Ok(sent) => taken += sent,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Ok(None),
            }
        }
        self.keep(memory, segments, skip + taken, len - taken)?;
        Ok(Some(to_u32(taken)))
    }

    fn keep(
        &mut self,
        memory: &GuestMemory,
        segments: &[Segment],
        skip: usize,
        len: usize,
    ) -> Result<(), DeviceError> {
        let mut buffer = [0; 4096];
        let mut done = 0;
        while done < len {
            let piece = &mut buffer[..(len - done).min(4096)];
            guest_io::copy_from_guest(memory, segments, skip + done, piece)?;
            self.waiting.extend(&*piece);
            done += piece.len();
        }
        Ok(())
    }

    /// Sends the waiting bytes. Returns how many the socket has taken, or `None` if it is closed.
    pub fn flush(&mut self) -> Option<u32> {
        let mut taken = 0;
        while !self.waiting.is_empty() {
            let (front, _) = self.waiting.as_slices();
            match send(self.socket.as_raw_fd(), front, MsgFlags::MSG_NOSIGNAL) {
                Ok(sent) => {
                    self.waiting.drain(..sent);
                    taken += sent;
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => break,
                Err(_) => return None,
            }
        }
        if self.waiting.is_empty() {
            // The burst is over. Don't keep its memory for the rest of the microVM's life.
            self.waiting.shrink_to_fit();
        }
        Some(to_u32(taken))
    }

    /// Reads at most `len` bytes directly into `segments`, from `skip` on.
    pub fn receive_to_guest(
        &self,
        memory: &GuestMemory,
        segments: &[Segment],
        skip: usize,
        len: usize,
    ) -> Read {
        match guest_io::read_stream(self.socket.as_fd(), memory, segments, skip, len) {
            Ok(0) => Read::Closed,
            Ok(read) => Read::Bytes(to_u32(read)),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Read::Empty
            }
            Err(_) => Read::Closed,
        }
    }

    /// Ends the guest's direction: the host's reader sees the end of the stream.
    pub fn finish_sending(&self) {
        // The only possible error is that the peer is gone already.
        let _gone = self.socket.shutdown(std::net::Shutdown::Write);
    }

    /// Whether the host has written bytes that are not read yet.
    pub fn has_unread(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        matches!(recv(self.socket.as_raw_fd(), &mut [0], flags), Ok(1..))
    }

    /// The descriptor to wait for.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// All lengths here are bounded by a packet's size or the connection's credit.
fn to_u32(len: usize) -> u32 {
    u32::try_from(len).expect("bounded by credit")
}
