//! The agent's side towards the runtime: its process and cgroup, what it is doing, the response that
//! it streams, and what an invocation has used.

use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use hearth_protocol::agent::{Exit, Usage};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use super::response_stream::ResponseStream;
use crate::cgroup::{CgroupError, RuntimeCgroup};
use crate::generators::Generators;
use crate::lifecycle::{ConnectionId, Lifecycle};
use crate::mailbox::Descriptors;
use crate::spawn::{self, SpawnError};
use crate::{cpu_time, exit};

/// The runtime as it is to be started.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) program: String,
    pub(super) environment: Vec<CString>,
}

/// The runtime's process.
#[derive(Debug)]
enum Process {
    /// Not started yet, or gone.
    Absent,
    /// To be started once every external extension has registered.
    Prepared(Launch),
    Running(Pid),
}

/// What the host knows of the function's readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readiness {
    /// Init runs. Extensions may register and subscribe.
    Initializing,
    /// Init runs: the runtime waits for its first event, and an extension does not wait yet.
    InitWaitsForExtensions,
    /// Init is over: the host has received `Ready`, or that an extension failed.
    Initialized,
    /// The runtime waits for its next event, and an extension does not wait yet. The host has not
    /// received `Ready`.
    WaitsForExtensions,
}

/// What the function has finished when it is ready for an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadyAfter {
    Init,
    Invocation,
}

/// What is measured of init and of each invocation.
#[derive(Debug)]
struct Meter {
    /// When the runtime was started, or was given its event.
    since: Instant,
    /// When the runtime answered last.
    answered: Instant,
    /// The runtime's CPU time when it was read last. One reading per invocation, at its end, is enough:
    /// between invocations the microVM is paused, and what the runtime does after its answer counts for
    /// the next invocation.
    cpu_us: u64,
}

/// The runtime.
#[derive(Debug)]
pub(super) struct RuntimeSide {
    pub(super) lifecycle: Lifecycle,
    pub(super) stream: ResponseStream,
    /// What runtimes have reported of their random generators.
    pub(super) generators: Generators,
    process: Process,
    readiness: Readiness,
    cgroup: RuntimeCgroup,
    meter: Meter,
}

impl RuntimeSide {
    pub(super) fn new(cgroup: RuntimeCgroup) -> Self {
        Self {
            lifecycle: Lifecycle::new(),
            stream: ResponseStream::default(),
            generators: Generators::default(),
            process: Process::Absent,
            readiness: Readiness::Initializing,
            cgroup,
            meter: Meter {
                since: Instant::now(),
                answered: Instant::now(),
                cpu_us: 0,
            },
        }
    }

    /// Sets the function's memory limit.
    pub(super) fn limit_memory(&mut self, memory_mib: u32) -> Result<(), CgroupError> {
        self.cgroup.limit_memory(memory_mib)
    }

    /// Sets the memory limit of one invocation, or removes it.
    pub(super) fn limit_invocation(&mut self, memory_mib: Option<u32>) -> Result<(), CgroupError> {
        self.cgroup.limit_invocation(memory_mib)
    }

    /// Init begins now.
    pub(super) fn begin_init(&mut self) {
        self.meter.since = Instant::now();
    }

    /// When init began, until it is over.
    pub(super) fn init_began(&self) -> Option<Instant> {
        self.is_initializing().then_some(self.meter.since)
    }

    /// Until the host has received `Ready` for the first time.
    pub(super) fn is_initializing(&self) -> bool {
        match self.readiness {
            Readiness::Initializing | Readiness::InitWaitsForExtensions => true,
            Readiness::Initialized | Readiness::WaitsForExtensions => false,
        }
    }

    /// Init has ended.
    pub(super) fn end_init(&mut self) {
        self.readiness = Readiness::Initialized;
    }

    /// Init has failed: a runtime that was not started yet never is.
    pub(super) fn abandon_init(&mut self) {
        self.end_init();
        self.take_launch();
    }

    /// The runtime waits for an event, and the host does not know.
    pub(super) fn waits_unannounced(&mut self, after: ReadyAfter) {
        self.readiness = match after {
            ReadyAfter::Init => Readiness::InitWaitsForExtensions,
            ReadyAfter::Invocation => Readiness::WaitsForExtensions,
        };
    }

