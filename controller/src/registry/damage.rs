//! Records that can't be read. Each takes down what it belongs to and nothing else: a function whose
//! record or version is damaged is `Failed`, with the reason, and can be deleted; all others serve.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::database::RegistryError;
use crate::function::{
    Code, FunctionConfig, FunctionName, FunctionRecord, Runtime, State, Status, VersionRecord,
};

/// Lambda's reason code for an error that is not the function's.
const REASON_CODE: &str = "InternalError";

/// The records that could not be read when the registry was opened.
#[derive(Debug, Default)]
pub(super) struct Damage {
    /// Functions whose own record is damaged, with the reason.
    functions: HashMap<String, String>,
    layers: HashSet<String>,
    /// A text for each damaged record. If there are any, nobody knows all files that are in use.
    found: Vec<String>,
}

impl Damage {
    pub(super) fn function(&mut self, name: &str, why: String) {
        tracing::error!(
            function = name,
            error = why,
            "the record of a function is damaged"
        );
        self.found.push(format!("function {name}: {why}"));
        self.functions.insert(name.into(), why);
    }

    pub(super) fn version(&mut self, name: &str, number: u32, why: &str) {
        tracing::error!(
            function = name,
            version = number,
            error = why,
            "the record of a version is damaged"
        );
        self.found
            .push(format!("version {number} of function {name}: {why}"));
    }

    pub(super) fn layer(&mut self, name: &str, why: &str) {
        tracing::error!(
            layer = name,
            error = why,
            "the record of a layer is damaged"
        );
        self.found.push(format!("layer {name}: {why}"));
        self.layers.insert(name.into());
    }

    /// Whether any record is damaged.
    pub(super) fn any(&self) -> bool {
        !self.found.is_empty()
    }

    /// A text for each damaged record.
    pub(super) fn into_texts(self) -> Vec<String> {
        self.found
    }

    /// Refuses a change of a function whose record is damaged: it would overwrite what may be restored.
    pub(super) fn check_function(&self, name: &str) -> Result<(), RegistryError> {
        match self.functions.get(name) {
            None => Ok(()),
            Some(why) => Err(RegistryError::Damaged {
                name: name.into(),
                why: why.clone(),
            }),
        }
    }

    /// The same for a layer.
    pub(super) fn check_layer(&self, name: &str) -> Result<(), RegistryError> {
        if !self.layers.contains(name) {
            return Ok(());
        }
        Err(RegistryError::Damaged {
            name: name.into(),
            why: "the layer's record can't be read".into(),
        })
    }

    /// The function is deleted, and with it its damage.
    pub(super) fn forget(&mut self, name: &str) {
        self.functions.remove(name);
    }
}

/// The state of what is damaged.
pub(super) fn failed(why: &str) -> Status<State> {
    let reason = format!("The record in the registry is damaged: {why}");
    Status::because(State::Failed, reason, REASON_CODE)
}

/// What stands for a function whose record can't be read.
pub(super) fn stand_in(name: FunctionName, why: &str) -> FunctionRecord {
    FunctionRecord {
        name,
        config: FunctionConfig {
            runtime: Runtime::Provided,
            handler: String::new(),
            role: String::new(),
            description: String::new(),
            timeout_seconds: 3,
            memory_mib: 128,
            ephemeral_storage_mib: 512,
            environment: None,
            tracing_mode: "PassThrough".into(),
            snap_start: "None".into(),
            layers: Vec::new(),
            logging: crate::function::Logging::default(),
            tenant_isolation: false,
        },
        code: Code {
            sha256: "0".repeat(64),
            size: 0,
            unpacked: 0,
        },
        revision_id: String::new(),
        last_modified: "1970-01-01T00:00:00.000+0000".into(),
        state: failed(why),
        last_update: None,
        pending_deploy: None,
        deployed: None,
        last_version: 0,
        aliases: BTreeMap::new(),
        reserved_concurrency: None,
        tags: BTreeMap::new(),
        policies: BTreeMap::new(),
        provisioned: BTreeMap::new(),
        urls: BTreeMap::new(),
    }
}

/// A record of which everything but the environment variables can be read: nothing of it runs.
pub(super) fn without_environment(record: FunctionRecord, why: &str) -> FunctionRecord {
    FunctionRecord {
        state: failed(why),
        last_update: None,
        pending_deploy: None,
        deployed: None,
        ..record
    }
}

/// What stands for a version whose record can't be read.
pub(super) fn stand_in_version(function: &FunctionRecord, number: u32, why: &str) -> VersionRecord {
    VersionRecord {
        number,
        config: function.config.clone(),
        code: function.code.clone(),
        description: String::new(),
        revision_id: String::new(),
        last_modified: function.last_modified.clone(),
        state: failed(why),
        pending_deploy: None,
        made: None,
    }
}
