//! Messages that come through the mailbox, from the runtime or from its agent.

use super::events::{Progress, violation};
use super::{Conversation, NotStarted, Ran};
use crate::instance::{MailboxAnswer, MailboxWord, MicroVm, Step, VmError, VmEvent};
use crate::pool::answer::Answer;
use crate::pool::output::Output;

impl Conversation<'_> {
    pub(super) fn on_mailbox(
        &mut self,
        word: MailboxWord,
        output: &mut Output<'_>,
    ) -> Result<Step<Progress>, VmError> {
        match word {
            MailboxWord::Output(lines) => {
                output.at_mailbox(lines);
                Ok(self.wait())
            }
            MailboxWord::Waits => Ok(Step::Unexpected(VmEvent::Mailbox(word))),
            MailboxWord::Answer(_) if self.streams => Err(violation("a second answer")),
            MailboxWord::Answer(answer) => {
                self.check(&answer.meta.request_id)?;
                Ok(Step::Done(Progress::Mailbox(answer)))
            }
        }
    }

    /// An answer from the mailbox. It has no measurements of the guest.
    pub(super) fn answered(
        &self,
        vm: &mut MicroVm,
        answer: MailboxAnswer,
    ) -> Result<Ran, NotStarted> {
        let run = self.run();
        let memory = u64::from(self.invocation.version.config.memory_mib) << 20;
        let peak = vm.peak_memory(answer.peak_bytes).min(memory);
        let result = if answer.failed {
            Answer::FunctionError {
                body: answer.body,
                kind: answer.meta.error_type,
            }
        } else {
            Answer::Response(answer.body)
        };
        Ok(Ran {
            max_memory_bytes: peak,
            waits: answer.waits,
            ..self.ran(vm, result, run)
        })
    }
}
