//! A function's configuration. `api::functions::validate` checks its values.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{LayerUse, Logging, VersionId};

/// A function's configuration. What init can see of it is part of the function snapshot's fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FunctionConfig {
    pub(crate) runtime: Runtime,
    pub(crate) handler: String,
    pub(crate) role: String,
    pub(crate) description: String,
    /// 1 to 900.
    pub(crate) timeout_seconds: u32,
    /// 128 to 10,240.
    pub(crate) memory_mib: u32,
    /// 512 to 10,240: the size of `/tmp`.
    pub(crate) ephemeral_storage_mib: u32,
    /// `None` until a request gives one, which may be empty.
    pub(crate) environment: Option<Environment>,
    /// `PassThrough` or `Active`.
    pub(crate) tracing_mode: String,
    /// `None` or `PublishedVersions`. Instances start from snapshots in both cases. With
    /// `PublishedVersions`, the runtimes of published versions run SnapStart's hooks.
    pub(crate) snap_start: String,
    /// Mounted over each other at `/opt`, the first at the bottom.
    #[serde(default)]
    pub(crate) layers: Vec<LayerUse>,
    #[serde(default, skip_serializing_if = "Logging::is_default")]
    pub(crate) logging: Logging,
    /// Whether no two tenants share an instance. It never changes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) tenant_isolation: bool,
}

impl FunctionConfig {
    /// Whether SnapStart is on for this version.
    pub(crate) fn snap_starts(&self, version: VersionId) -> bool {
        self.snap_start == "PublishedVersions" && version != VersionId::Latest
    }
}

/// The runtimes that Hearth has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Runtime {
    #[serde(rename = "python3.11")]
    Python311,
    #[serde(rename = "nodejs20.x")]
    Node20,
    #[serde(rename = "nodejs22.x")]
    Node22,
    #[serde(rename = "provided")]
    Provided,
    #[serde(rename = "provided.al2")]
    ProvidedAl2,
    #[serde(rename = "provided.al2023")]
    ProvidedAl2023,
}

impl Runtime {
    pub(crate) const ALL: [Self; 6] = [
        Self::Python311,
        Self::Node20,
        Self::Node22,
        Self::Provided,
        Self::ProvidedAl2,
        Self::ProvidedAl2023,
    ];

    /// Lambda's identifier.
    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::Python311 => "python3.11",
            Self::Node20 => "nodejs20.x",
            Self::Node22 => "nodejs22.x",
            Self::Provided => "provided",
            Self::ProvidedAl2 => "provided.al2",
            Self::ProvidedAl2023 => "provided.al2023",
        }
    }

    pub(crate) fn parse(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|runtime| runtime.id() == id)
    }

    /// The runtime image.
    pub(crate) fn image(self) -> hearth_rootfs::Runtime {
        match self {
            Self::Python311 => hearth_rootfs::Runtime::Python311,
            Self::Node20 => hearth_rootfs::Runtime::Node20,
            Self::Node22 => hearth_rootfs::Runtime::Node22,
            Self::Provided | Self::ProvidedAl2 | Self::ProvidedAl2023 => {
                hearth_rootfs::Runtime::Provided
            }
        }
    }

    /// The name of the runtime image. Several runtimes may share one.
    pub(crate) fn image_name(self) -> &'static str {
        match self {
            Self::Python311 => "python3.11",
            Self::Node20 => "nodejs20.x",
            Self::Node22 => "nodejs22.x",
            Self::Provided | Self::ProvidedAl2 | Self::ProvidedAl2023 => "provided",
        }
    }

    /// Programs to start in the guest; the agent starts the first that exists.
    pub(crate) fn bootstrap(self) -> Vec<String> {
        let candidates: &[&str] = match self {
            Self::Python311 | Self::Node20 | Self::Node22 => &["/var/runtime/bootstrap"],
            Self::Provided | Self::ProvidedAl2 | Self::ProvidedAl2023 => &[
                "/var/task/bootstrap",
                "/opt/bootstrap",
                "/var/runtime/bootstrap",
            ],
        };
        candidates.iter().map(|path| (*path).into()).collect()
    }
}

/// Environment variables. Values are secrets: clients that may read the configuration get them, but logs
/// never contain them.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Environment(pub(crate) BTreeMap<String, String>);

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_environment_variables_are_not_in_debug_output() {
        let environment = Environment(BTreeMap::from([("KEY".into(), "secret".into())]));
        let shown = format!("{environment:?}");
        assert!(
            shown.contains("KEY") && !shown.contains("secret"),
            "{shown}"
        );
    }

    #[test]
    fn every_runtime_is_found_and_stored_by_its_identifier() {
        for runtime in Runtime::ALL {
            assert_eq!(Runtime::parse(runtime.id()), Some(runtime));
            assert_eq!(serde_json::to_value(runtime).unwrap(), runtime.id());
        }
        assert_eq!(Runtime::parse("python2.7"), None);
    }
}
