//! Measures pings: frames to an idle instance's agent and back. They are the unit of the benchmarks.

use std::time::Instant;

use bytes::Bytes;
use hearth_protocol::agent::{AgentMessage, HostMessage};
use hearth_protocol::sandbox::{Command, Resume};

use super::lifecycle::Instance;
use super::timeouts::COMMAND_LIMIT;
use crate::instance::{Deadline, MicroVm, Step, VmError, VmEvent};
use crate::logs::Text;

impl Instance {
    /// Sends `count` pings, one after another. Returns the time of each in microseconds.
    pub(super) async fn ping(&self, vm: &mut MicroVm, count: u32) -> Result<Vec<u64>, VmError> {
        let resume = Deadline::after(COMMAND_LIMIT, "a resume");
        vm.command(Command::Resume(Resume::default()), resume)
            .await?;
        let mut micros = Vec::with_capacity(count as usize);
        for n in 0..count {
            let bytes = Bytes::copy_from_slice(&n.to_le_bytes());
            let sent = Instant::now();
            let deadline = Deadline::since(sent, COMMAND_LIMIT, "a pong");
            vm.send([HostMessage::Ping(bytes.clone())])?;
            let pong = vm.wait_for(deadline, |_, event| {
                Ok(match event {
                    VmEvent::Agent(AgentMessage::Pong(pong)) if pong == bytes => Step::Done(()),
                    VmEvent::Agent(AgentMessage::Log(of, text)) => {
                        self.log(Text::of_guest(&of, text));
                        Step::Wait
                    }
                    other => Step::Unexpected(other),
                })
            });
            pong.await?;
            micros.push(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        let pause = Deadline::after(COMMAND_LIMIT, "a pause");
        vm.command(Command::Pause, pause).await?;
        Ok(micros)
    }
}
