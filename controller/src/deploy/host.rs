//! Computes the fingerprints of snapshots: of kernel, image, sandbox program, kind of host, memory size and
//! mailbox.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use hearth_rootfs::Artefact;
use hearth_rootfs::cache::Cache;
use sha2::{Digest, Sha256};

use super::error::DeployError;
use super::source::Source;
use crate::function::{Runtime, SealError, check_artefact};
use crate::hex::hex;
use crate::instance::MailboxUse;

/// The properties of this host on which snapshots depend.
#[derive(Debug)]
pub(crate) struct Host {
    cache: Cache,
    /// `hardware` or `software`.
    pub(crate) kind: String,
    /// SHA-256 of the sandbox program: another build may write state files differently.
    pub(crate) sandbox: String,
    /// Whether sandboxes have a mailbox: a guest that was booted without one can't use it later.
    mailbox: MailboxUse,
}

/// The input of a runtime snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) kernel: PathBuf,
    pub(crate) image: PathBuf,
    pub(crate) memory_mib: u32,
    pub(crate) fingerprint: String,
    /// SHA-256 of kernel and image, as their builder has recorded them.
    sums: [String; 2],
}

impl Base {
    /// Checks that kernel and image have not changed since they were built.
    pub(crate) async fn check(&self) -> Result<(), DeployError> {
        let Self {
            kernel,
            image,
            sums: [kernel_sum, image_sum],
            ..
        } = self.clone();
        reading(move || {
            check_artefact(&kernel, &kernel_sum)?;
            check_artefact(&image, &image_sum)
        })
        .await
    }
}

impl Host {
    pub(crate) fn new(
        cache: &Path,
        sandbox: &Path,
        kind: String,
        mailbox: MailboxUse,
    ) -> Result<Self, DeployError> {
        let cache = Cache::open(cache)?;
        let sandbox = hash_file(sandbox).map_err(DeployError::io("read", sandbox))?;
        Ok(Self {
            cache,
            kind,
            sandbox,
            mailbox,
        })
    }

    pub(crate) fn kernel(&self) -> Result<Option<Artefact>, DeployError> {
        Ok(hearth_rootfs::cached_kernel(&self.cache)?)
    }

    pub(crate) fn has_runtime(&self, runtime: Runtime) -> bool {
        matches!(
            hearth_rootfs::cached_runtime(&self.cache, runtime.image()),
            Ok(Some(_))
        )
    }

    pub(crate) fn is_software(&self) -> bool {
        self.kind == "software"
    }

    /// The input of the runtime snapshot for this runtime and memory size.
    pub(crate) fn base(&self, runtime: Runtime, memory_mib: u32) -> Result<Base, DeployError> {
        let kernel = self.kernel()?.ok_or(DeployError::NoKernel)?;
        let image = hearth_rootfs::cached_runtime(&self.cache, runtime.image())?
            .ok_or(DeployError::NoRuntimeImage(runtime.id()))?;
        let fingerprint = fingerprint(&[
            "runtime 2",
            &kernel.sha256,
            &image.sha256,
            &self.sandbox,
            &self.kind,
            &memory_mib.to_string(),
            match self.mailbox {
                MailboxUse::On => "mailbox",
                MailboxUse::Off => "no mailbox",
            },
        ]);
        Ok(Base {
            kernel: kernel.path,
            image: image.path,
            memory_mib,
            fingerprint,
            sums: [kernel.sha256, image.sha256],
        })
    }
}

/// The fingerprint of a function snapshot: of its runtime snapshot, its code and its configuration.
pub(crate) fn function_fingerprint(base: &Base, source: Source<'_>, region: &str) -> String {
    let config = serde_json::to_string(source.config).expect("a configuration is plain JSON");
    fingerprint(&[
        // 4: since then, the agent looks for random generators that clones would share.
        "function 4",
        &base.fingerprint,
        source.name.as_str(),
        &source.version.to_string(),
        &source.code.sha256,
        &config,
        region,
    ])
}

fn fingerprint(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        // The length separates the parts: different lists of parts never have the same bytes.
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

fn hash_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}

/// Runs work that reads large files on a thread for blocking work.
pub(super) async fn reading(
    work: impl FnOnce() -> Result<(), SealError> + Send + 'static,
) -> Result<(), DeployError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(DeployError::Cancelled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_parts_with_the_same_concatenation_have_different_fingerprints() {
        assert_ne!(fingerprint(&["ab", "c"]), fingerprint(&["a", "bc"]));
        assert_eq!(fingerprint(&["a"]).len(), 64);
    }
}
