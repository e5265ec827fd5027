//! Talking a microVM into a state worth keeping, and keeping it.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use hearth_protocol::agent::{AgentMessage, HostMessage, Inspected};
use hearth_protocol::sandbox::{Command, Freeze, RefusalKind, Resume, Snapshot};
use tokio::time::{timeout, timeout_at};

use super::error::DeployError;
use crate::function::snapshot_files;
use crate::instance::{
    BootFrom, Errand, InitError, MicroVm, SnapshotOutput, VmError, VmEvent, unexpected,
};
use crate::logs::Text;

/// Longest time to write a snapshot: 10 GiB at the speed of a slow disk.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(300);
/// Longest time for any other command.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// Longest time for the agent to look through the function's processes and their libraries: a few
/// hundred MiB where the guest kernel is interpreted.
const INSPECT_LIMIT: Duration = Duration::from_secs(60);
/// How long a guest may take to come to rest before it is saved as it is.
const FREEZE_WITHIN: Duration = Duration::from_secs(2);
/// How often a guest that is not quiet is given time to become it.
const QUIET_TRIES: u32 = 50;
/// How long each time: a few timer ticks of an interpreted kernel.
const QUIET_PAUSE: Duration = Duration::from_millis(20);
/// How often a long boot is spoken of.
const PROGRESS: Duration = Duration::from_secs(5);

/// Boots a kernel and waits for its agent.
pub(crate) async fn boot(
    vm: &mut MicroVm,
    boot: BootFrom,
    limit: Duration,
) -> Result<(), DeployError> {
    let doing = DeployError::vm;
    let began = Instant::now();
    let boot = boot.errand().map_err(doing("opening what to boot"))?;
    command(vm, boot, COMMAND_LIMIT)
        .await
        .map_err(doing("starting a kernel"))?;
    // A booted microVM is paused at its first instruction.
    let run = Command::Resume(Resume::default());
    command(vm, run, COMMAND_LIMIT)
        .await
        .map_err(doing("starting a kernel"))?;
    let mut next_word = PROGRESS;
    loop {
        let due = began + next_word.min(limit);
        match timeout_at(due.into(), vm.next()).await {
            Ok(Ok(VmEvent::Agent(AgentMessage::Hello(hello)))) => {
                tracing::info!(
                    kernel = hello.kernel,
                    agent = hello.version,
                    seconds = began.elapsed().as_secs_f64(),
                    "guest booted"
                );
                return Ok(());
            }
            Ok(Ok(other)) => return Err(doing("booting")(unexpected(other))),
            Ok(Err(error)) => return Err(doing("booting")(error)),
            Err(_) if began.elapsed() >= limit => {
                return Err(doing("booting")(VmError::Late(
                    "the agent's first word",
                    limit,
                )));
            }
            Err(_) => {
                tracing::info!(seconds = next_word.as_secs(), "guest kernel is booting");
                next_word += PROGRESS;
            }
        }
    }
}

/// Asks the agent, after a successful init, what the clones of this guest would share. `log` gets what
/// the function's threads write meanwhile.
pub(crate) async fn inspect(
    vm: &mut MicroVm,
    log: impl Fn(Text),
) -> Result<Inspected, DeployError> {
    let doing = DeployError::vm("looking for random generators that clones would share");
    let deadline = Instant::now() + INSPECT_LIMIT;
    if let Err(error) = vm.send([HostMessage::Inspect]) {
        return Err(doing(error));
    }
    loop {
        let event = timeout_at(deadline.into(), vm.next()).await;
        let Some(event) = event.ok().filter(|_| Instant::now() < deadline) else {
            return Err(doing(VmError::Late(
                "the agent's inspection",
                INSPECT_LIMIT,
            )));
        };
        match event {
            Ok(VmEvent::Agent(AgentMessage::Inspected(inspected))) => return Ok(inspected),
            Ok(VmEvent::Agent(AgentMessage::Log(of, text))) => log(Text::of_guest(&of, text)),
            Ok(other) => return Err(doing(unexpected(other))),
            Err(error) => return Err(doing(error)),
        }
    }
}

/// The same of a microVM that was saved, and is paused since then.
pub(crate) async fn inspect_again(
    vm: &mut MicroVm,
    log: impl Fn(Text),
) -> Result<Inspected, DeployError> {
    let resume = Command::Resume(Resume::default());
    command(vm, resume, COMMAND_LIMIT)
        .await
        .map_err(DeployError::vm("going on after a snapshot"))?;
    inspect(vm, log).await
}

