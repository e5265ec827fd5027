//! What subscribers receive, over real sockets: the test is their listeners.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use bytes::Bytes;
use nix::sys::epoll::{EpollCreateFlags, EpollEvent};
use serde_json::{Value, json};

use super::*;

const TAKEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
/// Maximum time that a test waits for an answer.
const DEADLINE: Duration = Duration::from_secs(20);

/// An extension's listener.
pub(crate) struct Listener {
    socket: TcpListener,
    pub(crate) connection: Option<TcpStream>,
}

impl Listener {
    pub(crate) fn new() -> Self {
        Self {
            socket: TcpListener::bind("127.0.0.1:0").unwrap(),
            connection: None,
        }
    }

    fn port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }

    /// The body of a subscription for it.
    pub(crate) fn subscription(&self, schema: &str, types: &[&str], timeout_ms: u32) -> String {
        json!({
            "schemaVersion": schema,
            "types": types,
            "buffering": { "timeoutMs": timeout_ms },
            "destination": {
                "protocol": "HTTP",
                "URI": format!("http://sandbox.localdomain:{}/telemetry", self.port()),
            },
        })
        .to_string()
    }

    /// The next batch that is posted; it is not answered.
    pub(crate) fn batch(&mut self) -> Vec<Value> {
        let connection = self.connection.get_or_insert_with(|| {
            let (connection, _) = self.socket.accept().unwrap();
            connection.set_read_timeout(Some(DEADLINE)).unwrap();
            connection
        });
        let mut head = vec![];
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            connection.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("POST /telemetry HTTP/1.1\r\nHost: sandbox.localdomain:"));
        let len = head
            .lines()
            .find_map(|l| l.strip_prefix("Content-Length: "));
        let mut body = vec![0; len.unwrap().parse().unwrap()];
        connection.read_exact(&mut body).unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    pub(crate) fn answer(&mut self, reply: &str) {
        let connection = self.connection.as_mut().unwrap();
        connection.write_all(reply.as_bytes()).unwrap();
    }

    /// Everything that arrives up to an event of this kind, that event included.
    pub(crate) fn until(&mut self, kind: &str) -> Vec<Value> {
        let mut received = vec![];
        while !received.iter().any(|event: &Value| event["type"] == kind) {
            received.extend(self.batch());
            self.answer(TAKEN);
        }
        received
    }
}

pub(crate) fn kinds(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect()
}

/// Telemetry, with the part of the event loop that drives it.
struct Driver {
    telemetry: Telemetry,
    epoll: Epoll,
}

impl Driver {
    fn new() -> Self {
        let function = FunctionIdentity {
            name: "f".into(),
            version: "$LATEST".into(),
            initialization_type: "on-demand".into(),
            memory_mib: 128,
            ..FunctionIdentity::default()
        };
        Self {
            telemetry: Telemetry::new(function, SystemTime::now()),
            epoll: Epoll::new(EpollCreateFlags::empty()).unwrap(),
        }
    }

    /// The same with a subscriber, and what that receives at first.
    fn with(listener: &mut Listener, types: &[&str]) -> Self {
        let mut driver = Self::new();
        driver.subscribe(listener, "2022-12-13", types).unwrap();
        driver
    }

    fn subscribe(
        &mut self,
        listener: &Listener,
        schema: &str,
        types: &[&str],
    ) -> Result<(), Invalid> {
        let body = listener.subscription(schema, types, 25);
        let wanted = Subscription::parse(Api::Telemetry, body.as_bytes()).unwrap();
        self.telemetry.subscribe("ext", wanted)
    }

    fn line(&mut self, text: &str) {
        let lines = Lines {
            bytes: Bytes::from(format!("{text}\n")),
            multiline: vec![],
            dropped: 0,
        };
        self.telemetry.lines(Source::Function, &lines);
    }

    fn send_due(&mut self) {
        self.telemetry.send_due(&self.epoll, 0);
    }

