//! Test doubles of sandbox and guest, for tests of the pool: the real wire protocol over real sockets,
//! with a "guest" whose behaviour the event selects.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hearth_protocol::agent::{
    AgentMessage, Configure, Exit, Frame, FrameDecoder, Hello, HostMessage, InitFailed, Inspected,
    Invoke, Log, Ready, Response, ResponseEnd, ResponseStart, RuntimeExited, SharedGenerator,
    Usage,
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
use crate::function::{
    ArtefactFiles, Artefacts, FailedInit, Fingerprints, InstanceInit, NoSnapshot, SharedGenerators,
    StartsFrom, Version, shared_generator,
};
use crate::instance::{LaunchError, Launcher, MicroVm, SandboxProcess, socket_pair};

/// How long the guest takes for the event `slow`.
pub(crate) const SLOW: Duration = Duration::from_millis(30);

/// How long the event `late` takes: longer than its invocation may.
const LATE: Duration = Duration::from_millis(400);

/// Timeout of an init that runs in each instance.
const INIT_HANGS: Duration = Duration::from_millis(200);
const INIT_LIMIT: Duration = Duration::from_secs(20);

/// How long a slow init takes.
pub(crate) const SLOW_INIT: Duration = Duration::from_millis(1200);

/// Size of the chunks that the guest streams, in bytes.
pub(crate) const CHUNK: usize = 64 * 1024;

