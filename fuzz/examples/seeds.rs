//! Writes the corpus's first inputs: dialogues of a correct guest, host or controller. A fuzzer
//! derives the incorrect ones from them.
//!
//! `cargo run --example seeds -- CORPUS [STATE_FILE…]`: the state files are those of a controller's
//! snapshots.

use std::error::Error;
use std::fs;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use hearth_protocol::agent::{
    AgentMessage, Configure, Exit, Frame, FunctionError, Hello, HostMessage, InitFailed, Invoke,
    Log, Ready, Response, ResponseEnd, ResponseStart, RuntimeExited, Thaw, Usage,
};
use hearth_protocol::sandbox::{
    Boot, Command, Event, ExitReason, Exited, Freeze, Message, Outcome, RandomRange, Refusal,
    RefusalKind, Reply, Request, Restore, Resume, Snapshot, encode,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Steps of any device, with `world`'s numbers.
const REGISTER: u8 = 2;
const RESTART: u8 = 5;
const KICK: u8 = 13;
const SNAPSHOT: u8 = 15;
/// A step of the device's own.
const OWN: u8 = 16;

/// Steps of the vsock device.
const PACKET: u8 = 0;
const GIVE: u8 = 7;
const WRITE: u8 = 9;
const READ: u8 = 10;
const READY: u8 = 11;
const DRAIN: u8 = 12;
const SETTLE: u8 = 13;
const OTHER: u8 = 14;
const RESET: u8 = 15;

/// First byte of a packet: selects its operation.
const DATA: u8 = 0;
const CREDIT: u8 = 1;
const REQUEST: u8 = 96;
const SHUTDOWN: u8 = 130;
/// A packet without peculiarities, in one buffer.
const PLAIN: u8 = 14;
/// 256 KiB.
const CREDIT_256K: u8 = 146;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let corpus = arguments.next().ok_or("seeds CORPUS [STATE_FILE…]")?;
    let corpus = Path::new(&corpus);
    write(corpus, "mmio", mmio())?;
    write(corpus, "block", block())?;
    write(corpus, "vsock", vsock())?;
    write(corpus, "frames", frames()?)?;
    write(corpus, "mailbox", mailbox())?;
    let states: Result<Vec<Vec<u8>>> = arguments
        .map(|path| Ok([vec![0], fs::read(path)?].concat()))
        .collect();
    write(corpus, "state_file", states?)
}

fn write(corpus: &Path, target: &str, seeds: Vec<Vec<u8>>) -> Result<()> {
    let folder = corpus.join(target);
    fs::create_dir_all(&folder)?;
    for (number, seed) in seeds.iter().enumerate() {
        fs::write(folder.join(format!("seed-{number}")), seed)?;
    }
    Ok(())
}

fn mmio() -> Vec<Vec<u8>> {
    // The device, then registers by number with a small value; the last is a driver's complete
    // set-up.
    let way = |device: u8| {
        let mut script = vec![device];
        for status in [0, 1, 3] {
            script.extend([REGISTER, 14, status]);
        }
        script.extend([REGISTER, 6, 1, REGISTER, 5, 1, REGISTER, 14, 0xb]);
        script.extend([REGISTER, 7, 0, REGISTER, 8, 0, REGISTER, 9, 64]);
        script.extend([REGISTER, 10, 1, REGISTER, 14, 0xf, REGISTER, 11, 0]);
        script.extend([REGISTER, 12, 0, REGISTER, 13, 1, 0, 0x00, 0x01, 4]);
        script
    };
    vec![
        way(0),
        way(1),
        [0, RESTART, KICK, SNAPSHOT, REGISTER, 14, 0, RESTART].to_vec(),
        [1, RESTART, KICK, SNAPSHOT, REGISTER, 14, 0, RESTART].to_vec(),
    ]
}

fn block() -> Vec<Vec<u8>> {
    const SECTOR: u8 = 201;
    let read = [OWN, 0, 3, 1, SECTOR, 1];
    let split = [OWN, 0, 5, 2 | 4 << 2, SECTOR, 1, SECTOR + 2, 1];
    let flush = [OWN, 5, 0, 0];
    let id = [OWN, 6, 0, 1, 20, 1];
    let write = [OWN, 4, 0, 1, SECTOR, 0];
    let past = [OWN, 0, 24, 1, SECTOR, 1];
    let unknown = [OWN, 7, 99, 0, 0, 0, 0, 1, SECTOR, 1];
    vec![
        read.to_vec(),
        split.to_vec(),
        [&flush[..], &id, &write, &past, &unknown].concat(),
        [&read[..], &[SNAPSHOT, KICK], &split].concat(),
        [&read[..], &[RESTART], &id, &[SNAPSHOT], &read].concat(),
    ]
}

