//! The whole agent; the test is the host and the runtime. Sockets and the pipe are real, the cgroup's
//! files are in a temporary folder. What needs PID 1, disks or a cgroup is tested in microVMs.

mod extensions;
mod generators;
mod held;
mod restoring;
mod streaming;
mod telemetry;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use hearth_mailbox::pages::Pages;
use hearth_protocol::agent::{AgentMessage, Frame, FrameDecoder, HostMessage, Invoke, Thaw};
use hearth_protocol::guest::MAX_PAYLOAD;
use hearth_protocol::mailbox::{ANSWERS, VIA_AGENT, WORKING};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::{Agent, AgentError, ApiServer, HostSide, RuntimeSide};
use crate::cgroup::RuntimeCgroup;
use crate::clock::HostClock;
use crate::host_link::HostLink;
use crate::mailbox::Mailbox;
use crate::vsock::HostStream;

/// Maximum time that a test waits for an answer.
const DEADLINE: Duration = Duration::from_secs(20);
const NEXT: &str = "/2018-06-01/runtime/invocation/next";

/// A running agent, and the other end of everything that it is connected to.
struct Guest {
    host: UnixStream,
    decoder: FrameDecoder,
    received: BytesMut,
    api: SocketAddr,
    /// The function's stdout.
    output: File,
    /// The mailbox as a runtime maps it.
    mailbox: Pages,
    agent: JoinHandle<Result<(), AgentError>>,
    cgroup: tempfile::TempDir,
}

impl Guest {
    /// A guest whose runtime has just been started.
    fn starting() -> Self {
        Self::configured(false)
    }

    /// The same; `snap_start`: whether the runtime's initialization type is that.
    fn configured(snap_start: bool) -> Self {
        let cgroup = tempfile::tempdir().unwrap();
        for (name, content) in [
            ("cgroup.procs", ""),
            ("cgroup.kill", ""),
            ("memory.peak", "4096\n"),
            ("memory.events", "oom 0\noom_kill 0\n"),
            ("memory.max", "max\n"),
        ] {
            std::fs::write(cgroup.path().join(name), content).unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let api = listener.local_addr().unwrap();
        let local = cgroup.path().join("local");
        let (host, agents_end) = UnixStream::pair().unwrap();
        host.set_read_timeout(Some(DEADLINE)).unwrap();
        let made = Mailbox::make().unwrap();
        let mailbox = Pages::map(made.file().as_raw_fd()).unwrap();
        let link = HostLink::new(HostStream::new(agents_end.into()).unwrap());
        let mut agent = Agent::assemble(
            ApiServer::new(listener, UnixListener::bind(&local).unwrap()).unwrap(),
            RuntimeSide::new(RuntimeCgroup::open(cgroup.path().to_owned()).unwrap()),
            HostSide::new(link, made, HostClock::Messages).unwrap(),
            SignalFd::with_flags(&SigSet::empty(), SfdFlags::SFD_NONBLOCK).unwrap(),
        )
        .unwrap();
        agent.runtime.lifecycle.configure(snap_start).unwrap();
        let output = File::from(agent.output.writer().try_clone_to_owned().unwrap());
        let mut guest = Self {
            host,
            decoder: FrameDecoder::new(MAX_PAYLOAD),
            received: BytesMut::new(),
            api,
            output,
            mailbox,
            agent: std::thread::spawn(move || agent.run()),
            cgroup,
        };
        assert!(matches!(guest.hear(), AgentMessage::Hello(_)));
        guest
    }

    /// A guest whose runtime waits on the returned connection.
    fn ready() -> (Self, Runtime) {
        let guest = Self::starting();
        let runtime = guest.connect();
        guest.waits(runtime)
    }

    /// The same with a runtime of Hearth's own images.
    fn locally_ready() -> (Self, Runtime<UnixStream>) {
        let guest = Self::starting();
        let stream = UnixStream::connect(guest.cgroup.path().join("local")).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        guest.waits(Runtime(stream))
    }

    fn waits<S: Read + Write>(mut self, mut runtime: Runtime<S>) -> (Self, Runtime<S>) {
        runtime.get(NEXT);
        match self.hear() {
            AgentMessage::Ready(ready) => assert!(ready.init_us.is_some()),
            other => panic!("{other:?}"),
        }
        (self, runtime)
    }

    /// A guest whose runtime has an event with the request id `1`.
    fn running() -> (Self, Runtime) {
        let (mut guest, mut runtime) = Self::ready();
        guest.say([invoke("1", b"{}")]);
        assert!(runtime.reply().starts_with("HTTP/1.1 200 OK\r\n"));
        (guest, runtime)
    }

    fn connect(&self) -> Runtime {
        let stream = TcpStream::connect(self.api).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Runtime(stream)
    }

    /// Sends messages in one write.
    fn say(&mut self, messages: impl IntoIterator<Item = HostMessage>) {
        let mut wire = BytesMut::new();
        for message in messages {
            Frame::from(message).encode(&mut wire).unwrap();
        }
        self.host.write_all(&wire).unwrap();
    }

    /// The agent's next message.
    fn hear(&mut self) -> AgentMessage {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.received).unwrap() {
                return frame.try_into().unwrap();
            }
            let mut part = vec![0; 1 << 16];
            let count = self.host.read(&mut part).unwrap();
            assert!(count > 0, "the agent closed the connection");
            self.received.extend_from_slice(&part[..count]);
        }
    }

    /// Ends the agent, which must not have sent anything more.
    fn finish(mut self) {
        self.say([HostMessage::Ping(Bytes::from_static(b"last"))]);
        assert_eq!(self.hear(), AgentMessage::Pong(Bytes::from_static(b"last")));
        self.say([HostMessage::Shutdown]);
        self.agent.join().unwrap().unwrap();
    }

    /// Waits until the agent ends with an error.
    fn error(self) -> AgentError {
        self.agent.join().unwrap().unwrap_err()
    }
}