/// Settings and counters that the doubles share with a test.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Number of processes that are alive.
    pub(crate) alive: AtomicUsize,
    /// Number of processes that were started.
    pub(crate) launched: AtomicUsize,
    /// Whether snapshots are refused as unusable.
    pub(crate) stale: AtomicBool,
    /// Whether they are also after a rebuild.
    pub(crate) hopeless: AtomicBool,
    /// Number of rebuilds of artefacts.
    pub(crate) rebuilt: AtomicUsize,
    /// The behaviour of the init in rebuilt artefacts; `None` if these have a function snapshot.
    pub(crate) rebuilt_with: Mutex<Option<String>>,
    /// Log streams of the functions whose init ran in their instance.
    pub(crate) inits: Mutex<Vec<String>>,
    /// The random generators that guests report when they are inspected.
    pub(crate) generators: Mutex<Vec<SharedGenerator>>,
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
            hopeless: AtomicBool::new(false),
            rebuilt: AtomicUsize::new(0),
            rebuilt_with: Mutex::default(),
            inits: Mutex::default(),
            generators: Mutex::default(),
            gate: Semaphore::new(0),
            seen: Mutex::default(),
            folder: tempfile::tempdir().unwrap(),
        })
    }

    /// Artefacts whose files exist, so that they are not considered missing.
    pub(crate) fn artefacts(&self) -> Arc<Artefacts> {
        self.artefacts_of(StartsFrom::FunctionSnapshot)
    }

    /// The same of a function whose init runs in each instance, and does what `handler` says.
    pub(crate) fn artefacts_with_init(&self, handler: &str) -> Arc<Artefacts> {
        let gnutls = shared_generator("GnuTLS", "/opt/lib/libgnutls.so.30");
        let generators = SharedGenerators::of_guest(&[gnutls]).unwrap();
        let why = NoSnapshot::SharedGenerators(generators);
        self.artefacts_without_snapshot(handler, why, Instant::now())
    }

    /// The same of a function whose init failed at its deploy, so long ago.
    pub(crate) fn artefacts_after_failed_init(
        &self,
        handler: &str,
        ago: Duration,
    ) -> Arc<Artefacts> {
        let why = NoSnapshot::InitFailed(FailedInit {
            reason: "Runtime.ImportModuleError: no module x".into(),
            code: "FunctionError.RuntimeInitError".into(),
        });
        let since = Instant::now().checked_sub(ago).unwrap();
        self.artefacts_without_snapshot(handler, why, since)
    }

    fn artefacts_without_snapshot(
        &self,
        handler: &str,
        why: NoSnapshot,
        since: Instant,
    ) -> Arc<Artefacts> {
        let runtime_snapshot = self.runtime_snapshot();
        std::fs::create_dir_all(&runtime_snapshot).unwrap();
        for name in ["state", "memory"] {
            std::fs::write(runtime_snapshot.join(name), "x").unwrap();
        }
        let configure = serde_json::from_value(serde_json::json!({
            "function_name": "f", "function_version": "$LATEST", "runtime": "provided",
            "handler": handler, "memory_mib": 128, "ephemeral_storage_mib": 512, "region": "r",
            "log_group": "g", "log_stream": "s", "initialization_type": "on-demand",
            "environment": {}, "bootstrap": [], "layers": false,
        }));
        self.artefacts_of(StartsFrom::RuntimeSnapshot(Box::new(InstanceInit {
            runtime_snapshot,
            configure: configure.unwrap(),
            limit: if handler == "hang" {
                INIT_HANGS
            } else {
                INIT_LIMIT
            },
            since,
            why,
        })))
    }

    /// Where the snapshot is that instances are restored from before their init.
    pub(crate) fn runtime_snapshot(&self) -> PathBuf {
        self.folder.path().join("runtime")
    }

    fn artefacts_of(&self, starts_from: StartsFrom) -> Arc<Artefacts> {
        // Each has its own folder, because the files of discarded artefacts are removed.
        let folder = self.folder.path().join(uuid::Uuid::new_v4().to_string());
        std::fs::create_dir(&folder).unwrap();
        for name in ["state", "memory", "code"] {
            std::fs::write(folder.join(name), "x").unwrap();
        }
        let code = folder.join("code");
        let files = ArtefactFiles {
            key: "k".into(),
            runtime_image: code.clone(),
            code_image: code,
            layers_image: None,
            folder,
        };
        let artefacts = Artefacts::new(files, Fingerprints::default(), starts_from);
        artefacts.sealed().seal().unwrap();
        // For the version that gets them.
        artefacts.own();
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
            let hopeless = self.hopeless.load(Ordering::SeqCst);
            self.stale.store(hopeless, Ordering::SeqCst);
            let artefacts = match &*self.rebuilt_with.lock().unwrap() {
                None => self.artefacts(),
                Some(handler) => self.artefacts_with_init(handler),
            };
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
    let (mut booted, mut thawed) = (false, false);
    loop {
        tokio::select! {
            // A guest runs only after its sandbox has replied.
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
            booted |= matches!(command, Command::Boot(_));
            if matches!(command, Command::Resume(_)) && std::mem::take(&mut booted) {
                let (version, kernel) = (String::new(), String::new());
                let hello = AgentMessage::Hello(Hello { version, kernel });
                if say(&mut agent, [hello]).await.is_err() {
                    return;
                }
            }
        }
        while let Some(frame) = decoder.decode(&mut frames).unwrap() {
            let done = match HostMessage::try_from(frame).unwrap() {
                // A guest whose restore was refused does not run.
                _ if stage.stale.load(Ordering::SeqCst) => Ok(()),
                // Sent together with the answer, as by the agent.
                HostMessage::Thaw(..) => {
                    thawed = true;
                    Ok(())
                }
                HostMessage::Configure(configure) => {
                    // It may have been said already, if this came in another piece.
                    if std::mem::take(&mut thawed)
                        && say(&mut agent, [AgentMessage::Thawed]).await.is_err()
                    {
                        return;
                    }
                    initialize(&stage, &mut agent, &configure).await
                }
                HostMessage::Inspect => {
                    let inspected = Inspected {
                        shared_generators: stage.generators.lock().unwrap().clone(),
                        ..Inspected::default()
                    };
                    say(&mut agent, [AgentMessage::Inspected(inspected)]).await
                }
                HostMessage::Ping(bytes) => say(&mut agent, [AgentMessage::Pong(bytes)]).await,
                // Never sends `Thawed`.
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
        // There was no answer together with which `Thawed` could have been sent.
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

/// Runs a function's init, whose behaviour the handler's name selects.
async fn initialize(
    stage: &Stage,
    agent: &mut UnixStream,
    configure: &Configure,
) -> std::io::Result<()> {
    let stream = configure.log_stream.clone();
    stage.inits.lock().unwrap().push(stream);
    let line = AgentMessage::Log(Log::default(), Bytes::from_static(b"in init\n"));
    say(agent, [line]).await?;
    match configure.handler.as_str() {
        "hang" => Ok(()),
        "die" => Err(std::io::ErrorKind::BrokenPipe.into()),
        "gate" => {
            stage.gate.acquire().await.unwrap().forget();
            let ready = AgentMessage::Ready(Ready::default());
            say(agent, [ready]).await
        }
        "exit" => {
            let exited = RuntimeExited {
                request_id: None,
                error_type: None,
                exit: Exit::Code(1),
                usage: Usage::default(),
            };
            say(agent, [AgentMessage::RuntimeExited(exited)]).await
        }
        "raise" => {
            let failed = InitFailed {
                error_type: "Runtime.ImportModuleError".into(),
            };
            let body = br#"{"errorType":"Runtime.ImportModuleError","errorMessage":"no module x"}"#;
            let body = Bytes::from_static(body);
            say(agent, [AgentMessage::InitFailed(failed, body)]).await
        }
        handler => {
            if handler == "slow" {
                tokio::time::sleep(SLOW_INIT).await;
            }
            let ready = Ready {
                init_us: Some(10),
                extensions_us: None,
            };
            say(agent, [AgentMessage::Ready(ready)]).await
        }
    }
}

/// Behaves as the event selects.
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
