//! A pipe of output, and the lines that were read from it and have not been queued yet.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use hearth_protocol::output::{Lines, LogBuffer};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use crate::host_link::HostLink;
use crate::output::Output;

/// Maximum bytes that wait for the host. Output that arrives while more wait is dropped, and counted.
pub(super) const MAX_QUEUED: usize = 1024 * 1024;

/// The pipe and its lines.
#[derive(Debug)]
pub(super) struct LogPipe {
    pipe: Output,
    lines: LogBuffer,
}

impl LogPipe {
    pub(super) fn create() -> io::Result<Self> {
        Ok(Self {
            pipe: Output::create()?,
            lines: LogBuffer::default(),
        })
    }

    /// Has epoll report output under `token`.
    pub(super) fn register(&self, epoll: &Epoll, token: u64) -> Result<(), Errno> {
        epoll.add(&self.pipe, EpollEvent::new(EpollFlags::EPOLLIN, token))
    }

    /// Changes what epoll reports under `token`.
    pub(super) fn modify(
        &self,
        epoll: &Epoll,
        token: u64,
        interest: EpollFlags,
    ) -> Result<(), Errno> {
        epoll.modify(&self.pipe, &mut EpollEvent::new(interest, token))
    }

    /// The end that a process writes to.
    pub(super) fn writer(&self) -> BorrowedFd<'_> {
        self.pipe.writer()
    }

    /// The end that is read.
    pub(super) fn reader(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Reads what the pipe holds. Has `link` flushed at once if many lines wait, else after a while.
    /// Whether there was anything.
    pub(super) fn read(&mut self, scratch: &mut [u8], link: &mut HostLink) -> bool {
        let congested = link.queued() > MAX_QUEUED;
        let lines = &mut self.lines;
        let mut something = false;
        self.pipe.drain(scratch, |bytes| {
            something |= !bytes.is_empty();
            if congested {
                lines.drop_output(bytes.len());
            } else {
                lines.push(bytes);
            }
        });
        if lines.is_full() {
            link.flush_soon();
        } else if lines.has_lines() {
            link.flush_later();
        }
        something
    }

    /// Whether a whole line has been read.
    pub(super) fn has_lines(&self) -> bool {
        self.lines.has_lines()
    }

    /// Whether everything that was read has been taken.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The whole lines.
    pub(super) fn take_lines(&mut self) -> Option<Lines> {
        self.lines.take_lines()
    }

    /// Everything, an unfinished line included.
    pub(super) fn take_all(&mut self) -> Option<Lines> {
        self.lines.take_all()
    }
}
