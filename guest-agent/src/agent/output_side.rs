//! The function's output: read, and queued for the host.
//!
//! A runtime that sends its output with its answers ([`READS_OUTPUT`]) should not have the agent woken
//! for each line: that costs a switch to the agent and back, and once the agent has read a line the
//! answer has to go through the agent as well. So epoll does not report such a runtime's output. The
//! agent reads it when it runs anyway, and when the function has run for [`MAX_UNREAD`]: it may run for
//! long, and its lines are due.
//!
//! [`READS_OUTPUT`]: hearth_protocol::mailbox::READS_OUTPUT

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use hearth_protocol::output::Lines;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollFlags};

use super::error::AgentError;
use super::extension_side::ExtensionSide;
use super::host_side::HostSide;
use super::log_pipe::{LogPipe, MAX_QUEUED};
use super::tokens::OUTPUT;
use crate::telemetry::Source;

/// Maximum time that lines stay unread which epoll does not report.
const MAX_UNREAD: Duration = Duration::from_millis(100);

/// The function's pipe, and whether the agent is woken for it.
#[derive(Debug)]
pub(super) struct OutputSide {
    pipe: LogPipe,
    /// Whether epoll reports output.
    watched: bool,
    /// The running function was found to have written something. Epoll reports its output until a look
    /// finds none, or the function has answered.
    function_writes: bool,
}

impl OutputSide {
    pub(super) fn create() -> Result<Self, AgentError> {
        Ok(Self {
            pipe: LogPipe::create().map_err(AgentError::io("output pipe"))?,
            watched: true,
            function_writes: false,
        })
    }

    pub(super) fn register(&self, epoll: &Epoll) -> Result<(), Errno> {
        self.pipe.register(epoll, OUTPUT)
    }

    /// The end that the function writes to.
    pub(super) fn writer(&self) -> BorrowedFd<'_> {
        self.pipe.writer()
    }

    /// The end that is read, for a runtime that reads its own output.
    pub(super) fn reader(&self) -> BorrowedFd<'_> {
        self.pipe.reader()
    }

    /// Has epoll report output, unless the `runtime_reads` it.
    pub(super) fn watch(&mut self, epoll: &Epoll, runtime_reads: bool) -> Result<(), AgentError> {
        let watch = self.function_writes || !runtime_reads;
        if watch != self.watched {
            self.watched = watch;
            let interest = match watch {
                true => EpollFlags::EPOLLIN,
                false => EpollFlags::empty(),
            };
            self.pipe
                .modify(epoll, OUTPUT, interest)
                .map_err(AgentError::errno("epoll"))?;
        }
        Ok(())
    }

    /// Whether the agent looks for output by itself: because epoll does not report it, or to find out
    /// whether epoll still has to.
    fn polls(&self) -> bool {
        !self.watched || self.function_writes
    }

    /// When the agent looks for output that epoll does not report.
    pub(super) fn poll_due(&self) -> Option<Instant> {
        self.polls().then(|| Instant::now() + MAX_UNREAD)
    }

    /// Nothing has happened for [`MAX_UNREAD`]: looks for output. `running`: whether the function works
    /// on an invocation.
    pub(super) fn poll(
        &mut self,
        host: &mut HostSide,
        extensions: &mut ExtensionSide,
        scratch: &mut [u8],
        running: bool,
    ) {
        if !self.polls() {
            return;
        }
        let something = self.read(host, extensions, scratch);
        self.function_writes = something && running;
        if something {
            host.link.flush_soon();
        }
    }

    /// The function has answered: whatever it writes now can wait.
    pub(super) fn function_answered(&mut self) {
        self.function_writes = false;
    }

    /// A client has sent something: reads output that epoll does not report. The runtime writes its
    /// output before it posts a result, and log lines must precede the result.
    pub(super) fn catch_up(
        &mut self,
        host: &mut HostSide,
        extensions: &mut ExtensionSide,
        scratch: &mut [u8],
    ) {
        if !self.watched {
            self.read(host, extensions, scratch);
        }
    }

    /// Reads the output of the function and of its extensions. Whether the function had any.
    pub(super) fn read(
        &mut self,
        host: &mut HostSide,
        extensions: &mut ExtensionSide,
        scratch: &mut [u8],
    ) -> bool {
        let Some(reading) = host.begin_reading() else {
            // The runtime reads it at this moment. What is left is reported, or looked for, again.
            std::thread::yield_now();
            return false;
        };
        let something = self.pipe.read(scratch, &mut host.link);
        host.end_reading(&reading, something);
        extensions.read_output(scratch, &mut host.link);
        something
    }

    /// Whether a whole line has been read and not been queued.
    pub(super) fn has_lines(&self) -> bool {
        self.pipe.has_lines()
    }

    /// Whether everything that was read has been queued.
    pub(super) fn is_empty(&self) -> bool {
        self.pipe.is_empty()
    }

    /// Takes everything that was read, an unfinished line included.
    pub(super) fn take_all(&mut self) -> Option<Lines> {
        self.pipe.take_all()
    }

    /// Queues the lines that are whole.
    pub(super) fn queue_lines(
        &mut self,
        request_id: Option<&str>,
        host: &mut HostSide,
        extensions: &mut ExtensionSide,
    ) -> Result<(), AgentError> {
        if host.link.queued() > MAX_QUEUED {
            return Ok(());
        }
        if let Some(lines) = self.pipe.take_lines() {
            extensions.queue_log(host, Source::Function, request_id, lines)?;
        }
        extensions.queue_lines(host, request_id)
    }

    /// Queues everything that was written for `request_id`, an unfinished line included.
    pub(super) fn queue_all(
        &mut self,
        request_id: Option<&str>,
        host: &mut HostSide,
        extensions: &mut ExtensionSide,
    ) -> Result<(), AgentError> {
        if let Some(lines) = self.pipe.take_all() {
            extensions.queue_log(host, Source::Function, request_id, lines)?;
        }
        extensions.queue_all(host, request_id)
    }
}
