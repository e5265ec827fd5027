//! The runtime's end of the mailbox; see [`hearth_protocol::mailbox`] for what lies in its pages.
//!
//! A runtime gets its first event from the agent, as always. With [`Mailbox::answer`] it answers, and
//! waits for the next event in the same call: no system call but, at most, one that looks whether
//! there is output to go with the answer. Whatever the mailbox can't do it says at once
//! ([`Answered::NotHere`]), and the runtime does that by the Runtime API. So a runtime that uses the
//! mailbox needs both.
//!
//! One thread at a time may use it. After `fork` the child must leave it alone.

pub mod ffi;
pub mod pages;
#[cfg(feature = "runtime")]
pub mod runtime;

use std::os::fd::RawFd;
use std::time::{Duration, SystemTime};

use hearth_protocol::guest::{MAILBOX_VARIABLE, MAX_PAYLOAD};
use hearth_protocol::mailbox::{
    ANSWERS, COMMAND, COMMAND_AGENT, COMMAND_EVENT, COMMAND_LOOK, COMMAND_UNHEARD, DOORBELL_IDLE,
    DOORBELL_LOG, DOORBELL_NOTHING, DOORBELL_OFFER, EVENT_TIME, KIND_ERROR, KIND_RESPONSE, LOG_LEN,
    LOG_SIZE, MAX_META, OPEN, READING, READS_OUTPUT, REQUEST_ID_HEADER, REQUEST_ID_LEN, VIA_AGENT,
    WORKING,
};

use pages::Pages;

/// How far this guest's wall clock may be behind.
const MAX_BEHIND: Duration = Duration::from_millis(5);
/// And ahead, the event's way included.
const MAX_AHEAD: Duration = Duration::from_millis(100);

/// What an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The function's result.
    Response,
    /// The function failed.
    Error,
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// Nothing: post it by the Runtime API, and ask there for the next event.
    NotHere,
    /// It was taken. The next event is to be had by the Runtime API.
    Agent,
    /// It was taken, and the next event is here: [`Mailbox::take`] it.
    Event {
        /// Bytes of its headers.
        meta: usize,
        /// Bytes of its body.
        body: usize,
        /// Whether this guest's wall clock is not right any more. Then have it set before the event is
        /// worked on: `GET /hearth/clock` of the Runtime API, whose answer can be passed over.
        clock_is_off: bool,
    },
}

/// An opened mailbox.
#[derive(Debug)]
pub struct Mailbox {
    pages: Pages,
    /// Where what the function wrote is read, without waiting.
    output: RawFd,
}

