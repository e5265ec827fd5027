//! What a runtime says at its mailbox, or its agent for it.

use super::{Heard, NotStarted, Ran, Talk, unexpected};
use crate::instance::{MailboxAnswer, MailboxWord, MicroVm, VmError};
use crate::pool::answer::Answer;
use crate::pool::output::Output;

impl Talk<'_> {
    pub(super) fn hear_mailbox(
        &mut self,
        vm: &MicroVm,
        word: MailboxWord,
        output: &mut Output<'_>,
    ) -> Result<Heard, VmError> {
        self.heard = true;
        if !self.thawed {
            self.thawed_silently(vm, output)?;
        }
        match word {
            MailboxWord::Output(lines) => {
                output.at_mailbox(lines);
                Ok(Heard::Nothing)
            }
            MailboxWord::Waits => Err(unexpected("that it waits, without an answer")),
            MailboxWord::Answer(_) if self.streams => Err(unexpected("two answers in one")),
            MailboxWord::Answer(answer) => {
                self.check(&answer.meta.request_id)?;
                Ok(Heard::Mailbox(answer))
            }
        }
    }

    /// An answer from the mailbox: nothing was measured in the guest.
    pub(super) fn answered(
        &self,
        vm: &mut MicroVm,
        answer: MailboxAnswer,
    ) -> Result<Ran, NotStarted> {
        let run = self.run();
        let memory = u64::from(self.invocation.version.config.memory_mib) << 20;
        let peak = vm.peak_memory(answer.peak_bytes).min(memory);
        let told = if answer.failed {
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
            ..self.ran(vm, told, run)
        })
    }
}
