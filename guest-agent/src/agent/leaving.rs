//! The end of a microVM whose function has extensions: first the runtime ends, then they hear of it
//! and get what is left of Lambda's two seconds.

use std::time::{Duration, Instant, SystemTime};

use hearth_protocol::agent::{AgentMessage, Leave};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::host_messages::Flow;
use super::{Agent, AgentError};
use crate::extensions::shutdown_event;

/// For all of it, with external extensions.
const EXTERNAL: Duration = Duration::from_millis(2000);
/// For the runtime's part of that.
const RUNTIME: Duration = Duration::from_millis(600);
/// For the runtime, with internal extensions alone.
const INTERNAL: Duration = Duration::from_millis(500);

/// A microVM on its way out.
#[derive(Debug)]
pub(super) struct Leaving {
    reason: String,
    deadline: Instant,
    deadline_ms: u64,
    /// Until when the runtime may end by itself; `None` when it has ended, or had its time.
    runtime_until: Option<Instant>,
}

impl Leaving {
    /// When something is due.
    pub(super) fn due(&self) -> Instant {
        self.runtime_until.unwrap_or(self.deadline)
    }
}

impl Agent {
    /// Begins to end. Without extensions there is nothing to wait for.
    pub(super) fn begin_leaving(&mut self, leave: &Leave) -> Result<(), AgentError> {
        self.clock
            .follow(leave.realtime_ns)
            .map_err(AgentError::Clock)?;
        if self.leaving.is_some() {
            return Ok(());
        }
        let external = self.extensions.running().next().is_some();
        let (whole, runtimes) = match (self.extensions.is_empty(), external) {
            (true, _) => (Duration::ZERO, Duration::ZERO),
            (false, true) => (EXTERNAL, RUNTIME),
            (false, false) => (INTERNAL, INTERNAL),
        };
        let now = Instant::now();
        let wall = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        if let Some(runtime) = self.runtime {
            signal_all_of(runtime, Signal::SIGTERM);
        }
        if self.telemetry.is_some() {
            let peak = self.cgroup.peak_memory()?;
            if let Some(telemetry) = &mut self.telemetry {
                telemetry.leave(&leave.reason, peak);
            }
        }
        self.leaving = Some(Leaving {
            reason: leave.reason.clone(),
            deadline: now + whole,
            deadline_ms: u64::try_from((wall + whole).as_millis()).unwrap_or(u64::MAX),
            runtime_until: Some(now + runtimes),
        });
        Ok(())
    }

    /// Does what is due. Ends the agent when everything has ended, or its time is over.
    pub(super) fn go_on_leaving(&mut self) -> Result<Flow, AgentError> {
        let told = self.all_is_told();
        let Some(leaving) = &mut self.leaving else {
            return Ok(Flow::Continue);
        };
        let now = Instant::now();
        if let Some(until) = leaving.runtime_until {
            // What has happened so far is told before the end is: whoever hears of the end may go.
            if (self.runtime.is_some() || !told) && now < until {
                return Ok(Flow::Continue);
            }
            leaving.runtime_until = None;
            if let Some(runtime) = self.runtime {
                signal_all_of(runtime, Signal::SIGKILL);
            }
            let event = shutdown_event(&leaving.reason, leaving.deadline_ms);
            for unwarned in self.extensions.unwarned() {
                signal_all_of(unwarned, Signal::SIGKILL);
            }
            let deliveries = self.extensions.shutdown(&event);
            self.hand_out(deliveries)?;
        }
        let Some(leaving) = &self.leaving else {
            return Ok(Flow::Continue);
        };
        if self.extensions.running().next().is_some() && now < leaving.deadline {
            return Ok(Flow::Continue);
        }
        self.read_output()?;
        self.queue_all_output(None)?;
        self.host.queue(AgentMessage::Left)?;
        self.host.flush()?;
        // The host ends the microVM when it has heard.
        self.host.wait_for_host();
        Ok(Flow::Shutdown)
    }
}

/// Signals a process that was started here, and those of its group. What is gone needs none.
fn signal_all_of(process: Pid, signal: Signal) {
    if killpg(process, signal).is_err() {
        let _ = kill(process, signal);
    }
}

/// Kills a runtime and those of its group.
pub(super) fn kill_group(process: Pid) {
    signal_all_of(process, Signal::SIGKILL);
}
