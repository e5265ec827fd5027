//! A stand-in for sandbox and guest, for tests of the pool: the real wire protocol over real
//! sockets, with a "guest" that does what the event tells it to.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hearth_protocol::agent::{
    AgentMessage, Exit, Frame, FrameDecoder, Hello, HostMessage, Invoke, Log, Ready, Response,
    ResponseEnd, ResponseStart, RuntimeExited, Usage,
};
use hearth_protocol::guest::MAX_PAYLOAD;
use hearth_protocol::jail::Jail;
use hearth_protocol::sandbox::{
    Command, Exits, Message, Outcome, Refusal, RefusalKind, Reply, Request, State, Status, decode,
    encode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use super::dispatch::ArtefactSource;
use crate::function::{Artefacts, Fingerprints, Version};
use crate::instance::{LaunchError, Launcher, MicroVm, SandboxProcess, socket_pair};

/// How long the event `slow` takes its guest.
pub(crate) const SLOW: Duration = Duration::from_millis(30);

/// How long the event `late` takes: longer than its invocation may.
const LATE: Duration = Duration::from_millis(400);

/// How long the pieces are that it streams.
pub(crate) const CHUNK: usize = 64 * 1024;

/// What tests steer and look at.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Processes that live.
    pub(crate) alive: AtomicUsize,
    /// Processes that were ever started.
    pub(crate) launched: AtomicUsize,
    /// Whether snapshots are refused as unusable.
    pub(crate) stale: AtomicBool,
    /// How often files were made anew.
    pub(crate) rebuilt: AtomicUsize,
    /// Invocations of `"gate"` answer when they get a permit.
    pub(crate) gate: Semaphore,
    /// Events in the order in which guests saw them.
    pub(crate) seen: Mutex<Vec<String>>,
    folder: tempfile::TempDir,
}

impl Stage {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            alive: AtomicUsize::new(0),
            launched: AtomicUsize::new(0),
            stale: AtomicBool::new(false),
            rebuilt: AtomicUsize::new(0),
            gate: Semaphore::new(0),
            seen: Mutex::default(),
            folder: tempfile::tempdir().unwrap(),
        })
    }

    /// Files that exist, so that they are not taken for missing.
    pub(crate) fn artefacts(&self) -> Arc<Artefacts> {
        // Each its own: the files of those that are given up are removed.
        let folder = self.folder.path().join(uuid::Uuid::new_v4().to_string());
        std::fs::create_dir(&folder).unwrap();
        for name in ["state", "memory", "code"] {
            std::fs::write(folder.join(name), "x").unwrap();
        }
        let code = folder.join("code");
        let artefacts = Artefacts::new(
            "k".into(),
            code.clone(),
            code,
            None,
            folder,
            Fingerprints::default(),
        );
        artefacts.sealed().seal().unwrap();
        artefacts
    }
}

#[derive(Debug)]
pub(crate) struct Doubles(pub(crate) Arc<Stage>);

impl Launcher for Doubles {
    fn launch(&self) -> Pin<Box<dyn Future<Output = Result<MicroVm, LaunchError>> + Send + '_>> {
        Box::pin(async {
            let stage = self.0.clone();
            stage.alive.fetch_add(1, Ordering::SeqCst);
            stage.launched.fetch_add(1, Ordering::SeqCst);
            let (control, control_far) = socket_pair();
            let (agent, agent_far) = socket_pair();
            let process = Double(stage.clone());
            tokio::spawn(act(stage, control_far, agent_far));
            Ok(MicroVm::new(control, agent, None, Box::new(process)).unwrap())
        })
    }
}

impl ArtefactSource for Stage {
    fn rebuild<'a>(
        &'a self,
        version: &'a Arc<Version>,
    ) -> Pin<Box<dyn Future<Output = Result<Arc<Artefacts>, String>> + Send + 'a>> {
        Box::pin(async {
            self.rebuilt.fetch_add(1, Ordering::SeqCst);
            self.stale.store(false, Ordering::SeqCst);
            let artefacts = self.artefacts();
            version.set_artefacts(artefacts.clone());
            Ok(artefacts)
        })
    }
}

