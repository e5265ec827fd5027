//! The host's end of the mailbox: the vCPU's own thread carries events and answers between the
//! controller's socket and the guest's pages. `hearth_protocol::mailbox` has the layout and the rules.
//!
//! While the guest waits for an event, its vCPU's thread is blocked in `poll` on the controller's
//! socket. An event costs one wake-up and one copy on its way to the guest, and an answer costs the
//! same on its way back.
//!
//! Everything in the pages is hostile: the guest may write any value, and ring in any state. So each
//! length is read once and checked, and payloads are never looked at here: the kernel copies them
//! between the socket and guest memory. The host touches the pages only while the vCPU does not run.
//! That is enough only if no other vCPU can change them, so [`Mailbox::register`] is never called in a
//! microVM that has several.

mod pages;
mod socket;

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::Duration;

use hearth_protocol::mailbox::{
    COMMAND, COMMAND_AGENT, COMMAND_EVENT, COMMAND_LOOK, COMMAND_WAIT, DATA_SIZE, DOORBELL_ANSWER,
    DOORBELL_IDLE, DOORBELL_LOG, DOORBELL_MORE, DOORBELL_OFFER, DOORBELL_TAKEN, DOORBELL_WAIT,
    EVENT_BODY, EVENT_META, EVENT_TIME, HEAD, Head, HeadError, LOG_LEN, LOG_SIZE, VIA_AGENT, What,
};
pub use pages::{MailboxPages, PagesError};
use serde::{Deserialize, Serialize};
pub use socket::MailboxSocket;
use socket::Polled;
use vmm_sys_util::eventfd::EventFd;

use crate::devices::virtio::guest_io;
use crate::memory::GuestMemory;

/// What the two ends are exchanging at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExchangeState {
    /// The runtime works on an event, or waits for one elsewhere.
    NotWaiting,
    /// The guest has received an event, except for this many bytes.
    Event(usize),
    /// The guest is sending an answer.
    Answer(AnswerRemainder),
    /// The guest waits for an event.
    Waiting,
}

/// The part of an answer that the guest has not sent yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AnswerRemainder {
    /// In bytes.
    left: usize,
    /// Whether the guest runs on after its answer instead of waiting for an event.
    goes_on: bool,
}

/// The part of a mailbox that belongs to the guest and goes into a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MailboxState {
    pages: MailboxPages,
    waiting: bool,
}

/// What the vCPU's thread does after the guest has rung the doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterRing {
    /// Runs the guest on.
    RunGuest,
    /// Waits for an event: the guest has sent its answer.
    WaitForEvent,
    /// Ends a kernel turn, if there is one: the guest reports that it has nothing to do.
    GuestIdle,
}

/// How the wait for the controller has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitEnd {
    /// An event is in the guest's pages.
    Event,
    /// The controller has sent the guest to its agent for the next event.
    TurnToAgent,
    /// The event loop wants the vCPU to stop.
    Stop,
    /// The time limit has passed.
    TimedOut,
}

/// Why a mailbox can't be used any longer. Each of these ends the microVM.
#[derive(Debug, thiserror::Error)]
pub enum MailboxError {
    /// The socket failed.
    #[error("the mailbox's socket: {0}")]
    Socket(#[from] io::Error),
    /// The controller closed it.
    #[error("the mailbox's socket was closed")]
    Closed,
    /// The event loop stopped the vCPU in the middle of an exchange. It does so only to pause or
    /// end a microVM whose exchange is not needed any more.
    #[error("the vCPU was stopped in the middle of an exchange at the mailbox")]
    Stopped,
    /// The controller broke the protocol.
    #[error("from the controller: {0}")]
    Head(#[from] HeadError),
    /// The guest broke the protocol.
    #[error("the guest rang {value} at its mailbox in the state {state}")]
    Ring {
        /// The value that it rang.
        value: u32,
        /// The state of the exchange.
        state: String,
    },
    /// The guest registered other pages while bytes were on their way to or from the present ones.
    #[error("the guest registered its mailbox again in the state {0}")]
    Registered(String),
    /// The controller sent more than one message at a time.
    #[error("the controller sent {0} bytes after a message, before the guest's reply")]
    Surplus(usize),
    /// The lengths or the kind of an answer are out of range.
    #[error(
        "the guest gave an answer of kind {kind} with {meta} + {body} bytes and {log} bytes of output at the mailbox"
    )]
    Answer {
        /// The claimed kind.
        kind: u32,
        /// Bytes of headers.
        meta: u32,
        /// Bytes of body.
        body: u32,
        /// Bytes of output.
        log: u32,
    },
    /// A page of the mailbox is not in the guest's RAM.
    #[error(transparent)]
    Pages(#[from] PagesError),
}

/// The host's end of a microVM's mailbox.
#[derive(Debug)]
pub struct Mailbox {
    socket: MailboxSocket,
    pages: Option<MailboxPages>,
    state: ExchangeState,
}

impl Mailbox {
    /// A mailbox that the guest has not registered yet.
    pub fn new(socket: MailboxSocket) -> Self {
        Self {
            socket,
            pages: None,
            state: ExchangeState::NotWaiting,
        }
    }

