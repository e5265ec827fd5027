//! Restores an instance without an invocation, for provisioned concurrency.

use hearth_protocol::agent::AgentMessage;
use hearth_protocol::sandbox::Resume;

use super::timeouts::HOOKS_LIMIT;
use crate::function::Artefacts;
use crate::instance::{
    CommandWithFiles, Deadline, MicroVm, RestoreFrom, START_LIMIT, Step, VmError, VmEvent, outcome,
    thaw,
};
use crate::logs::Text;

/// Restores a function snapshot and waits until the guest has thawed. With `hooks` the runtime first runs
/// its after-restore hook. `on_restored` is called when the guest runs.
pub(super) async fn warm_up(
    vm: &mut MicroVm,
    artefacts: &Artefacts,
    hooks: bool,
    log: impl Fn(Text),
    on_restored: impl Fn(),
) -> Result<(), VmError> {
    let start = Deadline::after(START_LIMIT, "a start");
    let awaited = vm.submit(restore_command(artefacts, Resume::default())?)?;
    vm.send([thaw()?])?;
    let (mut restored, mut thawed) = (false, false);
    let ready = vm.wait_for(start, |_, event| {
        let mut step = Step::Wait;
        match event {
            VmEvent::Reply(reply) => {
                restored |= reply.id == awaited;
                outcome(reply)?;
                if restored {
                    on_restored();
                }
                if restored && hooks {
                    let hook = Deadline::after(HOOKS_LIMIT, "an after-restore hook");
                    step = Step::WaitUntil(hook);
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
            other => return Ok(Step::Unexpected(other)),
        }
        if restored && thawed {
            step = Step::Done(());
        }
        Ok(step)
    });
    ready.await
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
