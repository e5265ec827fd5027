//! The server of the Runtime API: its two listeners and the connections of its clients, which are the
//! runtime and its extensions.
//!
//! The server knows sockets and HTTP messages. What a request means, and what follows from the end of
//! a connection, its caller decides.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::linux::net::TcpStreamExt;
use std::os::unix::net::UnixListener;

use bytes::Bytes;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{setsockopt, sockopt};

use super::error::AgentError;
use super::tokens::{LISTENER, LOCAL_LISTENER, MAX_CONNECTIONS, of_connection};
use crate::lifecycle::ConnectionId;
use crate::runtime_api::connection::{Connection, Input, Received};
use crate::runtime_api::socket::Socket;

/// What the caller does with a connection after a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum AfterReply {
    /// Leaves it open, or has nothing to close.
    Keep,
    /// Closes it: everything was sent, or the client is gone.
    Close,
}

/// Listeners and connections.
#[derive(Debug)]
pub(super) struct ApiServer {
    listener: TcpListener,
    local_listener: UnixListener,
    /// By [`ConnectionId`]; a closed connection's place is free for the next.
    connections: Vec<Option<Connection>>,
}

impl ApiServer {
    pub(super) fn new(
        listener: TcpListener,
        local_listener: UnixListener,
    ) -> Result<Self, AgentError> {
        listener
            .set_nonblocking(true)
            .map_err(AgentError::io("Runtime API"))?;
        local_listener
            .set_nonblocking(true)
            .map_err(AgentError::io("Runtime API's local socket"))?;
        // Accepted sockets inherit it.
        setsockopt(&listener, sockopt::TcpNoDelay, &true)
            .map_err(AgentError::errno("Runtime API"))?;
        Ok(Self {
            listener,
            local_listener,
            connections: Vec::new(),
        })
    }

    pub(super) fn register(&self, epoll: &Epoll) -> Result<(), Errno> {
        let readable = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
        epoll.add(&self.listener, readable(LISTENER))?;
        epoll.add(&self.local_listener, readable(LOCAL_LISTENER))
    }

    pub(super) fn accept_loopback(&mut self, epoll: &Epoll) -> Result<(), AgentError> {
        // A client that closes before it is accepted is no error of the agent's.
        let Ok((stream, _)) = self.listener.accept() else {
            return Ok(());
        };
        // The kernel acknowledges what a runtime sends together with the answer to it, from the first
        // exchange on: a separate acknowledgement costs nearly as much as a message.
        stream
            .set_nonblocking(true)
            .and_then(|()| stream.set_quickack(false))
            .map_err(AgentError::io("accepted connection"))?;
        self.admit(epoll, Socket::Loopback(stream))
    }

    pub(super) fn accept_local(&mut self, epoll: &Epoll) -> Result<(), AgentError> {
        let Ok((stream, _)) = self.local_listener.accept() else {
            return Ok(());
        };
        stream
            .set_nonblocking(true)
            .map_err(AgentError::io("accepted connection"))?;
        self.admit(epoll, Socket::Local(stream))
    }