impl Mailbox {
    /// Opens the mailbox that this process was started with, if it was.
    pub fn open() -> Option<Self> {
        let fd: RawFd = std::env::var(MAILBOX_VARIABLE).ok()?.parse().ok()?;
        let output = fd.checked_add(1)?;
        let pages = Pages::map(fd)?;
        // Programs that the function starts have no use for it.
        for fd in [fd, output] {
            // SAFETY: changes a flag of a descriptor; one that is not open is an error.
            if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
                return None;
            }
        }
        let mut mailbox = Self { pages, output };
        // Nothing, but in the way in which it will be read.
        mailbox.pages.read_output(output, LOG_SIZE);
        mailbox.pages.ring(DOORBELL_NOTHING);
        mailbox.pages.set(READS_OUTPUT, 1);
        keep_memory();
        Some(mailbox)
    }

    /// Answers the invocation at hand and waits for what comes next. `meta` is header lines; see
    /// [`hearth_protocol::mailbox::AnswerMeta`].
    pub fn answer(&mut self, kind: Kind, meta: &[u8], body: &[u8]) -> Answered {
        if self.pages.get(OPEN) == 0 || meta.len() > MAX_META || body.len() > MAX_PAYLOAD {
            return Answered::NotHere;
        }
        self.pages.set(READING, 1);
        if self.pages.get(VIA_AGENT) != 0 {
            self.pages.set(READING, 0);
            return Answered::NotHere;
        }
        let kind = match kind {
            Kind::Response => KIND_RESPONSE,
            Kind::Error => KIND_ERROR,
        };
        let working = self.pages.get(WORKING);
        let answers = self.pages.get(ANSWERS);
        self.pages.set(WORKING, 0);
        self.pages.set(ANSWERS, answers.wrapping_add(1));
        let later = self.pages.begin_answer(kind, meta, body, false);
        self.pages.set(COMMAND, COMMAND_LOOK);
        if later.is_empty() {
            self.pages.set(COMMAND, COMMAND_UNHEARD);
            self.pages.ring(DOORBELL_OFFER);
        }
        if self.pages.get(COMMAND) == COMMAND_LOOK {
            let log = self.drain();
            self.pages.set(READING, 0);
            self.pages.set(LOG_LEN, log);
            self.pages.end_answer(later);
        }
        self.pages.set(READING, 0);
        loop {
            match self.pages.get(COMMAND) {
                COMMAND_EVENT => {
                    let (meta, body) = self.pages.event();
                    return Answered::Event {
                        meta,
                        body,
                        clock_is_off: clock_is_off(self.pages.time(EVENT_TIME)),
                    };
                }
                COMMAND_AGENT => return Answered::Agent,
                // There is no host that hears the doorbell: it was not taken.
                COMMAND_UNHEARD => {
                    self.pages.set(OPEN, 0);
                    self.pages.set(WORKING, working);
                    self.pages.set(ANSWERS, answers);
                    return Answered::NotHere;
                }
                // The host lets the guest run although there is nothing to do here: for the kernel,
                // and for other threads.
                _ => {
                    std::thread::yield_now();
                    self.pages.ring(DOORBELL_IDLE);
                }
            }
        }
    }

    /// Copies the event; the lengths are those that [`Self::answer`] told.
    pub fn take(&mut self, meta: &mut [u8], body: &mut [u8]) {
        self.pages.take(meta, body);
        // For the agent, should it have to know whose output it reads.
        let id = meta.strip_prefix(REQUEST_ID_HEADER.as_bytes());
        let id = id.and_then(|rest| rest.get(..REQUEST_ID_LEN));
        self.pages
            .set_request_id(id.unwrap_or(&[0; REQUEST_ID_LEN]));
        self.pages.set(WORKING, 1);
    }

    /// Moves what the function has written to the log pages, and returns how much is there. What
    /// is more than they hold is handed over on the way.
    fn drain(&mut self) -> u32 {
        let mut have = 0;
        loop {
            have += self.pages.read_output(self.output, have);
            let len = u32::try_from(have).expect("two pages at most");
            if have < LOG_SIZE {
                return len;
            }
            self.pages.set(LOG_LEN, len);
            self.pages.set(COMMAND, COMMAND_UNHEARD);
            self.pages.ring(DOORBELL_LOG);
            have = 0;
        }
    }
}

/// Has the allocator keep what it has been given back. Payloads would get mappings of their own
/// otherwise, whose every page is a fault: a kernel's work for each event that is larger than 128 KiB.
fn keep_memory() {
    // SAFETY: mallopt only changes the allocator's settings.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 20);
    }
}

/// Whether this guest's wall clock is behind `host`'s when it gave the event, or far ahead: an event
/// is on its way for less than a millisecond, unless the host is busy.
fn clock_is_off(host: u64) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default();
    let host = Duration::from_nanos(host);
    now + MAX_BEHIND < host || now > host + MAX_AHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_left_alone_when_it_may_be_right() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap();
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap();
        let (second, tenth) = (Duration::from_secs(1), Duration::from_millis(10));
        assert!(!clock_is_off(nanos(now)));
        // The event was given a moment ago.
        assert!(!clock_is_off(nanos(now - tenth)));
        assert!(clock_is_off(nanos(now - second)));
        assert!(clock_is_off(nanos(now + second)));
    }

    #[test]
    fn a_process_that_was_given_none_has_no_mailbox() {
        assert!(Mailbox::open().is_none());
    }
}
