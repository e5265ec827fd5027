//! A microVM: sends commands to the sandbox and messages to the agent, and returns everything that they
//! send as one stream of events.
//!
//! All sockets belong to one value and are read by one task, so there is no lock. Messages to the agent
//! are queued and written while [`MicroVm::next`] waits. Otherwise a guest that floods its log instead of
//! reading a 6 MB event would block both sides.

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
    ControlError, Event, Exited, Message, Refusal, Reply, Request, decode, encode,
};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, Sleep, sleep_until};

use super::command_with_files::CommandWithFiles;
use super::mailbox::{Mailbox, MailboxError, MailboxWord};
use super::memory::OwnPages;
use super::process::SandboxProcess;
use super::stream::Stream;

/// Maximum number of the agent's messages that are kept while a command's reply is awaited.
const MAX_STASH: usize = 256;
/// Maximum size of their payloads together, in bytes: as large as one message may be. A guest that
/// behaves sends a few lines of output during a command.
const MAX_STASHED: usize = MAX_PAYLOAD;

/// Maximum time between the end of the control channel and the end of the guest's sockets. A process
/// that ends closes all of them within milliseconds.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// An event of a microVM.
#[derive(Debug)]
pub(crate) enum VmEvent {
    /// A message of the agent, through the vsock connection.
    Agent(AgentMessage),
    /// A message of the runtime or the agent, through the mailbox.
    Mailbox(MailboxWord),
    /// The sandbox's reply to a command.
    Reply(Reply),
    /// The CPU budget of the last `Resume` is used up; the microVM is paused.
    CpuBudgetExhausted,
    /// The sandbox process is about to end.
    Exited(Exited),
}

/// The kind of the event, without its content: that may be megabytes, and belongs to the function.
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
            Self::Mailbox(MailboxWord::Output(_)) => "output at the mailbox",
            Self::Mailbox(MailboxWord::Answer(_)) => "an answer at the mailbox",
            Self::Mailbox(MailboxWord::Waits) => "a wait at the mailbox",
            Self::Reply(_) => "a reply to a command",
            Self::CpuBudgetExhausted => "the end of its CPU budget",
            Self::Exited(_) => "the end of its sandbox",
        })
    }
}

/// Which events to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// All, beginning with the messages of the agent that were kept during commands.
    All,
    /// Those that have not been read yet.
    New,
}

