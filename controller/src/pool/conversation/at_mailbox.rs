//! What a runtime says at its mailbox, in place of its agent.

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
            MailboxWord::Answer(_) if self.streams => Err(unexpected("two answers in one")),
            MailboxWord::Answer(answer) => {
                self.check(&answer.meta.request_id)?;
                Ok(Heard::Mailbox(answer))
            }
        }
    }

    /// The runtime has answered at its mailbox: its agent does not know, and has measured nothing.
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
            waits: true,
            ..self.ran(vm, told, run)
        })
    }
}
