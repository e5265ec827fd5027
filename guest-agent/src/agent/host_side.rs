//! The agent's side towards the host: the connection, the mailbox, the wall clock and the random
//! number generator.
//!
//! The mailbox and the connection have no order between them. The state here says which of the two an
//! answer may take, so that the host never reads it before a message that was sent earlier.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use hearth_protocol::agent::AgentMessage;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::error::AgentError;
use super::tokens::HOST;
use crate::clock::HostClock;
use crate::entropy::Generator;
use crate::host_link::HostLink;
use crate::lifecycle::Lifecycle;
use crate::mailbox::{Event, Held, Mailbox, Reading, Wakeup};

/// How the answer to the next invocation may reach the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AnswerPath {
    /// By the mailbox or by the connection.
    Any,
    /// By the connection only: `Thawed` was sent there, and no answer may reach the host before it.
    Connection,
}

/// Everything that the agent and the host share.
#[derive(Debug)]
pub(super) struct HostSide {
    pub(super) link: HostLink,
    /// Where a runtime may exchange events and answers with the host by itself.
    mailbox: Mailbox,
    /// Whether the function's runtime is given the mailbox.
    runtime_has_mailbox: bool,
    answer_path: AnswerPath,
    clock: HostClock,
    generator: Generator,
}

impl HostSide {
    pub(super) fn new(
        link: HostLink,
        mailbox: Mailbox,
        clock: HostClock,
    ) -> Result<Self, AgentError> {
        Ok(Self {
            link,
            mailbox,
            runtime_has_mailbox: false,
            answer_path: AnswerPath::Any,
            clock,
            generator: Generator::open().map_err(AgentError::io("/dev/urandom"))?,
        })
    }

    pub(super) fn register(&self, epoll: &Epoll) -> Result<(), Errno> {
        epoll.add(&self.link, EpollEvent::new(EpollFlags::EPOLLIN, HOST))
    }

    /// Has epoll report when the connection can be written to, if bytes wait for that.
    pub(super) fn watch(&mut self, epoll: &Epoll) -> Result<(), AgentError> {
        let blocked = self.link.blocked();
        if blocked != self.link.waits_for_room {
            self.link.waits_for_room = blocked;
            let mut interest = EpollFlags::EPOLLIN;
            interest.set(EpollFlags::EPOLLOUT, blocked);
            let mut event = EpollEvent::new(interest, HOST);
            epoll
                .modify(self.link.as_fd(), &mut event)
                .map_err(AgentError::errno("epoll"))?;
        }
        Ok(())
    }

    /// Queues a message, which is sent at the end of this turn of the event loop.
    pub(super) fn queue(&mut self, message: AgentMessage) -> Result<(), AgentError> {
        Ok(self.link.queue(message)?)
    }

    /// Makes the microVM differ from every other that was restored from the same snapshot. Nothing may
    /// be served before that.
    pub(super) fn restored(&mut self, realtime_ns: u64, entropy: &[u8]) -> Result<(), AgentError> {
        self.clock.set(realtime_ns).map_err(AgentError::Clock)?;
        self.generator.reseed(entropy)?;
        // The host has read whatever was sent before the snapshot.
        self.answer_path = AnswerPath::Any;
        Ok(())
    }

    /// Reports that the guest serves.
    pub(super) fn report_thawed(&mut self) -> Result<(), AgentError> {
        self.answer_path = AnswerPath::Connection;
        self.queue(AgentMessage::Thawed)
    }

    /// Steps the wall clock if it is wrong, by the time of a message from the host.
    pub(super) fn follow_clock(&self, realtime_ns: u64) -> Result<(), AgentError> {
        self.clock.follow(realtime_ns).map_err(AgentError::Clock)
    }

    /// Sets the wall clock by the host's.
    pub(super) fn correct_clock(&self) -> Result<(), AgentError> {
        self.clock.correct().map_err(AgentError::Clock)
    }

    pub(super) fn uuid(&mut self) -> Result<String, AgentError> {
        self.generator
            .uuid()
            .map_err(AgentError::io("/dev/urandom"))
    }

    /// Says whether the function's runtime will be given the mailbox.
    pub(super) fn configure_mailbox(&mut self, for_runtime: bool) {
        self.runtime_has_mailbox = for_runtime;
    }

