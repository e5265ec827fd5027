//! A restore without an invocation: an instance that is to be kept ready.

use std::time::Instant;

use bytes::Bytes;
use hearth_protocol::agent::AgentMessage;
use hearth_protocol::sandbox::Resume;
use tokio::time::timeout_at;

use super::conversation::START_LIMIT;
use crate::function::Artefacts;
use crate::instance::{MicroVm, RestoreFrom, VmError, VmEvent, outcome, thaw};

/// Restores a snapshot and waits until the guest serves.
pub(super) async fn warm_up(
    vm: &mut MicroVm,
    artefacts: &Artefacts,
    log: impl Fn(Bytes),
) -> Result<(), VmError> {
    let deadline = Instant::now() + START_LIMIT;
    let restore = restore_from(artefacts, Resume::default());
    let awaited = vm.submit(restore.errand()?)?;
    vm.send([thaw()?])?;
    let (mut restored, mut thawed) = (false, false);
    while !(restored && thawed) {
        let event = timeout_at(deadline.into(), vm.next())
            .await
            .map_err(|_| VmError::Late("a start", START_LIMIT))??;
        match event {
            VmEvent::Reply(reply) => {
                restored |= reply.id == awaited;
                outcome(reply)?;
            }
            VmEvent::Agent(AgentMessage::Thawed) => thawed = true,
            VmEvent::Agent(AgentMessage::Log(_, text)) if thawed => log(text),
            VmEvent::Exited(exited) => return Err(VmError::Exited(exited)),
            _ => {
                let what = "a restored guest said something that is no thaw";
                return Err(VmError::Unexpected(what.into()));
            }
        }
    }
    Ok(())
}

/// What a sandbox has to do so that a guest runs on from its snapshot.
pub(super) fn restore_from(artefacts: &Artefacts, resume: Resume) -> RestoreFrom {
    RestoreFrom {
        snapshot: artefacts.snapshot(),
        disks: artefacts.disks(),
        fingerprint: artefacts.fingerprints.booted.clone(),
        resume: Some(resume),
    }
}
