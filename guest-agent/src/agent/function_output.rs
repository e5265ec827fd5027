//! What the function writes: read, and queued for the host.
//!
//! A runtime that takes its output along with its answers ([`READS_OUTPUT`]) does not want the agent
//! woken for each line: that is a switch to the agent and back, and once the agent has read a line
//! the answer has to come to it as well. So the agent does not wait for such a runtime's output. It
//! looks when it is up anyway, and when [`UNHEARD`] of running have passed: then the function is at
//! it for long, and its lines are due.
//!
//! [`READS_OUTPUT`]: hearth_protocol::mailbox::READS_OUTPUT

use std::time::{Duration, Instant};

use hearth_protocol::output::LogBuffer;
use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::events::OUTPUT;
use super::{Agent, AgentError};
use crate::host_link::HostLink;
use crate::output::Output;
use crate::telemetry::Source;

/// Log bytes that may wait for the host; what comes while there are more is thrown away.
const MAX_QUEUED_LOGS: usize = 1024 * 1024;
/// How long lines may lie that the agent is not woken for.
const UNHEARD: Duration = Duration::from_millis(100);

/// Whether the agent is woken for output.
#[derive(Debug)]
pub(super) struct Listening {
    /// As the event loop has it.
    watched: bool,
    /// A look has found what the function at work has written: more of it is waited for, until a look
    /// finds nothing or the function has answered.
    talkative: bool,
}

impl Default for Listening {
    fn default() -> Self {
        Self {
            watched: true,
            talkative: false,
        }
    }
}

impl Listening {
    /// Whether the agent looks by itself: in place of being woken, or to see whether that can end.
    fn looks(&self) -> bool {
        !self.watched || self.talkative
    }
}

impl Agent {
    /// Whether the runtime takes its output along with its answers.
    fn output_is_taken(&self) -> bool {
        let taken = self.mailbox.as_ref().is_some_and(|m| m.output_is_taken());
        taken && !self.initializing && self.may_use_mailbox()
    }

    /// Is woken for output, or not.
    pub(super) fn watch_output(&mut self) -> Result<(), AgentError> {
        let watch = self.listening.talkative || !self.output_is_taken();
        if watch != self.listening.watched {
            self.listening.watched = watch;
            let interest = match watch {
                true => EpollFlags::EPOLLIN,
                false => EpollFlags::empty(),
            };
            self.epoll
                .modify(&self.output, &mut EpollEvent::new(interest, OUTPUT))
                .map_err(AgentError::errno("epoll"))?;
        }
        Ok(())
    }

    /// When to look for output that the agent is not woken for.
    pub(super) fn look_due(&self) -> Option<Instant> {
        self.listening.looks().then(|| Instant::now() + UNHEARD)
    }

    /// Nothing has happened for as long as lines may lie: looks for them.
    pub(super) fn look_for_output(&mut self) -> Result<(), AgentError> {
        if !self.listening.looks() {
            return Ok(());
        }
        let something = self.read_output()?;
        self.listening.talkative = something && self.life.running().is_some();
        if something {
            self.host.hurry();
        }
        Ok(())
    }

    /// The function has answered.
    pub(super) fn expect_quiet(&mut self) {
        self.listening.talkative = false;
    }

    /// Who posts something has written before it what is in the pipe now.
    pub(super) fn catch_up_with_output(&mut self) -> Result<(), AgentError> {
        if !self.listening.watched {
            self.read_output()?;
        }
        Ok(())
    }

    /// Reads the output of the function and of its extensions; says whether the function had any.
    pub(super) fn read_output(&mut self) -> Result<bool, AgentError> {
        let reading = match &self.mailbox {
            Some(mailbox) => match mailbox.begin_reading() {
                Some(before) => Some((mailbox, before)),
                None => {
                    // It is reported, or looked for, again as long as it is there.
                    std::thread::yield_now();
                    return Ok(false);
                }
            },
            None => None,
        };
        let (output, logs) = (&mut self.output, &mut self.logs);
        let something = gather(output, &mut self.scratch, logs, &mut self.host);
        if let Some((mailbox, before)) = reading {
            mailbox.end_reading(&before, something);
        }
        self.read_extensions_output();
        Ok(something)
    }

    /// Queues the lines that are whole.
    pub(super) fn queue_lines(&mut self) -> Result<(), AgentError> {
        if self.host.queued() > MAX_QUEUED_LOGS {
            return Ok(());
        }
        let request_id = self.life.running().map(str::to_owned);
        if let Some(lines) = self.logs.take_lines() {
            self.queue_log(Source::Function, request_id.as_deref(), lines)?;
        }
        self.queue_extensions_output(request_id.as_deref(), false)
    }

    /// Queues everything that was written for `request_id`, an unfinished line included.
    pub(super) fn queue_all_output(&mut self, request_id: Option<&str>) -> Result<(), AgentError> {
        if let Some(lines) = self.logs.take_all() {
            self.queue_log(Source::Function, request_id, lines)?;
        }
        self.queue_extensions_output(request_id, true)
    }
}

/// Moves what a pipe of output holds to `logs`, from where it leaves at once if that is full, else in
/// company. Says whether there was anything.
pub(super) fn gather(
    output: &mut Output,
    scratch: &mut [u8],
    logs: &mut LogBuffer,
    host: &mut HostLink,
) -> bool {
    let congested = host.queued() > MAX_QUEUED_LOGS;
    let mut something = false;
    output.drain(scratch, |bytes| {
        something |= !bytes.is_empty();
        if congested {
            logs.drop_output(bytes.len());
        } else {
            logs.push(bytes);
        }
    });
    if logs.is_full() {
        host.hurry();
    } else if logs.has_lines() {
        host.wait_for_company();
    }
    something
}