/// Why a microVM can't be used any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VmError {
    /// The sandbox process has ended without a message.
    #[error("the sandbox process has ended")]
    Gone,
    /// The sandbox has reported that the microVM has ended.
    #[error("the microVM ended: {:?}: {}", .0.reason, .0.detail)]
    Exited(Exited),
    /// A socket has failed.
    #[error("socket to the sandbox: {0}")]
    Io(#[from] io::Error),
    /// The sandbox does not read its commands.
    #[error("the sandbox does not read its commands")]
    Stuck,
    /// The sandbox has sent an invalid message.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The guest has sent an invalid frame.
    #[error("from the guest: {0}")]
    Frame(#[from] FrameError),
    /// The guest has sent a frame that is not a valid message.
    #[error("from the guest: {0}")]
    Message(#[from] MessageError),
    /// The sandbox has replied to an unknown command, or twice to one.
    #[error("a reply to command {got} after that to command {last}")]
    ForeignReply {
        /// The command's number.
        got: u64,
        /// The number of the reply before.
        last: u64,
    },
    /// The guest has sent an invalid message through the mailbox.
    #[error("from the guest: {0}")]
    Mailbox(#[from] MailboxError),
    /// The guest has sent a message that is not allowed now.
    #[error("from the guest: {0}")]
    Unexpected(String),
    /// The sandbox has refused a command.
    #[error("the sandbox refused ({:?}): {}", .0.kind, .0.message)]
    Refused(Refusal),
    /// A timeout has passed.
    #[error("{0} took longer than {1:?}")]
    Late(&'static str, Duration),
}

/// The basis for an estimate of a function's memory when the agent does not report it.
#[derive(Debug, Default)]
struct Memory {
    pages: OwnPages,
    /// The peak that the agent has reported last.
    peak: u64,
    /// The process's own memory at that time; 0 for an instance that was restored from a function
    /// snapshot.
    own: u64,
}

/// A sandbox process and the sockets to it. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct MicroVm {
    control: UnixStream,
    control_in: BytesMut,
    /// Set when the control channel has ended: until then, messages of the guest may still arrive.
    ending: Option<Instant>,
    agent: Stream,
    stash: VecDeque<AgentMessage>,
    /// Size of the payloads in `stash`, in bytes.
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
    /// A microVM with the sockets to its process. Must be called within a tokio runtime.
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

    /// Sends a command without waiting for its reply. Returns the number that the reply will have.
    pub(crate) fn submit(&mut self, command: impl Into<CommandWithFiles>) -> Result<u64, VmError> {
        let CommandWithFiles { command, files } = command.into();
        let id = self.next_id;
        self.next_id += 1;
        let bytes = encode(&Request { id, command })?;
        // Commands are a few hundred bytes, the socket's buffer holds hundreds of kilobytes, and there
        // is one command at a time. If a write does not fit, the sandbox does not read.
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

    /// Queues messages to the agent and writes as many bytes as fit, in one system call if all fit.
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

    /// Sends an event to a runtime that waits at the mailbox.
    pub(crate) fn send_event(&mut self, headers: &str, event: Bytes) -> Result<(), VmError> {
        match &mut self.mailbox {
            Some(mailbox) => Ok(mailbox.send_event(headers, event)?),
            None => Err(VmError::Unexpected("the microVM has no mailbox".into())),
        }
    }

    /// Makes a runtime that waits at the mailbox ask its agent for the next event. The vCPU then runs.
    pub(crate) fn release(&mut self) -> Result<(), VmError> {
        match &mut self.mailbox {
            Some(mailbox) => Ok(mailbox.release()?),
            None => Ok(()),
        }
    }

    /// An estimate of the function's peak memory in bytes: the peak that the agent has reported last, plus
    /// the growth of the sandbox process since then.
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

    /// Must be called when the function's init has ended in this process. The process's own memory at this
    /// time is part of the peak that the agent will report, and must not be counted twice.
    pub(crate) fn has_initialized(&mut self) {
        let memory = &mut self.memory;
        memory.own = memory.pages.bytes(self.process.pid()).unwrap_or(0);
    }

    /// Waits for the next event. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<VmEvent, VmError> {
        if let Some(message) = self.stash.pop_front() {
            if self.stash.is_empty() {
                self.stashed = 0;
            }
            return Ok(VmEvent::Agent(message));
        }
        self.next_unstashed().await
    }

    /// The same, but returns `None` at `limit`, and from [`Source::New`] passes over the messages that are
    /// kept.
    ///
    /// The timer is kept and postponed. A new timer for each invocation would often be due before all
    /// others, and would then wake tokio's timer thread to shorten its sleep.
    pub(super) async fn next_by(
        &mut self,
        limit: std::time::Instant,
        source: Source,
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
            event = self.next_of(source) => Some(event),
            () = &mut alarm => None,
        };
        self.alarm = Some(alarm);
        event
    }

    async fn next_of(&mut self, source: Source) -> Result<VmEvent, VmError> {
        match source {
            Source::All => self.next().await,
            Source::New => self.next_unstashed().await,
        }
    }

    async fn next_unstashed(&mut self) -> Result<VmEvent, VmError> {
        // A guest that floods messages always has something to read. Without this, its task would never
        // yield, and no timeout around it would ever be checked.
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

    /// Checks that replies come in the order of their commands, one for each.
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
        // The guest's sockets first: its last messages must be read before the end of the process.
        tokio::select! {
            biased;
            done = read_or_write(&mut mailbox) => return done,
            done = read_or_write(&mut agent) => return done,
            ends = ends => ends?,
        }
        match self.control.try_read_buf(&mut self.control_in) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => {
                return Err(error.into());
            }
            // The sockets end in any order. Only after the last one is it known what the guest has sent
            // and read.
            Ok(0) | Err(_) => self.ending = Some(Instant::now() + LAST_WORDS),
        }
        Ok(())
    }

    /// Whether the process has ended before it had read the last message to the agent.
    pub(crate) fn agent_left_unread(&self) -> bool {
        self.agent.left_unread()
    }

    /// The same for the last message to the mailbox.
    pub(crate) fn mailbox_left_unread(&self) -> bool {
        let mailbox = self.mailbox.as_ref();
        mailbox.is_some_and(|mailbox| mailbox.stream.left_unread())
    }

    /// Whether the control channel is open and has nothing to read, as with a shell that waits. Otherwise
    /// the process has ended, or it is not a shell.
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
            // tokio's readiness may be outdated. Ask the kernel.
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

    /// Keeps a message of the agent that came while a command's reply was awaited.
    pub(super) fn keep(&mut self, message: AgentMessage) -> Result<(), VmError> {
        self.stashed += Frame::from(message.clone()).payload.len();
        if self.stash.len() == MAX_STASH || self.stashed > MAX_STASHED {
            return Err(VmError::Unexpected(format!(
                "more than {MAX_STASH} messages or {MAX_STASHED} bytes during a command"
            )));
        }
        self.stash.push_back(message);
        Ok(())
    }
}

/// [`Stream::read_or_write`]; never completes if there is no stream.
async fn read_or_write(stream: &mut Option<&mut Stream>) -> Result<(), VmError> {
    let Some(stream) = stream else {
        return std::future::pending().await;
    };
    Ok(stream.read_or_write().await?)
}
