//! The event loop: waits, and says in which order what happened is looked at.

use std::os::fd::AsFd;
use std::os::linux::net::TcpStreamExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};

use super::at_mailbox::Turn;
use super::host_messages::Flow;
use super::leaving::Leaving;
use super::{Agent, AgentError};
use crate::extensions::MAX_EXTENSIONS;
use crate::lifecycle::ConnectionId;
use crate::runtime_api::connection::{Connection, Received};
use crate::runtime_api::socket::Socket;

pub(super) const OUTPUT: u64 = 0;
const HOST: u64 = 1;
const LISTENER: u64 = 2;
const CHILDREN: u64 = 3;
const LOCAL_LISTENER: u64 = 4;
pub(super) const EXTENSION_OUTPUT: u64 = 5;
/// Connections follow, by their index.
const CONNECTIONS: u64 = 16;
/// Then those to subscribers, by theirs.
pub(super) const TELEMETRY: u64 = CONNECTIONS + MAX_CONNECTIONS as u64;
/// More at once than any runtime, and its extensions, open.
const MAX_CONNECTIONS: usize = 48;
/// Everything there is can be ready at once, and is then reported at once, which the order of
/// output before answers relies on.
const MAX_EVENTS: usize = 6 + MAX_CONNECTIONS + MAX_EXTENSIONS;

impl Agent {
    pub(super) fn register(&mut self) -> Result<(), AgentError> {
        let epoll = &self.epoll;
        let readable = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
        epoll
            .add(&self.output, readable(OUTPUT))
            .and_then(|()| epoll.add(&self.host, readable(HOST)))
            .and_then(|()| epoll.add(&self.listener, readable(LISTENER)))
            .and_then(|()| epoll.add(&self.local_listener, readable(LOCAL_LISTENER)))
            .and_then(|()| epoll.add(&self.children, readable(CHILDREN)))
            .map_err(AgentError::errno("epoll"))
    }