    /// A mailbox in the state that a snapshot has recorded.
    pub fn restore(
        socket: MailboxSocket,
        state: Option<&MailboxState>,
        memory: &GuestMemory,
    ) -> Result<Self, MailboxError> {
        let mut mailbox = Self::new(socket);
        if let Some(state) = state {
            state.pages.check(memory)?;
            mailbox.pages = Some(state.pages.clone());
            if state.waiting {
                mailbox.state = ExchangeState::Waiting;
            }
        }
        Ok(mailbox)
    }

    /// The state for a snapshot; `None` if the guest has not registered a mailbox. An exchange in
    /// progress is not saved: after a restore there is another controller socket, which knows
    /// nothing of it.
    pub fn save(&self) -> Option<MailboxState> {
        Some(MailboxState {
            pages: self.pages.clone()?,
            waiting: self.state == ExchangeState::Waiting,
        })
    }

    /// The guest registers its pages: `frame` is the frame number of the header page. This is
    /// refused while bytes are on their way. Otherwise the controller would take the next message
    /// for the rest of an answer, or this side would take the rest of an event for the controller's
    /// next message.
    pub fn register(&mut self, memory: &GuestMemory, frame: u32) -> Result<(), MailboxError> {
        if let ExchangeState::Event(1..) | ExchangeState::Answer(_) = self.state {
            return Err(MailboxError::Registered(format!("{:?}", self.state)));
        }
        self.pages = Some(MailboxPages::find(memory, frame)?);
        self.state = ExchangeState::NotWaiting;
        Ok(())
    }

    /// A second descriptor of the eventfd that wakes a waiting thread.
    pub fn waker(&self) -> io::Result<EventFd> {
        self.socket.wake.try_clone()
    }

    /// Whether the guest waits at the mailbox for an event.
    pub fn is_waiting(&self) -> bool {
        self.state == ExchangeState::Waiting
    }

    /// The guest has rung the doorbell. `quiet`: the function can't have written any output since
    /// the last answer.
    pub fn ring(
        &mut self,
        memory: &GuestMemory,
        value: u32,
        quiet: bool,
    ) -> Result<AfterRing, MailboxError> {
        let Some(pages) = &self.pages else {
            // No mailbox is registered: ignore the doorbell. The guest sees that its pages are
            // unchanged.
            return Ok(AfterRing::RunGuest);
        };
        let value = match (value, quiet) {
            (DOORBELL_OFFER, true) => DOORBELL_ANSWER,
            (DOORBELL_OFFER, false) => {
                pages.set(memory, COMMAND, COMMAND_LOOK)?;
                return Ok(AfterRing::RunGuest);
            }
            _ => value,
        };
        match (value, self.state) {
            (
                DOORBELL_ANSWER | DOORBELL_MORE,
                ExchangeState::NotWaiting | ExchangeState::Event(0) | ExchangeState::Answer(_),
            ) => {
                let rest = match self.state {
                    ExchangeState::Answer(rest) => {
                        self.socket.send_next_chunk(memory, pages, rest)?
                    }
                    _ => self.socket.begin_answer(memory, pages)?,
                };
                if (rest.left == 0) != (value == DOORBELL_ANSWER) {
                    return Err(self.refuse(value));
                }
                pages.set(memory, COMMAND, COMMAND_WAIT)?;
                if rest.left > 0 {
                    self.state = ExchangeState::Answer(rest);
                    return Ok(AfterRing::RunGuest);
                }
                if rest.goes_on {
                    self.state = ExchangeState::NotWaiting;
                    return Ok(AfterRing::RunGuest);
                }
                self.state = ExchangeState::Waiting;
                Ok(AfterRing::WaitForEvent)
            }
            (DOORBELL_WAIT, ExchangeState::NotWaiting | ExchangeState::Event(0)) => {
                self.socket
                    .send(memory, pages, Head::bare(What::Waits), 0)?;
                pages.set(memory, COMMAND, COMMAND_WAIT)?;
                self.state = ExchangeState::Waiting;
                Ok(AfterRing::WaitForEvent)
            }
            (DOORBELL_LOG, ExchangeState::NotWaiting | ExchangeState::Event(0)) => {
                let log = pages.get(memory, LOG_LEN)?;
                if log as usize > LOG_SIZE {
                    return Err(self.refuse(value));
                }
                let head = Head {
                    log,
                    ..Head::bare(What::Output)
                };
                self.socket.send(memory, pages, head, 0)?;
                Ok(AfterRing::RunGuest)
            }
            (DOORBELL_TAKEN, ExchangeState::Event(left @ 1..)) => {
                let chunk = left.min(DATA_SIZE);
                self.socket.fill(memory, pages, 0, chunk)?;
                self.state = ExchangeState::Event(left - chunk);
                Ok(AfterRing::RunGuest)
            }
            (DOORBELL_IDLE, ExchangeState::Waiting) => Ok(AfterRing::GuestIdle),
            (
                DOORBELL_ANSWER | DOORBELL_MORE | DOORBELL_LOG | DOORBELL_TAKEN | DOORBELL_WAIT,
                _,
            ) => Err(self.refuse(value)),
            // [`DOORBELL_NOTHING`](hearth_protocol::mailbox::DOORBELL_NOTHING), or a value of
            // another version.
            _ => Ok(AfterRing::RunGuest),
        }
    }