/// A client of the Runtime API.
struct Runtime<S = TcpStream>(S);

impl<S: Read + Write> Runtime<S> {
    fn get(&mut self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        self.0.write_all(request.as_bytes()).unwrap();
    }

    fn post(&mut self, path: &str, body: &[u8]) -> String {
        let len = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nContent-Length: {len}\r\n\r\n");
        self.0.write_all(head.as_bytes()).unwrap();
        self.0.write_all(body).unwrap();
        self.reply()
    }

    fn respond(&mut self, request_id: &str, body: &[u8]) -> String {
        let path = format!("/2018-06-01/runtime/invocation/{request_id}/response");
        self.post(&path, body)
    }

    /// One whole reply, head and body.
    fn reply(&mut self) -> String {
        let mut bytes = vec![];
        loop {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            bytes.push(byte[0]);
            if bytes.ends_with(b"\r\n\r\n") {
                break;
            }
        }
        let head = String::from_utf8(bytes.clone()).unwrap();
        let len: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "))
            .map_or(0, |len| len.parse().unwrap());
        let mut body = vec![0; len];
        self.0.read_exact(&mut body).unwrap();
        head + &String::from_utf8_lossy(&body)
    }
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(now.unwrap().as_nanos()).unwrap()
}

fn invoke(request_id: &str, event: &'static [u8]) -> HostMessage {
    HostMessage::Invoke(
        Invoke {
            request_id: request_id.into(),
            deadline_ms: 1,
            realtime_ns: now_ns(),
            ..Invoke::default()
        },
        Bytes::from_static(event),
    )
}

#[test]
fn an_invocation_goes_from_the_host_to_the_runtime_and_back() {
    let (mut guest, mut runtime) = Guest::ready();
    for id in ["1", "2"] {
        guest.say([invoke(id, b"{\"a\":1}")]);
        let event = runtime.reply();
        assert!(event.contains(&format!("\r\nLambda-Runtime-Aws-Request-Id: {id}\r\n")));
        assert!(event.ends_with("\r\n\r\n{\"a\":1}"));
        assert!(runtime.respond(id, b"done").starts_with("HTTP/1.1 202 "));
        match guest.hear() {
            AgentMessage::Response(response, body) => {
                assert_eq!(
                    (response.request_id.as_str(), &body[..]),
                    (id, &b"done"[..])
                );
                assert_eq!(response.usage.max_memory_bytes, 4096);
            }
            other => panic!("{other:?}"),
        }
        runtime.get(NEXT);
        assert!(matches!(guest.hear(), AgentMessage::Ready(r) if r.init_us.is_none()));
    }
    guest.finish();
}

