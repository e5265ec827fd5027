//! The socket between the controller and the mailbox: sends from guest memory, receives into guest
//! memory, and waits for either. The event loop can wake a thread that waits here.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use hearth_protocol::guest::MAX_PAYLOAD;
use hearth_protocol::mailbox::{
    ANSWER_BODY, ANSWER_GOES_ON, ANSWER_KIND, ANSWER_META, DATA_SIZE, Head, KIND_ERROR,
    KIND_RESPONSE, LOG_LEN, LOG_SIZE, MAX_META, PEAK_KIB, What,
};
use vmm_sys_util::eventfd::EventFd;

use super::{AnswerRemainder, MailboxError, MailboxPages};
use crate::devices::virtio::chain::Segment;
use crate::devices::virtio::guest_io;
use crate::memory::GuestMemory;

/// What a mailbox needs of the host: the controller's socket, and the eventfd that wakes the thread
/// while it waits.
#[derive(Debug)]
pub struct MailboxSocket {
    pub(super) controller: UnixStream,
    pub(super) wake: EventFd,
}

impl MailboxSocket {
    /// Takes a connected socket.
    pub fn new(controller: UnixStream) -> io::Result<Self> {
        controller.set_nonblocking(true)?;
        let wake = EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK)?;
        Ok(Self { controller, wake })
    }

    /// The descriptors that a vCPU's thread reads and polls: the controller's socket and the
    /// eventfd. The system call filter names them.
    pub fn descriptors(&self) -> [RawFd; 2] {
        [self.controller.as_raw_fd(), self.wake.as_raw_fd()]
    }
}

/// What [`MailboxSocket::poll`] has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Polled {
    Controller,
    Stop,
    TimedOut,
}

impl MailboxSocket {
    /// Sends the head and the first chunk of an answer; returns what remains.
    pub(super) fn begin_answer(
        &self,
        memory: &GuestMemory,
        pages: &MailboxPages,
    ) -> Result<AnswerRemainder, MailboxError> {
        let kind = pages.get(memory, ANSWER_KIND)?;
        let meta = pages.get(memory, ANSWER_META)?;
        let body = pages.get(memory, ANSWER_BODY)?;
        let log = pages.get(memory, LOG_LEN)?;
        let what = match kind {
            KIND_RESPONSE => Some(What::Payload),
            KIND_ERROR => Some(What::Error),
            _ => None,
        };
        let bounded =
            meta as usize <= MAX_META && body as usize <= MAX_PAYLOAD && log as usize <= LOG_SIZE;
        let Some(what) = what.filter(|_| bounded) else {
            return Err(MailboxError::Answer {
                kind,
                meta,
                body,
                log,
            });
        };
        let total = (meta + body) as usize;
        let first = total.min(DATA_SIZE);
        let head = Head {
            what,
            log,
            meta,
            body,
            peak_kib: pages.get(memory, PEAK_KIB)?,
            goes_on: pages.get(memory, ANSWER_GOES_ON)? != 0,
        };
        self.send(memory, pages, head, first)?;
        Ok(AnswerRemainder {
            left: total - first,
            goes_on: head.goes_on,
        })
    }

    /// Sends the next chunk of an answer; returns what remains.
    pub(super) fn send_next_chunk(
        &self,
        memory: &GuestMemory,
        pages: &MailboxPages,
        rest: AnswerRemainder,
    ) -> Result<AnswerRemainder, MailboxError> {
        let chunk = rest.left.min(DATA_SIZE);
        self.send_all(memory, &[], pages.data(), chunk)?;
        Ok(AnswerRemainder {
            left: rest.left - chunk,
            ..rest
        })
    }

    pub(super) fn send(
        &self,
        memory: &GuestMemory,
        pages: &MailboxPages,
        head: Head,
        data: usize,
    ) -> Result<(), MailboxError> {
        let bytes = head.encode();
        let log = head.log as usize;
        if log == 0 {
            return self.send_all(memory, &bytes, pages.data(), data);
        }
        self.send_all(memory, &bytes, pages.log(), log)?;
        self.send_all(memory, &[], pages.data(), data)
    }

    /// Sends `before`, then `len` bytes of `segments`.
    fn send_all(
        &self,
        memory: &GuestMemory,
        before: &[u8],
        segments: &[Segment],
        len: usize,
    ) -> Result<(), MailboxError> {
        let total = before.len() + len;
        let mut sent = 0;
        while sent < total {
            let rest = &before[sent.min(before.len())..];
            let skip = sent.saturating_sub(before.len());
            let result = guest_io::write_stream_after(
                self.controller.as_fd(),
                rest,
                memory,
                segments,
                skip,
                len - skip,
            );
            match result {
                Ok(count) => sent += count,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if self.poll(libc::POLLOUT, -1)? == Polled::Stop {
                        return Err(MailboxError::Stopped);
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Receives into the data pages until they hold `end` bytes; they hold `have` already.
    pub(super) fn fill(
        &self,
        memory: &GuestMemory,
        pages: &MailboxPages,
        mut have: usize,
        end: usize,
    ) -> Result<(), MailboxError> {
        while have < end {
            let read = guest_io::read_stream(
                self.controller.as_fd(),
                memory,
                pages.data(),
                have,
                end - have,
            );
            match read {
                Ok(0) => return Err(MailboxError::Closed),
                Ok(count) => have += count,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if self.poll(libc::POLLIN, -1)? == Polled::Stop {
                        return Err(MailboxError::Stopped);
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Waits for the controller's socket or the eventfd.
    pub(super) fn poll(&self, events: i16, timeout: i32) -> io::Result<Polled> {
        let [controller, wake] = self.descriptors();
        let mut both =
            [(controller, events), (wake, libc::POLLIN)].map(|(fd, events)| libc::pollfd {
                fd,
                events,
                revents: 0,
            });
        loop {
            // SAFETY: the array is live, and of that length.
            match unsafe { libc::poll(both.as_mut_ptr(), 2, timeout) } {
                -1 => {
                    let error = io::Error::last_os_error();
                    if error.kind() != ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
                _ if both[1].revents != 0 => {
                    // The eventfd is non-blocking. Whatever the read returns, the thread stops.
                    drop(self.wake.read());
                    return Ok(Polled::Stop);
                }
                0 => return Ok(Polled::TimedOut),
                _ => return Ok(Polled::Controller),
            }
        }
    }
}
