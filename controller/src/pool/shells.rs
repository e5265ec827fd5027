//! Sandbox processes built ahead of need: each has its VM and waits for a snapshot.
//!
//! Starting a process and making a VM takes longer than restoring into one. New shells are started
//! a moment after one was taken, so that they don't compete for the CPU with the restore that took
//! it. A shell that dies is noticed and replaced.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use hearth_protocol::sandbox::{Command, State, Status};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::instance::{LaunchError, Launcher, MicroVm, VmError};
use crate::locks::lock;

/// Longest time for a new process to answer its first command.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// From the taking of a shell to the start of the next.
const REFILL_DELAY: Duration = Duration::from_millis(100);
/// After a start that failed.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The shells.
#[derive(Debug)]
pub(crate) struct Shells {
    launcher: Arc<dyn Launcher>,
    ready: Mutex<VecDeque<MicroVm>>,
    wanted: usize,
    changed: Notify,
}

impl Shells {
    pub(crate) fn new(launcher: Arc<dyn Launcher>, wanted: usize) -> Self {
        Self {
            launcher,
            ready: Mutex::default(),
            wanted,
            changed: Notify::new(),
        }
    }

    /// A shell: one that is ready, else a new one.
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

    /// A new process that has answered, with what it says of itself and of the host.
    pub(crate) async fn launch(&self) -> Result<(MicroVm, Status), LaunchError> {
        let mut vm = self.launcher.launch().await?;
        let status = tokio::time::timeout(READY_LIMIT, vm.command(Command::Status))
            .await
            .map_err(|_| VmError::Late("a new sandbox's first answer", READY_LIMIT))??;
        match status {
            Some(status) if status.state == State::Shell => Ok((vm, status)),
            other => {
                Err(VmError::Unexpected(format!("a new sandbox says that it is {other:?}")).into())
            }
        }
    }

    /// Takes back a shell that was not used after all.
    pub(crate) fn put_back(&self, vm: MicroVm) {
        let mut ready = self.lock();
        if ready.len() < self.wanted {
            ready.push_back(vm);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Keeps the number of shells up until `stop`, then ends them.
    pub(crate) async fn keep(&self, stop: CancellationToken) {
        let keep = async {
            loop {
                self.fill().await;
                tokio::select! {
                    () = self.changed.notified() => tokio::time::sleep(REFILL_DELAY).await,
                    () = self.bury_dead() => {}
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
                    tracing::error!(%error, "no sandbox can be started");
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    /// Completes when it has removed shells that died.
    async fn bury_dead(&self) {
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