#[test]
fn a_local_runtime_answers_and_asks_for_more_at_once_and_is_woken_once() {
    let (mut guest, mut runtime) = Guest::locally_ready();
    guest.say([invoke("1", b"{}")]);
    assert!(runtime.reply().starts_with("HTTP/1.1 200 OK\r\n"));
    for (id, next) in [("1", "2"), ("2", "3")] {
        let both = format!(
            "POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\nContent-Length: 4\r\n\r\n\
             doneGET {NEXT} HTTP/1.1\r\n\r\n"
        );
        runtime.0.write_all(both.as_bytes()).unwrap();
        match guest.hear() {
            AgentMessage::Response(response, _) => assert_eq!(response.request_id, id),
            other => panic!("{other:?}"),
        }
        assert!(matches!(guest.hear(), AgentMessage::Ready(_)));
        // Both were sent in one turn, so the 202 would be here if the agent had not kept it back.
        runtime.0.set_nonblocking(true).unwrap();
        let early = runtime.0.read(&mut [0]).unwrap_err();
        assert_eq!(early.kind(), std::io::ErrorKind::WouldBlock);
        runtime.0.set_nonblocking(false).unwrap();
        guest.say([invoke(next, b"{}")]);
        assert!(runtime.reply().starts_with("HTTP/1.1 202 "));
        assert!(runtime.reply().contains(&format!("Request-Id: {next}\r\n")));
    }
    guest.finish();
}

#[test]
fn a_local_runtime_whose_answer_is_refused_gets_no_event_with_the_refusal() {
    let (mut guest, mut runtime) = Guest::locally_ready();
    guest.say([invoke("1", b"{}")]);
    runtime.reply();
    assert!(
        guest
            .connect()
            .respond("1", b"")
            .starts_with("HTTP/1.1 202 ")
    );
    assert!(matches!(guest.hear(), AgentMessage::Response(..)));
    let both = format!(
        "POST /2018-06-01/runtime/invocation/1/response HTTP/1.1\r\nContent-Length: 6\r\n\r\n\
         secondGET {NEXT} HTTP/1.1\r\n\r\n"
    );
    runtime.0.write_all(both.as_bytes()).unwrap();
    assert!(runtime.reply().starts_with("HTTP/1.1 403 "));
    assert_eq!(runtime.0.read(&mut [0]).unwrap(), 0);
    // It was not announced as ready.
    guest.finish();
}

#[test]
fn the_last_answer_of_a_local_runtime_that_is_gone_is_read() {
    let (mut guest, mut runtime) = Guest::locally_ready();
    guest.say([invoke("1", b"{}")]);
    runtime.reply();
    let path = "/2018-06-01/runtime/invocation/1/response";
    let words = format!("POST {path} HTTP/1.1\r\nContent-Length: 4\r\n\r\ndone");
    runtime.0.write_all(words.as_bytes()).unwrap();
    drop(runtime);
    assert!(matches!(guest.hear(), AgentMessage::Response(_, body) if body == "done"));
    guest.finish();
}

