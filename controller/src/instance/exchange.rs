//! Waits for messages of a microVM. An exchange is one message that is awaited, with a deadline.
//!
//! [`MicroVm::wait_for`] is the one loop that does this: its caller decides for each event whether it is
//! what is awaited, whether it is allowed meanwhile, or neither. A deadline that passes and an event that
//! is not allowed become errors that name what was awaited. After an error the microVM must be ended.

use std::time::{Duration, Instant};

use hearth_protocol::agent::AgentMessage;
use hearth_protocol::sandbox::{Outcome, Reply, Status};

use super::command_with_files::CommandWithFiles;
use super::microvm::{MicroVm, Source, VmError, VmEvent};

/// Maximum time from a command that starts a guest, by a boot or a restore, to its reply. Usual are a few
/// milliseconds; this is for an overloaded host.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(30);

/// What is awaited, and until when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    awaited: &'static str,
    limit: Duration,
    at: Instant,
}

impl Deadline {
    /// `limit` from now.
    pub(crate) fn after(limit: Duration, awaited: &'static str) -> Self {
        Self::since(Instant::now(), limit, awaited)
    }

    /// `limit` from `began`.
    pub(crate) fn since(began: Instant, limit: Duration, awaited: &'static str) -> Self {
        Self {
            awaited,
            limit,
            at: began + limit,
        }
    }

    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    fn late(&self) -> VmError {
        VmError::Late(self.awaited, self.limit)
    }
}

/// What an event means for one who waits.
#[derive(Debug)]
pub(crate) enum Step<T> {
    /// It is what was awaited.
    Done(T),
    /// It is allowed. The wait goes on.
    Wait,
    /// It is allowed. The wait goes on with this deadline.
    WaitUntil(Deadline),
    /// It is not allowed now.
    Unexpected(VmEvent),
}

impl MicroVm {
    /// Waits for something until a deadline. `on_event` decides what each event means.
    pub(crate) async fn wait_for<T>(
        &mut self,
        deadline: Deadline,
        on_event: impl FnMut(&mut Self, VmEvent) -> Result<Step<T>, VmError>,
    ) -> Result<T, VmError> {
        self.wait(Source::All, deadline, on_event).await
    }

    async fn wait<T>(
        &mut self,
        source: Source,
        mut deadline: Deadline,
        mut on_event: impl FnMut(&mut Self, VmEvent) -> Result<Step<T>, VmError>,
    ) -> Result<T, VmError> {
        loop {
            let Some(event) = self.next_by(deadline.at, source).await else {
                return Err(deadline.late());
            };
            let event = event?;
            // Checked although there is an event: a guest that floods events must not evade its timeout.
            if Instant::now() >= deadline.at {
                return Err(deadline.late());
            }
            match on_event(self, event)? {
                Step::Done(awaited) => return Ok(awaited),
                Step::Wait => {}
                Step::WaitUntil(later) => deadline = later,
                Step::Unexpected(event) => return Err(unexpected(event, deadline.awaited)),
            }
        }
    }

    /// Sends a command and waits for its reply. Messages of the agent meanwhile are kept for the next
    /// wait.
    pub(crate) async fn command(
        &mut self,
        command: impl Into<CommandWithFiles>,
        deadline: Deadline,
    ) -> Result<Option<Status>, VmError> {
        let number = match self.submit(command) {
            // The process has ended, but it may have sent the reason, which is read below.
            Err(VmError::Gone) => None,
            number => Some(number?),
        };
        self.wait(Source::New, deadline, |vm, event| match event {
            VmEvent::Agent(message) => {
                vm.keep(message)?;
                Ok(Step::Wait)
            }
            // This may be the reply to an earlier command that was only submitted.
            VmEvent::Reply(reply) => {
                let own = Some(reply.id) == number;
                let status = outcome(reply)?;
                Ok(if own { Step::Done(status) } else { Step::Wait })
            }
            // The budget has ended before the reply. The microVM is paused then, which is fine for all
            // commands that are sent here.
            VmEvent::CpuBudgetExhausted => Ok(Step::Wait),
            other => Ok(Step::Unexpected(other)),
        })
        .await
    }
}

/// The result of a command, from its reply.
pub(crate) fn outcome(reply: Reply) -> Result<Option<Status>, VmError> {
    match reply.outcome {
        Outcome::Done => Ok(None),
        Outcome::Status(status) => Ok(Some(status)),
        Outcome::Refused(refusal) => Err(VmError::Refused(refusal)),
    }
}

/// The error for an event that is not allowed while something else is awaited. It has the kind of the
/// event and not its content: that may be megabytes, and belongs to the function.
fn unexpected(event: VmEvent, awaited: &str) -> VmError {
    match event {
        VmEvent::Exited(exited) => VmError::Exited(exited),
        VmEvent::Agent(AgentMessage::Fatal(reason)) => VmError::Unexpected(format!(
            "the agent has failed: {}",
            String::from_utf8_lossy(&reason[..reason.len().min(500)])
        )),
        other => VmError::Unexpected(format!("the guest sent {other} in place of {awaited}")),
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
