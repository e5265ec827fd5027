//! The agent: one thread and one epoll set for everything that happens in the guest between the host
//! and the runtime.
//!
//! [`Agent`] has five parts. Each owns its state: a line of code in one part changes another only by
//! calling a method of that part, which it has been passed:
//!
//! | part | owns |
//! | --- | --- |
//! | [`ApiServer`] | listeners and connections of the Runtime API |
//! | [`RuntimeSide`] | the runtime's process, lifecycle, cgroup, streamed response, usage |
//! | [`HostSide`] | the connection to the host, the mailbox, the clock, the random number generator |
//! | [`OutputSide`] | the pipe of the function's output |
//! | [`ExtensionSide`] | extensions, their output, telemetry |
//!
//! None of the parts imports [`Agent`]. The other modules do: they handle what arrives, and pass to each
//! part what it needs of the others.
//! [`event_loop`] waits and dispatches, [`host_messages`] handles what the host sends,
//! [`mailbox_wait`] what comes by the mailbox, [`runtime_requests`], [`streaming`] and
//! [`extension_requests`] what the clients of the Runtime API send, [`children`] the end of processes,
//! and [`shutdown_sequence`] the end of the microVM. [`answer`], [`response_stream`] and [`shutdown`] decide
//! without I/O.
//!
//! # System calls
//!
//! On the path of an invocation, system calls cost most (up to 0.7 ms each where the guest kernel is
//! interpreted), so a warm invocation takes twelve: wait, read the event, send it to the runtime; wait,
//! read the result, read two counters, write the answer to the host, send 202 to the runtime; wait, read
//! the runtime's `next`, write `Ready`. A runtime on the local socket sends result and `next` together.
//! Then it is eight: the answer and `Ready` leave together, and the runtime is woken once.
//!
//! # Order
//!
//! Within one turn of the event loop the order is fixed:
//!
//! 1. *Output.* A function's lines are sent before its answer. A line that was written before the answer
//!    was posted is in the pipe by the time the answer is in the socket, and the same `epoll_wait`
//!    reports both, or an earlier one reports the line. So the agent reads output first, and need not
//!    look at the pipe again when it handles the answer. For a runtime whose output epoll does not report
//!    ([`output_side`]), the agent looks at the pipe when a connection is ready.
//! 2. *Host*, then *connections*, then the *listeners*.
//! 3. *Children* last: a runtime that answered and then exited has answered.

mod answer;
mod api_server;
mod children;
mod error;
mod event_loop;
mod extension_requests;
mod extension_side;
mod host_messages;
mod host_side;
mod log_pipe;
mod mailbox_wait;
mod output_side;
mod response_stream;
mod runtime_requests;
mod runtime_side;
mod shutdown;
mod shutdown_sequence;
mod streaming;
#[cfg(test)]
mod tests;
mod tokens;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use bytes::Bytes;
use hearth_protocol::agent::{AgentMessage, Hello, Usage};
use hearth_protocol::guest::{RUNTIME_API_ADDRESS, RUNTIME_API_SOCKET};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::signalfd::SignalFd;

use self::api_server::{AfterReply, ApiServer};
use self::error::AgentError;
use self::extension_side::ExtensionSide;
use self::host_side::HostSide;
use self::output_side::OutputSide;
use self::runtime_side::RuntimeSide;
use self::shutdown::Shutdown;
use crate::cgroup::RuntimeCgroup;
use crate::clock::HostClock;
use crate::host_link::HostLink;
use crate::lifecycle::ConnectionId;
use crate::mailbox::Mailbox;
use crate::vsock::HostStream;

/// Bytes read at once. Only the pages that are needed are touched.
const SCRATCH: usize = 128 * 1024;

/// Whether the event loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Continue,
    Stop,
}

/// The parts, and what they are driven by.
#[derive(Debug)]
pub(crate) struct Agent {
    epoll: Epoll,
    children: SignalFd,
    api: ApiServer,
    runtime: RuntimeSide,
    host: HostSide,
    output: OutputSide,
    extensions: ExtensionSide,
    /// Once the host has asked the microVM to shut down.
    shutdown: Option<Shutdown>,
    scratch: Vec<u8>,
}

