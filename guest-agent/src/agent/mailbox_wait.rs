//! The agent at the mailbox, for a runtime that uses the Runtime API: events come and answers go without
//! an interrupt, a device and the connection to the host.
//!
//! The agent hands an answer over at the mailbox as soon as the runtime has posted it. When the runtime
//! has asked for the next event, the agent waits for it at the mailbox, which stops the vCPU. It does
//! both only while it has nothing else to send: the mailbox and the connection have no order between
//! them, and the guest kernel sends what was written to the connection only while the vCPU runs.

use std::time::Duration;

use hearth_protocol::mailbox::{AnswerMeta, LOG_SIZE};
use hearth_protocol::output::Lines;

use super::answer::Answer;
use super::runtime_side::ReadyAfter;
use super::{Agent, AgentError};
use crate::mailbox::Wakeup;
use crate::runtime_api::reply;
use crate::telemetry::Source;

/// Time that the guest kernel gets to send what was written to the connection, before the vCPU is
/// stopped.
const SENDING_TIME: Duration = Duration::from_millis(2);

/// What the event loop does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Starts over: an event was handed out.
    Again,
    /// Waits for whatever comes.
    Wait,
    /// Handles what happens within this time, then comes back: the vCPU runs for other processes.
    Look(Duration),
}

impl Agent {
    /// Whether this function's events may come to the agent at the mailbox. Extensions receive every
    /// event and are waited for, and subscribers are told what an invocation took: both need the host's
    /// messages on the connection.
    pub(super) fn may_use_mailbox(&self) -> bool {
        self.host.uses_mailbox() && self.extensions.are_absent() && self.shutdown.is_none()
    }

    /// Gives the host the answer to `request_id`, and what the function has written before it. `false`:
    /// the answer has to go by the connection.
    pub(super) fn answer_at_mailbox(
        &mut self,
        request_id: &str,
        answer: &Answer,
    ) -> Result<bool, AgentError> {
        if !self.may_use_mailbox() || self.host.link.has_sent() {
            return Ok(false);
        }
        let lines = self.output.take_all();
        let log = lines.as_ref().map_or(&[][..], |lines| &lines.bytes);
        let fits = log.len() <= LOG_SIZE && lines.as_ref().is_none_or(Lines::is_text);
        let meta = AnswerMeta::write(request_id, answer.error_type.as_deref());
        let taken = fits
            && self
                .host
                .hand_over(answer.failed, log, meta.as_bytes(), &answer.body);
        if taken {
            self.runtime.answered()?;
        } else if let Some(lines) = lines {
            self.extensions
                .queue_log(&mut self.host, Source::Function, Some(request_id), lines)?;
        }
        Ok(taken)
    }

    /// The runtime waits for an event: whether the agent waits for it at the mailbox. `false`: the host
    /// has to be told by the connection.
    pub(super) fn choose_mailbox(&mut self) -> bool {
        let can = self.may_use_mailbox() && self.output.is_empty();
        self.host.choose_mailbox(can)
    }

    /// Waits for the next event at the mailbox, if that is where it comes.
    pub(super) fn wait_at_mailbox(&mut self) -> Result<Turn, AgentError> {
        if !self.host.waits_at_mailbox() || !self.runtime.lifecycle.waits() {
            return Ok(Turn::Wait);
        }
        if self.output.has_lines() {
            // Written between invocations: the host gets them at once.
            self.queue_lines()?;
            self.host.link.flush()?;
        }
        if self.host.link.take_sent() {
            return Ok(Turn::Look(SENDING_TIME));
        }
        match self.host.stop_vcpu() {
            Wakeup::Event => {
                self.take_event()?;
                Ok(Turn::Again)
            }
            Wakeup::RunGuest => {
                std::thread::yield_now();
                Ok(Turn::Look(Duration::ZERO))
            }
            Wakeup::UseConnection => {
                self.announce(ReadyAfter::Invocation, None)?;
                Ok(Turn::Again)
            }
        }
    }

    /// Hands the event that is in the mailbox to the runtime.
    fn take_event(&mut self) -> Result<(), AgentError> {
        let event = self.host.take_event()?;
        let Some(connection) = self
            .runtime
            .lifecycle
            .deliver_from_mailbox(event.request_id)
        else {
            return Ok(());
        };
        let head = reply::invocation_head_of(&event.headers, event.body.len());
        self.runtime.event_given();
        self.reply(connection, head, event.body)
    }
}
