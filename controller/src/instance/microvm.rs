//! A microVM as its owner sees it: commands go in, events come out.
//!
//! All sockets belong to one value and are read by one caller, so there is nothing to lock. What
//! is sent to the agent is queued and written while [`MicroVm::next`] waits: a guest that does not
//! read its 6 MB event while it floods its log can't bring both sides to a standstill.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hearth_protocol::agent::{
    AgentMessage, Frame, FrameDecoder, FrameError, HostMessage, MessageError,
};
use hearth_protocol::guest::MAX_PAYLOAD;
use hearth_protocol::sandbox::{
    ControlError, Event, Exited, Message, Outcome, Refusal, Reply, Request, Status, decode, encode,
};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, Sleep, sleep_until};

use super::errand::Errand;
use super::mailbox::{Mailbox, MailboxError, MailboxWord};
use super::memory::OwnPages;
use super::process::SandboxProcess;
use super::stream::Stream;

/// Messages of the agent that may come in while a command's reply is awaited.
const MAX_STASH: usize = 256;
/// Bytes of payload that they may have together: one message may have as many, and what comes then
/// from a guest that means well is a few lines.
const MAX_STASHED: usize = MAX_PAYLOAD;

/// Longest time from the end of a process's control channel to that of what comes from its guest.
/// A process that ends closes all of them within milliseconds.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a microVM has to say.
#[derive(Debug)]
pub(crate) enum VmEvent {
    /// The agent, through the vsock connection.
    Agent(AgentMessage),
    /// The runtime, at its mailbox.
    Mailbox(MailboxWord),
    /// The sandbox, to a command.
    Reply(Reply),
    /// The vCPU time of the last `Resume` is used up; the microVM is paused.
    CpuBudgetExhausted,
    /// The process is about to end.
    Exited(Exited),
}

/// What kind of event it is, and nothing of what the guest put into it: that may be megabytes, and
/// is a tenant's own.
impl fmt::Display for VmEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent(message) => match message {
                AgentMessage::Hello(_) => "Hello",
                AgentMessage::Pong(_) => "Pong",
                AgentMessage::Thawed => "Thawed",
                AgentMessage::RestoreFailed(..) => "RestoreFailed",
                AgentMessage::Ready(_) => "Ready",
                AgentMessage::Inspected(_) => "Inspected",
                AgentMessage::InitFailed(..) => "InitFailed",
                AgentMessage::Response(..) => "Response",
                AgentMessage::ResponseStart(_) => "ResponseStart",
                AgentMessage::ResponseChunk(_) => "ResponseChunk",
                AgentMessage::ResponseEnd(..) => "ResponseEnd",
                AgentMessage::FunctionError(..) => "FunctionError",
                AgentMessage::Log(..) => "Log",
                AgentMessage::RuntimeExited(_) => "RuntimeExited",
                AgentMessage::Left => "Left",
                AgentMessage::Fatal(_) => "Fatal",
            },
            Self::Mailbox(MailboxWord::Output(_)) => "output at its mailbox",
            Self::Mailbox(MailboxWord::Answer(_)) => "an answer at its mailbox",
            Self::Mailbox(MailboxWord::Waits) => "that it waits at its mailbox",
            Self::Reply(_) => "a reply to a command",
            Self::CpuBudgetExhausted => "that its CPU time is used up",
            Self::Exited(_) => "that it ends",
        })
    }
}