/// Pauses the microVM and writes its snapshot into `folder`, which appears whole or not at all. Clones
/// differ in what `unique` says.
pub(crate) async fn save(
    vm: &mut MicroVm,
    unique: &Snapshot,
    work: &Path,
    folder: &Path,
) -> Result<(), DeployError> {
    fs::create_dir_all(work).map_err(DeployError::io("create", work))?;
    let _leftovers = Work(work);
    let output = SnapshotOutput::create(&snapshot_files(work))
        .map_err(DeployError::io("create the snapshot's files in", work))?;
    // As a whole, too: each of the tries to find a quiet guest has limits of its own.
    timeout(SNAPSHOT_LIMIT, write(vm, unique, &output))
        .await
        .unwrap_or(Err(VmError::Late("a snapshot", SNAPSHOT_LIMIT)))
        .map_err(DeployError::vm("writing a snapshot"))?;
    let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all());
    sync(work).map_err(DeployError::io("flush", work))?;
    fs::rename(work, folder).map_err(DeployError::io("rename into place", folder))?;
    let parent = folder.parent().unwrap_or(folder);
    sync(parent).map_err(DeployError::io("flush", parent))
}

/// A folder for work in progress: what is left of it goes, also when nobody waits any more.
struct Work<'a>(&'a Path);

impl Drop for Work<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "half a snapshot not removed");
        }
    }
}

async fn write(
    vm: &mut MicroVm,
    unique: &Snapshot,
    output: &SnapshotOutput,
) -> Result<(), VmError> {
    // Every clone begins where this one stops: with a guest at rest, not in a system call.
    let freeze = || Command::Freeze(Freeze::within(FREEZE_WITHIN));
    command(vm, freeze(), COMMAND_LIMIT).await?;
    for tries in 1.. {
        match command(vm, output.errand(unique)?, SNAPSHOT_LIMIT).await {
            // The guest has something in flight: let it run on for a moment.
            Err(VmError::Refused(refusal))
                if refusal.kind == RefusalKind::NotQuiet && tries < QUIET_TRIES =>
            {
                command(vm, Command::Resume(Resume::default()), COMMAND_LIMIT).await?;
                tokio::time::sleep(QUIET_PAUSE).await;
                command(vm, freeze(), COMMAND_LIMIT).await?;
            }
            other => return other,
        }
    }
    unreachable!("the last try returns")
}

async fn command(
    vm: &mut MicroVm,
    errand: impl Into<Errand>,
    limit: Duration,
) -> Result<(), VmError> {
    timeout(limit, vm.command(errand))
        .await
        .map_err(|_| VmError::Late("a command", limit))?
        .map(drop)
}

impl From<InitError> for DeployError {
    fn from(error: InitError) -> Self {
        match error {
            InitError::Reported { kind, body } => Self::Init {
                message: error_message(&body),
                kind,
            },
            InitError::Exited { exit, .. } => Self::Init {
                kind: "Runtime.ExitError".into(),
                message: format!("the runtime ended in init: {exit:?}"),
            },
            InitError::TimedOut(limit) => Self::InitTimeout(limit),
        }
    }
}

