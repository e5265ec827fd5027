//! The processes of the function: reaped, and killed together.

use hearth_protocol::agent::{AgentMessage, InitFailed, RuntimeExited};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{Agent, AgentError};
use crate::exit;
use crate::lifecycle::Ended;
use crate::telemetry::Outcome;

impl Agent {
    /// Reaps every child that has ended: the runtime, extensions, and orphans that PID 1 inherits.
    pub(super) fn reap(&mut self) -> Result<(), AgentError> {
        // One signal stands for any number of children. Reading it clears it.
        self.children
            .read_signal()
            .map_err(AgentError::errno("signalfd"))?;
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(status) => {
                    if status.pid().is_some() && status.pid() == self.runtime.pid() {
                        self.runtime_ended(status)?;
                    } else {
                        self.extension_ended(status)?;
                    }
                }
                Err(errno) => return Err(AgentError::errno("waitpid")(errno)),
            }
        }
    }

    fn extension_ended(&mut self, status: WaitStatus) -> Result<(), AgentError> {
        let Some(exit) = self.runtime.exit_of(status)? else {
            return Ok(());
        };
        let ended = status
            .pid()
            .and_then(|pid| self.extensions.registry.exited(pid));
        let Some((name, reported)) = ended else {
            return Ok(());
        };
        self.read_output();
        if reported || self.shutdown.is_some() {
            return Ok(());
        }
        self.extension_failed("Extension.Crash", &name, exit)
    }

    fn runtime_ended(&mut self, status: WaitStatus) -> Result<(), AgentError> {
        let Some(exit) = self.runtime.exit_of(status)? else {
            return Ok(());
        };
        let pid = self.runtime.pid();
        self.runtime.process_ended();
        if !self.extensions.has_programs() {
            // With the runtime go the processes that it started.
            self.runtime.kill_all()?;
        } else if let Some(pid) = pid {
            // Extensions, which are in the same cgroup, still have to shut down.
            kill_group(pid);
        }
        if self.shutdown.is_some() || self.runtime.lifecycle.is_over() {
            // The host knows of the end, or has asked for it.
            self.read_output();
            return self.queue_all_output(None);
        }
        self.host.runtime_ended();
        // The runtime may have written after this turn's look at the pipe.
        self.read_output();
        self.send_held_answer()?;
        let usage = self.usage()?;
        let running = self.runtime.lifecycle.running().map(str::to_owned);
        self.queue_all_output(running.as_deref())?;
        match self.runtime.lifecycle.exited(exit) {
            Ended::InInit => {
                let request_id = self.host.uuid()?;
                self.report_init_failure(exit::InitError::exited(&request_id, exit))
            }
            Ended::InRestore => {
                let request_id = self.host.uuid()?;
                let error = exit::InitError::exited(&request_id, exit);
                let error_type = error.error_type.to_owned();
                self.host.queue(AgentMessage::RestoreFailed(
                    InitFailed { error_type },
                    error.body.into(),
                ))
            }
            Ended::InService { request_id } => {
                self.extensions
                    .report_done(|| Outcome::failed(usage, Some("Runtime.ExitError")));
                self.host.queue(AgentMessage::RuntimeExited(RuntimeExited {
                    request_id,
                    exit,
                    usage,
                    error_type: None,
                }))
            }
            Ended::AfterInitError => Ok(()),
        }
    }

    /// Kills everything that the function started and waits until it is gone.
    pub(crate) fn kill_all(&mut self) -> Result<(), AgentError> {
        self.runtime.kill_all()?;
        loop {
            match waitpid(None, None) {
                Ok(_) | Err(Errno::EINTR) => {}
                // ECHILD: there are no more children.
                Err(_) => return Ok(()),
            }
        }
    }
}

/// Signals a process that the agent started, and its process group. A process that is gone needs none.
pub(super) fn signal_group(process: Pid, signal: Signal) {
    if killpg(process, signal).is_err() {
        let _ = kill(process, signal);
    }
}

/// Kills a process that the agent started, and its process group.
pub(super) fn kill_group(process: Pid) {
    signal_group(process, Signal::SIGKILL);
}