    /// Sends what there is, whether it is due or not.
    fn flush(&mut self) {
        self.telemetry.flush();
        self.send_due();
    }

    /// Runs the event loop until the condition holds.
    fn until(&mut self, so: impl Fn(&Telemetry) -> bool) {
        let began = Instant::now();
        while !so(&self.telemetry) {
            assert!(began.elapsed() < DEADLINE);
            self.step();
        }
    }

    /// Runs the event loop until the next batch is posted; it is not answered.
    fn batch(&mut self, listener: &mut Listener) -> Vec<Value> {
        std::thread::scope(|scope| {
            let batch = scope.spawn(|| listener.batch());
            while !batch.is_finished() {
                self.step();
            }
            batch.join().unwrap()
        })
    }

    /// Sends everything and has the listener accept it. It must be the last batch.
    fn take(&mut self, listener: &mut Listener) -> Vec<Value> {
        self.flush();
        let batch = self.batch(listener);
        listener.answer(TAKEN);
        self.until(Telemetry::is_idle);
        batch
    }

    /// Waits a moment for an event, and handles it.
    fn step(&mut self) {
        let mut events = [EpollEvent::empty(); 4];
        let count = self.epoll.wait(&mut events, 5_u16).unwrap();
        for event in &events[..count] {
            let index = usize::try_from(event.data()).unwrap();
            self.telemetry.ready(index, event.events());
        }
        self.send_due();
    }
}

#[test]
fn a_subscriber_receives_what_happened_before_and_what_follows_in_order() {
    let mut listener = Listener::new();
    let mut driver = Driver::new();
    driver.line("before");
    driver
        .subscribe(&listener, "2022-12-13", &["function", "platform"])
        .unwrap();
    driver
        .telemetry
        .report(&Event::InitRuntimeDone { failed: None });
    let took = Duration::from_micros(1_234);
    driver
        .telemetry
        .report(&Event::InitReport { took, failed: None });
    assert!(driver.telemetry.close_subscriptions());
    driver.line("after");
    let batch = driver.batch(&mut listener);
    assert_eq!(
        kinds(&batch),
        [
            "platform.initStart",
            "function",
            "platform.telemetrySubscription",
            "platform.initRuntimeDone",
            "platform.initReport",
            "function",
        ]
    );
    assert_eq!(
        batch[0]["record"],
        json!({
            "initializationType": "on-demand",
            "phase": "init",
            "functionName": "f",
            "functionVersion": "$LATEST",
            "instanceMaxMemory": 134_217_728,
        })
    );
    assert_eq!(batch[1]["record"], "before");
    assert_eq!(batch[2]["record"]["types"], json!(["platform", "function"]));
    assert_eq!(batch[4]["record"]["metrics"]["durationMs"], 1.234);
    listener.answer(TAKEN);
    driver.until(Telemetry::is_idle);
    assert!(driver.telemetry.due().is_none());
    // The connection is used again.
    driver.line("more");
    assert_eq!(driver.take(&mut listener)[0]["record"], "more");
}

#[test]
fn a_subscriber_receives_only_what_it_has_asked_for() {
    let mut listener = Listener::new();
    let mut driver = Driver::with(&mut listener, &["extension"]);
    driver.line("function's");
    driver.telemetry.lines(
        Source::Extension,
        &Lines {
            bytes: Bytes::from_static(b"extension's\n"),
            multiline: vec![],
            dropped: 0,
        },
    );
    let batch = driver.take(&mut listener);
    assert_eq!(kinds(&batch), ["extension"]);
    assert_eq!(batch[0]["record"], "extension's");
}

#[test]
fn without_subscribers_there_is_nothing_to_do_after_init() {
    let mut driver = Driver::new();
    assert!(!driver.telemetry.close_subscriptions());
}

