//! Boots a microVM, has its agent inspect the guest, and writes the microVM's snapshot.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use hearth_protocol::agent::{AgentMessage, HostMessage, Inspected};
use hearth_protocol::sandbox::{Command, Freeze, RefusalKind, Resume, Snapshot};
use tokio::time::timeout;

use super::error::DeployError;
use crate::function::snapshot_files;
use crate::instance::{
    BootFrom, Deadline, InitError, MicroVm, START_LIMIT, SnapshotOutput, Step, VmError, VmEvent,
};
use crate::logs::Text;

/// Maximum time to write a snapshot: 10 GiB on a slow disk.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(300);
/// Maximum time for a pause or a resume. Longer than in the pool, because no client waits.
const PAUSE_LIMIT: Duration = Duration::from_secs(30);
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
    vm.command(boot, Deadline::after(START_LIMIT, "a boot"))
        .await
        .map_err(doing("starting a kernel"))?;
    // A booted microVM is paused at its first instruction.
    let run = Command::Resume(Resume::default());
    vm.command(run, Deadline::after(START_LIMIT, "a start"))
        .await
        .map_err(doing("starting a kernel"))?;
    let mut next_word = PROGRESS;
    loop {
        let due = Deadline::since(began, next_word.min(limit), "the agent's first message");
        let hello = vm.wait_for(due, |_, event| {
            Ok(match event {
                VmEvent::Agent(AgentMessage::Hello(hello)) => Step::Done(hello),
                other => Step::Unexpected(other),
            })
        });
        match hello.await {
            Ok(hello) => {
                tracing::info!(
                    kernel = hello.kernel,
                    agent = hello.version,
                    seconds = began.elapsed().as_secs_f64(),
                    "a guest has booted"
                );
                return Ok(());
            }
            Err(VmError::Late(..)) if next_word < limit => {
                tracing::info!(
                    seconds = next_word.as_secs(),
                    "a guest kernel is still booting"
                );
                next_word += PROGRESS;
            }
            Err(error) => return Err(doing("booting")(error)),
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
    let deadline = Deadline::after(INSPECT_LIMIT, "the agent's inspection");
    if let Err(error) = vm.send([HostMessage::Inspect]) {
        return Err(doing(error));
    }
    let inspected = vm.wait_for(deadline, |_, event| {
        Ok(match event {
            VmEvent::Agent(AgentMessage::Inspected(inspected)) => Step::Done(inspected),
            VmEvent::Agent(AgentMessage::Log(of, text)) => {
                log(Text::of_guest(&of, text));
                Step::Wait
            }
            other => Step::Unexpected(other),
        })
    });
    inspected.await.map_err(doing)
}

/// The same for a microVM that is paused after its snapshot.
pub(crate) async fn inspect_again(
    vm: &mut MicroVm,
    log: impl Fn(Text),
) -> Result<Inspected, DeployError> {
    let resume = Command::Resume(Resume::default());
    vm.command(resume, Deadline::after(PAUSE_LIMIT, "a resume"))
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
    freeze(vm).await?;
    for tries in 1.. {
        let snapshot = Deadline::after(SNAPSHOT_LIMIT, "a snapshot");
        match vm.command(output.command(unique)?, snapshot).await {
            // The guest has I/O in progress: let it run for a moment.
            Err(VmError::Refused(refusal))
                if refusal.kind == RefusalKind::NotQuiet && tries < QUIET_TRIES =>
            {
                let resume = Command::Resume(Resume::default());
                vm.command(resume, Deadline::after(PAUSE_LIMIT, "a resume"))
                    .await?;
                tokio::time::sleep(QUIET_PAUSE).await;
                freeze(vm).await?;
            }
            other => return other.map(drop),
        }
    }
    unreachable!("the last try returns")
}

async fn freeze(vm: &mut MicroVm) -> Result<(), VmError> {
    let freeze = Command::Freeze(Freeze::within(FREEZE_WITHIN));
    let paused = vm.command(freeze, Deadline::after(PAUSE_LIMIT, "a pause"));
    paused.await.map(drop)
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
    use super::*;

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
