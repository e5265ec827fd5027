//! A restore without an invocation: an instance that is to be kept ready.

use std::time::Instant;

use hearth_protocol::agent::AgentMessage;
use hearth_protocol::sandbox::Resume;
use tokio::time::timeout_at;

use super::conversation::START_LIMIT;
use crate::function::Artefacts;
use crate::instance::{Errand, MicroVm, RestoreFrom, VmError, VmEvent, outcome, thaw};
use crate::logs::Text;

/// Restores a snapshot and waits until the guest serves.
pub(super) async fn warm_up(
    vm: &mut MicroVm,
    artefacts: &Artefacts,
    log: impl Fn(Text),
) -> Result<(), VmError> {
    let deadline = Instant::now() + START_LIMIT;
    let awaited = vm.submit(restore_errand(artefacts, Resume::default())?)?;
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
            VmEvent::Agent(AgentMessage::Log(of, text)) if thawed => log(Text::of_guest(&of, text)),
            VmEvent::Exited(exited) => return Err(VmError::Exited(exited)),
            _ => {
                let what = "a restored guest said something that is no thaw";
                return Err(VmError::Unexpected(what.into()));
            }
        }
    }
    Ok(())
}

/// What a sandbox has to do so that a guest runs on from its snapshot; refused where a file is not
/// what it was made as.
pub(super) fn restore_errand(artefacts: &Artefacts, resume: Resume) -> Result<Errand, VmError> {
    let restore = RestoreFrom {
        snapshot: artefacts.snapshot(),
        disks: artefacts.disks(),
        fingerprint: artefacts.fingerprints.booted.clone(),
        resume: Some(resume),
    };
    let errand = restore.errand()?;
    errand.checked(artefacts.sealed())?;
    Ok(errand)
}
