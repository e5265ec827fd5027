//! The runtime's process and everything it started: reaped, and killed together.

use hearth_protocol::agent::{AgentMessage, InitFailed, RuntimeExited};
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::leaving::kill_group;
use super::{Agent, AgentError};
use crate::exit;
use crate::lifecycle::Ended;
use crate::telemetry::Outcome;

impl Agent {
    /// Reaps every child that has ended: the runtime, and orphans that PID 1 inherits.
    pub(super) fn reap(&mut self) -> Result<(), AgentError> {
        // One signal stands for any number of children; it is read to be done with.
        self.children
            .read_signal()
            .map_err(AgentError::errno("signalfd"))?;
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(status) => {
                    if status.pid().is_some() && status.pid() == self.runtime {
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
        let Some(exit) = exit::of(status, self.cgroup.ran_out_of_memory()?) else {
            return Ok(());
        };
        let Some((name, told)) = status.pid().and_then(|pid| self.extensions.exited(pid)) else {
            return Ok(());
        };
        self.read_output()?;
        if told || self.leaving.is_some() {
            return Ok(());
        }
        self.extension_failed("Extension.Crash", &name, exit)
    }

    fn runtime_ended(&mut self, status: WaitStatus) -> Result<(), AgentError> {
        let Some(exit) = exit::of(status, self.cgroup.ran_out_of_memory()?) else {
            return Ok(());
        };
        let runtime = self.runtime.take();
        if self.extensions.running().next().is_none() {
            // Whatever it left running goes with it.
            self.cgroup.kill()?;
        } else if let Some(runtime) = runtime {
            // Extensions have something to do yet.
            kill_group(runtime);
        }
        if self.leaving.is_some() || self.life.is_over() {
            // The host knows, or does not want to any more.
            self.read_output()?;
            return self.queue_all_output(None);
        }
        if let Some(mailbox) = &self.mailbox {
            mailbox.reader_is_gone();
        }
        // Its last words may have come after this turn's look at the pipe.
        self.read_output()?;
        let usage = self.usage()?;
        let running = self.life.running().map(str::to_owned);
        self.queue_all_output(running.as_deref())?;
        match self.life.exited(exit) {
            Ended::InInit => {
                let request_id = self
                    .generator
                    .uuid()
                    .map_err(AgentError::io("/dev/urandom"))?;
                self.report_init_failure(exit::InitError::exited(&request_id, exit))
            }
            Ended::InRestore => {
                let request_id = self
                    .generator
                    .uuid()
                    .map_err(AgentError::io("/dev/urandom"))?;
                let error = exit::InitError::exited(&request_id, exit);
                let error_type = error.error_type.to_owned();
                Ok(self.host.queue(AgentMessage::RestoreFailed(
                    InitFailed { error_type },
                    error.body.into(),
                ))?)
            }
            Ended::InService { request_id } => {
                self.tell_done(|| Outcome::failed(usage, Some("Runtime.ExitError")));
                Ok(self.host.queue(AgentMessage::RuntimeExited(RuntimeExited {
                    request_id,
                    exit,
                    usage,
                    error_type: None,
                }))?)
            }
            Ended::AfterInitError => Ok(()),
        }
    }

    /// Kills everything that the function started and waits until it is gone.
    pub(crate) fn kill_all(&mut self) -> Result<(), AgentError> {
        self.cgroup.kill()?;
        loop {
            match waitpid(None, None) {
                Ok(_) | Err(Errno::EINTR) => {}
                // ECHILD: nobody is left.
                Err(_) => return Ok(()),
            }
        }
    }
}
