//! Scheduling of the agent: it runs after the runtime and does not interrupt it.

use nix::errno::Errno;

/// Has the guest kernel wake the agent without interrupting the running process. A line that a function
/// prints wakes the agent, which would otherwise take the CPU at once and give it back: twice the work of
/// writing the line. With this policy the agent runs when the runtime waits, or at the next tick. The
/// runtime's process does not inherit the policy.
pub(crate) fn let_others_finish() -> Result<(), Errno> {
    let priority = libc::sched_param { sched_priority: 0 };
    let policy = libc::SCHED_BATCH | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the kernel reads the parameter and keeps nothing of it.
    Errno::result(unsafe { libc::sched_setscheduler(0, policy, &raw const priority) }).map(drop)
}