    fn refuse(&self, value: u32) -> MailboxError {
        MailboxError::Ring {
            value,
            state: format!("{:?}", self.state),
        }
    }

    /// Waits until the controller has something for the waiting guest, `limit` has passed, or the
    /// event loop wakes the thread.
    pub fn wait(
        &mut self,
        memory: &GuestMemory,
        limit: Option<Duration>,
    ) -> Result<WaitEnd, MailboxError> {
        let limit = limit.map_or(-1, |limit| {
            i32::try_from(limit.as_millis()).unwrap_or(i32::MAX)
        });
        loop {
            match self.socket.poll(libc::POLLIN, limit)? {
                Polled::Stop => return Ok(WaitEnd::Stop),
                Polled::TimedOut => return Ok(WaitEnd::TimedOut),
                Polled::Controller => {}
            }
            if let Some(woken) = self.try_receive(memory)? {
                return Ok(woken);
            }
        }
    }

    /// Makes a waiting guest take its next event from its agent.
    fn turn_to_agent(&mut self, memory: &GuestMemory) -> Result<(), MailboxError> {
        if let (ExchangeState::Waiting, Some(pages)) = (self.state, &self.pages) {
            pages.set(memory, COMMAND, COMMAND_AGENT)?;
            self.state = ExchangeState::NotWaiting;
        }
        Ok(())
    }

    /// The vCPU is about to run for another reason than an event. A message that the controller
    /// sent before that is delivered first: if it stayed in the socket, it would later be taken for
    /// the reply to the guest's next message.
    pub fn resume(&mut self, memory: &GuestMemory) -> Result<(), MailboxError> {
        if self.state == ExchangeState::Waiting && self.try_receive(memory)?.is_none() {
            self.turn_to_agent(memory)?;
        }
        Ok(())
    }

    /// Delivers what the controller has sent to the waiting guest. Does not wait; `None` if nothing
    /// is there.
    pub fn try_receive(&mut self, memory: &GuestMemory) -> Result<Option<WaitEnd>, MailboxError> {
        let Some(pages) = &self.pages else {
            return Ok(None);
        };
        let mut head = [0; HEAD];
        let data = pages.data();
        let read = guest_io::read_stream_after(
            self.socket.controller.as_fd(),
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
        // The controller sends a head together with what follows, and a socket never splits so few
        // bytes.
        let have = read
            .checked_sub(HEAD)
            .ok_or_else(|| io::Error::from(ErrorKind::UnexpectedEof))?;
        let head = Head::decode(&head)?;
        match head.what {
            What::Payload if head.log == 0 => {}
            What::Agent if head.rest() == 0 => {
                refuse_surplus(have)?;
                self.turn_to_agent(memory)?;
                return Ok(Some(WaitEnd::TurnToAgent));
            }
            _ => return Err(HeadError::What(0).into()),
        }
        let total = (head.meta + head.body) as usize;
        let first = total.min(DATA_SIZE);
        refuse_surplus(have.saturating_sub(first))?;
        self.socket.fill(memory, pages, have, first)?;
        pages.set(memory, EVENT_META, head.meta)?;
        pages.set(memory, EVENT_BODY, head.body)?;
        pages.set(memory, VIA_AGENT, 0)?;
        pages.set_time(memory, EVENT_TIME)?;
        pages.set(memory, COMMAND, COMMAND_EVENT)?;
        self.state = ExchangeState::Event(total - first);
        Ok(Some(WaitEnd::Event))
    }
}

/// The controller sends one message and waits for the guest's reply. Extra bytes are a protocol
/// error, because nothing would read them.
fn refuse_surplus(surplus: usize) -> Result<(), MailboxError> {
    match surplus {
        0 => Ok(()),
        _ => Err(MailboxError::Surplus(surplus)),
    }
}

#[cfg(test)]
mod tests;