#[derive(Debug)]
struct Double(Arc<Stage>);

impl SandboxProcess for Double {
    fn pid(&self) -> u32 {
        u32::MAX
    }

    fn cpu_time(&self) -> Option<Duration> {
        None
    }

    fn set_memory(&self, _: u32) {}
}

impl Drop for Double {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Plays sandbox and guest until a socket closes.
async fn act(stage: Arc<Stage>, mut control: UnixStream, mut agent: UnixStream) {
    let (mut commands, mut frames) = (BytesMut::new(), BytesMut::new());
    let decoder = FrameDecoder::new(MAX_PAYLOAD);
    let mut thawed = false;
    loop {
        tokio::select! {
            // A guest runs once its sandbox has said so.
            biased;
            read = control.read_buf(&mut commands) => if read.unwrap_or(0) == 0 { return },
            read = agent.read_buf(&mut frames) => if read.unwrap_or(0) == 0 { return },
        }
        while let Some(Request { id, command }) = decode(&mut commands).unwrap() {
            let outcome = answer(&stage, &command);
            let reply = encode(&Message::Reply(Reply { id, outcome })).unwrap();
            if control.write_all(&reply).await.is_err() {
                return;
            }
        }
        while let Some(frame) = decoder.decode(&mut frames).unwrap() {
            let done = match HostMessage::try_from(frame).unwrap() {
                // What was refused to be restored does not run.
                _ if stage.stale.load(Ordering::SeqCst) => Ok(()),
                // Leaves with the answer, as the agent's does.
                HostMessage::Thaw(..) => {
                    thawed = true;
                    Ok(())
                }
                HostMessage::Ping(bytes) => say(&mut agent, [AgentMessage::Pong(bytes)]).await,
                // Never says that it thawed.
                HostMessage::Invoke(_, event) if event == "frozen" => Ok(()),
                HostMessage::Invoke(invoke, event) => {
                    if event == "slow" {
                        tokio::time::sleep(SLOW).await;
                    }
                    if std::mem::take(&mut thawed)
                        && say(&mut agent, [AgentMessage::Thawed]).await.is_err()
                    {
                        return;
                    }
                    run(&stage, &mut agent, &invoke, event).await
                }
                other => panic!("{other:?}"),
            };
            if done.is_err() {
                return;
            }
        }
        // Nothing came with the thaw that it could leave with.
        if std::mem::take(&mut thawed) && say(&mut agent, [AgentMessage::Thawed]).await.is_err() {
            return;
        }
    }
}

fn answer(stage: &Stage, command: &Command) -> Outcome {
    match command {
        Command::Status => Outcome::Status(Status {
            state: State::Shell,
            host_kind: "software".into(),
            vcpu_cpu_us: 0,
            exits: Exits::default(),
            assists: 0,
            jail: Jail::default(),
        }),
        Command::Restore(_) if stage.stale.load(Ordering::SeqCst) => Outcome::Refused(Refusal {
            kind: RefusalKind::SnapshotUnusable,
            message: "made by another version".into(),
        }),
        _ => Outcome::Done,
    }
}

/// Does what the event says.
async fn run(
    stage: &Stage,
    agent: &mut UnixStream,
    invoke: &Invoke,
    event: Bytes,
) -> std::io::Result<()> {
    let what = String::from_utf8_lossy(&event).into_owned();
    stage.seen.lock().unwrap().push(what.clone());
    let respond = |id: &str| {
        let response = Response {
            request_id: id.into(),
            usage: Usage {
                duration_us: match &event[..] {
                    b"slow" => u64::try_from(SLOW.as_micros()).unwrap(),
                    _ => 0,
                },
                ..Usage::default()
            },
        };
        AgentMessage::Response(response, event.clone())
    };
    let own = &invoke.request_id;
    let ready = AgentMessage::Ready(Ready::default());
    match what.as_str() {
        "hang" => Ok(()),
        "die" => Err(std::io::ErrorKind::BrokenPipe.into()),
        "foreign" => say(agent, [respond("another")]).await,
        "twice" => say(agent, [respond(own), respond(own)]).await,
        "nonsense" => agent.write_all(&[0xff; 64]).await,
        // Kind, version, no meta, and a payload of nearly 4 GiB.
        "oversize" => {
            agent
                .write_all(&[0x86, 1, 0, 0, 0xff, 0xff, 0xff, 0xff])
                .await
        }
        "unknown" => agent.write_all(&[0x7f, 1, 0, 0, 0, 0, 0, 0]).await,
        "malformed" => {
            agent
                .write_all(&[0x86, 1, 2, 0, 0, 0, 0, 0, b'{', b'{'])
                .await
        }
        "reordered" => say(agent, [ready, respond(own)]).await,
        "again" => {
            let (version, kernel) = (String::new(), String::new());
            say(agent, [AgentMessage::Hello(Hello { version, kernel })]).await
        }
        "fatal" => say(agent, [AgentMessage::Fatal(Bytes::from_static(b"why"))]).await,
        "partial" => {
            let whole = bytes_of([respond(own)]);
            agent.write_all(&whole[..whole.len() - 1]).await
        }
        "late" => {
            tokio::time::sleep(LATE).await;
            say(agent, [respond(own), ready]).await
        }
        "trickle" => {
            for byte in &bytes_of([respond(own), ready]) {
                agent.write_all(&[*byte]).await?;
                tokio::task::yield_now().await;
            }
            Ok(())
        }
        "linger" => say(agent, [respond(own)]).await,
        "exit" => {
            let exited = RuntimeExited {
                request_id: Some(own.clone()),
                error_type: None,
                exit: Exit::Code(1),
                usage: Usage::default(),
            };
            say(agent, [AgentMessage::RuntimeExited(exited)]).await
        }
        "flood" => loop {
            let log = Log {
                multiline: Vec::new(),
                request_id: Some(own.clone()),
                dropped_bytes: 0,
            };
            say(agent, [AgentMessage::Log(log, Bytes::from_static(b"x\n"))]).await?;
        },
        "stream" => {
            let end = stream_end(own);
            say(agent, [stream_start(own), chunk(), chunk(), end, ready]).await
        }
        "stream-flood" => {
            say(agent, [stream_start(own)]).await?;
            loop {
                say(agent, [chunk()]).await?;
            }
        }
        "stream-long" => {
            say(agent, [stream_start(own)]).await?;
            for _ in 0..200 {
                say(agent, [chunk()]).await?;
            }
            say(agent, [stream_end(own), ready]).await
        }
        "stream-twice" => say(agent, [stream_start(own), chunk(), respond(own)]).await,
        "stream-headless" => say(agent, [chunk(), respond(own)]).await,
        gated if gated.starts_with("gate") => {
            stage.gate.acquire().await.unwrap().forget();
            say(agent, [respond(own), ready]).await
        }
        _ => {
            let log = Log {
                multiline: Vec::new(),
                request_id: Some(own.clone()),
                dropped_bytes: 0,
            };
            let line = AgentMessage::Log(log, Bytes::from_static(b"hello\n"));
            say(agent, [line, respond(own), ready]).await
        }
    }
}

fn stream_start(request_id: &str) -> AgentMessage {
    AgentMessage::ResponseStart(ResponseStart {
        request_id: request_id.into(),
        content_type: Some("text/x".into()),
    })
}

fn chunk() -> AgentMessage {
    AgentMessage::ResponseChunk(Bytes::from_static(&[b'x'; CHUNK]))
}

fn stream_end(request_id: &str) -> AgentMessage {
    let end = ResponseEnd {
        request_id: request_id.into(),
        error_type: None,
        usage: Usage::default(),
    };
    AgentMessage::ResponseEnd(end, Bytes::new())
}

async fn say<const N: usize>(
    agent: &mut UnixStream,
    messages: [AgentMessage; N],
) -> std::io::Result<()> {
    agent.write_all(&bytes_of(messages)).await
}

fn bytes_of<const N: usize>(messages: [AgentMessage; N]) -> BytesMut {
    let mut bytes = BytesMut::new();
    for message in messages {
        Frame::from(message).encode(&mut bytes).unwrap();
    }
    bytes
}
