//! Restores an instance without an invocation, for provisioned concurrency.

use std::time::Instant;

use hearth_protocol::agent::AgentMessage;
use hearth_protocol::sandbox::Resume;

use super::conversation::{HOOKS_LIMIT, START_LIMIT};
use crate::function::Artefacts;
use crate::instance::{CommandWithFiles, MicroVm, RestoreFrom, VmError, VmEvent, outcome, thaw};
use crate::logs::Text;

/// Restores a function snapshot and waits until the guest has thawed. With `hooks` the runtime first runs
/// its after-restore hook.
pub(super) async fn warm_up(
    vm: &mut MicroVm,
    artefacts: &Artefacts,
    hooks: bool,
    log: impl Fn(Text),
) -> Result<(), VmError> {
    let mut late = VmError::Late("a start", START_LIMIT);
    let mut deadline = Instant::now() + START_LIMIT;
    let awaited = vm.submit(restore_command(artefacts, Resume::default())?)?;
    vm.send([thaw()?])?;
    let (mut restored, mut thawed) = (false, false);
    while !(restored && thawed) {
        let event = vm.next_by(deadline).await;
        // Checked even if there is an event: a guest that floods events must not evade its timeout.
        let Some(event) = event.filter(|_| Instant::now() < deadline) else {
            return Err(late);
        };
        let event = event?;
        match event {
            VmEvent::Reply(reply) => {
                restored |= reply.id == awaited;
                outcome(reply)?;
                if restored && hooks {
                    late = VmError::Late("an after-restore hook", HOOKS_LIMIT);
                    deadline = Instant::now() + HOOKS_LIMIT;
                }
            }
            VmEvent::Agent(AgentMessage::Thawed) => thawed = true,
            // Output of the hook, or of threads that were running when the snapshot was taken.
            VmEvent::Agent(AgentMessage::Log(of, text)) => log(Text::of_guest(&of, text)),
            VmEvent::Agent(AgentMessage::RestoreFailed(failed, _)) if hooks => {
                let kind: String = failed.error_type.chars().take(128).collect();
                let what = format!("the after-restore hook failed: {kind}");
                return Err(VmError::Unexpected(what));
            }
            VmEvent::Exited(exited) => return Err(VmError::Exited(exited)),
            _ => {
                let what = "a restored guest sent an unexpected message before it had thawed";
                return Err(VmError::Unexpected(what.into()));
            }
        }
    }
    Ok(())
}

/// The command that restores a version's snapshot. Fails if a file of it has changed since it was
/// compared with its seal.
pub(super) fn restore_command(
    artefacts: &Artefacts,
    resume: Resume,
) -> Result<CommandWithFiles, VmError> {
    let restore = RestoreFrom {
        snapshot: artefacts.snapshot(),
        disks: artefacts.disks(),
        fingerprint: artefacts.fingerprints.booted.clone(),
        resume: Some(resume),
    };
    let command = restore.command()?;
    command.check(artefacts.sealed())?;
    Ok(command)
}
