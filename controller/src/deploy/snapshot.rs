//! Boots a microVM, has its agent inspect the guest, and writes the microVM's snapshot.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use hearth_protocol::agent::{AgentMessage, HostMessage, Inspected};
use hearth_protocol::sandbox::{Command, Freeze, RefusalKind, Resume, Snapshot};
use tokio::time::{timeout, timeout_at};

use super::error::DeployError;
use crate::function::snapshot_files;
use crate::instance::{
    BootFrom, CommandWithFiles, InitError, MicroVm, SnapshotOutput, VmError, VmEvent, unexpected,
};
use crate::logs::Text;

/// Maximum time to write a snapshot: 10 GiB on a slow disk.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(300);
/// Maximum time for any other command.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// Maximum time for the agent to inspect the function's processes and their libraries: a few hundred MiB
/// with software KVM.
const INSPECT_LIMIT: Duration = Duration::from_secs(60);
/// Maximum time until the guest halts. After that it is saved as it is.
const FREEZE_WITHIN: Duration = Duration::from_secs(2);
/// Maximum number of attempts to snapshot a guest that still has I/O in progress.
const QUIET_TRIES: u32 = 50;
/// Time between two attempts: a few timer ticks with software KVM.
const QUIET_PAUSE: Duration = Duration::from_millis(20);
/// Interval between two log messages during a long boot.
const PROGRESS: Duration = Duration::from_secs(5);

/// Boots a kernel and waits for its agent.
pub(crate) async fn boot(
    vm: &mut MicroVm,
    boot: BootFrom,
    limit: Duration,
) -> Result<(), DeployError> {
    let doing = DeployError::vm;
    let began = Instant::now();
    let boot = boot
        .command()
        .map_err(doing("opening the kernel and the images"))?;
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
                    "a guest has booted"
                );
                return Ok(());
            }
            Ok(Ok(other)) => return Err(doing("booting")(unexpected(other))),
            Ok(Err(error)) => return Err(doing("booting")(error)),
            Err(_) if began.elapsed() >= limit => {
                return Err(doing("booting")(VmError::Late(
                    "the agent's first message",
                    limit,
                )));
            }
            Err(_) => {
                tracing::info!(
                    seconds = next_word.as_secs(),
                    "a guest kernel is still booting"
                );
                next_word += PROGRESS;
            }
        }
    }
}

/// Has the agent inspect, after a successful init, which random generators clones of this guest would
/// share. `log` gets the output of the function's threads meanwhile.
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

/// The same for a microVM that is paused after its snapshot.
pub(crate) async fn inspect_again(
    vm: &mut MicroVm,
    log: impl Fn(Text),
) -> Result<Inspected, DeployError> {
    let resume = Command::Resume(Resume::default());
    command(vm, resume, COMMAND_LIMIT)
        .await
        .map_err(DeployError::vm("resuming after a snapshot"))?;
    inspect(vm, log).await
}

/// Pauses the microVM and writes its snapshot into `folder`, which appears completely or not at all.
/// `unique` are the pages and ranges that must differ between clones.
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
    // A timeout for all attempts together, because each attempt has timeouts of its own.
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

/// A temporary folder. It is deleted when this is dropped, also when the deploy is cancelled.
struct Work<'a>(&'a Path);

impl Drop for Work<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(
                path = %self.0.display(),
                %error,
                "the controller could not delete an incomplete snapshot"
            );
        }
    }
}

async fn write(
    vm: &mut MicroVm,
    unique: &Snapshot,
    output: &SnapshotOutput,
) -> Result<(), VmError> {
    // Every clone continues at this point. So the guest should be halted, not in a system call.
    let freeze = || Command::Freeze(Freeze::within(FREEZE_WITHIN));
    command(vm, freeze(), COMMAND_LIMIT).await?;
    for tries in 1.. {
        match command(vm, output.command(unique)?, SNAPSHOT_LIMIT).await {
            // The guest has I/O in progress: let it run for a moment.
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
    command: impl Into<CommandWithFiles>,
    limit: Duration,
) -> Result<(), VmError> {
    timeout(limit, vm.command(command))
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

/// The message in a runtime's error body. The function may send any body.
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

    /// Output was kept until init ended, so a function could fill the controller's memory.
    #[tokio::test]
    async fn output_during_init_is_passed_on_before_init_ends() {
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
        let sent = frames([AgentMessage::Thawed, line]);
        (&guest).write_all(&sent).unwrap();
        let (logged, mut log) = tokio::sync::mpsc::unbounded_channel();
        let init = init(
            &mut vm,
            restore.command().unwrap(),
            configure.unwrap(),
            Duration::from_secs(60),
            |_, text| logged.send(text).unwrap(),
        );
        let ready = async {
            log.recv().await.unwrap();
            let ready = frames([AgentMessage::Ready(Ready::default())]);
            (&guest).write_all(&ready).unwrap();
        };
        let both = async { tokio::join!(init, ready) };
        let (init, ()) = timeout(Duration::from_secs(20), both).await.unwrap();
        init.unwrap().result.unwrap();
    }

    /// All messages were read before any other task could run, including the timers of timeouts.
    #[tokio::test]
    async fn a_guest_that_floods_messages_does_not_block_other_tasks() {
        let (_sandbox, control) = UnixStream::pair().unwrap();
        let (guest, agent) = UnixStream::pair().unwrap();
        let mut vm = MicroVm::new(control, agent, None, Box::new(NoProcess)).unwrap();
        let mut sent = BytesMut::new();
        for _ in 0..1000 {
            sent.extend_from_slice(&frames([AgentMessage::Thawed]));
        }
        (&guest).write_all(&sent).unwrap();
        // This reads all bytes.
        vm.next().await.unwrap();
        let other = tokio::spawn(async {});
        for _ in 1..1000 {
            vm.next().await.unwrap();
        }
        assert!(other.is_finished());
    }

    /// 256 messages of 6 MiB each were kept.
    #[tokio::test]
    async fn messages_during_a_command_are_limited_in_bytes_and_not_part_of_the_error() {
        let (_sandbox, control) = UnixStream::pair().unwrap();
        let (guest, agent) = UnixStream::pair().unwrap();
        let mut vm = MicroVm::new(control, agent, None, Box::new(NoProcess)).unwrap();
        let large = || AgentMessage::Pong(Bytes::from(vec![b'x'; 4 << 20]));
        let sent = frames([large(), large()]);
        let sender = std::thread::spawn(move || (&guest).write_all(&sent));
        let command = command(&mut vm, Command::Pause, Duration::from_secs(60));
        let refused = command.await.unwrap_err();
        assert!(matches!(refused, VmError::Unexpected(_)), "{refused}");
        drop(vm);
        // The write may have succeeded or failed.
        let _ = sender.join().unwrap();
        let unasked = unexpected(VmEvent::Agent(large())).to_string();
        assert!(unasked.len() < 100 && unasked.contains("Pong"), "{unasked}");
    }

    #[test]
    fn the_message_of_an_init_error_is_that_in_its_body_or_part_of_the_body() {
        assert_eq!(
            error_message(br#"{"errorMessage":"no module x","errorType":"E"}"#),
            "no module x"
        );
        assert_eq!(error_message(b"plain"), "plain");
        assert_eq!(error_message(&[b'x'; 5000]).len(), 1000);
    }
}