#[test]
fn what_happens_before_the_first_subscription_is_kept_within_bounds() {
    let mut listener = Listener::new();
    let mut driver = Driver::new();
    for n in 0..2 * MAX_EARLY_RECORDS {
        driver.line(&n.to_string());
    }
    driver
        .subscribe(&listener, "2022-12-13", &["platform", "function"])
        .unwrap();
    let batch = driver.take(&mut listener);
    assert_eq!(batch.len(), MAX_EARLY_RECORDS + 2);
    let dropped = &batch[MAX_EARLY_RECORDS];
    assert_eq!(dropped["type"], "platform.logsDropped");
    assert_eq!(dropped["record"]["droppedRecords"], MAX_EARLY_RECORDS + 1);
}

#[test]
fn a_subscriber_that_reads_nothing_costs_two_batches_and_receives_the_count_of_lost_records() {
    let mut listener = Listener::new();
    let mut driver = Driver::with(&mut listener, &["platform", "function"]);
    driver.telemetry.close_subscriptions();
    let line = "x".repeat(1000);
    let mut written = 0;
    for _ in 0..3000 {
        driver.line(&line);
        written += 1;
        driver.send_due();
    }
    let mut seen = 0;
    let mut bytes = 0;
    for _ in 0..2 {
        let batch = driver.batch(&mut listener);
        bytes += batch
            .iter()
            .map(|event| event.to_string().len() + 1)
            .sum::<usize>();
        seen += batch
            .iter()
            .filter(|event| event["type"] == "function")
            .count();
        assert!(!kinds(&batch).contains(&"platform.logsDropped"));
        listener.answer(TAKEN);
    }
    assert!(bytes <= 2 * 262_144 + 2, "{bytes}");
    driver.until(Telemetry::is_idle);
    driver.line("last");
    let batch = driver.take(&mut listener);
    assert_eq!(kinds(&batch), ["platform.logsDropped", "function"]);
    let lost = batch[0]["record"]["droppedRecords"].as_u64().unwrap();
    assert_eq!(seen as u64 + lost, written);
    assert!(batch[0]["record"]["droppedBytes"].as_u64().unwrap() > lost * 1000);
}

#[test]
fn one_record_that_is_longer_than_a_batch_is_a_batch() {
    let mut listener = Listener::new();
    let mut driver = Driver::with(&mut listener, &["function"]);
    let long = "x".repeat(300_000);
    driver.line("short");
    driver.line(&long);
    for expected in ["short", &long] {
        let batch = driver.batch(&mut listener);
        assert_eq!((batch.len(), &batch[0]["record"]), (1, &expected.into()));
        listener.answer(TAKEN);
    }
}

