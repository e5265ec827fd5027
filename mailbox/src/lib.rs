//! The runtime's end of the mailbox. [`hearth_protocol::mailbox`] describes the pages and the
//! protocol.
//!
//! A runtime gets its first event from the agent, by the Runtime API. Then it calls
//! [`Mailbox::answer`], which sends the answer and waits for the next event. That takes no system
//! call, or one `read` if there may be output that has to go with the answer. If the mailbox can't
//! be used for an answer, `answer` returns [`Answered::NotHere`] at once, and the runtime posts the
//! answer to the Runtime API. So a runtime that uses the mailbox needs both.
//!
//! A runtime that runs code of the function between its answer and its call for the next event uses
//! [`Mailbox::give`] and [`Mailbox::await_event`] instead.
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
    ANSWERS, COMMAND, COMMAND_AGENT, COMMAND_EVENT, COMMAND_LOOK, COMMAND_UNHEARD, DATA_SIZE,
    DOORBELL_IDLE, DOORBELL_LOG, DOORBELL_NOTHING, DOORBELL_OFFER, DOORBELL_WAIT, EVENT_TIME,
    KIND_ERROR, KIND_RESPONSE, LOG_LEN, LOG_SIZE, MAX_META, OPEN, READING, READS_OUTPUT,
    REQUEST_ID_HEADER, REQUEST_ID_LEN, VIA_AGENT, WORKING,
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

impl Kind {
    fn number(self) -> u32 {
        match self {
            Self::Response => KIND_RESPONSE,
            Self::Error => KIND_ERROR,
        }
    }
}

/// What has become of the answer that [`Mailbox::give`] has taken last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Given {
    /// None was given since the last event.
    #[default]
    Nothing,
    /// It is in the pages, unless the agent has sent it.
    Held,
    /// The host has it.
    Sent,
}

/// The result of [`Mailbox::answer`] and [`Mailbox::await_event`].
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
    given: Given,
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
        let mut mailbox = Self {
            pages,
            output,
            given: Given::Nothing,
        };
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
        if !self.takes(meta, body) {
            return Answered::NotHere;
        }
        let later = self.pages.begin_answer(kind.number(), meta, body, false);
        match self.send(later) {
            true => self.wait(),
            false => Answered::NotHere,
        }
    }

    /// Answers the current invocation without waiting, for runtimes that run code of the function
    /// before they call [`await_event`](Self::await_event). Whatever that code does, the answer reaches
    /// the host: it is sent now, or it stays in the pages, where the agent finds it. Returns `false` if
    /// the mailbox can't be used for this answer: post it to the Runtime API. An event must not be
    /// answered twice here.
    pub fn give(&mut self, kind: Kind, meta: &[u8], body: &[u8]) -> bool {
        if !self.takes(meta, body) || self.pages.get(VIA_AGENT) != 0 {
            return false;
        }
        let fits = meta.len() + body.len() <= DATA_SIZE;
        let later = self.pages.begin_answer(kind.number(), meta, body, !fits);
        if fits {
            self.pages.hold();
        } else if !self.send(later) {
            return false;
        }
        self.given = if fits { Given::Held } else { Given::Sent };
        true
    }

    /// Sends the answer that [`give`](Self::give) has taken, and waits for what comes next.
    /// [`Answered::NotHere`]: the answer was not sent and has to be posted.
    pub fn await_event(&mut self) -> Answered {
        match std::mem::take(&mut self.given) {
            Given::Nothing => Answered::Agent,
            Given::Held if !self.pages.take_held() => Answered::Agent,
            Given::Held => match self.send(&[]) {
                true => self.wait(),
                false => Answered::NotHere,
            },
            Given::Sent => {
                self.pages.set(COMMAND, COMMAND_UNHEARD);
                self.pages.ring(DOORBELL_WAIT);
                self.wait()
            }
        }
    }

    /// Takes back the answer that [`give`](Self::give) has taken: `true` if it was not sent yet. Then
    /// the caller has to post it.
    pub fn take_back(&mut self) -> bool {
        let held = self.given == Given::Held && self.pages.take_held();
        if held {
            self.given = Given::Nothing;
        }
        held
    }

    fn takes(&self, meta: &[u8], body: &[u8]) -> bool {
        self.pages.get(OPEN) != 0 && meta.len() <= MAX_META && body.len() <= MAX_PAYLOAD
    }

    /// Sends the answer that was begun in the pages, with the output that precedes it, and the rest of
    /// its body, `later`. `false`: it has to go through the agent.
    fn send(&mut self, later: &[u8]) -> bool {
        self.pages.set(READING, 1);
        if self.pages.get(VIA_AGENT) != 0 {
            self.pages.set(READING, 0);
            return false;
        }
        let working = self.pages.get(WORKING);
        let answers = self.pages.get(ANSWERS);
        self.pages.set(WORKING, 0);
        self.pages.set(ANSWERS, answers.wrapping_add(1));
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
        if self.pages.get(COMMAND) == COMMAND_UNHEARD {
            // No host has heard the doorbell, so the answer was not taken.
            self.pages.set(OPEN, 0);
            self.pages.set(WORKING, working);
            self.pages.set(ANSWERS, answers);
            return false;
        }
        true
    }

    /// Waits for the next event.
    fn wait(&mut self) -> Answered {
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
                COMMAND_AGENT | COMMAND_UNHEARD => return Answered::Agent,
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

    /// A mailbox that no host serves, and its pages as the agent has them. Nothing here may ring.
    fn unserved() -> (Mailbox, Pages) {
        // SAFETY: the name is a string.
        let fd = unsafe { libc::memfd_create(c"test".as_ptr(), 0) };
        // SAFETY: changes the size of a file that nobody else has.
        assert_eq!(unsafe { libc::ftruncate(fd, 1 << 20) }, 0);
        let (pages, agents) = (Pages::map(fd).unwrap(), Pages::map(fd).unwrap());
        pages.set(OPEN, 1);
        let mailbox = Mailbox {
            pages,
            output: -1,
            given: Given::Nothing,
        };
        (mailbox, agents)
    }

    #[test]
    fn an_answer_that_was_given_is_sent_by_one_side_only() {
        let (mut mailbox, agents) = unserved();
        assert!(!agents.take_held());
        assert!(mailbox.give(Kind::Error, b"meta", b"body"));
        assert!(agents.take_held());
        let (kind, meta, body) = agents.held_answer();
        assert_eq!(
            (kind, &*meta, &*body),
            (KIND_ERROR, &b"meta"[..], &b"body"[..])
        );
        assert!(!agents.take_held() && !mailbox.take_back());
        assert_eq!(mailbox.await_event(), Answered::Agent);

        assert!(mailbox.give(Kind::Response, b"", b"x"));
        assert!(mailbox.take_back());
        assert!(!mailbox.take_back() && !agents.take_held());
    }

    #[test]
    fn no_answer_is_held_that_has_to_go_through_the_agent() {
        let (mut mailbox, agents) = unserved();
        agents.set(VIA_AGENT, 1);
        assert!(!mailbox.give(Kind::Response, b"", b"x"));
        agents.set(VIA_AGENT, 0);
        agents.set(OPEN, 0);
        assert!(!mailbox.give(Kind::Response, b"", b"x"));
        assert!(!agents.take_held());
    }

    #[test]
    fn a_process_that_was_given_none_has_no_mailbox() {
        assert!(Mailbox::open().is_none());
    }
}
