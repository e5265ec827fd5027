//! What each event of the microVM means for the invocation.
//!
//! Until the guest has thawed, only the messages of its restore are allowed. Any other message shows that
//! it has thawed: then it is a message of the function that runs.

use std::time::Instant;

use hearth_protocol::agent::{AgentMessage, Usage};
use hearth_protocol::sandbox::Reply;

use super::Conversation;
use crate::instance::{Deadline, MailboxAnswer, MicroVm, Step, VmError, VmEvent, outcome};
use crate::pool::answer::{Answer, is_name};
use crate::pool::output::Output;
use crate::pool::parts::Part;
use crate::pool::timeouts::HOOKS_LIMIT;

/// What an invocation waits for: an answer, or a part of one.
#[derive(Debug)]
pub(super) enum Progress {
    /// A part of a streamed result.
    Part(Part),
    /// The end of a streamed result.
    StreamEnd(Usage),
    /// The runtime's after-restore hook has failed.
    HookFailed(String),
    Answer(Answer, Usage),
    /// An answer from the mailbox.
    Mailbox(MailboxAnswer),
}

impl Conversation<'_> {
    /// Handles one event of the microVM.
    pub(super) fn on_event(
        &mut self,
        vm: &MicroVm,
        event: VmEvent,
        output: &mut Output<'_>,
    ) -> Result<Step<Progress>, VmError> {
        match event {
            VmEvent::Reply(reply) => {
                self.on_reply(vm, reply, output)?;
                Ok(self.wait())
            }
            VmEvent::CpuBudgetExhausted => {
                let limit = self.invocation.limits.cpu.unwrap_or_default();
                let answer = Answer::CpuExhausted(limit);
                Ok(Step::Done(Progress::Answer(answer, Usage::default())))
            }
            VmEvent::Mailbox(message) => {
                self.heard = true;
                if !self.thawed {
                    self.thawed_silently(vm, output)?;
                }
                self.on_mailbox(message, output)
            }
            VmEvent::Agent(message) => {
                self.heard = true;
                if self.thawed {
                    self.after_thaw(message, output)
                } else {
                    self.before_thaw(vm, message, output)
                }
            }
            VmEvent::Exited(_) => Ok(Step::Unexpected(event)),
        }
    }

    /// The reply to a command. That to an earlier one may come late: it is ignored.
    fn on_reply(
        &mut self,
        vm: &MicroVm,
        reply: Reply,
        output: &mut Output<'_>,
    ) -> Result<(), VmError> {
        let expected = self.awaited == Some(reply.id);
        outcome(reply)?;
        if expected {
            self.awaited = None;
            if !self.thawed {
                self.restored.notify_one();
            }
            if self.thawed || !self.invocation.version.snap_starts() {
                self.vcpu_runs(Instant::now(), vm, output);
            } else {
                // The function's timeout begins after the after-restore hook.
                self.deadline = Deadline::after(HOOKS_LIMIT, "an after-restore hook");
            }
        }
        Ok(())
    }

    /// A message of a guest that has not said that it has thawed.
    fn before_thaw(
        &mut self,
        vm: &MicroVm,
        message: AgentMessage,
        output: &mut Output<'_>,
    ) -> Result<Step<Progress>, VmError> {
        let hooks = self.invocation.version.snap_starts();
        match message {
            AgentMessage::Thawed => {
                self.has_thawed();
                if hooks {
                    output.restore_report(self.began.elapsed(), None);
                }
                self.vcpu_runs(Instant::now(), vm, output);
                Ok(self.wait())
            }
            AgentMessage::Log(log, lines) if hooks => {
                output.hook(&log, lines);
                Ok(self.wait())
            }
            AgentMessage::RestoreFailed(failed, _) if hooks => {
                let kind = Some(failed.error_type).filter(|kind| is_name(kind));
                let kind = kind.unwrap_or_else(|| "Runtime.Unknown".into());
                Ok(Step::Done(Progress::HookFailed(kind)))
            }
            AgentMessage::Fatal(_) => Ok(Step::Unexpected(VmEvent::Agent(message))),
            other => {
                self.thawed_silently(vm, output)?;
                self.after_thaw(other, output)
            }
        }
    }

    /// A message of a guest that runs the function.
    fn after_thaw(
        &mut self,
        message: AgentMessage,
        output: &mut Output<'_>,
    ) -> Result<Step<Progress>, VmError> {
        match message {
            AgentMessage::Log(log, lines) => {
                output.function(&log, lines);
                Ok(self.wait())
            }
            AgentMessage::Response(response, body) if !self.streams => {
                self.check(&response.request_id)?;
                let answer = Answer::Response(body);
                Ok(Step::Done(Progress::Answer(answer, response.usage)))
            }
            AgentMessage::ResponseStart(start) if !self.streams => {
                self.check(&start.request_id)?;
                self.streams = true;
                self.content_type = start.content_type;
                let part = Part::Start(self.content_type.clone());
                Ok(Step::Done(Progress::Part(part)))
            }
            AgentMessage::ResponseChunk(chunk) if self.streams => {
                self.incoming.count(&chunk).map_err(violation)?;
                Ok(Step::Done(Progress::Part(Part::Chunk(chunk))))
            }
            AgentMessage::ResponseEnd(end, body) if self.streams => {
                self.check(&end.request_id)?;
                Ok(Step::Done(match end.error_type {
                    None => Progress::StreamEnd(end.usage),
                    kind => Progress::Answer(Answer::FunctionError { body, kind }, end.usage),
                }))
            }
            AgentMessage::FunctionError(error, body) if !self.streams => {
                self.check(&error.request_id)?;
                let answer = Answer::FunctionError {
                    body,
                    kind: error.error_type,
                };
                Ok(Step::Done(Progress::Answer(answer, error.usage)))
            }
            AgentMessage::RuntimeExited(exited) => {
                if let Some(id) = &exited.request_id {
                    self.check(id)?;
                }
                let answer = Answer::ended(exited.exit, exited.error_type.as_deref());
                Ok(Step::Done(Progress::Answer(answer, exited.usage)))
            }
            AgentMessage::Response(..)
            | AgentMessage::FunctionError(..)
            | AgentMessage::ResponseStart(_)
            | AgentMessage::ResponseChunk(_)
            | AgentMessage::ResponseEnd(..) => Err(violation("a second answer")),
            other => Ok(Step::Unexpected(VmEvent::Agent(other))),
        }
    }

    /// Goes on waiting, until the deadline that this event may have changed.
    pub(super) fn wait(&self) -> Step<Progress> {
        Step::WaitUntil(self.deadline)
    }

    /// The guest has sent another message without `Thawed` before it. Its agent serves only after it has
    /// thawed, so it has. With hooks, `Thawed` is mandatory, because the function's timeout begins then.
    fn thawed_silently(&mut self, vm: &MicroVm, output: &mut Output<'_>) -> Result<(), VmError> {
        if self.invocation.version.snap_starts() {
            return Err(violation("another message before Thawed"));
        }
        self.has_thawed();
        self.vcpu_runs(Instant::now(), vm, output);
        Ok(())
    }

    /// The guest has thawed, so its microVM runs. The order between the two sockets is not defined: the
    /// restore's reply may still be unread, and without this the start would hold its slot until the end.
    fn has_thawed(&mut self) {
        self.thawed = true;
        self.restored.notify_one();
    }

    pub(super) fn check(&self, answered: &str) -> Result<(), VmError> {
        if answered == self.invocation.request_id {
            return Ok(());
        }
        Err(violation("an answer to another invocation"))
    }
}

/// The error for a message whose kind is allowed now, and whose content or order is not.
pub(super) fn violation(what: &str) -> VmError {
    VmError::Unexpected(format!("the guest sent {what}"))
}
