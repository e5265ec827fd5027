//! One subscriber's connection: posts a batch to its listener at 127.0.0.1 and waits for the reply,
//! without ever blocking.
//!
//! ```text
//!        send            connected            reply
//! Idle ───────▶ Connecting ───────▶ Exchanging ─────▶ Idle
//!   ▲                │  failed          │
//!   │  given up      ▼                  │
//!   └────────── BackingOff ◀────────────┘
//! ```
//!
//! A batch is posted until the listener has accepted or refused it, or [`MAX_ATTEMPTS`] have failed. A
//! listener may receive it twice, but never a part of it that looks complete.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};

use super::reply::{self, MAX_HEAD, Reply};
use crate::outbox::Outbox;

/// Maximum time that a listener may take for a batch, not counting the time that the guest is paused.
const LISTENER_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum times that a batch is posted. The listener may not listen yet at the first.
const MAX_ATTEMPTS: u32 = 5;
/// Time to the second attempt; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy)]
enum Stage {
    Idle,
    Connecting { give_up: Instant },
    Exchanging { give_up: Instant },
    BackingOff { until: Instant },
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivered {
    Taken,
    Lost,
}

#[derive(Debug)]
pub(super) struct Delivery {
    port: u16,
    stage: Stage,
    /// Kept from one batch to the next if the listener allows it.
    stream: Option<TcpStream>,
    /// What epoll reports of it; `None` while it is not in the epoll set.
    watched: Option<EpollFlags>,
    /// Head and body, kept to be sent again.
    request: [Bytes; 2],
    out: Outbox,
    input: Vec<u8>,
    failures: u32,
}

impl Delivery {
    pub(super) fn new(port: u16) -> Self {
        Self {
            port,
            stage: Stage::Idle,
            stream: None,
            watched: None,
            request: [Bytes::new(), Bytes::new()],
            out: Outbox::default(),
            input: Vec::new(),
            failures: 0,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// Begins to send a request. There must be no other at the same time.
    pub(super) fn send(&mut self, head: Bytes, body: Bytes, now: Instant) -> Option<Delivered> {
        self.request = [head, body];
        self.failures = 0;
        self.attempt(now)
    }

    /// When [`Delivery::send_due`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.stage {
            Stage::Idle => None,
            Stage::Connecting { give_up } | Stage::Exchanging { give_up } => Some(give_up),
            Stage::BackingOff { until } => Some(until),
        }
    }

    /// The guest was paused: the listener gets its full time again.
    pub(super) fn thawed(&mut self, now: Instant) {
        if let Stage::Connecting { give_up } | Stage::Exchanging { give_up } = &mut self.stage {
            *give_up = now + LISTENER_TIMEOUT;
        }
    }

    /// Does what is due.
    pub(super) fn send_due(&mut self, now: Instant) -> Option<Delivered> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        match self.stage {
            Stage::Idle => None,
            Stage::BackingOff { .. } => self.attempt(now),
            Stage::Connecting { .. } | Stage::Exchanging { .. } => self.failed(now),
        }
    }

    /// Has `epoll` report what the connection waits for. Closes it if that fails.
    pub(super) fn watch(&mut self, epoll: &Epoll, token: u64) {
        let Some(stream) = &self.stream else {
            return;
        };
        let mut wanted = EpollFlags::EPOLLIN;
        let unsent = matches!(self.stage, Stage::Connecting { .. }) || !self.out.is_empty();
        wanted.set(EpollFlags::EPOLLOUT, unsent);
        if self.watched == Some(wanted) {
            return;
        }
        let mut event = EpollEvent::new(wanted, token);
        let watched = match self.watched {
            None => epoll.add(stream, event),
            Some(_) => epoll.modify(stream, &mut event),
        };
        match watched {
            Ok(()) => self.watched = Some(wanted),
            Err(_) => self.close(),
        }
    }

    /// Something has happened on the connection.
    pub(super) fn ready(&mut self, events: EpollFlags, now: Instant) -> Option<Delivered> {
        match self.stage {
            Stage::Connecting { give_up } => {
                let stream = self.stream.as_ref()?;
                if !matches!(stream.take_error(), Ok(None)) {
                    return self.failed(now);
                }
                if !events.contains(EpollFlags::EPOLLOUT) {
                    return None;
                }
                self.stage = Stage::Exchanging { give_up };
                self.exchange(now)
            }
            Stage::Exchanging { .. } => self.exchange(now),
            // The listener closed it, or sent something without a request.
            Stage::Idle | Stage::BackingOff { .. } => {
                self.close();
                None
            }
        }
    }

    fn attempt(&mut self, now: Instant) -> Option<Delivered> {
        let give_up = now + LISTENER_TIMEOUT;
        self.input.clear();
        self.out = Outbox::default();
        for part in &self.request {
            self.out.push(part.clone());
        }
        if self.stream.is_some() {
            self.stage = Stage::Exchanging { give_up };
            return self.exchange(now);
        }
        match begin_connecting(self.port) {
            Ok((stream, connected)) => {
                self.stream = Some(stream);
                self.watched = None;
                if !connected {
                    self.stage = Stage::Connecting { give_up };
                    return None;
                }
                self.stage = Stage::Exchanging { give_up };
                self.exchange(now)
            }
            Err(_) => self.failed(now),
        }
    }

    /// Sends what the listener takes, and reads what there is of its reply.
    fn exchange(&mut self, now: Instant) -> Option<Delivered> {
        let Some(stream) = &self.stream else {
            return self.failed(now);
        };
        // A listener may answer before it has read everything.
        let sent = self.out.send(stream);
        match receive(stream, &mut self.input) {
            Ok(Some(reply)) => {
                if !reply.reusable || !self.out.is_empty() {
                    self.close();
                }
                self.end();
                Some(match reply.accepted {
                    true => Delivered::Taken,
                    false => Delivered::Lost,
                })
            }
            Ok(None) if sent.is_ok() => None,
            Ok(None) | Err(_) => self.failed(now),
        }
    }

    fn failed(&mut self, now: Instant) -> Option<Delivered> {
        self.close();
        self.failures += 1;
        if self.failures >= MAX_ATTEMPTS {
            self.end();
            return Some(Delivered::Lost);
        }
        let until = now + FIRST_BACKOFF * 2_u32.pow(self.failures - 1);
        self.stage = Stage::BackingOff { until };
        None
    }

    fn end(&mut self) {
        self.stage = Stage::Idle;
        self.request = [Bytes::new(), Bytes::new()];
        self.out = Outbox::default();
        self.input = Vec::new();
    }

    /// Closing the descriptor takes it out of the epoll set.
    fn close(&mut self) {
        self.stream = None;
        self.watched = None;
    }
}

fn receive(mut stream: &TcpStream, input: &mut Vec<u8>) -> io::Result<Option<Reply>> {
    let mut part = [0; 2048];
    loop {
        match stream.read(&mut part) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                input.extend_from_slice(&part[..count]);
                if count < part.len() || input.len() > MAX_HEAD {
                    break;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    reply::parse(input).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// A connection, and whether it is established. Over loopback it is, unless the listener's queue is
/// full: the standard library's `connect` would block then.
fn begin_connecting(port: u16) -> Result<(TcpStream, bool), Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    let address = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    let connected = match connect(socket.as_raw_fd(), &address) {
        Ok(()) => true,
        Err(Errno::EINPROGRESS) => false,
        Err(errno) => return Err(errno),
    };
    let stream = TcpStream::from(socket);
    // Otherwise the end of a long batch would wait until its beginning is acknowledged.
    stream.set_nodelay(true).map_err(|_| Errno::last())?;
    Ok((stream, connected))
}