    /// Adds a client. Drops the connection, which closes it, when there are [`MAX_CONNECTIONS`].
    fn admit(&mut self, epoll: &Epoll, socket: Socket) -> Result<(), AgentError> {
        let free = self.connections.iter().position(Option::is_none);
        let index = match free {
            Some(index) => index,
            None if self.connections.len() < MAX_CONNECTIONS => {
                self.connections.push(None);
                self.connections.len() - 1
            }
            None => return Ok(()),
        };
        let token = of_connection(ConnectionId(index));
        epoll
            .add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, token))
            .map_err(AgentError::errno("epoll"))?;
        self.connections[index] = Some(Connection::new(socket));
        Ok(())
    }

    /// Drops a connection. Closing its descriptor removes it from the epoll set.
    pub(super) fn close(&mut self, id: ConnectionId) {
        self.connections[id.0] = None;
    }

    /// Sends and reads what epoll has reported as possible. `None` if there is no such connection.
    pub(super) fn exchange(
        &mut self,
        id: ConnectionId,
        events: EpollFlags,
        scratch: &mut [u8],
    ) -> Option<Received> {
        let connection = self.get_mut(id)?;
        // epoll always reports errors and hang-ups. A client that is gone may have sent a last message
        // that is still to be read.
        let broken = events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        let readable = events.contains(EpollFlags::EPOLLIN);
        let unsent = events.contains(EpollFlags::EPOLLOUT) && connection.flush().is_err();
        if (broken && !readable) || unsent {
            return Some(Received::Gone);
        }
        if !readable {
            return Some(Received::Open);
        }
        Some(match connection.receive(scratch) {
            Received::HalfClosed if broken => Received::Gone,
            received => received,
        })
    }

    /// The next part of what a client has sent. `None` if there is no such connection.
    pub(super) fn input(&mut self, id: ConnectionId) -> Option<Input> {
        self.get_mut(id).map(Connection::input)
    }

    /// Whether the client has sent, with the request that is being handled, at least a part of the
    /// next, and waits for both replies.
    pub(super) fn asks_for_more(&self, id: ConnectionId) -> bool {
        self.get(id).is_some_and(Connection::asks_for_more)
    }

    /// Answers the request that `id` waits with.
    pub(super) fn reply(
        &mut self,
        epoll: &Epoll,
        id: ConnectionId,
        head: Bytes,
        body: Bytes,
    ) -> Result<AfterReply, AgentError> {
        let Some(connection) = self.get_mut(id) else {
            return Ok(AfterReply::Keep);
        };
        match connection.reply(head, body) {
            Ok(()) => self.settle(epoll, id),
            // A client that is gone is no error of the agent's: if it was the runtime, its exit follows.
            Err(_) => Ok(AfterReply::Close),
        }
    }

    /// Answers, and takes no further request on this connection.
    pub(super) fn reply_and_close(
        &mut self,
        epoll: &Epoll,
        id: ConnectionId,
        reply: Bytes,
    ) -> Result<AfterReply, AgentError> {
        let Some(connection) = self.get_mut(id) else {
            return Ok(AfterReply::Keep);
        };
        match connection.reply_and_close(reply) {
            Ok(()) => self.settle(epoll, id),
            Err(_) => Ok(AfterReply::Close),
        }
    }

    /// Says whether a connection is finished; if not, has epoll wait for what it waits for.
    pub(super) fn settle(
        &mut self,
        epoll: &Epoll,
        id: ConnectionId,
    ) -> Result<AfterReply, AgentError> {
        if self.get(id).is_some_and(Connection::finished) {
            return Ok(AfterReply::Close);
        }
        self.watch(epoll, id)?;
        Ok(AfterReply::Keep)
    }

    fn watch(&mut self, epoll: &Epoll, id: ConnectionId) -> Result<(), AgentError> {
        let Some(connection) = self.get_mut(id) else {
            return Ok(());
        };
        let interest = connection.interest();
        if interest != connection.watched {
            connection.watched = interest;
            let mut event = EpollEvent::new(interest, of_connection(id));
            epoll
                .modify(connection.as_fd(), &mut event)
                .map_err(AgentError::errno("epoll"))?;
        }
        Ok(())
    }

    /// Sets the reply that the request on `id` gets once its streamed body has been read to its end.
    pub(super) fn set_final_reply(&mut self, id: ConnectionId, reply: Bytes) {
        if let Some(connection) = self.get_mut(id) {
            connection.final_reply = Some(reply);
        }
    }

    pub(super) fn take_final_reply(&mut self, id: ConnectionId) -> Option<Bytes> {
        self.get_mut(id)?.final_reply.take()
    }

    /// Reads no more from a connection, from the end of its current request handling on. Whether there
    /// is such a connection.
    pub(super) fn pause(&mut self, id: ConnectionId) -> bool {
        let connection = self.get_mut(id);
        connection.map(|c| c.paused = true).is_some()
    }

    /// Reads from a paused connection again.
    pub(super) fn resume(&mut self, epoll: &Epoll, id: ConnectionId) -> Result<(), AgentError> {
        if let Some(connection) = self.get_mut(id) {
            connection.paused = false;
        }
        self.watch(epoll, id)
    }

    fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.get(id.0)?.as_ref()
    }

    fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(id.0)?.as_mut()
    }
}
