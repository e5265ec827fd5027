//! Shells: sandbox processes that are started ahead of need. Each has a VM and waits for a snapshot.
//!
//! Starting a process and making a VM takes longer than restoring a snapshot into it. When a shell is
//! taken, its replacement starts a little later, so that it does not compete for the CPU with the
//! restore. Shells that have died are replaced too.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use hearth_protocol::sandbox::{Command, State, Status};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::timeouts::READY_LIMIT;
use crate::instance::{Deadline, LaunchError, Launcher, MicroVm, VmError};
use crate::locks::lock;

/// Time between the taking of a shell and the start of its replacement.
const REFILL_DELAY: Duration = Duration::from_millis(100);
/// Time between a failed start and the next one.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Maximum time for which a deploy's step waits while callers wait for instances. Otherwise a host that is
/// always busy would never deploy.
const DEPLOY_WAIT: Duration = Duration::from_secs(5);

/// The shells that are ready.
#[derive(Debug)]
pub(crate) struct Shells {
    launcher: Arc<dyn Launcher>,
    ready: Mutex<VecDeque<MicroVm>>,
    wanted: usize,
    changed: Notify,
    /// Whether callers wait for instances that could start if the host had time for them.
    callers_wait: watch::Sender<bool>,
}

impl Shells {
    pub(crate) fn new(launcher: Arc<dyn Launcher>, wanted: usize) -> Self {
        Self {
            launcher,
            ready: Mutex::default(),
            wanted,
            changed: Notify::new(),
            callers_wait: watch::Sender::new(false),
        }
    }

    /// Whether sandbox processes can be started.
    pub(crate) fn can_launch(&self) -> bool {
        self.launcher.is_alive()
    }

    pub(super) fn set_callers_wait(&self, wait: bool) {
        self.callers_wait
            .send_if_modified(|before| std::mem::replace(before, wait) != wait);
    }

    /// Starts a sandbox process for a deploy or a rebuild, once no caller waits for an instance.
    pub(crate) async fn launch_for_deploy(&self) -> Result<MicroVm, LaunchError> {
        let mut callers_wait = self.callers_wait.subscribe();
        let quiet = callers_wait.wait_for(|wait| !wait);
        // After the time it begins all the same.
        let _ = tokio::time::timeout(DEPLOY_WAIT, quiet).await;
        self.launch().await.map(|(vm, _)| vm)
    }

    /// Takes a shell: one that is ready, or else a new one.
    pub(crate) async fn claim(&self) -> Result<MicroVm, LaunchError> {
        loop {
            let Some(mut vm) = self.lock().pop_front() else {
                break;
            };
            self.changed.notify_one();
            if vm.is_silent() {
                return Ok(vm);
            }
        }
        self.launch().await.map(|(vm, _)| vm)
    }

    /// Starts a sandbox process, and waits until it is a shell. Returns its status too.
    pub(crate) async fn launch(&self) -> Result<(MicroVm, Status), LaunchError> {
        let mut vm = self.launcher.launch().await?;
        let ready = Deadline::after(READY_LIMIT, "the first reply of a new sandbox");
        match vm.command(Command::Status, ready).await? {
            Some(status) if status.state == State::Shell => Ok((vm, status)),
            other => {
                Err(VmError::Unexpected(format!("a new sandbox says that it is {other:?}")).into())
            }
        }
    }

    /// Takes back a shell that was not used.
    pub(crate) fn put_back(&self, vm: MicroVm) {
        let mut ready = self.lock();
        if ready.len() < self.wanted {
            ready.push_back(vm);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Keeps the wanted number of shells ready until `stop`, then ends them.
    pub(crate) async fn keep(&self, stop: CancellationToken) {
        let keep = async {
            loop {
                self.fill().await;
                tokio::select! {
                    () = self.changed.notified() => tokio::time::sleep(REFILL_DELAY).await,
                    () = self.remove_dead() => {}
                }
            }
        };
        tokio::select! {
            () = keep => {}
            () = stop.cancelled() => {}
        }
        self.lock().clear();
    }

    async fn fill(&self) {
        while self.len() < self.wanted {
            match self.launch().await {
                Ok((vm, _)) => self.put_back(vm),
                Err(error) => {
                    tracing::error!(%error, "the controller could not start a sandbox");
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    /// Waits until shells have died, and removes them.
    async fn remove_dead(&self) {
        std::future::poll_fn(|context| {
            let mut ready = self.lock();
            let before = ready.len();
            ready.retain(|vm| vm.poll_silent(context));
            if ready.len() < before {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<MicroVm>> {
        lock(&self.ready)
    }
}