#[test]
fn a_batch_that_no_listener_has_taken_is_sent_again() {
    let mut listener = Listener::new();
    let mut driver = Driver::with(&mut listener, &["function"]);
    driver.line("twice");
    assert_eq!(driver.batch(&mut listener)[0]["record"], "twice");
    listener.connection = None;
    assert_eq!(driver.batch(&mut listener)[0]["record"], "twice");
    // One that is refused is not.
    listener.answer("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
    driver.until(Telemetry::is_idle);
}

#[test]
fn a_listener_that_is_not_there_is_given_up() {
    let mut listener = Listener::new();
    let mut driver = Driver::with(&mut listener, &["platform"]);
    drop(listener);
    driver.flush();
    driver.until(Telemetry::is_idle);
    assert!(driver.telemetry.due().is_none());
}

#[test]
fn a_listener_that_does_not_accept_does_not_block_the_agent() {
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    listen(&socket, Backlog::new(0).unwrap()).unwrap();
    let address: SockaddrIn = getsockname(socket.as_raw_fd()).unwrap();
    let taken = TcpStream::connect(("127.0.0.1", address.port())).unwrap();
    let mut listener = Listener {
        socket: socket.into(),
        connection: None,
    };
    let mut driver = Driver::with(&mut listener, &["platform"]);
    let began = Instant::now();
    driver.flush();
    assert!(began.elapsed() < Duration::from_secs(1));
    assert!(!driver.telemetry.is_idle());
    // The agent tries until the listener's queue has space; the kernel retries after a second.
    drop(taken);
    listener.socket.accept().unwrap();
    assert_eq!(kinds(&driver.batch(&mut listener))[0], "platform.initStart");
}

#[test]
fn time_in_which_the_guest_was_paused_does_not_count_against_a_listener() {
    let mut listener = Listener::new();
    let mut driver = Driver::with(&mut listener, &["platform"]);
    driver.flush();
    let before = driver.telemetry.due().unwrap();
    driver.telemetry.thawed();
    assert!(driver.telemetry.due().unwrap() > before);
}

#[test]
fn an_invocation_is_reported_with_what_it_took_and_how_it_ended() {
    let mut listener = Listener::new();
    let mut driver = Driver::with(&mut listener, &["platform"]);
    driver.take(&mut listener);
    let invoke = |id: &str| Invoke {
        request_id: id.into(),
        trace_id: Some("Root=1".into()),
        ..Invoke::default()
    };
    let usage = Usage {
        duration_us: 1_500,
        cpu_us: 1,
        max_memory_bytes: 3 * 1024 * 1024 + 1,
    };
    driver.telemetry.restoring();
    driver.telemetry.restored(None);
    for (id, outcome) in [
        ("good", Some(Outcome::answered(usage, 7))),
        ("bad", Some(Outcome::failed(usage, Some("Function.X")))),
        ("late", None),
    ] {
        driver.telemetry.begin(&invoke(id));
        match outcome {
            Some(outcome) => {
                driver.telemetry.runtime_done(outcome);
                driver.telemetry.invocation_ended();
            }
            None => driver
                .telemetry
                .shut_down("timeout", usage.max_memory_bytes),
        }
    }
    let batch = driver.take(&mut listener);
    assert_eq!(
        kinds(&batch)[..3],
        [
            "platform.restoreStart",
            "platform.restoreRuntimeDone",
            "platform.restoreReport"
        ]
    );
    for (at, id, status) in [
        (3, "good", "success"),
        (6, "bad", "error"),
        (9, "late", "timeout"),
    ] {
        assert_eq!(
            kinds(&batch)[at..at + 3],
            ["platform.start", "platform.runtimeDone", "platform.report"]
        );
        for event in &batch[at..at + 3] {
            assert_eq!(event["record"]["requestId"], id);
            assert_eq!(event["record"]["tracing"]["value"], "Root=1");
        }
        assert_eq!(batch[at + 1]["record"]["status"], status);
        assert_eq!(batch[at + 2]["record"]["status"], status);
        assert_eq!(batch[at + 2]["record"]["metrics"]["maxMemoryUsedMB"], 4);
        assert_eq!(batch[at + 2]["record"]["metrics"]["memorySizeMB"], 128);
    }
    let done = &batch[4]["record"];
    assert_eq!(
        done["metrics"],
        json!({ "durationMs": 1.5, "producedBytes": 7 })
    );
    assert_eq!(done["spans"][0]["name"], "responseLatency");
    assert_eq!(done["spans"][0]["durationMs"], 1.5);
    assert_eq!(batch[7]["record"]["errorType"], "Function.X");
    // A restore is part of the first report only.
    assert!(batch[5]["record"]["metrics"]["restoreDurationMs"].is_f64());
    assert!(batch[8]["record"]["metrics"]["restoreDurationMs"].is_null());
}

#[test]
fn an_extension_subscribes_again_with_the_same_api_only() {
    let mut first = Listener::new();
    let mut driver = Driver::with(&mut first, &["platform"]);
    let mut second = Listener::new();
    driver
        .subscribe(&second, "2022-07-01", &["function"])
        .unwrap();
    driver.line("here");
    assert_eq!(kinds(&driver.take(&mut second)).last(), Some(&"function"));
    let body = second.subscription("2021-03-18", &["function"], 25);
    let logs = Subscription::parse(Api::Logs, body.as_bytes()).unwrap();
    assert_eq!(
        driver.telemetry.subscribe("ext", logs),
        Err(Invalid::OtherApi)
    );
}
