//! The agent: one thread, one epoll set, everything that happens in the guest between the host and
//! the runtime.
//!
//! On the path of an invocation system calls are what costs (up to 0.7 ms each where the guest's
//! kernel is interpreted), so a warm one takes twelve: wait, read the event, send it to the
//! runtime; wait, read the result, read two counters, write the answer to the host, send 202 to
//! the runtime; wait, read its `next`, write `Ready`. A runtime on the local socket sends result and
//! `next` together: then it is eight, the answer and `Ready` leave together, and the runtime is woken
//! once.
//!
//! Within one turn of the loop the order is fixed, and each place has its reason:
//!
//! 1. *Output.* A function's lines are sent before its answer. A line that was written before the
//!    answer was posted is in the pipe by the time the answer is in the socket, and both are
//!    reported by the same `epoll_wait`, or the line by an earlier one: it is read first, and no
//!    further look at the pipe is needed when the answer is handled. For a runtime whose lines the agent
//!    is not woken for ([`function_output`]) it looks at the pipe when there is something on a connection.
//! 2. *Host*, then *connections*, then the *listener*.
//! 3. *Children* last: a runtime that answered and then exited has answered.

mod at_mailbox;
mod events;
mod extension_requests;
mod function_output;
mod host_messages;
mod leaving;
mod runtime_requests;
mod streaming;
mod supervision;
mod telling;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Instant;

use hearth_protocol::agent::{AgentMessage, Hello};
use hearth_protocol::guest::{RUNTIME_API_ADDRESS, RUNTIME_API_SOCKET};
use hearth_protocol::output::LogBuffer;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use streaming::Streaming;

use self::extension_requests::Launch;
use self::function_output::Listening;
use self::leaving::Leaving;
use self::telling::ExtensionOutput;

use crate::cgroup::{CgroupError, RuntimeCgroup};
use crate::clock::HostClock;
use crate::code::CodeError;
use crate::entropy::{EntropyError, Generator};
use crate::environment::FunctionIdentity;
use crate::extensions::Extensions;
use crate::generators::registered::Registered;
use crate::host_link::{HostLink, LinkError};
use crate::lifecycle::{HostError, Lifecycle};
use crate::mailbox::Mailbox;
use crate::output::Output;
use crate::runtime_api::connection::Connection;
use crate::spawn::SpawnError;
use crate::telemetry::Telemetry;
use crate::vsock::HostStream;

/// Bytes read at once. Only the pages that are needed are touched.
const SCRATCH: usize = 128 * 1024;

/// Why the microVM can't go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    #[error("stepping the clock: {0}")]
    Clock(Errno),
    #[error("attaching the code: {0}")]
    Code(#[from] CodeError),
    #[error("looking for random generators: {0}")]
    Generators(io::Error),
    #[error("making the mailbox: {0}")]
    Mailbox(io::Error),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
}

impl AgentError {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    fn errno(what: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Io {
            what,
            source: errno.into(),
        }
    }
}

/// All that the agent holds.
#[derive(Debug)]
pub(crate) struct Agent {
    epoll: Epoll,
    host: HostLink,
    listener: TcpListener,
    local_listener: UnixListener,
    connections: Vec<Option<Connection>>,
    /// Where a runtime may exchange events and answers with the host by itself.
    mailbox: Option<Mailbox>,
    children: SignalFd,
    output: Output,
    /// How the agent comes to know that there is some.
    listening: Listening,
    logs: LogBuffer,
    life: Lifecycle,
    streaming: Streaming,
    cgroup: RuntimeCgroup,
    generator: Generator,
    clock: HostClock,
    runtime: Option<Pid>,
    extensions: Extensions,
    extension_output: Option<ExtensionOutput>,
    /// Only where somebody is told, or may ask to be.
    telemetry: Option<Box<Telemetry>>,
    /// What extensions are told of the function.
    identity: FunctionIdentity,
    /// The runtime, while it waits for extensions to register.
    launch: Option<Launch>,
    /// What runtimes say of their random generators.
    registered: Registered,
    /// Whether the function's runtime is given the mailbox.
    uses_mailbox: bool,
    /// Until the host has heard that init is over.
    initializing: bool,
    /// The runtime waits and the host does not know, since an extension does not yet wait; whether
    /// it is the first time.
    unannounced: Option<bool>,
    /// The host was told that the guest has thawed, and no event was handed out since.
    thaw_told: bool,
    /// When the runtime answered last.
    answered: Instant,
    leaving: Option<Leaving>,
    /// When the runtime was started, or was given its event.
    since: Instant,
    /// The runtime's CPU time at the last look. One look per invocation, at its end, is enough: in
    /// between the microVM is paused, and what the runtime does after its answer counts for the
    /// invocation that follows.
    cpu_us: u64,
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
        let mut agent = Self::assemble(
            listener,
            local_listener,
            HostLink::new(host),
            cgroup,
            children,
        )?;
        agent.clock = HostClock::open();
        agent.mailbox = Some(Mailbox::create().map_err(AgentError::Mailbox)?);
        Ok(agent)
    }

    fn assemble(
        listener: TcpListener,
        local_listener: UnixListener,
        host: HostLink,
        cgroup: RuntimeCgroup,
        children: SignalFd,
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
        let mut agent = Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
                .map_err(AgentError::errno("epoll"))?,
            host,
            listener,
            local_listener,
            connections: Vec::new(),
            mailbox: None,
            children,
            output: Output::create().map_err(AgentError::io("output pipe"))?,
            listening: Listening::default(),
            logs: LogBuffer::default(),
            life: Lifecycle::new(),
            streaming: Streaming::default(),
            cgroup,
            generator: Generator::open().map_err(AgentError::io("/dev/urandom"))?,
            clock: HostClock::Messages,
            runtime: None,
            extensions: Extensions::default(),
            extension_output: None,
            telemetry: None,
            identity: FunctionIdentity::default(),
            launch: None,
            registered: Registered::default(),
            uses_mailbox: false,
            initializing: true,
            unannounced: None,
            thaw_told: false,
            answered: Instant::now(),
            leaving: None,
            since: Instant::now(),
            cpu_us: 0,
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

    /// Last words.
    pub(crate) fn report_fatal(&mut self, error: &AgentError) {
        let reason = error.to_string().into();
        // The connection may be the very thing that failed; there is nobody else to tell.
        let _ = self
            .host
            .queue(AgentMessage::Fatal(reason))
            .and_then(|()| self.host.flush());
        self.host.wait_for_host();
    }

    /// Catches up with what the runtime and the host have done without the agent.
    fn look_into_mailbox(&mut self) {
        let Some(mailbox) = &mut self.mailbox else {
            return;
        };
        if mailbox.has_answered() {
            self.life.answered_elsewhere();
        }
        if let Some(request_id) = mailbox.working_on() {
            self.life.runs_elsewhere(request_id);
        }
    }
}

/// Makes one connection over loopback and sends a byte each way, before anybody waits for it.
///
/// The first connection of a kernel fills a table of 256 KiB with random numbers: seconds of work
/// where the guest's kernel is interpreted, which each function's init would have to do.
fn warm_up(listener: &TcpListener) -> io::Result<()> {
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    let mut byte = [0];
    client.write_all(&[1])?;
    server.read_exact(&mut byte)?;
    server.write_all(&byte)?;
    client.read_exact(&mut byte)
}