/// The message in a runtime's error body, which is whatever the function made of it.
fn error_message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(rename = "errorMessage")]
        message: String,
    }
    let text = match serde_json::from_slice::<Body>(body) {
        Ok(body) => body.message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    text.chars().take(1000).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use bytes::{Bytes, BytesMut};
    use hearth_protocol::agent::{Frame, Log, Ready};
    use hearth_protocol::sandbox::{Message, Outcome, Reply, encode};

    use super::*;
    use crate::instance::{RestoreFrom, SandboxProcess, init};

    #[derive(Debug)]
    struct NoProcess;

    impl SandboxProcess for NoProcess {
        fn pid(&self) -> u32 {
            u32::MAX
        }

        fn cpu_time(&self) -> Option<Duration> {
            None
        }

        fn set_memory(&self, _: u32) {}
    }

    fn frames<const N: usize>(messages: [AgentMessage; N]) -> BytesMut {
        let mut bytes = BytesMut::new();
        for message in messages {
            Frame::from(message).encode(&mut bytes).unwrap();
        }
        bytes
    }

    /// Kept until the end, what a function writes in its init was as much of the controller's memory
    /// as it liked.
    #[tokio::test]
    async fn what_a_function_writes_in_its_init_is_handed_on_before_that_ends() {
        let (sandbox, control) = UnixStream::pair().unwrap();
        let (guest, agent) = UnixStream::pair().unwrap();
        let mut vm = MicroVm::new(control, agent, None, Box::new(NoProcess)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let snapshot = snapshot_files(dir.path());
        for file in [&snapshot.state, &snapshot.memory] {
            fs::write(file, "").unwrap();
        }
        let restore = RestoreFrom {
            snapshot,
            disks: Vec::new(),
            fingerprint: String::new(),
            resume: None,
        };
        let configure = serde_json::from_value(serde_json::json!({
            "function_name": "f", "function_version": "$LATEST", "runtime": "provided",
            "handler": "h", "memory_mib": 128, "ephemeral_storage_mib": 512, "region": "r",
            "log_group": "g", "log_stream": "s", "initialization_type": "on-demand",
            "environment": {}, "bootstrap": [], "layers": false,
        }));
        let outcome = Outcome::Done;
        let reply = encode(&Message::Reply(Reply { id: 1, outcome })).unwrap();
        (&sandbox).write_all(&reply).unwrap();
        let line = AgentMessage::Log(Log::default(), Bytes::from_static(b"line\n"));
        let said = frames([AgentMessage::Thawed, line]);
        (&guest).write_all(&said).unwrap();
        let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let init = init(
            &mut vm,
            restore.errand().unwrap(),
            configure.unwrap(),
            Duration::from_secs(60),
            |_, text| heard.send(text).unwrap(),
        );
        let ready = async {
            hears.recv().await.unwrap();
            let ready = frames([AgentMessage::Ready(Ready::default())]);
            (&guest).write_all(&ready).unwrap();
        };
        let both = async { tokio::join!(init, ready) };
        let (init, ()) = timeout(Duration::from_secs(20), both).await.unwrap();
        init.unwrap().result.unwrap();
    }

    /// It was read until there was nothing left to read, before anybody else had a turn, a time limit's
    /// included.
    #[tokio::test]
    async fn a_guest_with_much_to_say_leaves_others_their_turn() {
        let (_sandbox, control) = UnixStream::pair().unwrap();
        let (guest, agent) = UnixStream::pair().unwrap();
        let mut vm = MicroVm::new(control, agent, None, Box::new(NoProcess)).unwrap();
        let mut said = BytesMut::new();
        for _ in 0..1000 {
            said.extend_from_slice(&frames([AgentMessage::Thawed]));
        }
        (&guest).write_all(&said).unwrap();
        // It has all been read.
        vm.next().await.unwrap();
        let other = tokio::spawn(async {});
        for _ in 1..1000 {
            vm.next().await.unwrap();
        }
        assert!(other.is_finished());
    }

    /// 256 messages of 6 MiB each were kept.
    #[tokio::test]
    async fn what_comes_while_a_command_is_under_way_has_bounds_in_bytes_and_is_not_repeated() {
        let (_sandbox, control) = UnixStream::pair().unwrap();
        let (guest, agent) = UnixStream::pair().unwrap();
        let mut vm = MicroVm::new(control, agent, None, Box::new(NoProcess)).unwrap();
        let large = || AgentMessage::Pong(Bytes::from(vec![b'x'; 4 << 20]));
        let said = frames([large(), large()]);
        let saying = std::thread::spawn(move || (&guest).write_all(&said));
        let command = command(&mut vm, Command::Pause, Duration::from_secs(60));
        let refused = command.await.unwrap_err();
        assert!(matches!(refused, VmError::Unexpected(_)), "{refused}");
        drop(vm);
        // It may have been written whole, or not.
        let _ = saying.join().unwrap();
        let unasked = unexpected(VmEvent::Agent(large())).to_string();
        assert!(unasked.len() < 100 && unasked.contains("Pong"), "{unasked}");
    }

    #[test]
    fn an_init_errors_message_is_found_or_its_body_shown_in_part() {
        assert_eq!(
            error_message(br#"{"errorMessage":"no module x","errorType":"E"}"#),
            "no module x"
        );
        assert_eq!(error_message(b"plain"), "plain");
        assert_eq!(error_message(&[b'x'; 5000]).len(), 1000);
    }
}
