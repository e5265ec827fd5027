//! The event loop: waits, and handles what has happened in the order that [`agent`](super) explains.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};

use super::mailbox_wait::Turn;
use super::shutdown::Shutdown;
use super::tokens::{
    CHILDREN, CONNECTIONS, EXTENSION_OUTPUT, HOST, LISTENER, LOCAL_LISTENER, MAX_EVENTS, OUTPUT,
    Peer,
};
use super::{Agent, AgentError, Flow};
use crate::lifecycle::ConnectionId;
use crate::runtime_api::connection::Received;

impl Agent {
    /// Runs until the host says [`Shutdown`](hearth_protocol::agent::HostMessage::Shutdown).
    pub(crate) fn run(&mut self) -> Result<(), AgentError> {
        let mut events = [EpollEvent::empty(); MAX_EVENTS];
        loop {
            if let Flow::Stop = self.advance_shutdown()? {
                return Ok(());
            }
            if self.host.link.is_due() {
                self.queue_lines()?;
                self.host.link.flush()?;
            }
            self.resume_stream()?;
            // After the host and the clients, which wait for the agent.
            self.extensions.send_telemetry(&self.epoll);
            self.host.watch(&self.epoll)?;
            self.watch_output()?;
            let timeout = match self.wait_at_mailbox()? {
                Turn::Again => continue,
                Turn::Wait => self.timeout(),
                Turn::Look(time) => rounded_up(time),
            };
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(AgentError::errno("epoll")(errno)),
            };
            if let Flow::Stop = self.handle_events(&events[..count])? {
                return Ok(());
            }
        }
    }

    /// Handles what one `epoll_wait` has reported.
    fn handle_events(&mut self, events: &[EpollEvent]) -> Result<Flow, AgentError> {
        self.host.catch_up(&mut self.runtime.lifecycle);
        let give_up_at = self.runtime.stream.give_up_at();
        if give_up_at.is_some_and(|at| at <= Instant::now()) {
            self.give_up_broken_stream()?;
        }
        let ready = |token| events.iter().find(|event| event.data() == token);
        if ready(OUTPUT).is_some() || ready(EXTENSION_OUTPUT).is_some() {
            self.read_output();
        } else if events.is_empty() {
            self.poll_output();
            self.send_held_answer()?;
        } else if events.iter().any(|event| event.data() >= CONNECTIONS) {
            self.output
                .catch_up(&mut self.host, &mut self.extensions, &mut self.scratch);
        }
        if let Some(event) = ready(HOST)
            && let Flow::Stop = self.host_ready(event.events())?
        {
            return Ok(Flow::Stop);
        }
        for event in events {
            match Peer::of(event.data()) {
                Some(Peer::Subscriber(index)) => {
                    self.extensions.subscriber_ready(index, event.events());
                }
                Some(Peer::Client(id)) => self.connection_ready(id, event.events())?,
                None => {}
            }
        }
        if ready(LISTENER).is_some() {
            self.api.accept_loopback(&self.epoll)?;
        }
        if ready(LOCAL_LISTENER).is_some() {
            self.api.accept_local(&self.epoll)?;
        }
        if ready(CHILDREN).is_some() {
            self.reap()?;
        }
        Ok(Flow::Continue)
    }

    fn timeout(&self) -> EpollTimeout {
        let deadlines = [
            self.host.link.deadline(),
            self.runtime.stream.give_up_at(),
            self.shutdown.as_ref().map(Shutdown::due),
            self.extensions.telemetry_due(),
            self.output.poll_due(),
        ];
        let Some(deadline) = deadlines.into_iter().flatten().min() else {
            return EpollTimeout::NONE;
        };
        rounded_up(deadline.saturating_duration_since(Instant::now()))
    }

    /// Has epoll report the function's output, unless the runtime sends it with its answers.
    fn watch_output(&mut self) -> Result<(), AgentError> {
        let runtime_reads = self.host.runtime_reads_output()
            && !self.runtime.is_initializing()
            && self.may_use_mailbox();
        self.output.watch(&self.epoll, runtime_reads)
    }

    fn poll_output(&mut self) {
        let running = self.runtime.lifecycle.running().is_some();
        self.output.poll(
            &mut self.host,
            &mut self.extensions,
            &mut self.scratch,
            running,
        );
    }

    /// Queues the lines that are whole.
    pub(super) fn queue_lines(&mut self) -> Result<(), AgentError> {
        let request_id = self.runtime.lifecycle.running();
        self.output
            .queue_lines(request_id, &mut self.host, &mut self.extensions)
    }

    fn host_ready(&mut self, events: EpollFlags) -> Result<Flow, AgentError> {
        if events.contains(EpollFlags::EPOLLOUT) {
            self.host.link.flush_soon();
        }
        if events.intersects(!EpollFlags::EPOLLOUT) {
            self.host.link.receive(&mut self.scratch)?;
            return self.handle_messages();
        }
        Ok(Flow::Continue)
    }

    fn connection_ready(&mut self, id: ConnectionId, events: EpollFlags) -> Result<(), AgentError> {
        match self.api.exchange(id, events, &mut self.scratch) {
            None => return Ok(()),
            Some(Received::Gone) => {
                self.close(id);
                return Ok(());
            }
            Some(Received::HalfClosed) => self.runtime.lifecycle.connection_half_closed(id),
            Some(Received::Open) => {}
        }
        self.handle_requests(id)
    }
}

/// Rounded up: otherwise the loop would turn without sleeping in the last millisecond.
fn rounded_up(time: Duration) -> EpollTimeout {
    let millis = time.as_micros().div_ceil(1000);
    EpollTimeout::from(u16::try_from(millis).unwrap_or(u16::MAX))
}