#[test]
fn what_a_function_wrote_is_sent_before_its_answer() {
    let (mut guest, mut runtime) = Guest::running();
    guest.output.write_all(b"one\ntwo").unwrap();
    runtime.respond("1", b"");
    let mut logged = vec![];
    loop {
        match guest.hear() {
            AgentMessage::Log(log, lines) => {
                assert_eq!(log.request_id.as_deref(), Some("1"));
                logged.extend(lines);
            }
            AgentMessage::Response(..) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(logged, b"one\ntwo\n");
    guest.finish();
}

#[test]
fn lines_do_not_wait_for_the_answer() {
    let (mut guest, _runtime) = Guest::running();
    guest.output.write_all(b"still here\n").unwrap();
    match guest.hear() {
        AgentMessage::Log(_, lines) => assert_eq!(&lines[..], b"still here\n"),
        other => panic!("{other:?}"),
    }
    guest.finish();
}

#[test]
fn a_flood_of_output_does_not_block_the_function_and_stays_within_bounds() {
    let (mut guest, mut runtime) = Guest::running();
    // The host does not read meanwhile.
    let line = [b'x'; 1023];
    let total: usize = 16 << 20;
    for _ in 0..total / 1024 {
        guest.output.write_all(&line).unwrap();
        guest.output.write_all(b"\n").unwrap();
    }
    assert!(runtime.respond("1", b"").starts_with("HTTP/1.1 202 "));
    let (mut seen, mut dropped) = (0, 0);
    loop {
        match guest.hear() {
            AgentMessage::Log(log, lines) => {
                seen += lines.len();
                dropped += usize::try_from(log.dropped_bytes).unwrap();
            }
            AgentMessage::Response(..) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(seen < 4 << 20, "{seen} bytes were kept");
    // A line that ends where output was dropped gets a newline of its own.
    assert!(
        (total..total + 64).contains(&(seen + dropped)),
        "{seen} + {dropped}"
    );
    guest.finish();
}

#[test]
fn the_largest_payload_fits_both_ways() {
    let (mut guest, mut runtime) = Guest::ready();
    let event: &'static [u8] = vec![b'e'; MAX_PAYLOAD].leak();
    guest.say([invoke("1", event)]);
    assert!(runtime.reply().ends_with("eee"));
    let result = vec![b'r'; MAX_PAYLOAD];
    assert!(runtime.respond("1", &result).starts_with("HTTP/1.1 202 "));
    match guest.hear() {
        AgentMessage::Response(_, body) => assert_eq!(body, result),
        other => panic!("{other:?}"),
    }
    guest.finish();
}

#[test]
fn a_result_that_is_too_large_is_a_function_error() {
    let (mut guest, mut runtime) = Guest::running();
    let reply = runtime.respond("1", &vec![b'r'; MAX_PAYLOAD + 1]);
    assert!(reply.starts_with("HTTP/1.1 413 "));
    match guest.hear() {
        AgentMessage::FunctionError(error, _) => {
            assert_eq!(
                error.error_type.as_deref(),
                Some("Function.ResponseSizeTooLarge")
            );
        }
        other => panic!("{other:?}"),
    }
    guest.finish();
}

#[test]
fn late_second_and_foreign_answers_never_reach_the_host() {
    let (mut guest, mut runtime) = Guest::running();
    assert!(runtime.respond("2", b"").starts_with("HTTP/1.1 400 "));
    runtime.respond("1", b"");
    assert!(matches!(guest.hear(), AgentMessage::Response(..)));
    assert!(runtime.respond("1", b"").starts_with("HTTP/1.1 403 "));
    let error = runtime.post("/2018-06-01/runtime/invocation/1/error", b"{}");
    assert!(error.starts_with("HTTP/1.1 403 "));
    guest.finish();
}

#[test]
fn an_error_carries_what_the_runtime_posted() {
    let (mut guest, mut runtime) = Guest::running();
    let reply = runtime.post("/2018-06-01/runtime/invocation/1/error", b"{\"e\":1}");
    assert!(reply.starts_with("HTTP/1.1 202 "));
    match guest.hear() {
        AgentMessage::FunctionError(error, body) => {
            assert_eq!(
                (error.request_id.as_str(), &body[..]),
                ("1", &b"{\"e\":1}"[..])
            );
        }
        other => panic!("{other:?}"),
    }
    guest.finish();
}

#[test]
fn an_init_error_is_reported_once() {
    let mut guest = Guest::starting();
    let mut runtime = guest.connect();
    let reply = runtime.post("/2018-06-01/runtime/init/error", b"{\"e\":1}");
    assert!(reply.starts_with("HTTP/1.1 202 "));
    match guest.hear() {
        AgentMessage::InitFailed(_, body) => assert_eq!(&body[..], b"{\"e\":1}"),
        other => panic!("{other:?}"),
    }
    let reply = runtime.post("/2018-06-01/runtime/init/error", b"{}");
    assert!(reply.starts_with("HTTP/1.1 403 "));
    guest.finish();
}

#[test]
fn a_limit_for_one_invocation_is_set_and_taken_back() {
    let (mut guest, mut runtime) = Guest::ready();
    let limit = |guest: &Guest| {
        let text = std::fs::read_to_string(guest.cgroup.path().join("memory.max")).unwrap();
        // A write replaces the file of a real cgroup; here it overwrites the start of a plain file.
        text.trim_end().to_owned()
    };
    guest.say([HostMessage::Invoke(
        Invoke {
            request_id: "1".into(),
            memory_limit_mib: Some(64),
            realtime_ns: now_ns(),
            ..Invoke::default()
        },
        Bytes::new(),
    )]);
    runtime.reply();
    assert_eq!(limit(&guest), (64 << 20).to_string());
    runtime.respond("1", b"");
    assert!(matches!(guest.hear(), AgentMessage::Response(..)));
    assert_eq!(limit(&guest), u64::MAX.to_string());
    guest.finish();
}

#[test]
fn a_client_that_sends_no_http_gets_400_and_is_closed() {
    let guest = Guest::starting();
    let mut client = guest.connect();
    client.0.write_all(b"\x16\x03\x01\r\n\r\n").unwrap();
    assert!(client.reply().starts_with("HTTP/1.1 400 "));
    assert_eq!(client.0.read(&mut [0]).unwrap(), 0);
    guest.finish();
}

#[test]
fn a_client_that_shuts_down_its_sending_side_gets_its_event() {
    let (mut guest, mut runtime) = Guest::ready();
    runtime.0.shutdown(std::net::Shutdown::Write).unwrap();
    // The agent handles the host first and then connections. So it has seen the shutdown when it handles
    // the host's next message after this one.
    guest.say([HostMessage::Ping(Bytes::new())]);
    guest.hear();
    guest.say([invoke("1", b"{}")]);
    assert!(runtime.reply().starts_with("HTTP/1.1 200 OK\r\n"));
    let mut other = guest.connect();
    assert!(other.respond("1", b"").starts_with("HTTP/1.1 202 "));
    assert!(matches!(guest.hear(), AgentMessage::Response(..)));
    guest.finish();
}

#[test]
fn a_runtime_that_gave_up_its_connection_waits_on_a_new_one() {
    let (mut guest, runtime) = Guest::ready();
    drop(runtime);
    let mut again = guest.connect();
    again.get(NEXT);
    // The agent has handled that `next` when it answers this later request on another connection.
    let mut other = guest.connect();
    other.get("/2018-06-01/ping");
    other.reply();
    guest.say([invoke("1", b"{}")]);
    assert!(again.reply().starts_with("HTTP/1.1 200 OK\r\n"));
    guest.finish();
}

#[test]
fn short_entropy_ends_the_agent() {
    let mut guest = Guest::starting();
    let thaw = Thaw {
        realtime_ns: now_ns(),
    };
    guest.say([HostMessage::Thaw(thaw, Bytes::from_static(&[1; 31]))]);
    assert!(matches!(guest.error(), AgentError::Entropy(_)));
}

#[test]
fn a_host_that_breaks_the_protocol_ends_the_agent() {
    let (mut guest, _runtime) = Guest::running();
    guest.say([invoke("2", b"{}")]);
    assert!(matches!(guest.error(), AgentError::Host(_)));
    let mut guest = Guest::starting();
    guest.host.write_all(&[0xff; 8]).unwrap();
    assert!(matches!(guest.error(), AgentError::Link(_)));
}

/// The runtime took an event from the mailbox and answered it through the agent, which had required that.
/// Then the agent gives it an event, which it answers through the agent too.
#[test]
fn an_event_of_the_mailbox_is_over_when_the_agent_gives_the_next_event() {
    let (mut guest, mut runtime) = Guest::running();
    let id = "00000000-0000-0000-0000-000000000001";
    guest.mailbox.set(ANSWERS, 1);
    guest.mailbox.set_request_id(id.as_bytes());
    guest.mailbox.set(WORKING, 1);
    for (id, next) in [(id, "2"), ("2", "3"), ("3", "4")] {
        assert!(
            runtime.respond(id, b"").starts_with("HTTP/1.1 202 "),
            "{id}"
        );
        assert!(matches!(guest.hear(), AgentMessage::Response(r, _) if r.request_id == id));
        runtime.get(NEXT);
        assert!(matches!(guest.hear(), AgentMessage::Ready(_)), "{id}");
        guest.say([invoke(next, b"{}")]);
        assert!(runtime.reply().starts_with("HTTP/1.1 200 OK\r\n"));
    }
    guest.finish();
}
