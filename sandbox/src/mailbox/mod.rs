//! The host's side of the mailbox: between the owner's socket and the guest's pages, on the vCPU's
//! own thread. A vCPU that waits for its next event is a thread that waits for this socket: from the
//! owner to the guest it is one wake-up and one copy, and the same back.
//!
//! Everything in the pages is the guest's, which may write what it likes, and ring when it likes.
//! Each length is read once and checked; payloads are never looked at here, the kernel copies them
//! between socket and guest memory. While the vCPU runs nothing here touches them: that the guest
//! has the only vCPU is what [`Mailbox::register`] insists on by never being given one of several.

mod line;
mod place;

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::Duration;

use hearth_protocol::mailbox::{
    COMMAND, COMMAND_AGENT, COMMAND_EVENT, COMMAND_LOOK, COMMAND_WAIT, DATA_SIZE, DOORBELL_ANSWER,
    DOORBELL_IDLE, DOORBELL_LOG, DOORBELL_MORE, DOORBELL_OFFER, DOORBELL_TAKEN, DOORBELL_WAIT,
    EVENT_BODY, EVENT_META, EVENT_TIME, HEAD, Head, HeadError, LOG_LEN, LOG_SIZE, VIA_AGENT, What,
};
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use crate::devices::virtio::guest_io;
use crate::memory::GuestMemory;

use line::Polled;

pub use line::Line;
pub use place::{Place, PlaceError};

/// Where an exchange stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The runtime works, or waits somewhere else.
    Away,
    /// It has an event, of which so many bytes have still to come.
    Event(usize),
    /// It gives an answer.
    Answer(Rest),
    /// It waits here.
    Waiting,
}

/// What is to come of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rest {
    /// Bytes.
    left: usize,
    /// Whether the guest goes on then, and does not wait.
    goes_on: bool,
}

/// What the guest has to do with it, for a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MailboxState {
    place: Place,
    waiting: bool,
}

/// What a ring leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rang {
    /// The guest goes on.
    GoOn,
    /// There is nothing for the guest to do: it has answered, and waits.
    Waits,
    /// The guest has found nothing to do.
    Idle,
}

/// What ended the wait for the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// An event is in the guest's pages.
    Event,
    /// The guest shall go on by itself.
    Agent,
    /// The thread is wanted.
    Stop,
    /// The time that it was to wait.
    Nothing,
}

/// Why a mailbox can't be used any longer, and with it the microVM.
#[derive(Debug, thiserror::Error)]
pub enum MailboxError {
    /// The socket failed.
    #[error("the mailbox's socket: {0}")]
    Socket(#[from] io::Error),
    /// The owner closed it.
    #[error("the mailbox's socket was closed")]
    Closed,
    /// The vCPU was to stop in the middle of an exchange: whoever wants that does not want the rest.
    #[error("stopped in the middle of an exchange at the mailbox")]
    Stopped,
    /// The owner broke the rules.
    #[error("from the owner: {0}")]
    Head(#[from] HeadError),
    /// The guest broke the rules.
    #[error("the guest rang {value} at its mailbox in the state {state}")]
    Ring {
        /// What it rang.
        value: u32,
        /// When.
        state: String,
    },
    /// The guest names other pages while bytes are under way to or from those that it had.
    #[error("the guest registered its mailbox again in the state {0}")]
    Registered(String),
    /// The owner said more than one thing at a time.
    #[error("{0} bytes from the owner behind a message")]
    Surplus(usize),
    /// A length that can't be one.
    #[error(
        "an answer of {meta} + {body} bytes with {log} of output, of kind {kind}, at the mailbox"
    )]
    Answer {
        /// What it claims to be.
        kind: u32,
        /// Bytes of headers.
        meta: u32,
        /// Bytes of body.
        body: u32,
        /// Bytes of output.
        log: u32,
    },
    /// Its pages are no memory.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

/// A microVM's mailbox.
#[derive(Debug)]
pub struct Mailbox {
    line: Line,
    place: Option<Place>,
    state: State,
}

impl Mailbox {
    /// A mailbox that the guest has not registered yet.
    pub fn new(line: Line) -> Self {
        Self {
            line,
            place: None,
            state: State::Away,
        }
    }

