//! A function's configuration as Lambda returns it.

use serde_json::{Value, json};

use crate::api::target::names::Named;
use crate::deploy::Progress;
use crate::function::{
    ArnScope, Code, FunctionConfig, FunctionName, FunctionRecord, LogFormat, Logging, Made,
    NoSnapshot, State, Status, UpdateStatus, VersionId,
};
use crate::registry::{Function, Published, Target};

/// One version as a response shows it.
#[derive(Debug)]
pub(crate) struct Shown<'a> {
    name: &'a FunctionName,
    version: VersionId,
    /// The qualifier in the ARN.
    qualifier: Option<String>,
    config: &'a FunctionConfig,
    code: &'a Code,
    description: &'a str,
    revision_id: &'a str,
    last_modified: &'a str,
    state: &'a Status<State>,
    last_update: Update<'a>,
    /// What serves.
    made: Option<&'a Made>,
    /// Whether the deploy of what serves has used the snapshot of an earlier one.
    snapshot_reused: bool,
    /// The key of the deploy that makes it.
    pending: Option<&'a str>,
}

/// The result of the last change.
#[derive(Debug, Clone, Copy)]
enum Update<'a> {
    /// Of `$LATEST`; `None` until its first deploy has ended.
    Latest(Option<&'a Status<UpdateStatus>>),
    /// A published version never changes. Lambda shows its last update as successful.
    Never,
}

impl<'a> Shown<'a> {
    /// `$LATEST`, by the function's own name.
    pub(crate) fn latest(record: &'a FunctionRecord) -> Self {
        Self {
            name: &record.name,
            version: VersionId::Latest,
            qualifier: None,
            config: &record.config,
            code: &record.code,
            description: &record.config.description,
            revision_id: &record.revision_id,
            last_modified: &record.last_modified,
            state: &record.state,
            last_update: Update::Latest(record.last_update.as_ref()),
            made: record.deployed.as_ref().map(|deployed| &deployed.made),
            snapshot_reused: record
                .deployed
                .as_ref()
                .is_some_and(|deployed| deployed.snapshot_reused),
            pending: record.pending_deploy.as_deref(),
        }
    }

    /// A published version, by its number.
    pub(crate) fn published(function: &'a Function, published: &'a Published) -> Self {
        let record = &published.record;
        Self {
            name: &function.record.name,
            version: VersionId::Number(record.number),
            qualifier: Some(record.number.to_string()),
            config: &record.config,
            code: &record.code,
            description: &record.description,
            revision_id: &record.revision_id,
            last_modified: &record.last_modified,
            state: &record.state,
            last_update: Update::Never,
            made: record.made.as_ref(),
            // Its number is in its guest, so only its own deploy could have made the snapshot.
            snapshot_reused: false,
            pending: record.pending_deploy.as_deref(),
        }
    }

    /// Every version, `$LATEST` first, each by its own ARN.
    pub(crate) fn all(function: &'a Function) -> impl Iterator<Item = Self> {
        let latest = Self::latest(&function.record).called(Some(VersionId::Latest.to_string()));
        let published = function.versions.values();
        std::iter::once(latest).chain(published.map(|version| Self::published(function, version)))
    }

    /// The same, with the qualifier that the request gives.
    pub(crate) fn called(mut self, qualifier: Option<String>) -> Self {
        self.qualifier = qualifier;
        self
    }

    /// The same, with another revision.
    pub(crate) fn of_revision(mut self, revision_id: &'a str) -> Self {
        self.revision_id = revision_id;
        self
    }

