//! Runtime snapshots: a runtime that has booted, without a function.
//!
//! One is made for each runtime image and memory size, by the first deploy that needs it; concurrent deploys
//! wait for it.

use std::path::PathBuf;
use std::sync::Arc;

use hearth_protocol::sandbox::Snapshot;

use super::builder::{Builder, remove_folder};
use super::error::DeployError;
use super::host::{Base, reading};
use super::progress::{Phase, Running};
use super::snapshot;
use crate::function::{Runtime, Sealed, SnapshotFiles, snapshot_files};
use crate::instance::BootFrom;
use crate::locks::lock;

impl Builder {
    /// The folder of the snapshot that functions of this base start from.
    pub(super) async fn runtime_snapshot(
        &self,
        base: &Base,
        runtime: Runtime,
        running: &Running,
    ) -> Result<PathBuf, DeployError> {
        let booting = Phase::Boot {
            runtime: runtime.id(),
        };
        let runtime = runtime.image_name();
        let key = runtime_key(base, runtime);
        let turn = {
            let mut bases = lock(&self.bases);
            bases.entry(key.clone()).or_default().clone()
        };
        let _turn = match turn.try_lock() {
            Ok(turn) => turn,
            // Another deploy boots it.
            Err(_) => {
                running.enter(booting);
                turn.lock().await
            }
        };
        let folder = self.data.runtime_snapshot(&key);
        let SnapshotFiles { state, memory } = snapshot_files(&folder);
        let sealed = Arc::new(Sealed::new(
            &folder,
            vec![state, memory],
            base.fingerprint.clone(),
        ));
        let there = sealed.clone();
        match reading(move || there.verify()).await {
            Ok(()) => return Ok(folder),
            Err(error) if folder.exists() => {
                tracing::warn!(
                    %error,
                    "the controller rebuilds a runtime snapshot that can't be used"
                );
                self.metrics.rebuilds.inc();
                remove_folder(&folder)?;
            }
            Err(_) => {}
        }
        running.enter(booting);
        tracing::info!(
            runtime,
            memory_mib = base.memory_mib,
            "the controller makes a runtime snapshot"
        );
        let mut vm = self.sandbox().await?;
        let boot = BootFrom {
            kernel: base.kernel.clone(),
            disks: vec![Some(base.image.clone()), None, None],
            memory_mib: base.memory_mib,
            fingerprint: base.fingerprint.clone(),
        };
        snapshot::boot(&mut vm, boot, self.times.boot).await?;
        snapshot::save(
            &mut vm,
            &Snapshot::default(),
            &self.data.tmp().join(&key),
            &folder,
        )
        .await?;
        reading(move || sealed.seal()).await?;
        tracing::info!(
            runtime,
            memory_mib = base.memory_mib,
            "the controller has made a runtime snapshot"
        );
        Ok(folder)
    }
}

/// The folder name of a runtime snapshot.
pub(super) fn runtime_key(base: &Base, runtime: &str) -> String {
    let short = &base.fingerprint[..16];
    format!("{runtime}-{}-{short}", base.memory_mib)
}