    /// Every extension waits: what the host is to be told now, if the runtime waits too.
    pub(super) fn take_unannounced(&mut self) -> Option<ReadyAfter> {
        let after = match self.readiness {
            Readiness::InitWaitsForExtensions => ReadyAfter::Init,
            Readiness::WaitsForExtensions => ReadyAfter::Invocation,
            Readiness::Initializing | Readiness::Initialized => return None,
        };
        self.readiness = Readiness::Initialized;
        Some(after)
    }

    /// Says what [`take_launch`](Self::take_launch) returns.
    pub(super) fn prepare(&mut self, launch: Launch) {
        self.process = Process::Prepared(launch);
    }

    /// What is to be started, once.
    pub(super) fn take_launch(&mut self) -> Option<Launch> {
        match std::mem::replace(&mut self.process, Process::Absent) {
            Process::Prepared(launch) => Some(launch),
            other => {
                self.process = other;
                None
            }
        }
    }

    /// Starts a program in the runtime's cgroup: the runtime itself or an external extension.
    pub(super) fn spawn(
        &self,
        program: &str,
        environment: &[CString],
        output: BorrowedFd<'_>,
        mailbox: Option<Descriptors>,
    ) -> Result<Pid, SpawnError> {
        let procs = self.cgroup.procs();
        spawn::start(program, environment, output, procs, mailbox)
    }

    /// This is the runtime's process.
    pub(super) fn started(&mut self, pid: Pid) {
        self.process = Process::Running(pid);
    }

    /// The runtime's process, if it runs.
    pub(super) fn pid(&self) -> Option<Pid> {
        match self.process {
            Process::Running(pid) => Some(pid),
            Process::Absent | Process::Prepared(_) => None,
        }
    }

    /// The runtime's process has ended.
    pub(super) fn process_ended(&mut self) {
        self.process = Process::Absent;
    }

    /// How a process of the cgroup ended; `None` if it has not.
    pub(super) fn exit_of(&self, status: WaitStatus) -> Result<Option<Exit>, CgroupError> {
        Ok(exit::of(status, self.cgroup.ran_out_of_memory()?))
    }

    /// Kills everything that the function has started, extensions included.
    pub(super) fn kill_all(&self) -> Result<(), CgroupError> {
        self.cgroup.kill()
    }

    /// A connection is closed. If a response was streamed on it, that was broken off.
    pub(super) fn connection_closed(&mut self, connection: ConnectionId) {
        self.lifecycle.connection_closed(connection);
        if self.lifecycle.stream_is_broken() {
            self.stream.break_off();
        }
    }

    /// The runtime is given an event.
    pub(super) fn event_given(&mut self) {
        self.meter.since = Instant::now();
    }

    /// The runtime has answered: the invocation's memory limit ends with it.
    pub(super) fn answered(&mut self) -> Result<(), CgroupError> {
        self.meter.answered = Instant::now();
        self.cgroup.limit_invocation(None)
    }

    /// When the runtime was started, or was given its event.
    pub(super) fn since(&self) -> Instant {
        self.meter.since
    }

    /// Time since the last answer.
    pub(super) fn since_answer(&self) -> Duration {
        self.meter.answered.elapsed()
    }

    /// What the runtime has used of the CPU so far does not count for the next invocation.
    pub(super) fn restart_cpu_time(&mut self) {
        self.meter.cpu_us = self.cpu_us();
    }

    /// What the invocation that ends now has used.
    pub(super) fn usage(&mut self) -> Result<Usage, CgroupError> {
        let duration_us = micros(self.meter.since.elapsed());
        let cpu_us = self.cpu_us();
        let before = std::mem::replace(&mut self.meter.cpu_us, cpu_us);
        Ok(Usage {
            duration_us,
            cpu_us: cpu_us.saturating_sub(before),
            max_memory_bytes: self.peak_memory()?,
        })
    }

    /// The most memory that the function has had.
    pub(super) fn peak_memory(&self) -> Result<u64, CgroupError> {
        self.cgroup.peak_memory()
    }

    fn cpu_us(&self) -> u64 {
        self.pid()
            .map_or_else(cpu_time::of_the_reaped, cpu_time::of)
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