    /// A mailbox as a snapshot left it.
    pub fn restore(
        line: Line,
        state: Option<&MailboxState>,
        memory: &GuestMemory,
    ) -> Result<Self, MailboxError> {
        let mut mailbox = Self::new(line);
        if let Some(state) = state {
            state.place.check(memory)?;
            mailbox.place = Some(state.place.clone());
            if state.waiting {
                mailbox.state = State::Waiting;
            }
        }
        Ok(mailbox)
    }

    /// For a snapshot. An exchange under way is not carried on: its owner is another one then.
    pub fn save(&self) -> Option<MailboxState> {
        Some(MailboxState {
            place: self.place.clone()?,
            waiting: self.state == State::Waiting,
        })
    }

    /// The guest says where its pages are: the frame number of the first. Not while bytes are under
    /// way: the owner would take what comes next for the rest of an answer, and the rest of an event
    /// would be taken for the owner's next word.
    pub fn register(&mut self, memory: &GuestMemory, frame: u32) -> Result<(), MailboxError> {
        if let State::Event(1..) | State::Answer(_) = self.state {
            return Err(MailboxError::Registered(format!("{:?}", self.state)));
        }
        self.place = Some(Place::find(memory, frame)?);
        self.state = State::Away;
        Ok(())
    }

    /// Another end of what wakes a thread that waits.
    pub fn waker(&self) -> io::Result<EventFd> {
        self.line.wake.try_clone()
    }

    /// Whether the guest waits here.
    pub fn is_waiting(&self) -> bool {
        self.state == State::Waiting
    }

    /// The guest rang. `quiet`: nothing can have been written to the function's output since the last
    /// answer.
    pub fn ring(
        &mut self,
        memory: &GuestMemory,
        value: u32,
        quiet: bool,
    ) -> Result<Rang, MailboxError> {
        let Some(place) = &self.place else {
            // Nobody is at that port. It finds that nobody has written to its pages.
            return Ok(Rang::GoOn);
        };
        let value = match (value, quiet) {
            (DOORBELL_OFFER, true) => DOORBELL_ANSWER,
            (DOORBELL_OFFER, false) => {
                place.set(memory, COMMAND, COMMAND_LOOK)?;
                return Ok(Rang::GoOn);
            }
            _ => value,
        };
        match (value, self.state) {
            (DOORBELL_ANSWER | DOORBELL_MORE, State::Away | State::Event(0) | State::Answer(_)) => {
                let rest = match self.state {
                    State::Answer(rest) => self.line.pass_on(memory, place, rest)?,
                    _ => self.line.begin_answer(memory, place)?,
                };
                if (rest.left == 0) != (value == DOORBELL_ANSWER) {
                    return Err(self.refuse(value));
                }
                place.set(memory, COMMAND, COMMAND_WAIT)?;
                if rest.left > 0 {
                    self.state = State::Answer(rest);
                    return Ok(Rang::GoOn);
                }
                if rest.goes_on {
                    self.state = State::Away;
                    return Ok(Rang::GoOn);
                }
                self.state = State::Waiting;
                Ok(Rang::Waits)
            }
            (DOORBELL_WAIT, State::Away | State::Event(0)) => {
                self.line.send(memory, place, Head::bare(What::Waits), 0)?;
                place.set(memory, COMMAND, COMMAND_WAIT)?;
                self.state = State::Waiting;
                Ok(Rang::Waits)
            }
            (DOORBELL_LOG, State::Away | State::Event(0)) => {
                let log = place.get(memory, LOG_LEN)?;
                if log as usize > LOG_SIZE {
                    return Err(self.refuse(value));
                }
                let head = Head {
                    log,
                    ..Head::bare(What::Output)
                };
                self.line.send(memory, place, head, 0)?;
                Ok(Rang::GoOn)
            }
            (DOORBELL_TAKEN, State::Event(left @ 1..)) => {
                let chunk = left.min(DATA_SIZE);
                self.line.fill(memory, place, 0, chunk)?;
                self.state = State::Event(left - chunk);
                Ok(Rang::GoOn)
            }
            (DOORBELL_IDLE, State::Waiting) => Ok(Rang::Idle),
            (
                DOORBELL_ANSWER | DOORBELL_MORE | DOORBELL_LOG | DOORBELL_TAKEN | DOORBELL_WAIT,
                _,
            ) => Err(self.refuse(value)),
            // Nothing, or of another version.
            _ => Ok(Rang::GoOn),
        }
    }

