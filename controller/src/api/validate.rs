//! What may be in a function's configuration: types, ranges, patterns, with Lambda's texts.
//!
//! Values arrive as JSON of any shape; what leaves here is a [`FunctionConfig`] that the rest of the
//! controller trusts.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::error::ApiError;
use super::fields::{
    at_most, in_range, missing, one_of, parse_environment, parse_handler, parse_role, parse_runtime,
};
use super::logging_config::LoggingConfig;
use crate::function::{FunctionConfig, LayerUse, Logging, Runtime};

/// The members that create and update have in common. Those of features that are not there yet are
/// refused unless they say "off".
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ConfigInput {
    runtime: Option<String>,
    handler: Option<String>,
    role: Option<String>,
    description: Option<String>,
    timeout: Option<i64>,
    memory_size: Option<i64>,
    ephemeral_storage: Option<EphemeralStorage>,
    environment: Option<EnvironmentInput>,
    tracing_config: Option<TracingConfig>,
    snap_start: Option<SnapStart>,
    logging_config: Option<LoggingConfig>,
    layers: Option<Vec<String>>,
    file_system_configs: Option<Vec<Value>>,
    image_config: Option<Value>,
    vpc_config: Option<VpcConfig>,
    dead_letter_config: Option<DeadLetterConfig>,
    #[serde(rename = "KMSKeyArn")]
    kms_key_arn: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EphemeralStorage {
    size: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EnvironmentInput {
    variables: Option<BTreeMap<String, String>>,
}

impl std::fmt::Debug for EnvironmentInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set()
            .entries(self.variables.iter().flat_map(BTreeMap::keys))
            .finish()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TracingConfig {
    mode: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SnapStart {
    apply_on: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VpcConfig {
    #[serde(default)]
    subnet_ids: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeadLetterConfig {
    target_arn: Option<String>,
}

/// How the layers with these ARNs are found.
pub(crate) trait FindLayers: FnOnce(&[String]) -> Result<Vec<LayerUse>, ApiError> {}

impl<F: FnOnce(&[String]) -> Result<Vec<LayerUse>, ApiError>> FindLayers for F {}

impl ConfigInput {
    /// The configuration of a new function.
    pub(crate) fn create(self, layers: impl FindLayers) -> Result<FunctionConfig, ApiError> {
        let required = |given: bool, field: &str| given.then_some(()).ok_or_else(|| missing(field));
        required(self.role.is_some(), "role")?;
        if self.runtime.is_none() || self.handler.is_none() {
            return Err(ApiError::invalid(
                "Runtime and Handler are mandatory parameters for functions created with \
                 deployment packages.",
            ));
        }
        let defaults = FunctionConfig {
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
            logging: Logging::default(),
        };
        self.apply(&defaults, layers)
    }

    /// `before` with what is given here.
    pub(crate) fn apply(
        self,
        before: &FunctionConfig,
        layers: impl FindLayers,
    ) -> Result<FunctionConfig, ApiError> {
        self.refuse_unsupported()?;
        let mut config = before.clone();
        if let Some(runtime) = self.runtime {
            config.runtime = parse_runtime(&runtime)?;
        }
        if let Some(handler) = self.handler {
            config.handler = parse_handler(handler)?;
        }
        if let Some(role) = self.role {
            config.role = parse_role(role)?;
        }
        if let Some(description) = self.description {
            at_most(&description, 256, "description")?;
            config.description = description;
        }
        if let Some(timeout) = self.timeout {
            config.timeout_seconds = in_range(timeout, 1, 900, "timeout")?;
        }
        if let Some(memory) = self.memory_size {
            config.memory_mib = in_range(memory, 128, 10_240, "memorySize")?;
        }
        if let Some(storage) = self.ephemeral_storage {
            config.ephemeral_storage_mib =
                in_range(storage.size, 512, 10_240, "ephemeralStorage.size")?;
        }
        if let Some(environment) = self.environment {
            let variables = environment.variables.unwrap_or_default();
            config.environment = Some(parse_environment(variables)?);
        }
        if let Some(mode) = self.tracing_config.and_then(|tracing| tracing.mode) {
            config.tracing_mode = one_of(mode, &["Active", "PassThrough"], "tracingConfig.mode")?;
        }
        if let Some(apply_on) = self.snap_start.and_then(|snap_start| snap_start.apply_on) {
            config.snap_start = one_of(
                apply_on,
                &["PublishedVersions", "None"],
                "snapStart.applyOn",
            )?;
        }
        if let Some(logging) = self.logging_config {
            config.logging = logging.apply(&before.logging)?;
        }
        if let Some(arns) = self.layers {
            config.layers = layers(&arns)?;
        }
        Ok(config)
    }

    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        let given = |list: &Option<Vec<Value>>| list.as_ref().is_some_and(|list| !list.is_empty());
        let refused = [
            ("FileSystemConfigs", given(&self.file_system_configs)),
            (
                "ImageConfig",
                self.image_config
                    .as_ref()
                    .is_some_and(|config| !config.is_null()),
            ),
            (
                "VpcConfig",
                self.vpc_config
                    .as_ref()
                    .is_some_and(|vpc| !vpc.subnet_ids.is_empty()),
            ),
            (
                "KMSKeyArn",
                self.kms_key_arn.as_ref().is_some_and(|arn| !arn.is_empty()),
            ),
        ];
        let dead_letter = self.dead_letter_config.as_ref();
        if let Some(arn) = dead_letter.and_then(|config| config.target_arn.as_deref()) {
            super::destinations::check_dead_letter_target(arn)?;
        }
        for (member, given) in refused {
            if given {
                return Err(ApiError::invalid(format!("{member} is not supported yet")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn create(changes: Value) -> Result<FunctionConfig, ApiError> {
        let mut input = json!({
            "Runtime": "provided", "Handler": "bootstrap",
            "Role": "arn:aws:iam::000000000000:role/service/any",
        });
        input
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        let input: ConfigInput = serde_json::from_value(input)
            .map_err(|error| ApiError::serialization(error.to_string()))?;
        input.create(|_| Ok(Vec::new()))
    }

    #[test]
    fn defaults_are_lambdas() {
        let config = create(json!({})).unwrap();
        assert_eq!((config.timeout_seconds, config.memory_mib), (3, 128));
        assert_eq!(config.ephemeral_storage_mib, 512);
        assert_eq!(config.tracing_mode, "PassThrough");
    }

    #[test]
    fn limits_themselves_are_allowed_and_what_is_beyond_is_not() {
        for (good, bad) in [
            (json!({"Timeout": 900}), json!({"Timeout": 901})),
            (json!({"Timeout": 1}), json!({"Timeout": 0})),
            (json!({"MemorySize": 10_240}), json!({"MemorySize": 10_241})),
            (json!({"MemorySize": 128}), json!({"MemorySize": -128})),
            (
                json!({"EphemeralStorage": {"Size": 512}}),
                json!({"EphemeralStorage": {"Size": 511}}),
            ),
            (
                json!({"Handler": "x".repeat(128)}),
                json!({"Handler": "x".repeat(129)}),
            ),
            (
                json!({"Description": "x".repeat(256)}),
                json!({"Description": "x".repeat(257)}),
            ),
            (
                json!({"Runtime": "python3.11"}),
                json!({"Runtime": "python2.7"}),
            ),
            (json!({"Layers": []}), json!({"Layers": [7]})),
            (
                json!({"Timeout": 3}),
                json!({"Timeout": 9_223_372_036_854_775_807_i64}),
            ),
            (
                json!({"VpcConfig": {}}),
                json!({"VpcConfig": {"SubnetIds": ["s"]}}),
            ),
            (
                json!({"TracingConfig": {"Mode": "Active"}}),
                json!({"TracingConfig": {"Mode": "x"}}),
            ),
        ] {
            create(good.clone()).unwrap_or_else(|error| panic!("{good}: {error:?}"));
            assert!(create(bad.clone()).is_err(), "{bad}");
        }
        for bad in [
            json!({"Role": "me"}),
            json!({"Handler": "a b"}),
            json!({"Timeout": 1.5}),
        ] {
            assert!(create(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn variables_are_refused_by_name_size_and_nul_and_never_repeated() {
        let with =
            |name: &str, value: &str| create(json!({"Environment": {"Variables": {name: value}}}));
        with("KEY", "value").unwrap();
        with("K", "\u{1F525}").unwrap();
        for (name, value) in [
            ("1BAD", "x"),
            ("A=B", "x"),
            ("", "x"),
            ("AWS_REGION", "x"),
            ("NUL", "a\0b"),
        ] {
            assert!(with(name, value).is_err(), "{name}");
        }
        let secret = "s3cret".repeat(1000);
        let error = with("BIG", &secret).unwrap_err();
        assert!(!format!("{error:?}").contains("s3cret"));
    }

    #[test]
    fn an_update_changes_what_it_names_and_nothing_else() {
        let before =
            create(json!({"Description": "d", "Environment": {"Variables": {"A": "1"}}})).unwrap();
        let input: ConfigInput = serde_json::from_value(json!({"Timeout": 9})).unwrap();
        let after = input.apply(&before, |_| Ok(Vec::new())).unwrap();
        assert_eq!(
            after,
            FunctionConfig {
                timeout_seconds: 9,
                ..before
            }
        );
    }
}
