//! The agent at the mailbox, for a runtime that waits at the Runtime API: events come and answers go
//! without an interrupt, a device and the connection to the host.
//!
//! The answer goes there as soon as there is one. When the runtime has asked for the next event, the
//! agent waits for it there, which stops the vCPU. Both only while it has nothing else to tell: there
//! is no order between the mailbox and the connection, and what is written to the connection leaves
//! when the kernel gets to it, which it does not while the vCPU stands still.

use std::time::{Duration, Instant};

use hearth_protocol::mailbox::{AnswerMeta, LOG_SIZE};
use hearth_protocol::output::Lines;

use super::{Agent, AgentError};
use crate::mailbox::Stood;
use crate::runtime_api::reply;
use crate::telemetry::Source;

/// How long the kernel gets for what was written to the connection while the vCPU was let run.
const SENDING: Duration = Duration::from_millis(2);

/// What the event loop does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Goes on from its beginning: an event was handed out.
    Again,
    /// Waits for whatever comes.
    Wait,
    /// Sees to what there is, for so long, and comes back: the vCPU was let run for that.
    Look(Duration),
}

impl Agent {
    /// Whether this function's events may come to the agent at the mailbox. Extensions are told of
    /// every event and waited for, and those who are told what happened are told what it took: that
    /// is for the host to say by the connection.
    pub(super) fn may_use_mailbox(&self) -> bool {
        let heard = self.mailbox.as_ref().is_some_and(|m| m.is_heard());
        self.uses_mailbox
            && heard
            && self.extensions.is_empty()
            && self.telemetry.is_none()
            && self.leaving.is_none()
    }

    /// Gives the host the answer to `request_id`, and what the function has written before it.
    /// `false`: it has to go by the connection.
    pub(super) fn answer_at_mailbox(
        &mut self,
        request_id: &str,
        failed: bool,
        error_type: Option<&str>,
        body: &[u8],
    ) -> Result<bool, AgentError> {
        if !self.may_use_mailbox() || self.host.has_spoken() {
            return Ok(false);
        }
        let lines = self.logs.take_all();
        let log = lines.as_ref().map_or(&[][..], |lines| &lines.bytes);
        let fits = log.len() <= LOG_SIZE && lines.as_ref().is_none_or(Lines::is_text);
        let meta = AnswerMeta::write(request_id, error_type);
        let given = fits
            && self
                .mailbox
                .as_mut()
                .is_some_and(|mailbox| mailbox.hand_over(failed, log, meta.as_bytes(), body));
        if given {
            self.host.has_said_all();
            self.answered = Instant::now();
            self.cgroup.limit_invocation(None)?;
        } else if let Some(lines) = lines {
            self.queue_log(Source::Function, Some(request_id), lines)?;
        }
        Ok(given)
    }

    /// The runtime waits for an event. `false`: the host has to be told by the connection.
    pub(super) fn wait_at_mailbox(&mut self) -> bool {
        let can = self.may_use_mailbox() && !self.host.has_spoken() && self.logs.is_empty();
        match &mut self.mailbox {
            Some(mailbox) => mailbox.wait(can),
            None => false,
        }
    }

    /// Waits for the next event at the mailbox, if that is where it comes.
    pub(super) fn stand(&mut self) -> Result<Turn, AgentError> {
        let Some(mailbox) = &mut self.mailbox else {
            return Ok(Turn::Wait);
        };
        if !mailbox.waits() || !self.life.waits() {
            return Ok(Turn::Wait);
        }
        if self.logs.has_lines() {
            // Written while nothing was asked of the function: the host hears it at once.
            self.queue_lines()?;
            self.host.flush()?;
        }
        if self.host.take_spoken() {
            return Ok(Turn::Look(SENDING));
        }
        let Some(mailbox) = &mut self.mailbox else {
            return Ok(Turn::Wait);
        };
        match mailbox.stand() {
            Stood::Event => {
                self.take_event()?;
                Ok(Turn::Again)
            }
            Stood::Turn => {
                std::thread::yield_now();
                Ok(Turn::Look(Duration::ZERO))
            }
            Stood::Leave => {
                self.say_ready(false, None)?;
                Ok(Turn::Again)
            }
        }
    }

    /// Hands the event that is in the mailbox to the runtime.
    fn take_event(&mut self) -> Result<(), AgentError> {
        let Some(mailbox) = &mut self.mailbox else {
            return Ok(());
        };
        let event = mailbox.take().map_err(AgentError::Mailbox)?;
        mailbox.works_on_another();
        self.clock
            .follow(event.realtime_ns)
            .map_err(AgentError::Clock)?;
        let Some(connection) = self.life.runs_from_mailbox(event.request_id) else {
            return Ok(());
        };
        let head = reply::invocation_head_of(&event.headers, event.body.len());
        self.since = Instant::now();
        self.reply(connection, head, event.body)
    }
}
