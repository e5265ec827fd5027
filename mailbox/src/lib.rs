//! The runtime's end of the mailbox. [`hearth_protocol::mailbox`] describes the pages and the
//! protocol.
//!
//! A runtime gets its first event from the agent, by the Runtime API. Then it calls
//! [`Mailbox::answer`], which sends the answer and waits for the next event. That takes no system
//! call, or one `read` if there may be output that has to go with the answer. If the mailbox can't
//! be used for an answer, `answer` returns [`Answered::NotHere`] at once, and the runtime posts the
//! answer to the Runtime API. So a runtime that uses the mailbox needs both.
//!
//! Only one thread at a time may use the mailbox. After `fork`, the child must not use it.

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

/// If the guest's wall clock is behind the host's by more than this, it has to be set.
const MAX_BEHIND: Duration = Duration::from_millis(5);
/// If the guest's wall clock is ahead by more than this, it has to be set. The event's way to the
/// guest counts as part of it.
const MAX_AHEAD: Duration = Duration::from_millis(100);

/// The kind of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The function's result.
    Response,
    /// The function's error.
    Error,
}

/// The result of [`Mailbox::answer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// The mailbox can't be used for this answer. Post it to the Runtime API, and ask there for the
    /// next event.
    NotHere,
    /// The host has taken the answer. Ask the Runtime API for the next event.
    Agent,
    /// The host has taken the answer, and the next event is in the mailbox: [`Mailbox::take`] it.
    Event {
        /// Length of the event's headers in bytes.
        meta: usize,
        /// Length of the event's body in bytes.
        body: usize,
        /// Whether the guest's wall clock is wrong. If so, request `GET /hearth/clock` of the
        /// Runtime API before working on the event, which sets the clock. Its response can be
        /// ignored.
        clock_is_off: bool,
    },
}

/// A mailbox that this process has opened.
#[derive(Debug)]
pub struct Mailbox {
    pages: Pages,
    /// The descriptor from which the function's output is read. It is non-blocking.
    output: RawFd,
}

impl Mailbox {
    /// Opens the mailbox that the agent has given this process; `None` if it has none.
    pub fn open() -> Option<Self> {
        let fd: RawFd = std::env::var(MAILBOX_VARIABLE).ok()?.parse().ok()?;
        let output = fd.checked_add(1)?;
        let pages = Pages::map(fd)?;
        // Programs that the function starts must not inherit the descriptors.
        for fd in [fd, output] {
            // SAFETY: changes a flag of a descriptor; one that is not open is an error.
            if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
                return None;
            }
        }
        let mut mailbox = Self { pages, output };
        // There is no output yet; this brings the pages and the code into memory that later calls
        // use.
        mailbox.pages.read_output(output, LOG_SIZE);
        mailbox.pages.ring(DOORBELL_NOTHING);
        mailbox.pages.set(READS_OUTPUT, 1);
        keep_memory();
        Some(mailbox)
    }

    /// Answers the current invocation and waits for what comes next. `meta` consists of header
    /// lines; see [`hearth_protocol::mailbox::AnswerMeta`].
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
                // No host has heard the doorbell, so the answer was not taken.
                COMMAND_UNHEARD => {
                    self.pages.set(OPEN, 0);
                    self.pages.set(WORKING, working);
                    self.pages.set(ANSWERS, answers);
                    return Answered::NotHere;
                }
                // The host lets the guest run without an event, for the guest's kernel and for
                // other threads.
                _ => {
                    std::thread::yield_now();
                    self.pages.ring(DOORBELL_IDLE);
                }
            }
        }
    }

    /// Copies the event. The buffers must have the lengths that [`Self::answer`] returned.
    pub fn take(&mut self, meta: &mut [u8], body: &mut [u8]) {
        self.pages.take(meta, body);
        // The agent reads the request id if it has to know which invocation's output it reads.
        let id = meta.strip_prefix(REQUEST_ID_HEADER.as_bytes());
        let id = id.and_then(|rest| rest.get(..REQUEST_ID_LEN));
        self.pages
            .set_request_id(id.unwrap_or(&[0; REQUEST_ID_LEN]));
        self.pages.set(WORKING, 1);
    }

    /// Moves the function's output into the log pages, and returns its length. Output beyond the
    /// pages' size is sent to the host on the way.
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

/// Makes the allocator keep freed memory. Otherwise each payload over 128 KiB would get a mapping
/// of its own, with a page fault for each page: work for the guest's kernel with every event.
fn keep_memory() {
    // SAFETY: mallopt only changes the allocator's settings.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 20);
    }
}

/// Whether the guest's wall clock is wrong, compared with `host`, the host's clock when it wrote
/// the event. An event is on its way for less than a millisecond, unless the host is busy.
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
        // The host wrote the event a moment ago.
        assert!(!clock_is_off(nanos(now - tenth)));
        assert!(clock_is_off(nanos(now - second)));
        assert!(clock_is_off(nanos(now + second)));
    }

    #[test]
    fn a_process_that_was_given_none_has_no_mailbox() {
        assert!(Mailbox::open().is_none());
    }
}
