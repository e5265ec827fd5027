//! Runs a function's init in a microVM that is restored from the runtime snapshot: at deploy, and in each
//! instance of a function that must not start from a function snapshot.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_protocol::agent::{AgentMessage, Configure, Exit, HostMessage, Log};

use super::command_with_files::CommandWithFiles;
use super::entropy::thaw;
use super::exchange::{Deadline, START_LIMIT, Step};
use super::microvm::{MicroVm, VmError, VmEvent};

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
/// function's output, and `restored` is called when the microVM runs. An error is one of the platform; an error of the function is in [`Init`].
pub(crate) async fn init(
    vm: &mut MicroVm,
    restore: CommandWithFiles,
    configure: Configure,
    limit: Duration,
    log: impl Fn(&Log, Bytes),
    restored: impl FnOnce(),
) -> Result<Init, VmError> {
    let began = Instant::now();
    vm.command(restore, Deadline::since(began, START_LIMIT, "a restore"))
        .await?;
    restored();
    let restore = began.elapsed();
    vm.send([thaw()?, HostMessage::Configure(configure)])?;
    let deadline = Deadline::since(began, limit, "the end of init");
    let mut thawed = false;
    let ended = vm.wait_for(deadline, |_, event| {
        let message = match event {
            VmEvent::Agent(message) => message,
            other => return Ok(Step::Unexpected(other)),
        };
        Ok(match message {
            AgentMessage::Thawed if !thawed => {
                thawed = true;
                Step::Wait
            }
            AgentMessage::Log(of, text) if thawed => {
                log(&of, text);
                Step::Wait
            }
            AgentMessage::Ready(ready) if thawed => Step::Done(Ok(ready.init_us)),
            AgentMessage::InitFailed(failed, body) => {
                let kind = failed.error_type.chars().take(128).collect();
                Step::Done(Err(InitError::Reported { kind, body }))
            }
            AgentMessage::RuntimeExited(exited) => Step::Done(Err(InitError::Exited {
                exit: exited.exit,
                error_type: exited.error_type,
            })),
            other => Step::Unexpected(VmEvent::Agent(other)),
        })
    });
    let result = match ended.await {
        Err(VmError::Late(..)) => Err(InitError::TimedOut(limit)),
        ended => ended?,
    };
    // The guest's measurement does not contain the restore. It is clamped to the time that has passed
    // here.
    let passed = began.elapsed();
    let measured = result.as_ref().ok().copied().flatten();
    let took = measured.map_or(passed, Duration::from_micros).min(passed);
    Ok(Init {
        result: result.map(drop),
        restore,
        took,
    })
}
