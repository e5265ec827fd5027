//! Maximum times of what an instance waits for. The function's own timeout comes with the invocation, and
//! the maximum time of a start is the same for every microVM: [`START_LIMIT`](crate::instance::START_LIMIT).

use std::time::Duration;

/// Maximum time for a new sandbox to reply to its first command.
pub(super) const READY_LIMIT: Duration = Duration::from_secs(20);
/// Maximum time of a runtime's after-restore hook, as on Lambda.
pub(super) const HOOKS_LIMIT: Duration = Duration::from_secs(10);
/// Maximum time for a pause, a resume or a pong.
pub(super) const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// Minimum of the time in which a runtime that has sent a result must ask for its next event.
pub(super) const SETTLE_LIMIT: Duration = Duration::from_secs(2);
/// Maximum time from the runtime's request for its next event to the pause, in which the guest returns
/// from its system call and halts. Short, because the function's threads run during this time too.
pub(super) const FREEZE_WITHIN: Duration = Duration::from_millis(100);
/// Maximum time from the order to shut down to the agent's reply: the two seconds of the extensions, and
/// reserve for a busy host.
pub(super) const SHUT_DOWN_LIMIT: Duration = Duration::from_secs(4);
