//! One client of the Runtime API: its socket, the request it is in the middle of, and the answers
//! it has not taken yet.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use bytes::{Bytes, BytesMut};
use nix::sys::epoll::EpollFlags;

use crate::outbox::Outbox;
use crate::runtime_api::chunked::StreamError;
use crate::runtime_api::request::{Body, Parsed, Parser, Request, RequestError};
use crate::runtime_api::socket::Socket;

/// Bytes that a client may send ahead of the answer that it waits for.
const MAX_AHEAD: usize = 64 * 1024;
/// Longest reply that is kept back for the next. Those to answers are shorter.
const MAX_HELD: usize = 1024;

/// What a connection has to say.
#[derive(Debug)]
pub(crate) enum Input {
    /// Nothing more at the moment.
    Quiet,
    Request(Request),
    /// More of a body that comes in pieces.
    Piece(Bytes),
    /// That was the last of it, or its runtime says that there will be no more.
    StreamEnd(Option<StreamError>),
    /// These bytes are no request: say so and close.
    Malformed(RequestError),
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    parser: Parser,
    out: Outbox,
    /// A reply that leaves with the next one.
    held: BytesMut,
    /// A request was taken and not answered.
    pending: bool,
    /// Its body is still coming in.
    streaming: bool,
    /// Nothing is read at the moment: what was read has not been passed on yet.
    pub(crate) paused: bool,
    /// What a request whose body is thrown away will be answered at its end.
    pub(crate) final_reply: Option<Bytes>,
    /// Close once everything has been sent.
    closing: bool,
    /// The client sends nothing more; it may still want its answer.
    half_closed: bool,
    /// What the event loop waits for at the moment.
    pub(crate) watched: EpollFlags,
}

/// What became of a client's sending side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    Open,
    /// Nothing more will come, but an answer is owed.
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
            // The rest of a body is not coming.
            Ok(0) if self.streaming => Received::Gone,
            // Some clients shut their sending side down after the request.
            Ok(0) if self.pending || self.blocked() => {
                self.half_closed = true;
                self.closing = true;
                Received::HalfClosed
            }
            Ok(0) => Received::Gone,
            // Nothing more is wanted from a client that is being closed; the bytes are read so
            // that the close is an orderly one.
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
                    // A client that can't be written to is found out by its next event.
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

    /// Answers the request that was taken last, in one `send` if the client takes it: at once, or
    /// together with the next reply if that is all that the client waits for.
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

    /// What the event loop should wait for.
    pub(crate) fn interest(&self) -> EpollFlags {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, !self.half_closed && !self.paused);
        flags.set(EpollFlags::EPOLLOUT, self.blocked());
        flags
    }

    fn blocked(&self) -> bool {
        !self.out.is_empty()
    }

    /// Whether everything is said and the connection may be dropped.
    pub(crate) fn finished(&self) -> bool {
        self.closing && !self.pending && self.out.is_empty()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