    /// The mailbox's file for the runtime that is being started, if the function uses the mailbox.
    /// `open`: whether the runtime may use it from its start on.
    pub(super) fn lend_mailbox(&self, open: bool) -> Option<RawFd> {
        self.runtime_has_mailbox.then(|| {
            self.mailbox.open(open);
            self.mailbox.file().as_raw_fd()
        })
    }

    /// Forbids the runtime to use the mailbox.
    pub(super) fn close_mailbox(&self) {
        self.mailbox.open(false);
    }

    /// Whether the agent may exchange this function's events and answers with the host at the mailbox.
    pub(super) fn uses_mailbox(&self) -> bool {
        self.runtime_has_mailbox && self.mailbox.host_serves()
    }

    /// Brings the runtime's state up to date with what it and the host have exchanged at the mailbox.
    pub(super) fn catch_up(&mut self, lifecycle: &mut Lifecycle) {
        if self.mailbox.has_answered() {
            lifecycle.answered_at_mailbox();
        }
        if let Some(request_id) = self.mailbox.working_on() {
            lifecycle.works_at_mailbox(request_id);
        }
    }

    /// The agent is about to give the runtime an event that came by the connection. `via_agent`: whether
    /// the answer must come to the agent in any case.
    pub(super) fn begin_invocation(&mut self, via_agent: bool) {
        let path = std::mem::replace(&mut self.answer_path, AnswerPath::Any);
        let by_connection = path == AnswerPath::Connection;
        self.mailbox
            .route_answer_via_agent(via_agent || by_connection);
        self.mailbox.clear_working();
        if !by_connection {
            // Whatever is sent from here on belongs to this invocation.
            self.link.take_sent();
        }
    }

    /// Hands an answer to the host at the mailbox, with output in front of it. Whether the host took it.
    pub(super) fn hand_over(&mut self, failed: bool, log: &[u8], meta: &[u8], body: &[u8]) -> bool {
        let taken = self.mailbox.hand_over(failed, log, meta, body);
        if taken {
            self.link.cancel_delayed_flush();
        }
        taken
    }

    /// Whether the agent waits at the mailbox for the next event: if it `can`, if nothing was sent by the
    /// connection since the last event, and if the host has not asked for `Ready` by the connection.
    pub(super) fn choose_mailbox(&mut self, can: bool) -> bool {
        let can = can && !self.link.has_sent();
        self.mailbox.choose_wait(can)
    }

    /// Whether the agent waits at the mailbox for the next event.
    pub(super) fn waits_at_mailbox(&self) -> bool {
        self.mailbox.waits()
    }

    /// Stops the vCPU until there is something to do.
    pub(super) fn stop_vcpu(&mut self) -> Wakeup {
        self.mailbox.stop_vcpu()
    }

    /// Takes the event that is in the mailbox, and steps the clock if that is wrong.
    pub(super) fn take_event(&mut self) -> Result<Event, AgentError> {
        let event = self.mailbox.take_event().map_err(AgentError::Mailbox)?;
        self.mailbox.clear_working();
        self.follow_clock(event.realtime_ns)?;
        Ok(event)
    }

    /// Takes over the answer that the runtime has given at the mailbox and not sent.
    pub(super) fn take_held_answer(&self) -> Option<Held> {
        self.mailbox.take_held()
    }

    /// Whether the runtime reads the function's output itself and sends it with its answers.
    pub(super) fn runtime_reads_output(&self) -> bool {
        self.mailbox.runtime_reads_output()
    }

    /// Claims the function's output for the agent. `None` while the runtime reads it.
    pub(super) fn begin_reading(&self) -> Option<Reading> {
        self.mailbox.begin_reading()
    }

    /// Ends what [`begin_reading`](Self::begin_reading) began; `something`: whether there was output.
    pub(super) fn end_reading(&self, reading: &Reading, something: bool) {
        self.mailbox.end_reading(reading, something);
    }

    /// The runtime has ended: whatever it was reading, it reads no more.
    pub(super) fn runtime_ended(&self) {
        self.mailbox.runtime_ended();
    }

    /// Leaves the function's peak memory at the mailbox, for answers that the agent does not see.
    pub(super) fn publish_peak_memory(&self, bytes: u64) {
        self.mailbox.publish_peak_memory(bytes);
    }
}