fn vsock() -> Vec<Vec<u8>> {
    let give = [OWN, GIVE, 7, 255];
    let request = [OWN, PACKET, REQUEST, PLAIN, CREDIT_256K];
    let data = [OWN, PACKET, DATA, PLAIN, 60, CREDIT_256K];
    let credit = [OWN, PACKET, CREDIT, PLAIN, CREDIT_256K];
    let shutdown = [OWN, PACKET, SHUTDOWN, PLAIN | 0xc0, CREDIT_256K];
    let answer = [OWN, WRITE, 100, OWN, READY, OWN, DRAIN];
    let read = [OWN, READ];
    let settle = [OWN, SETTLE];
    let events = [OWN, OTHER, 3];
    let connected = [&give[..], &request, &[OWN, DRAIN]].concat();
    let talk = [&data[..], &read, &give, &answer, &credit, &settle].concat();
    vec![
        connected.clone(),
        [&connected[..], &talk, &talk].concat(),
        [
            &connected[..],
            &talk,
            &[SNAPSHOT],
            &talk,
            &[SNAPSHOT],
            &talk,
        ]
        .concat(),
        [&connected[..], &talk, &shutdown, &settle, &[OWN, DRAIN]].concat(),
        [&connected[..], &data, &[OWN, OTHER, 0, OWN, READY], &data].concat(),
        [
            &events[..],
            &connected,
            &talk,
            &[OWN, RESET],
            &events,
            &connected,
            &talk,
        ]
        .concat(),
    ]
}

/// Exchanges of a guest and a controller, an answer's head and headers, a function's output.
fn mailbox() -> Vec<Vec<u8>> {
    const GUEST: u8 = 2;
    const REGISTER: [u8; 2] = [5, 0];
    const LOOK: u8 = 9;
    const RESUME: u8 = 11;
    const SAVE: u8 = 12;
    // 64 KiB, as a magnitude.
    const CHUNK: u8 = 144;
    let ring = |value: u8| vec![14, value, 0];
    let field = |field: u8, value: u8| vec![0, field, value];
    let answer = [field(0, 1), field(1, 5), field(2, 9), field(3, 100)].concat();
    let event = [6, 0, 3, 4, 7, LOOK].to_vec();
    let agent = [6, 2, 0, 0, 0].to_vec();
    let mut long_event = vec![6, 0, 5, CHUNK, 255];
    long_event.extend(0x1_0005_u32.to_le_bytes());
    long_event.push(LOOK);
    let start = [&[GUEST][..], &REGISTER, &answer].concat();
    let header = b"Lambda-Runtime-Aws-Request-Id: 7\r\nContent-Type: text/plain\r\n";
    let mut frame = b"\xa5\x5a\x00\x03\0\0\0\x04\0\0\0\0\0\0\0\0a\nb\n".to_vec();
    frame.insert(0, u8::try_from(frame.len()).unwrap_or(0));
    vec![
        [
            start.clone(),
            ring(1),
            event.clone(),
            ring(4),
            ring(1),
            agent.clone(),
            vec![LOOK],
        ]
        .concat(),
        [
            start.clone(),
            ring(1),
            long_event,
            ring(3),
            ring(1),
            vec![SAVE],
            event,
        ]
        .concat(),
        [
            start.clone(),
            field(2, CHUNK),
            ring(2),
            ring(1),
            agent,
            vec![RESUME],
        ]
        .concat(),
        [start, ring(5), ring(6), ring(0), vec![10, 13], ring(1)].concat(),
        [&[0][..], &1_u32.to_le_bytes(), &[0; 16]].concat(),
        [&[0][..], header].concat(),
        [
            &[1, 1][..],
            &frame,
            &[3, 9],
            b"a line\nan",
            &[0xff, 3, 1, 2, 3],
        ]
        .concat(),
    ]
}

fn frames() -> Result<Vec<Vec<u8>>> {
    let mut seeds = Vec::new();
    for message in host_messages() {
        seeds.push(framed(0, message.into())?);
    }
    for message in agent_messages() {
        seeds.push(framed(1, message.into())?);
    }
    for (id, command) in (1..).zip(commands()) {
        seeds.push([vec![2, 7], encode(&Request { id, command })?].concat());
    }
    for message in messages() {
        seeds.push([vec![3, 7], encode(&message)?].concat());
    }
    Ok(seeds)
}

fn framed(reader: u8, frame: Frame) -> Result<Vec<u8>> {
    let mut wire = BytesMut::from(&[reader, 7][..]);
    frame.encode(&mut wire)?;
    Ok(wire.to_vec())
}

