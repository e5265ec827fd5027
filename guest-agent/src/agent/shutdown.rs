//! The orderly end of a microVM whose function has extensions: first the runtime ends, then the
//! extensions receive `SHUTDOWN` and get what is left of Lambda's two seconds.

use std::time::{Duration, Instant, SystemTime};

use hearth_protocol::agent::{AgentMessage, Leave};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::{Agent, AgentError, Flow};
use crate::extensions::shutdown_event;

/// Maximum time of a shutdown with external extensions.
const EXTERNAL_TIMEOUT: Duration = Duration::from_millis(2000);
/// Maximum time of that for the runtime.
const RUNTIME_TIMEOUT: Duration = Duration::from_millis(600);
/// Maximum time for the runtime, if all extensions are internal.
const INTERNAL_TIMEOUT: Duration = Duration::from_millis(500);

/// Whose end the shutdown waits for.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// The runtime's, until then.
    Runtime { until: Instant },
    /// The external extensions', until [`Shutdown::deadline`].
    Extensions,
}

/// A shutdown that goes on.
#[derive(Debug)]
pub(super) struct Shutdown {
    reason: String,
    deadline: Instant,
    /// The same for extensions: milliseconds since the epoch.
    deadline_ms: u64,
    stage: Stage,
}

impl Shutdown {
    /// When something is due.
    pub(super) fn due(&self) -> Instant {
        match self.stage {
            Stage::Runtime { until } => until,
            Stage::Extensions => self.deadline,
        }
    }
}

impl Agent {
    /// Begins to shut down. Without extensions there is nothing to wait for.
    pub(super) fn begin_shutdown(&mut self, leave: &Leave) -> Result<(), AgentError> {
        self.host.follow_clock(leave.realtime_ns)?;
        if self.shutdown.is_some() {
            return Ok(());
        }
        let external = self.extensions.has_programs();
        let (whole, runtimes) = match (self.extensions.registry.is_empty(), external) {
            (true, _) => (Duration::ZERO, Duration::ZERO),
            (false, true) => (EXTERNAL_TIMEOUT, RUNTIME_TIMEOUT),
            (false, false) => (INTERNAL_TIMEOUT, INTERNAL_TIMEOUT),
        };
        let now = Instant::now();
        let wall = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        if let Some(runtime) = self.runtime.pid() {
            signal_group(runtime, Signal::SIGTERM);
        }
        if let Some(telemetry) = self.extensions.telemetry() {
            let peak = self.runtime.peak_memory()?;
            telemetry.shut_down(&leave.reason, peak);
        }
        self.shutdown = Some(Shutdown {
            reason: leave.reason.clone(),
            deadline: now + whole,
            deadline_ms: u64::try_from((wall + whole).as_millis()).unwrap_or(u64::MAX),
            stage: Stage::Runtime {
                until: now + runtimes,
            },
        });
        Ok(())
    }

    /// Does what is due. Stops the agent when everything has ended, or the time is over.
    pub(super) fn advance_shutdown(&mut self) -> Result<Flow, AgentError> {
        let Some(shutdown) = &mut self.shutdown else {
            return Ok(Flow::Continue);
        };
        let now = Instant::now();
        if let Stage::Runtime { until } = shutdown.stage {
            // Subscribers receive everything else before extensions receive `SHUTDOWN`: an extension may
            // exit as soon as it has that.
            let waits = self.runtime.pid().is_some() || !self.extensions.all_is_delivered();
            if waits && now < until {
                return Ok(Flow::Continue);
            }
            shutdown.stage = Stage::Extensions;
            let event = shutdown_event(&shutdown.reason, shutdown.deadline_ms);
            if let Some(runtime) = self.runtime.pid() {
                kill_group(runtime);
            }
            for extension in self.extensions.registry.without_shutdown_event() {
                kill_group(extension);
            }
            let events = self.extensions.registry.shutdown(&event);
            self.send_events(events)?;
        }
        let Some(shutdown) = &self.shutdown else {
            return Ok(Flow::Continue);
        };
        if self.extensions.has_programs() && now < shutdown.deadline {
            return Ok(Flow::Continue);
        }
        self.read_output();
        self.queue_all_output(None)?;
        self.host.queue(AgentMessage::Left)?;
        self.host.link.flush()?;
        // The host ends the microVM once it has read that.
        self.host.link.wait_for_host();
        Ok(Flow::Stop)
    }
}

/// Signals a process that the agent started, and its process group. A process that is gone needs none.
fn signal_group(process: Pid, signal: Signal) {
    if killpg(process, signal).is_err() {
        let _ = kill(process, signal);
    }
}

/// Kills a process that the agent started, and its process group.
pub(super) fn kill_group(process: Pid) {
    signal_group(process, Signal::SIGKILL);
}
