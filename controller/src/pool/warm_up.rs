//! A restore without an invocation: an instance that is to be kept ready.

use std::time::Instant;

use hearth_protocol::agent::AgentMessage;
use hearth_protocol::sandbox::Resume;

use super::conversation::{HOOKS_LIMIT, START_LIMIT};
use crate::function::Artefacts;
use crate::instance::{Errand, MicroVm, RestoreFrom, VmError, VmEvent, outcome, thaw};
use crate::logs::Text;

/// Restores a snapshot and waits until the guest serves; with `hooks` its runtime may do something of
/// its own first.
pub(super) async fn warm_up(
    vm: &mut MicroVm,
    artefacts: &Artefacts,
    hooks: bool,
    log: impl Fn(Text),
) -> Result<(), VmError> {
    let mut late = VmError::Late("a start", START_LIMIT);
    let mut deadline = Instant::now() + START_LIMIT;
    let awaited = vm.submit(restore_errand(artefacts, Resume::default())?)?;
    vm.send([thaw()?])?;
    let (mut restored, mut thawed) = (false, false);
    while !(restored && thawed) {
        let event = vm.next_by(deadline).await;
        // A guest that never stops talking does not get around its time.
        let Some(event) = event.filter(|_| Instant::now() < deadline) else {
            return Err(late);
        };
        let event = event?;
        match event {
            VmEvent::Reply(reply) => {
                restored |= reply.id == awaited;
                outcome(reply)?;
                if restored && hooks {
                    late = VmError::Late("what runs after a restore", HOOKS_LIMIT);
                    deadline = Instant::now() + HOOKS_LIMIT;
                }
            }
            VmEvent::Agent(AgentMessage::Thawed) => thawed = true,
            // Of its hooks, or of threads that were at it when the snapshot was taken.
            VmEvent::Agent(AgentMessage::Log(of, text)) => log(Text::of_guest(&of, text)),
            VmEvent::Agent(AgentMessage::RestoreFailed(failed, _)) if hooks => {
                let kind: String = failed.error_type.chars().take(128).collect();
                let what = format!("a hook failed after the restore: {kind}");
                return Err(VmError::Unexpected(what));
            }
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
