//! A function's init in a microVM that is restored from its runtime's snapshot: at deploy, and in each
//! instance of a function that must not start from a snapshot of its own.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_protocol::agent::{AgentMessage, Configure, Exit, HostMessage, Log};
use tokio::time::{timeout, timeout_at};

use super::entropy::thaw;
use super::errand::Errand;
use super::microvm::{MicroVm, VmError, VmEvent};

/// Longest time for the restore's reply.
const RESTORE_LIMIT: Duration = Duration::from_secs(30);

/// What a function's init came to.
#[derive(Debug)]
pub(crate) struct Init {
    pub(crate) result: Result<(), InitError>,
    /// From the restore's command to its reply.
    pub(crate) restore: Duration,
    /// How long init took, well or not.
    pub(crate) took: Duration,
}

/// How a function's init failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    /// The runtime reported an error, or the agent could not start it.
    #[error("init failed: {}", self.report_status())]
    Reported {
        /// Its name.
        kind: String,
        /// JSON as a rule; whatever the function made of it.
        body: Bytes,
    },
    /// A process of the function ended.
    #[error("a process ended in init: {exit:?}")]
    Exited {
        exit: Exit,
        /// Set if it was an extension's.
        error_type: Option<String>,
    },
    /// It did not end in its time.
    #[error("init did not end within {} seconds", .0.as_secs())]
    TimedOut(Duration),
}

impl InitError {
    /// What an `INIT_REPORT` calls it. A guest's word goes into a log line only if it is a name.
    pub(crate) fn report_status(&self) -> &str {
        match self {
            Self::TimedOut(_) => "timeout",
            Self::Exited { .. } => "Runtime.ExitError",
            Self::Reported { kind, .. }
                if kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.') =>
            {
                kind
            }
            Self::Reported { .. } => "Unknown",
        }
    }
}

/// Restores a runtime's snapshot by `restore`, which lets it run, and starts a function in it; `log` gets
/// what that writes, as it comes. An error is the platform's; the function's own is in [`Init`].
pub(crate) async fn init(
    vm: &mut MicroVm,
    restore: Errand,
    configure: Configure,
    limit: Duration,
    log: impl Fn(&Log, Bytes),
) -> Result<Init, VmError> {
    let began = Instant::now();
    timeout(RESTORE_LIMIT, vm.command(restore))
        .await
        .map_err(|_| VmError::Late("a restore", RESTORE_LIMIT))??;
    let restore = began.elapsed();
    vm.send([thaw()?, HostMessage::Configure(configure)])?;
    let mut thawed = false;
    let deadline = began + limit;
    let mut init_us = None;
    let result = loop {
        let event = timeout_at(deadline.into(), vm.next()).await;
        if Instant::now() >= deadline {
            break Err(InitError::TimedOut(limit));
        }
        let Ok(event) = event else {
            break Err(InitError::TimedOut(limit));
        };
        let message = match event? {
            VmEvent::Agent(message) => message,
            other => return Err(unexpected(other)),
        };
        match message {
            AgentMessage::Thawed if !thawed => thawed = true,
            AgentMessage::Log(of, text) if thawed => log(&of, text),
            AgentMessage::Ready(ready) if thawed => {
                // The guest's figure leaves the restore out; it can't be more than passed here.
                init_us = ready.init_us;
                break Ok(());
            }
            AgentMessage::InitFailed(failed, body) => {
                let kind = failed.error_type.chars().take(128).collect();
                break Err(InitError::Reported { kind, body });
            }
            AgentMessage::RuntimeExited(exited) => {
                break Err(InitError::Exited {
                    exit: exited.exit,
                    error_type: exited.error_type,
                });
            }
            other => return Err(unexpected(VmEvent::Agent(other))),
        }
    };
    let passed = began.elapsed();
    let took = init_us.map_or(passed, Duration::from_micros).min(passed);
    Ok(Init {
        result,
        restore,
        took,
    })
}

/// What a guest must not say before its function serves.
pub(crate) fn unexpected(event: VmEvent) -> VmError {
    match event {
        VmEvent::Exited(exited) => VmError::Exited(exited),
        VmEvent::Agent(AgentMessage::Fatal(reason)) => VmError::Unexpected(format!(
            "the agent can't go on: {}",
            String::from_utf8_lossy(&reason[..reason.len().min(500)])
        )),
        other => VmError::Unexpected(format!("in init it said {other}")),
    }
}