/// Why a microVM is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VmError {
    /// The sandbox's process has ended without a word.
    #[error("the sandbox's process ended")]
    Gone,
    /// The process said that it ends.
    #[error("the microVM ended: {:?}: {}", .0.reason, .0.detail)]
    Exited(Exited),
    /// A socket failed.
    #[error("socket to the sandbox: {0}")]
    Io(#[from] io::Error),
    /// The sandbox does not read its commands.
    #[error("the sandbox does not read its commands")]
    Stuck,
    /// The control channel carried something else than messages.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The guest sent something that is no frame.
    #[error("from the guest: {0}")]
    Frame(#[from] FrameError),
    /// The guest sent a frame that is no message.
    #[error("from the guest: {0}")]
    Message(#[from] MessageError),
    /// A reply to no command, or a second one.
    #[error("a reply to command {got} after that to command {last}")]
    ForeignReply {
        /// Its number.
        got: u64,
        /// The one before it.
        last: u64,
    },
    /// The mailbox carried what it should not.
    #[error("from the guest: {0}")]
    Mailbox(#[from] MailboxError),
    /// The guest said what makes no sense now.
    #[error("from the guest: {0}")]
    Unexpected(String),
    /// The sandbox would not.
    #[error("the sandbox refused ({:?}): {}", .0.kind, .0.message)]
    Refused(Refusal),
    /// Something took longer than it may.
    #[error("{0} took longer than {1:?}")]
    Late(&'static str, Duration),
}

/// What is known of a function's memory where its agent is not asked.
#[derive(Debug, Default)]
struct Memory {
    pages: OwnPages,
    /// The peak that the agent knew of last.
    peak: u64,
    /// What the process had of its own when that became known; nothing when it was restored after its
    /// function's init.
    own: u64,
}

/// A sandbox process and the ends of what connects to it. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct MicroVm {
    control: UnixStream,
    control_in: BytesMut,
    /// When its control channel had ended, how long there may still come something from its guest.
    ending: Option<Instant>,
    agent: Stream,
    stash: VecDeque<AgentMessage>,
    /// Bytes of payload in it.
    stashed: usize,
    decoder: FrameDecoder,
    mailbox: Option<Mailbox>,
    memory: Memory,
    next_id: u64,
    last_reply: u64,
    /// See [`Self::next_by`].
    alarm: Option<Pin<Box<Sleep>>>,
    process: Box<dyn SandboxProcess>,
}

impl MicroVm {
    /// A microVM behind its process's sockets. Must be called within a runtime, which watches them from
    /// then on.
    pub(crate) fn new(
        control: StdUnixStream,
        agent: StdUnixStream,
        mailbox: Option<Mailbox>,
        process: Box<dyn SandboxProcess>,
    ) -> io::Result<Self> {
        control.set_nonblocking(true)?;
        Ok(Self {
            control: UnixStream::from_std(control)?,
            control_in: BytesMut::new(),
            ending: None,
            agent: Stream::new(agent)?,
            stash: VecDeque::new(),
            stashed: 0,
            decoder: FrameDecoder::new(MAX_PAYLOAD),
            mailbox,
            memory: Memory::default(),
            next_id: 1,
            last_reply: 0,
            alarm: None,
            process,
        })
    }

    pub(crate) fn process(&self) -> &dyn SandboxProcess {
        self.process.as_ref()
    }

    /// Writes a command and does not wait. The number is its reply's.
    pub(crate) fn submit(&mut self, errand: impl Into<Errand>) -> Result<u64, VmError> {
        let Errand { command, files } = errand.into();
        let id = self.next_id;
        self.next_id += 1;
        let bytes = encode(&Request { id, command })?;
        // Commands are a few hundred bytes, the socket's buffer takes hundreds of kilobytes, and
        // one command is under way at a time: a write that does not fit means a stuck reader.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let raw: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[] } else { &rights[..] };
        let pieces = [IoSlice::new(&bytes)];
        match sendmsg::<()>(self.control.as_raw_fd(), &pieces, rights, flags, None) {
            Ok(written) if written == bytes.len() => Ok(id),
            Ok(_) | Err(Errno::EAGAIN) => Err(VmError::Stuck),
            Err(Errno::EPIPE | Errno::ECONNRESET) => Err(VmError::Gone),
            Err(errno) => Err(VmError::Io(errno.into())),
        }
    }

    /// Queues messages to the agent and writes what fits, all in one system call if it does.
    pub(crate) fn send<const N: usize>(
        &mut self,
        messages: [HostMessage; N],
    ) -> Result<(), VmError> {
        let mut small = BytesMut::new();
        for message in messages {
            let frame = Frame::from(message);
            if frame.payload.len() <= 4096 {
                frame.encode(&mut small)?;
            } else {
                frame.encode_head(&mut small)?;
                self.agent.queue(small.split().freeze());
                self.agent.queue(frame.payload);
            }
        }
        if !small.is_empty() {
            self.agent.queue(small.freeze());
        }
        Ok(self.agent.flush()?)
    }

    /// Gives an event to a runtime that waits at its mailbox.
    pub(crate) fn give(&mut self, headers: &str, event: Bytes) -> Result<(), VmError> {
        match &mut self.mailbox {
            Some(mailbox) => Ok(mailbox.give(headers, event)?),
            None => Err(VmError::Unexpected("it has no mailbox".into())),
        }
    }

    /// Sends a runtime that waits at its mailbox to its agent. Its vCPU runs then.
    pub(crate) fn release(&mut self) -> Result<(), VmError> {
        match &mut self.mailbox {
            Some(mailbox) => Ok(mailbox.release()?),
            None => Ok(()),
        }
    }

    /// An estimate of the most memory that the function has had, in bytes: what its agent saw last,
    /// and by how much its process has grown since.
    pub(crate) fn peak_memory(&mut self, known: u64) -> u64 {
        let memory = &mut self.memory;
        let own = memory.pages.bytes(self.process.pid()).unwrap_or(0);
        if memory.peak == 0 {
            memory.peak = known;
        } else if known > memory.peak {
            (memory.peak, memory.own) = (known, own);
        }
        memory.peak + own.saturating_sub(memory.own)
    }

    /// Says that the function's init has just ended in this process. What it has of its own by now is
    /// part of the peak that the agent knows of, and would be counted twice.
    pub(crate) fn has_initialized(&mut self) {
        let memory = &mut self.memory;
        memory.own = memory.pages.bytes(self.process.pid()).unwrap_or(0);
    }

    /// Waits for what the microVM says next. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<VmEvent, VmError> {
        if let Some(message) = self.stash.pop_front() {
            if self.stash.is_empty() {
                self.stashed = 0;
            }
            return Ok(VmEvent::Agent(message));
        }
        self.next_unstashed().await
    }

    /// The same, but not for longer than until `limit`: then `None`.
    ///
    /// The timer is kept and put off. One that is made anew for each invocation, and is due before all
    /// others, wakes the runtime's timer thread each time so that it sleeps less long.
    pub(crate) async fn next_by(
        &mut self,
        limit: std::time::Instant,
    ) -> Option<Result<VmEvent, VmError>> {
        let mut alarm = match self.alarm.take() {
            Some(mut alarm) => {
                alarm.as_mut().reset(limit.into());
                alarm
            }
            None => Box::pin(sleep_until(limit.into())),
        };
        let event = tokio::select! {
            biased;
            event = self.next() => Some(event),
            () = &mut alarm => None,
        };
        self.alarm = Some(alarm);
        event
    }

    async fn next_unstashed(&mut self) -> Result<VmEvent, VmError> {
        // A guest that never stops talking is always ready to be read. Without this its conversation
        // would never give up the thread, and no limit around it would ever be looked at.
        consume_budget().await;
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.agent.inbox)? {
                return Ok(VmEvent::Agent(AgentMessage::try_from(frame)?));
            }
            if let Some(mailbox) = &mut self.mailbox
                && let Some(word) = mailbox.next()?
            {
                return Ok(VmEvent::Mailbox(word));
            }
            if let Some(message) = decode::<Message>(&mut self.control_in)? {
                return Ok(match message {
                    Message::Reply(reply) => {
                        self.check_order(&reply)?;
                        VmEvent::Reply(reply)
                    }
                    Message::Event(Event::CpuBudgetExhausted) => VmEvent::CpuBudgetExhausted,
                    Message::Event(Event::Exited(exited)) => VmEvent::Exited(exited),
                });
            }
            self.fill().await?;
        }
    }

    /// Replies come in the order of their commands, each once.
    fn check_order(&mut self, reply: &Reply) -> Result<(), VmError> {
        if reply.id <= self.last_reply || reply.id >= self.next_id {
            return Err(VmError::ForeignReply {
                got: reply.id,
                last: self.last_reply,
            });
        }
        self.last_reply = reply.id;
        Ok(())
    }

    /// Reads more bytes from any socket, and writes queued ones.
    async fn fill(&mut self) -> Result<(), VmError> {
        let mut mailbox = self
            .mailbox
            .as_mut()
            .map(|mailbox| &mut mailbox.stream)
            .filter(|stream| stream.is_open());
        let mut agent = Some(&mut self.agent).filter(|stream| stream.is_open());
        if self.ending.is_some() && mailbox.is_none() && agent.is_none() {
            return Err(VmError::Gone);
        }
        let ends = async {
            match self.ending {
                Some(limit) => {
                    sleep_until(limit).await;
                    Err(VmError::Gone)
                }
                None => Ok(self.control.readable().await?),
            }
        };
        // The guest first: its last words must be heard before the news that it is gone.
        tokio::select! {
            biased;
            told = go_on(&mut mailbox) => return told,
            said = go_on(&mut agent) => return said,
            ends = ends => ends?,
        }
        match self.control.try_read_buf(&mut self.control_in) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => {
                return Err(error.into());
            }
            // The sockets end in no order, and only the last tells what was said and what was read.
            Ok(0) | Err(_) => self.ending = Some(Instant::now() + LAST_WORDS),
        }
        Ok(())
    }

    /// Whether the process ended before it had read what was sent to its agent last.
    pub(crate) fn agent_left_unread(&self) -> bool {
        self.agent.left_unread()
    }

    /// The same of its mailbox.
    pub(crate) fn mailbox_left_unread(&self) -> bool {
        let mailbox = self.mailbox.as_ref();
        mailbox.is_some_and(|mailbox| mailbox.stream.left_unread())
    }

    /// Whether the process lives and has said nothing: true of a shell that waits. Something to
    /// read means that it has ended, or is no shell.
    pub(crate) fn is_silent(&mut self) -> bool {
        let mut byte = [0; 1];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        recv(self.control.as_raw_fd(), &mut byte, flags) == Err(Errno::EAGAIN)
    }

    /// The same, waking `context` when it becomes false.
    pub(crate) fn poll_silent(&self, context: &mut Context<'_>) -> bool {
        loop {
            if self.control.poll_read_ready(context).is_pending() {
                return true;
            }
            // Readiness may be left over from what was read before: only the kernel knows.
            let peeked = self.control.try_io(Interest::READABLE, || {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
                recv(self.control.as_raw_fd(), &mut [0; 1], flags).map_err(io::Error::from)
            });
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return false,
            }
        }
    }

    /// Sends a command and waits for its reply. What the agent says meanwhile is kept for `next`.
    pub(crate) async fn command(
        &mut self,
        errand: impl Into<Errand>,
    ) -> Result<Option<Status>, VmError> {
        let awaited = match self.submit(errand) {
            // It can't be asked any more, but it may have said why: that is read below, or the end.
            Err(VmError::Gone) => self.next_id,
            other => other?,
        };
        loop {
            match self.next_unstashed().await? {
                VmEvent::Mailbox(_) => {
                    return Err(VmError::Unexpected(
                        "something at its mailbox, unasked".into(),
                    ));
                }
                VmEvent::Agent(message) => {
                    self.stashed += Frame::from(message.clone()).payload.len();
                    if self.stash.len() == MAX_STASH || self.stashed > MAX_STASHED {
                        return Err(VmError::Unexpected(format!(
                            "more than {MAX_STASH} messages or {MAX_STASHED} bytes while a command \
                             was under way"
                        )));
                    }
                    self.stash.push_back(message);
                }
                // An earlier command's reply may not have been waited for.
                VmEvent::Reply(reply) => {
                    let id = reply.id;
                    let status = outcome(reply)?;
                    if id == awaited {
                        return Ok(status);
                    }
                }
                // The budget ended while the reply was on its way; the microVM is paused, which no
                // command that awaits its reply minds.
                VmEvent::CpuBudgetExhausted => {}
                VmEvent::Exited(exited) => return Err(VmError::Exited(exited)),
            }
        }
    }
}

/// Reads and writes as far as it goes, when it goes; never, if there is no stream.
async fn go_on(stream: &mut Option<&mut Stream>) -> Result<(), VmError> {
    let Some(stream) = stream else {
        return std::future::pending().await;
    };
    Ok(stream.go_on().await?)
}

/// What a reply says.
pub(crate) fn outcome(reply: Reply) -> Result<Option<Status>, VmError> {
    match reply.outcome {
        Outcome::Done => Ok(None),
        Outcome::Status(status) => Ok(Some(status)),
        Outcome::Refused(refusal) => Err(VmError::Refused(refusal)),
    }
}