    pub(crate) fn code(&self) -> &'a Code {
        self.code
    }

    /// The key in a list of versions of all functions.
    pub(crate) fn key(&self) -> String {
        format!("{}:{}", self.name, self.version)
    }

    /// The JSON in a list, where Lambda leaves out the state and the runtime's version.
    pub(crate) fn listed(&self, arn_scope: &ArnScope) -> Value {
        let config = self.config;
        let arn = arn_scope.function_arn(self.name, self.qualifier.as_deref());
        let optimized = config.snap_starts(self.version);
        let mut out = json!({
            "FunctionName": self.name,
            "FunctionArn": arn,
            "Runtime": config.runtime.id(),
            "Role": config.role,
            "Handler": config.handler,
            "CodeSize": self.code.size,
            "Description": self.description,
            "Timeout": config.timeout_seconds,
            "MemorySize": config.memory_mib,
            "LastModified": self.last_modified,
            "CodeSha256": self.code.sha256_base64(),
            "Version": self.version,
            "TracingConfig": { "Mode": config.tracing_mode },
            "RevisionId": self.revision_id,
            "PackageType": "Zip",
            "Architectures": ["x86_64"],
            "EphemeralStorage": { "Size": config.ephemeral_storage_mib },
            "SnapStart": {
                "ApplyOn": config.snap_start,
                "OptimizationStatus": if optimized { "On" } else { "Off" },
            },
            "LoggingConfig": logging(&config.logging, self.name.as_str()),
        });
        if let Some(environment) = &config.environment {
            out["Environment"] = json!({ "Variables": environment });
        }
        if config.tenant_isolation {
            out["TenancyConfig"] = json!({ "TenantIsolationMode": "PER_TENANT" });
        }
        if !config.layers.is_empty() {
            let layers = config.layers.iter();
            out["Layers"] = layers
                .map(|layer| json!({ "Arn": layer.arn, "CodeSize": layer.code.size }))
                .collect();
        }
        out
    }

    /// The JSON in a response of its own.
    pub(crate) fn configuration(&self, arn_scope: &ArnScope) -> Value {
        let runtime = self.config.runtime.id();
        let mut out = self.listed(arn_scope);
        let (partition, region) = (arn_scope.partition(), &arn_scope.region);
        out["RuntimeVersionConfig"] = json!({
            "RuntimeVersionArn":
                format!("arn:{partition}:lambda:{region}::runtime:hearth-{runtime}"),
        });
        let mut put = |key: &str, value: Option<&str>| {
            if let Some(value) = value {
                out[key] = value.into();
            }
        };
        put("State", Some(self.state.is.name()));
        put("StateReason", self.state.reason.as_deref());
        put("StateReasonCode", self.state.reason_code.as_deref());
        match self.last_update {
            Update::Latest(None) => {}
            Update::Latest(Some(update)) => {
                put("LastUpdateStatus", Some(update.is.name()));
                put("LastUpdateStatusReason", update.reason.as_deref());
                put("LastUpdateStatusReasonCode", update.reason_code.as_deref());
            }
            Update::Never if self.state.is == State::Active => {
                put("LastUpdateStatus", Some(UpdateStatus::Successful.name()));
            }
            Update::Never => {}
        }
        // No member of Lambda's: its clients ignore those that they don't know.
        match self.made.and_then(Made::no_snapshot) {
            Some(NoSnapshot::SharedGenerators(generators)) => {
                let libraries = generators
                    .iter()
                    .map(|found| json!({ "Library": found.library, "File": found.file }));
                out["Hearth"] = json!({ "InitInEachInstance": libraries.collect::<Value>() });
            }
            Some(NoSnapshot::InitFailed(failed)) => {
                let failed = json!({ "Reason": failed.reason, "ReasonCode": failed.code });
                out["Hearth"] = json!({ "InitFailed": failed });
            }
            None => {}
        }
        if self.snapshot_reused {
            out["Hearth"] = json!({ "SnapshotReused": true });
        }
        out
    }
}

impl Shown<'_> {
    /// The same, with what its deploy does at the moment.
    pub(super) fn configuration_now(&self, arn_scope: &ArnScope, progress: &Progress) -> Value {
        let mut out = self.configuration(arn_scope);
        if let Some(doing) = self.pending.and_then(|key| progress.describe(key)) {
            let updates = matches!(self.last_update, Update::Latest(Some(_)));
            let key = if updates {
                "LastUpdateStatusReason"
            } else {
                "StateReason"
            };
            if let Some(reason) = out[key].as_str() {
                out[key] = format!("{reason} Now: {doing}").into();
            }
        }
        out
    }
}

fn logging(logging: &Logging, function: &str) -> Value {
    let group = logging.group_of(function);
    match &logging.format {
        LogFormat::Text => json!({ "LogFormat": "Text", "LogGroup": group }),
        LogFormat::Json {
            application_level,
            system_level,
        } => json!({
            "LogFormat": "JSON",
            "ApplicationLogLevel": application_level,
            "SystemLogLevel": system_level.name(),
            "LogGroup": group,
        }),
    }
}

impl<'a> Target<'a> {
    /// The version as a response shows it, with the qualifier that the request gives.
    pub(crate) fn shown(&self, function: &'a Function, named: &Named) -> Shown<'a> {
        let shown = match self {
            Self::Latest => Shown::latest(&function.record),
            Self::Published(published) => Shown::published(function, published),
            Self::Alias(alias) => match function.published(alias.version) {
                Some(published) => Shown::published(function, published),
                None => Shown::latest(&function.record),
            },
        };
        shown.called(named.qualifier.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::{Deployed, FailedInit, SharedGenerators, shared_generator};
    use crate::registry::test_record;

    #[test]
    fn a_function_says_why_init_runs_in_each_instance_and_that_its_snapshot_is_of_an_earlier_deploy()
     {
        let arn_scope = ArnScope {
            region: "us-east-1".into(),
            account: "000000000000".into(),
        };
        let mut record = test_record("f");
        let gnutls = shared_generator("GnuTLS", "/opt/lib/libgnutls.so.30");
        let mut made = Made {
            key: "k".into(),
            fingerprint: "f".into(),
            shared_generators: None,
            failed_init: None,
        };
        let mut shown = |made: &Made, reused| {
            record.deployed = Some(Deployed {
                config: record.config.clone(),
                code: record.code.clone(),
                made: made.clone(),
                snapshot_reused: reused,
            });
            Shown::latest(&record).configuration(&arn_scope)["Hearth"].clone()
        };
        assert_eq!(shown(&made, false), Value::Null);
        assert_eq!(shown(&made, true), json!({ "SnapshotReused": true }));
        made.shared_generators = SharedGenerators::of_guest(&[gnutls]);
        let found = json!({ "Library": "GnuTLS", "File": "/opt/lib/libgnutls.so.30" });
        assert_eq!(
            shown(&made, false),
            json!({ "InitInEachInstance": [found] })
        );
        made.failed_init = Some(FailedInit {
            reason: "Runtime.ImportModuleError: why".into(),
            code: "FunctionError.RuntimeInitError".into(),
        });
        let failed = json!({
            "Reason": "Runtime.ImportModuleError: why", "ReasonCode": "FunctionError.RuntimeInitError",
        });
        assert_eq!(shown(&made, false), json!({ "InitFailed": failed }));
    }
}
