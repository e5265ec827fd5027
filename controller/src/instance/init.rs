//! Runs a function's init in a microVM that is restored from the runtime snapshot: at deploy, and in each
//! instance of a function that must not start from a function snapshot.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_protocol::agent::{AgentMessage, Configure, Exit, HostMessage, Log};
use tokio::time::{timeout, timeout_at};

use super::command_with_files::CommandWithFiles;
use super::entropy::thaw;
use super::microvm::{MicroVm, VmError, VmEvent};

/// Maximum time until the restore's reply.
const RESTORE_LIMIT: Duration = Duration::from_secs(30);

/// The outcome of a function's init.
#[derive(Debug)]
pub(crate) struct Init {
    pub(crate) result: Result<(), InitError>,
    /// Time from the restore's command to its reply.
    pub(crate) restore: Duration,
    /// How long init took, successful or not.
    pub(crate) took: Duration,
}

/// Why a function's init has failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    /// The runtime has reported an error, or the agent could not start the runtime.
    #[error("init failed: {}", self.report_status())]
    Reported {
        /// The error's name.
        kind: String,
        /// Usually JSON, but the function may send anything.
        body: Bytes,
    },
    /// A process of the function has ended.
    #[error("a process ended in init: {exit:?}")]
    Exited {
        exit: Exit,
        /// Set if it was an extension's process.
        error_type: Option<String>,
    },
    /// The timeout has passed.
    #[error("init did not end within {} seconds", .0.as_secs())]
    TimedOut(Duration),
}

impl InitError {
    /// The error's name in an `INIT_REPORT`. A guest's text becomes part of a log line only if it has the
    /// form of a name, because other texts could forge lines.
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

/// Runs a function's init. `restore` restores the runtime snapshot and lets the microVM run; `log` gets the
/// function's output. An error is one of the platform; an error of the function is in [`Init`].
pub(crate) async fn init(
    vm: &mut MicroVm,
    restore: CommandWithFiles,
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
                // The guest's measurement does not contain the restore. It is clamped to the time that
                // has passed here.
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

/// The error for an event that is not allowed during init.
pub(crate) fn unexpected(event: VmEvent) -> VmError {
    match event {
        VmEvent::Exited(exited) => VmError::Exited(exited),
        VmEvent::Agent(AgentMessage::Fatal(reason)) => VmError::Unexpected(format!(
            "the agent has failed: {}",
            String::from_utf8_lossy(&reason[..reason.len().min(500)])
        )),
        other => VmError::Unexpected(format!("the guest sent {other} during init")),
    }
}