impl Agent {
    /// Opens everything that serving needs, so that it is in the snapshot, and greets the host.
    pub(crate) fn new(children: SignalFd) -> Result<Self, AgentError> {
        let listener =
            TcpListener::bind(RUNTIME_API_ADDRESS).map_err(AgentError::io("Runtime API"))?;
        warm_up(&listener).map_err(AgentError::io("loopback"))?;
        let local_listener = SocketAddr::from_abstract_name(RUNTIME_API_SOCKET)
            .and_then(|address| UnixListener::bind_addr(&address))
            .map_err(AgentError::io("Runtime API's local socket"))?;
        let cgroup = RuntimeCgroup::create()?;
        let host = HostStream::connect().map_err(AgentError::errno("connecting to the host"))?;
        let clock = HostClock::open();
        let mailbox = Mailbox::create().map_err(AgentError::Mailbox)?;
        Self::assemble(
            ApiServer::new(listener, local_listener)?,
            RuntimeSide::new(cgroup),
            HostSide::new(HostLink::new(host), mailbox, clock)?,
            children,
        )
    }

    fn assemble(
        api: ApiServer,
        runtime: RuntimeSide,
        host: HostSide,
        children: SignalFd,
    ) -> Result<Self, AgentError> {
        let mut agent = Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
                .map_err(AgentError::errno("epoll"))?,
            children,
            api,
            runtime,
            host,
            output: OutputSide::create()?,
            extensions: ExtensionSide::default(),
            shutdown: None,
            // Written to, so that the pages are there before the snapshot is taken.
            scratch: vec![0x5a; SCRATCH],
        };
        agent.register()?;
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .map_err(AgentError::io("kernel release"))?;
        agent.host.queue(AgentMessage::Hello(Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: kernel.trim_end().to_owned(),
        }))?;
        Ok(agent)
    }

    fn register(&self) -> Result<(), AgentError> {
        let children = EpollEvent::new(EpollFlags::EPOLLIN, tokens::CHILDREN);
        self.output
            .register(&self.epoll)
            .and_then(|()| self.host.register(&self.epoll))
            .and_then(|()| self.api.register(&self.epoll))
            .and_then(|()| self.epoll.add(&self.children, children))
            .map_err(AgentError::errno("epoll"))
    }

    /// Reports to the host why the microVM ends.
    pub(crate) fn report_fatal(&mut self, error: &AgentError) {
        let reason = error.to_string().into();
        // The connection may be what failed; there is no other way to report it.
        let _ = self
            .host
            .link
            .queue(AgentMessage::Fatal(reason))
            .and_then(|()| self.host.link.flush());
        self.host.link.wait_for_host();
    }

    /// Answers the request that `id` waits with.
    fn reply(&mut self, id: ConnectionId, head: Bytes, body: Bytes) -> Result<(), AgentError> {
        let after = self.api.reply(&self.epoll, id, head, body)?;
        self.after_reply(id, after);
        Ok(())
    }

    fn after_reply(&mut self, id: ConnectionId, after: AfterReply) {
        if after == AfterReply::Close {
            self.close(id);
        }
    }

    /// Closes a connection of the Runtime API. Whatever was expected of it is not any more.
    fn close(&mut self, id: ConnectionId) {
        self.api.close(id);
        self.runtime.connection_closed(id);
        self.extensions.registry.connection_closed(id);
    }

    /// Reads the output of the function and of its extensions.
    fn read_output(&mut self) {
        self.output
            .read(&mut self.host, &mut self.extensions, &mut self.scratch);
    }

    /// Queues everything that was written for `request_id`, an unfinished line included.
    fn queue_all_output(&mut self, request_id: Option<&str>) -> Result<(), AgentError> {
        self.output
            .queue_all(request_id, &mut self.host, &mut self.extensions)
    }

    /// What the invocation that ends now has used.
    fn usage(&mut self) -> Result<Usage, AgentError> {
        let usage = self.runtime.usage()?;
        self.host.publish_peak_memory(usage.max_memory_bytes);
        Ok(usage)
    }
}

/// Makes one connection over loopback and sends a byte each way, before any client connects.
///
/// A kernel's first connection fills a table of 256 KiB with random numbers. Where the guest kernel is
/// interpreted that takes seconds, which would otherwise be part of each function's init.
fn warm_up(listener: &TcpListener) -> io::Result<()> {
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    let mut byte = [0];
    client.write_all(&[1])?;
    server.read_exact(&mut byte)?;
    server.write_all(&byte)?;
    client.read_exact(&mut byte)
}