fn host_messages() -> Vec<HostMessage> {
    let configure = Configure {
        function_name: "f".into(),
        function_version: "$LATEST".into(),
        runtime: "provided".into(),
        handler: "bootstrap".into(),
        memory_mib: 128,
        ephemeral_storage_mib: 512,
        region: "us-east-1".into(),
        log_group: "/aws/lambda/f".into(),
        log_stream: "2026/01/01/[$LATEST]0".into(),
        initialization_type: "on-demand".into(),
        environment: [("K".to_owned(), "V".to_owned())].into(),
        bootstrap: vec!["/var/task/bootstrap".into()],
        layers: false,
        mailbox: false,
    };
    let invoke = Invoke {
        request_id: "8d0c".into(),
        deadline_ms: 1_700_000_000_000,
        function_arn: "arn:aws:lambda:us-east-1:000000000000:function:f".into(),
        trace_id: Some("Root=1-5".into()),
        client_context: Some("{}".into()),
        tenant_id: Some("blue".into()),
        memory_limit_mib: Some(128),
        realtime_ns: 1_700_000_000_000_000_000,
    };
    vec![
        HostMessage::Ping(Bytes::from_static(b"\0\0\0\0")),
        HostMessage::Configure(configure),
        HostMessage::Thaw(Thaw { realtime_ns: 7 }, Bytes::from_static(&[9; 32])),
        HostMessage::Invoke(invoke, Bytes::from_static(b"{\"n\":1}")),
        HostMessage::Shutdown,
    ]
}

fn agent_messages() -> Vec<AgentMessage> {
    let body = Bytes::from_static(b"{\"errorType\":\"E\"}");
    let usage = Usage {
        duration_us: 1500,
        cpu_us: 900,
        max_memory_bytes: 40 << 20,
    };
    let exited = |exit| {
        AgentMessage::RuntimeExited(RuntimeExited {
            request_id: Some("8d0c".into()),
            error_type: None,
            exit,
            usage,
        })
    };
    vec![
        AgentMessage::Hello(Hello {
            version: "0.1.0".into(),
            kernel: "6.12.0".into(),
        }),
        AgentMessage::Pong(body.clone()),
        AgentMessage::Thawed,
        AgentMessage::Ready(Ready {
            init_us: Some(70_000),
            extensions_us: None,
        }),
        AgentMessage::InitFailed(
            InitFailed {
                error_type: "Runtime.ExitError".into(),
            },
            body.clone(),
        ),
        AgentMessage::Response(
            Response {
                request_id: "8d0c".into(),
                usage,
            },
            body.clone(),
        ),
        AgentMessage::ResponseStart(ResponseStart {
            request_id: "8d0c".into(),
            content_type: Some("text/event-stream".into()),
        }),
        AgentMessage::ResponseChunk(body.clone()),
        AgentMessage::ResponseEnd(
            ResponseEnd {
                request_id: "8d0c".into(),
                error_type: Some("Runtime.TruncatedResponse".into()),
                usage,
            },
            body.clone(),
        ),
        AgentMessage::FunctionError(
            FunctionError {
                request_id: "8d0c".into(),
                error_type: Some("E".into()),
                usage,
            },
            body.clone(),
        ),
        AgentMessage::Log(
            Log {
                multiline: vec![(0, 2)],
                request_id: Some("8d0c".into()),
                dropped_bytes: 9,
            },
            Bytes::from_static(b"a line\n"),
        ),
        exited(Exit::Code(1)),
        exited(Exit::Signal(9)),
        exited(Exit::OutOfMemory),
        AgentMessage::Fatal(Bytes::from_static(b"no disk")),
    ]
}

fn commands() -> Vec<Command> {
    let resume = Resume {
        cpu_budget_us: Some(5000),
    };
    vec![
        Command::Boot(Boot {
            memory_mib: 128,
            vcpus: 1,
            disks: vec![true, false, false],
            kernel_args: "quiet".into(),
            fingerprint: "kernel and image".into(),
        }),
        Command::Restore(Restore {
            disks: vec![true, true, false],
            fingerprint: "kernel and image".into(),
            resume: Some(resume),
        }),
        Command::Resume(resume),
        Command::Freeze(Freeze { within_us: 100_000 }),
        Command::Snapshot(Snapshot {
            zero_pages: vec![4096],
            random_ranges: vec![RandomRange {
                address: 5_000_020,
                len: 2496,
            }],
        }),
        Command::Status,
        Command::Kill,
    ]
}

fn messages() -> Vec<Message> {
    let refused = Outcome::Refused(Refusal {
        kind: RefusalKind::SnapshotUnusable,
        message: "state file: checksum mismatch".into(),
    });
    vec![
        Message::Reply(Reply {
            id: 1,
            outcome: Outcome::Done,
        }),
        Message::Reply(Reply {
            id: 2,
            outcome: refused,
        }),
        Message::Event(Event::CpuBudgetExhausted),
        Message::Event(Event::Exited(Exited {
            reason: ExitReason::TripleFault,
            detail: "rip 0".into(),
        })),
    ]
}
