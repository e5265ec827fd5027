//! When the agent runs: after the runtime, not in the middle of it.

use nix::errno::Errno;

/// Lets the agent be woken without interrupting who runs. A line that a function prints wakes the
/// agent, which would otherwise take the CPU for it at once, and give it back: twice the work of
/// writing the line. This way it runs when the runtime waits, or at the next tick. The runtime's
/// process does not inherit that.
pub(crate) fn let_others_finish() -> Result<(), Errno> {
    let priority = libc::sched_param { sched_priority: 0 };
    let policy = libc::SCHED_BATCH | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the kernel reads the parameter and keeps nothing of it.
    Errno::result(unsafe { libc::sched_setscheduler(0, policy, &raw const priority) }).map(drop)
}
