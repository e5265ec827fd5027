//! Measures pings: frames to an idle instance's agent and back. They are the unit of the benchmarks.

use std::time::Instant;

use bytes::Bytes;
use hearth_protocol::agent::{AgentMessage, HostMessage};
use hearth_protocol::sandbox::{Command, Resume};

use super::lifecycle::{COMMAND_LIMIT, Instance};
use crate::instance::{MicroVm, VmError, VmEvent};
use crate::logs::Text;

impl Instance {
    /// Sends `count` pings, one after another. Returns the time of each in microseconds.
    pub(super) async fn ping(&self, vm: &mut MicroVm, count: u32) -> Result<Vec<u64>, VmError> {
        self.command(vm, Command::Resume(Resume::default())).await?;
        let mut micros = Vec::with_capacity(count as usize);
        for n in 0..count {
            let bytes = Bytes::copy_from_slice(&n.to_le_bytes());
            let sent = Instant::now();
            let limit = sent + COMMAND_LIMIT;
            vm.send([HostMessage::Ping(bytes.clone())])?;
            loop {
                let event = vm.next_by(limit).await;
                let late = Instant::now() >= limit;
                let event = event
                    .filter(|_| !late)
                    .ok_or(VmError::Late("a pong", COMMAND_LIMIT))?;
                match event? {
                    VmEvent::Agent(AgentMessage::Pong(pong)) if pong == bytes => break,
                    VmEvent::Agent(AgentMessage::Log(of, text)) => {
                        self.log(Text::of_guest(&of, text));
                    }
                    other => {
                        return Err(VmError::Unexpected(format!(
                            "in place of a pong it sent {other}"
                        )));
                    }
                }
            }
            micros.push(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        self.command(vm, Command::Pause).await?;
        Ok(micros)
    }
}