    fn refuse(&self, value: u32) -> MailboxError {
        MailboxError::Ring {
            value,
            state: format!("{:?}", self.state),
        }
    }

    /// Waits for what the owner has for a guest that waits; not for ever, if there is a `limit`.
    pub fn wait(
        &mut self,
        memory: &GuestMemory,
        limit: Option<Duration>,
    ) -> Result<Woken, MailboxError> {
        let limit = limit.map_or(-1, |limit| {
            i32::try_from(limit.as_millis()).unwrap_or(i32::MAX)
        });
        loop {
            match self.line.poll(libc::POLLIN, limit)? {
                Polled::Wake => return Ok(Woken::Stop),
                Polled::Nothing => return Ok(Woken::Nothing),
                Polled::Owner => {}
            }
            if let Some(woken) = self.look(memory)? {
                return Ok(woken);
            }
        }
    }

    /// A guest that waits shall turn to its agent.
    fn leave(&mut self, memory: &GuestMemory) -> Result<(), MailboxError> {
        if let (State::Waiting, Some(place)) = (self.state, &self.place) {
            place.set(memory, COMMAND, COMMAND_AGENT)?;
            self.state = State::Away;
        }
        Ok(())
    }

    /// The vCPU is about to run by other means than an event. What the owner said before that still
    /// counts: left where it is, it would be taken for an answer to what the guest says next.
    pub fn resume(&mut self, memory: &GuestMemory) -> Result<(), MailboxError> {
        if self.state == State::Waiting && self.look(memory)?.is_none() {
            self.leave(memory)?;
        }
        Ok(())
    }

    /// Takes what the owner has for a guest that waits, without waiting; `None` if that is nothing.
    pub fn look(&mut self, memory: &GuestMemory) -> Result<Option<Woken>, MailboxError> {
        let Some(place) = &self.place else {
            return Ok(None);
        };
        let mut head = [0; HEAD];
        let data = place.data();
        let read = guest_io::read_stream_after(
            self.line.owner.as_fd(),
            &mut head,
            memory,
            data,
            DATA_SIZE,
        );
        let read = match read {
            Ok(0) => return Err(MailboxError::Closed),
            Ok(read) => read,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(None);
            }
            Err(e) => return Err(e.into()),
        };
        // The owner sends a head with what follows, and a socket never cuts so few bytes.
        let have = read
            .checked_sub(HEAD)
            .ok_or_else(|| io::Error::from(ErrorKind::UnexpectedEof))?;
        let head = Head::decode(&head)?;
        match head.what {
            What::Payload if head.log == 0 => {}
            What::Agent if head.rest() == 0 => {
                no_more(have)?;
                self.leave(memory)?;
                return Ok(Some(Woken::Agent));
            }
            _ => return Err(HeadError::What(0).into()),
        }
        let total = (head.meta + head.body) as usize;
        let first = total.min(DATA_SIZE);
        no_more(have.saturating_sub(first))?;
        self.line.fill(memory, place, have, first)?;
        place.set(memory, EVENT_META, head.meta)?;
        place.set(memory, EVENT_BODY, head.body)?;
        place.set(memory, VIA_AGENT, 0)?;
        place.set_time(memory, EVENT_TIME)?;
        place.set(memory, COMMAND, COMMAND_EVENT)?;
        self.state = State::Event(total - first);
        Ok(Some(Woken::Event))
    }
}

/// The owner says one thing and then waits. What it says too early would be lost here.
fn no_more(surplus: usize) -> Result<(), MailboxError> {
    match surplus {
        0 => Ok(()),
        _ => Err(MailboxError::Surplus(surplus)),
    }
}

#[cfg(test)]
mod tests;
