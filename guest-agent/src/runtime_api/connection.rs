//! One client of the Runtime API: its socket, the request that is arriving, and the replies that it has
//! not read yet.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use bytes::{Bytes, BytesMut};
use nix::sys::epoll::EpollFlags;

use crate::outbox::Outbox;
use crate::runtime_api::chunked::StreamError;
use crate::runtime_api::request::{Body, Parsed, Parser, Request, RequestError};
use crate::runtime_api::socket::Socket;

/// Maximum bytes that a client may send before it has the reply to its last request.
const MAX_AHEAD: usize = 64 * 1024;
/// Maximum length of a reply that is kept back to be sent with the next. Replies to answers are shorter.
const MAX_HELD: usize = 1024;

/// The next part of what a client has sent.
#[derive(Debug)]
pub(crate) enum Input {
    /// Nothing complete at the moment.
    Quiet,
    Request(Request),
    /// A part of a body that arrives in pieces.
    Piece(Bytes),
    /// The end of that body, or its runtime's report that there will be none.
    StreamEnd(Option<StreamError>),
    /// The bytes are not a request: the caller replies and closes.
    Malformed(RequestError),
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    parser: Parser,
    out: Outbox,
    /// A reply that is sent together with the next one.
    held: BytesMut,
    /// A request was returned and has not been answered.
    pending: bool,
    /// The body of that request is still arriving.
    streaming: bool,
    /// The agent does not read from this connection: the host has yet to take what was read.
    pub(crate) paused: bool,
    /// The reply to a request whose body is discarded, to be sent at the body's end.
    pub(crate) final_reply: Option<Bytes>,
    /// Close once everything has been sent.
    closing: bool,
    /// The client has shut down its sending side; it may still wait for a reply.
    half_closed: bool,
    /// What epoll reports at the moment.
    pub(crate) watched: EpollFlags,
}

/// The state of a client's sending side after a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    Open,
    /// The client sends nothing more, and waits for a reply.
    HalfClosed,
    Gone,
}

impl Connection {
    /// `socket` must be non-blocking.
    pub(crate) fn new(socket: Socket) -> Self {
        Self {
            socket,
            parser: Parser::new(),
            out: Outbox::default(),
            held: BytesMut::new(),
            pending: false,
            streaming: false,
            paused: false,
            final_reply: None,
            closing: false,
            half_closed: false,
            watched: EpollFlags::EPOLLIN,
        }
    }

    /// Reads once. Readiness is level-triggered, so a short read needs no second one to see
    /// `EAGAIN`: what is left will be reported again.
    pub(crate) fn receive(&mut self, scratch: &mut [u8]) -> Received {
        match (&self.socket).read(scratch) {
            // The rest of a body will not arrive.
            Ok(0) if self.streaming => Received::Gone,
            // Some clients shut their sending side down after the request.
            Ok(0) if self.pending || self.blocked() => {
                self.half_closed = true;
                self.closing = true;
                Received::HalfClosed
            }
            Ok(0) => Received::Gone,
            // The client's further requests are ignored because the connection is being closed. Closing
            // it with unread bytes would reset it, and the client could lose the reply.
            Ok(_) if self.closing && !self.streaming => Received::Open,
            Ok(count) => {
                self.parser.feed(&scratch[..count]);
                if self.pending && !self.streaming && self.parser.buffered() > MAX_AHEAD {
                    Received::Gone
                } else {
                    Received::Open
                }
            }
            Err(e) => match e.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Received::Open,
                _ => Received::Gone,
            },
        }
    }

    /// The next request, unless the last one has not been answered.
    pub(crate) fn input(&mut self) -> Input {
        if !self.streaming && (self.pending || self.closing) {
            return Input::Quiet;
        }
        loop {
            match self.parser.advance() {
                Ok(Parsed::Incomplete) => return Input::Quiet,
                Ok(Parsed::ExpectsContinue) => {
                    self.out.push(super::reply::CONTINUE);
                    // epoll will report that the client is gone.
                    if self.flush().is_err() {
                        self.closing = true;
                        return Input::Quiet;
                    }
                }
                Ok(Parsed::Request(request)) => {
                    self.pending = true;
                    self.closing = !request.keep_alive;
                    self.streaming = matches!(request.body, Body::Streamed { .. });
                    return Input::Request(request);
                }
                Ok(Parsed::Piece(bytes)) => return Input::Piece(bytes),
                Ok(Parsed::StreamEnd(error)) => {
                    self.streaming = false;
                    return Input::StreamEnd(error);
                }
                Err(error) => return Input::Malformed(error),
            }
        }
    }

    /// Whether the client has sent its next request already, or a part of it, and waits for both
    /// replies at once.
    pub(crate) fn asks_for_more(&self) -> bool {
        self.socket.is_local() && !self.closing && self.parser.buffered() > 0
    }

    /// Answers the request that was returned last. One `send` sends the reply, at once or together with
    /// the next reply if the client waits for both.
    pub(crate) fn reply(&mut self, head: Bytes, body: Bytes) -> io::Result<()> {
        self.pending = false;
        if self.asks_for_more() && head.len() + body.len() <= MAX_HELD {
            self.held.extend_from_slice(&head);
            self.held.extend_from_slice(&body);
            return Ok(());
        }
        self.out.push(self.held.split().freeze());
        self.out.push(head);
        self.out.push(body);
        self.flush()
    }

    /// Answers, and closes after that.
    pub(crate) fn reply_and_close(&mut self, reply: Bytes) -> io::Result<()> {
        self.closing = true;
        self.streaming = false;
        self.reply(reply, Bytes::new())
    }

    /// Sends what is queued.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.send(&self.socket)
    }

    /// What epoll is to report.
    pub(crate) fn interest(&self) -> EpollFlags {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, !self.half_closed && !self.paused);
        flags.set(EpollFlags::EPOLLOUT, self.blocked());
        flags
    }

    fn blocked(&self) -> bool {
        !self.out.is_empty()
    }

    /// Whether everything has been sent and the connection is to be closed.
    pub(crate) fn finished(&self) -> bool {
        self.closing && !self.pending && self.out.is_empty()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