    /// Runs until the host says [`Shutdown`](hearth_protocol::agent::HostMessage::Shutdown).
    pub(crate) fn run(&mut self) -> Result<(), AgentError> {
        let mut events = [EpollEvent::empty(); MAX_EVENTS];
        loop {
            if let Flow::Shutdown = self.go_on_leaving()? {
                return Ok(());
            }
            if self.host.is_due() {
                self.queue_lines()?;
                self.host.flush()?;
            }
            self.resume_stream()?;
            self.send_telemetry();
            self.watch_host()?;
            self.watch_output()?;
            let timeout = match self.stand()? {
                Turn::Again => continue,
                Turn::Wait => self.timeout(),
                Turn::Look(time) => rounded_up(time),
            };
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(AgentError::errno("epoll")(errno)),
            };
            self.look_into_mailbox();
            if self
                .broken_stream_due()
                .is_some_and(|due| due <= Instant::now())
            {
                self.give_up_broken_stream()?;
            }
            let events = &events[..count];
            let ready = |token| events.iter().find(|event| event.data() == token);
            if ready(OUTPUT).is_some() || ready(EXTENSION_OUTPUT).is_some() {
                self.read_output()?;
            } else if events.is_empty() {
                self.look_for_output()?;
            } else if events.iter().any(|event| event.data() >= CONNECTIONS) {
                self.catch_up_with_output()?;
            }
            if let Some(event) = ready(HOST)
                && let Flow::Shutdown = self.host_ready(event.events())?
            {
                return Ok(());
            }
            for event in events {
                let index = |first| {
                    let index = event.data().checked_sub(first)?;
                    Some(usize::try_from(index).expect("indices were made from usize"))
                };
                match (index(TELEMETRY), index(CONNECTIONS)) {
                    (Some(index), _) => self.subscriber_ready(index, event.events()),
                    (None, Some(index)) => {
                        self.connection_ready(ConnectionId(index), event.events())?;
                    }
                    (None, None) => {}
                }
            }
            if ready(LISTENER).is_some() {
                self.accept_loopback()?;
            }
            if ready(LOCAL_LISTENER).is_some() {
                self.accept_local()?;
            }
            if ready(CHILDREN).is_some() {
                self.reap()?;
            }
        }
    }

    fn timeout(&self) -> EpollTimeout {
        let leaving = self.leaving.as_ref().map(Leaving::due);
        let deadlines = [
            self.host.deadline(),
            self.broken_stream_due(),
            leaving,
            self.telemetry_due(),
            self.look_due(),
        ];
        let Some(deadline) = deadlines.into_iter().flatten().min() else {
            return EpollTimeout::NONE;
        };
        rounded_up(deadline.saturating_duration_since(Instant::now()))
    }

    fn host_ready(&mut self, events: EpollFlags) -> Result<Flow, AgentError> {
        if events.contains(EpollFlags::EPOLLOUT) {
            self.host.hurry();
        }
        if events.intersects(!EpollFlags::EPOLLOUT) {
            self.host.receive(&mut self.scratch)?;
            return self.handle_messages();
        }
        Ok(Flow::Continue)
    }

    fn connection_ready(&mut self, id: ConnectionId, events: EpollFlags) -> Result<(), AgentError> {
        let Some(Some(connection)) = self.connections.get_mut(id.0) else {
            return Ok(());
        };
        // Errors and hang-ups are reported whether one waits for them or not. The last words of a
        // client that has gone may still be there to read.
        let broken = events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        let readable = events.contains(EpollFlags::EPOLLIN);
        let unsent = events.contains(EpollFlags::EPOLLOUT) && connection.flush().is_err();
        if (broken && !readable) || unsent {
            self.close(id);
            return Ok(());
        }
        if readable {
            match connection.receive(&mut self.scratch) {
                Received::Open => {}
                Received::HalfClosed if broken => {
                    self.close(id);
                    return Ok(());
                }
                Received::HalfClosed => self.life.connection_half_closed(id),
                Received::Gone => {
                    self.close(id);
                    return Ok(());
                }
            }
        }
        self.handle_requests(id)
    }

    fn accept_loopback(&mut self) -> Result<(), AgentError> {
        // A client that went away before it was accepted is no failure of ours.
        let Ok((stream, _)) = self.listener.accept() else {
            return Ok(());
        };
        // Acknowledgements of what a runtime sends travel with the answers to it, from the first
        // exchange on: one of its own costs nearly as much as a message.
        stream
            .set_nonblocking(true)
            .and_then(|()| stream.set_quickack(false))
            .map_err(AgentError::io("accepted connection"))?;
        self.admit(Socket::Loopback(stream))
    }

    fn accept_local(&mut self) -> Result<(), AgentError> {
        let Ok((stream, _)) = self.local_listener.accept() else {
            return Ok(());
        };
        stream
            .set_nonblocking(true)
            .map_err(AgentError::io("accepted connection"))?;
        self.admit(Socket::Local(stream))
    }

    /// Takes a client in, if there is room; else the connection is dropped, hence closed.
    fn admit(&mut self, socket: Socket) -> Result<(), AgentError> {
        let free = self.connections.iter().position(Option::is_none);
        let index = match free {
            Some(index) => index,
            None if self.connections.len() < MAX_CONNECTIONS => {
                self.connections.push(None);
                self.connections.len() - 1
            }
            None => return Ok(()),
        };
        self.epoll
            .add(
                &socket,
                EpollEvent::new(EpollFlags::EPOLLIN, token(ConnectionId(index))),
            )
            .map_err(AgentError::errno("epoll"))?;
        self.connections[index] = Some(Connection::new(socket));
        Ok(())
    }

    /// Drops a connection; closing its descriptor takes it out of the epoll set.
    pub(super) fn close(&mut self, id: ConnectionId) {
        self.connections[id.0] = None;
        self.life.connection_closed(id);
        self.stream_broke();
        self.extensions.connection_closed(id);
    }

    /// Waits for what the connection wants to be waited for.
    pub(super) fn watch_connection(&mut self, id: ConnectionId) -> Result<(), AgentError> {
        let Some(Some(connection)) = self.connections.get_mut(id.0) else {
            return Ok(());
        };
        let interest = connection.interest();
        if interest != connection.watched {
            connection.watched = interest;
            let mut event = EpollEvent::new(interest, token(id));
            self.epoll
                .modify(connection.as_fd(), &mut event)
                .map_err(AgentError::errno("epoll"))?;
        }
        Ok(())
    }

    fn watch_host(&mut self) -> Result<(), AgentError> {
        let blocked = self.host.blocked();
        if blocked != self.host.waits_for_room {
            self.host.waits_for_room = blocked;
            let mut interest = EpollFlags::EPOLLIN;
            interest.set(EpollFlags::EPOLLOUT, blocked);
            let mut event = EpollEvent::new(interest, HOST);
            self.epoll
                .modify(self.host.as_fd(), &mut event)
                .map_err(AgentError::errno("epoll"))?;
        }
        Ok(())
    }
}

/// Rounded up, or the loop would turn without sleeping in the last millisecond.
fn rounded_up(time: Duration) -> EpollTimeout {
    let millis = time.as_micros().div_ceil(1000);
    EpollTimeout::from(u16::try_from(millis).unwrap_or(u16::MAX))
}

fn token(id: ConnectionId) -> u64 {
    CONNECTIONS + id.0 as u64
}
