//! The line to the owner: what is sent out of guest memory and filled into it, and the wait for both,
//! from which whoever wants the thread can wake it.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use hearth_protocol::guest::MAX_PAYLOAD;
use hearth_protocol::mailbox::{
    ANSWER_BODY, ANSWER_GOES_ON, ANSWER_KIND, ANSWER_META, DATA_SIZE, Head, KIND_ERROR,
    KIND_RESPONSE, LOG_LEN, LOG_SIZE, MAX_META, PEAK_KIB, What,
};
use vmm_sys_util::eventfd::EventFd;

use super::{MailboxError, Place, Rest};
use crate::devices::virtio::chain::Segment;
use crate::devices::virtio::guest_io;
use crate::memory::GuestMemory;

/// What a mailbox needs of the host: the owner's socket, and what wakes the thread that waits for it.
#[derive(Debug)]
pub struct Line {
    pub(super) owner: UnixStream,
    pub(super) wake: EventFd,
}

impl Line {
    /// Takes a connected socket.
    pub fn new(owner: UnixStream) -> io::Result<Self> {
        owner.set_nonblocking(true)?;
        let wake = EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK)?;
        Ok(Self { owner, wake })
    }

    /// The descriptors that a vCPU's thread reads and waits for.
    pub fn descriptors(&self) -> [RawFd; 2] {
        [self.owner.as_raw_fd(), self.wake.as_raw_fd()]
    }
}

/// What a poll saw first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Polled {
    Owner,
    Wake,
    Nothing,
}

impl Line {
    /// Hands over the head and the first chunk of an answer; returns what is to come.
    pub(super) fn begin_answer(
        &self,
        memory: &GuestMemory,
        place: &Place,
    ) -> Result<Rest, MailboxError> {
        let kind = place.get(memory, ANSWER_KIND)?;
        let meta = place.get(memory, ANSWER_META)?;
        let body = place.get(memory, ANSWER_BODY)?;
        let log = place.get(memory, LOG_LEN)?;
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
            peak_kib: place.get(memory, PEAK_KIB)?,
            goes_on: place.get(memory, ANSWER_GOES_ON)? != 0,
        };
        self.send(memory, place, head, first)?;
        Ok(Rest {
            left: total - first,
            goes_on: head.goes_on,
        })
    }

    /// Hands over the next chunk of an answer; returns what is to come.
    pub(super) fn pass_on(
        &self,
        memory: &GuestMemory,
        place: &Place,
        rest: Rest,
    ) -> Result<Rest, MailboxError> {
        let chunk = rest.left.min(DATA_SIZE);
        self.send_all(memory, &[], place.data(), chunk)?;
        Ok(Rest {
            left: rest.left - chunk,
            ..rest
        })
    }

    pub(super) fn send(
        &self,
        memory: &GuestMemory,
        place: &Place,
        head: Head,
        data: usize,
    ) -> Result<(), MailboxError> {
        let bytes = head.encode();
        let log = head.log as usize;
        if log == 0 {
            return self.send_all(memory, &bytes, place.data(), data);
        }
        self.send_all(memory, &bytes, place.log(), log)?;
        self.send_all(memory, &[], place.data(), data)
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
                self.owner.as_fd(),
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
                    if self.poll(libc::POLLOUT, -1)? == Polled::Wake {
                        return Err(MailboxError::Stopped);
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Fills the data pages up to `end` from the socket; the first `have` bytes are there.
    pub(super) fn fill(
        &self,
        memory: &GuestMemory,
        place: &Place,
        mut have: usize,
        end: usize,
    ) -> Result<(), MailboxError> {
        while have < end {
            let read =
                guest_io::read_stream(self.owner.as_fd(), memory, place.data(), have, end - have);
            match read {
                Ok(0) => return Err(MailboxError::Closed),
                Ok(count) => have += count,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if self.poll(libc::POLLIN, -1)? == Polled::Wake {
                        return Err(MailboxError::Stopped);
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Waits for the owner, and for whoever wants the thread.
    pub(super) fn poll(&self, events: i16, timeout: i32) -> io::Result<Polled> {
        let [owner, wake] = self.descriptors();
        let mut both = [(owner, events), (wake, libc::POLLIN)].map(|(fd, events)| libc::pollfd {
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
                    // Whether it was read or not: the thread stops.
                    drop(self.wake.read());
                    return Ok(Polled::Wake);
                }
                0 => return Ok(Polled::Nothing),
                _ => return Ok(Polled::Owner),
            }
        }
    }
}
