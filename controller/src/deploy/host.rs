//! Computes the fingerprints of snapshots: of kernel, image, sandbox program, kind of host, memory size and
//! mailbox.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use hearth_protocol::agent::Configure;
use hearth_rootfs::Artefact;
use hearth_rootfs::cache::Cache;
use sha2::{Digest, Sha256};

use super::error::DeployError;
use crate::function::{LayerUse, Runtime, SealError, check_artefact};
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

/// The fingerprint of a function snapshot: of everything that the guest can see until its init ends. Two
/// deploys with the same fingerprint may share one snapshot, so whatever init can see must be part of it:
///
/// * what was booted, which is in `base`: kernel, runtime image with the agent, sandbox program, kind of
///   host, memory size;
/// * the images: the function's code, and its layers in their order;
/// * the message to the agent, as a whole: name and version of the function, handler, environment, sizes,
///   region, log group, initialization type. A field that the message gets later is covered too.
///
/// What the guest does not see is not part of it: timeout, description, role, tracing mode, the system log
/// level.
pub(super) fn function_fingerprint(
    base: &Base,
    code: &str,
    layers: &[LayerUse],
    configure: Configure,
) -> String {
    let configure = Configure {
        // New for each init. What a function makes of it may differ between any two instances on Lambda.
        log_stream: String::new(),
        ..configure
    };
    let configure = serde_json::to_string(&configure).expect("the message is plain JSON");
    let layers: Vec<&str> = layers.iter().map(|layer| &*layer.code.sha256).collect();
    fingerprint(&[
        // To be raised when the controller makes another snapshot, or another image, of the same parts.
        // 5: since then, the configuration is what the agent gets to know.
        "function 5",
        &base.fingerprint,
        code,
        &layers.join(" "),
        &configure,
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
    use crate::function::Code;

    fn base(fingerprint: &str) -> Base {
        Base {
            kernel: PathBuf::new(),
            image: PathBuf::new(),
            memory_mib: 128,
            fingerprint: fingerprint.into(),
            sums: Default::default(),
        }
    }

    fn layer(sha256: &str) -> LayerUse {
        LayerUse {
            arn: "arn".into(),
            code: Code {
                sha256: sha256.into(),
                size: 1,
                unpacked: 1,
            },
        }
    }

    fn configure() -> serde_json::Value {
        serde_json::json!({
            "function_name": "f", "function_version": "$LATEST", "runtime": "provided",
            "handler": "h", "memory_mib": 128, "ephemeral_storage_mib": 512, "region": "r",
            "log_group": "g", "log_stream": "s", "initialization_type": "on-demand",
            "environment": { "A": "B" }, "bootstrap": ["b"], "layers": false, "mailbox": true,
        })
    }

    fn of(base: &Base, code: &str, layers: &[LayerUse], configure: serde_json::Value) -> String {
        let configure = serde_json::from_value(configure).unwrap();
        function_fingerprint(base, code, layers, configure)
    }

    #[test]
    fn each_thing_that_init_can_see_changes_the_fingerprint() {
        let plain = || of(&base("b"), "c", &[], configure());
        let mut all = vec![
            plain(),
            of(&base("another"), "c", &[], configure()),
            of(&base("b"), "another", &[], configure()),
            of(&base("b"), "c", &[layer("1")], configure()),
            of(&base("b"), "c", &[layer("1"), layer("2")], configure()),
            of(&base("b"), "c", &[layer("2"), layer("1")], configure()),
        ];
        let configured = configure();
        for (field, value) in configured.as_object().unwrap() {
            let mut other = configured.clone();
            other[field] = match value {
                serde_json::Value::String(_) => "another".into(),
                serde_json::Value::Number(_) => 1024.into(),
                serde_json::Value::Bool(value) => (!value).into(),
                serde_json::Value::Array(_) => serde_json::json!(["another"]),
                _ => serde_json::json!({ "A": "C" }),
            };
            let other = of(&base("b"), "c", &[], other);
            // The one value that is new for each init.
            if field == "log_stream" {
                assert_eq!(other, plain());
            } else {
                all.push(other);
            }
        }
        let of_message = serde_json::from_value::<Configure>(configured.clone()).unwrap();
        assert_eq!(
            serde_json::to_value(of_message).unwrap(),
            configured,
            "this test knows every field of the message"
        );
        let count = all.len();
        let different: std::collections::HashSet<String> = all.into_iter().collect();
        assert_eq!(different.len(), count);
    }

    #[test]
    fn different_parts_with_the_same_concatenation_have_different_fingerprints() {
        assert_ne!(fingerprint(&["ab", "c"]), fingerprint(&["a", "bc"]));
        assert_eq!(fingerprint(&["a"]).len(), 64);
    }
}
