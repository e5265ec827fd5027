//! Checks a function's configuration: types, ranges, patterns, with Lambda's texts.
//!
//! The input is JSON of any shape; the result is a [`FunctionConfig`] that the rest of the controller
//! trusts.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::fields::{check_handler, check_role, check_variables, parse_environment, parse_runtime};
use super::logging_config::{LoggingChange, LoggingConfig};
use crate::api::events::destinations::{check_dead_letter_target, check_target_form};
use crate::api::http::error::ApiError;
use crate::api::http::unserved::{self, Asked};
use crate::api::http::violations::Violations;
use crate::api::layers::names::check_used_layers;
use crate::function::{FunctionConfig, LayerUse, Logging, Runtime};

/// The members that create and update have in common. Those that are not served come last.
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
    dead_letter_config: Option<DeadLetterConfig>,
    #[serde(default)]
    accelerator_config: Asked,
    #[serde(default)]
    capacity_provider_config: Asked,
    #[serde(default)]
    durable_config: Asked,
    #[serde(default)]
    file_system_configs: Asked,
    #[serde(default)]
    image_config: Asked,
    #[serde(default, rename = "KMSKeyArn")]
    kms_key_arn: Asked,
    #[serde(default)]
    runtime_config: Asked,
    #[serde(default)]
    vpc_config: Asked,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EphemeralStorage {
    size: Option<i64>,
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
struct DeadLetterConfig {
    target_arn: Option<String>,
}

/// Looks up layers by their ARNs.
pub(crate) trait FindLayers: FnOnce(&[String]) -> Result<Vec<LayerUse>, ApiError> {}

impl<F: FnOnce(&[String]) -> Result<Vec<LayerUse>, ApiError>> FindLayers for F {}

/// A change of a configuration, after its form was checked. Members that Lambda checks later are as the
/// client sent them.
#[derive(Debug)]
pub(crate) struct ConfigChange {
    runtime: Option<String>,
    handler: Option<String>,
    role: Option<String>,
    description: Option<String>,
    timeout_seconds: Option<u32>,
    memory_mib: Option<u32>,
    ephemeral_storage_mib: Option<u32>,
    variables: Option<BTreeMap<String, String>>,
    tracing_mode: Option<String>,
    snap_start: Option<String>,
    logging: Option<LoggingChange>,
    layers: Option<Vec<String>>,
    dead_letter_target: Option<String>,
    /// Members that are not served.
    unserved: [(&'static str, Asked); 8],
}

impl ConfigInput {
    /// Checks the form of all given members, in the order of the API's model.
    pub(crate) fn check(self, violations: &mut Violations) -> ConfigChange {
        let unserved = self.unserved();
        if let Some(role) = &self.role {
            check_role(violations, role);
        }
        if let Some(handler) = &self.handler {
            check_handler(violations, handler);
        }
        if let Some(description) = &self.description {
            violations.at_most(description, 256, "description");
        }
        let mut in_range = |number: Option<i64>, range, field: &str| {
            number.and_then(|number| violations.in_range(number, range, field))
        };
        let timeout_seconds = in_range(self.timeout, 1..=900, "timeout");
        let memory_mib = in_range(self.memory_size, 128..=10_240, "memorySize");
        let dead_letter_target = self.dead_letter_config.and_then(|config| config.target_arn);
        if let Some(arn) = &dead_letter_target {
            check_target_form(violations, arn, "deadLetterConfig.targetArn");
        }
        // Without `Variables` an update keeps them: only `{"Variables": {}}` removes them.
        let variables = self.environment.and_then(|given| given.variables);
        if let Some(variables) = &variables {
            check_variables(violations, variables);
        }
        let tracing_mode = self.tracing_config.and_then(|tracing| tracing.mode);
        if let Some(mode) = &tracing_mode {
            violations.one_of(mode, &["Active", "PassThrough"], "tracingConfig.mode");
        }
        if let Some(arns) = &self.layers {
            check_used_layers(violations, arns);
        }
        let ephemeral_storage_mib = self.ephemeral_storage.and_then(|storage| {
            let field = "ephemeralStorage.size";
            let size = violations.given(storage.size, field)?;
            violations.in_range(size, 512..=10_240, field)
        });
        let snap_start = self.snap_start.and_then(|snap_start| snap_start.apply_on);
        if let Some(apply_on) = &snap_start {
            violations.one_of(
                apply_on,
                &["PublishedVersions", "None"],
                "snapStart.applyOn",
            );
        }
        ConfigChange {
            runtime: self.runtime,
            handler: self.handler,
            role: self.role,
            description: self.description,
            timeout_seconds,
            memory_mib,
            ephemeral_storage_mib,
            variables,
            tracing_mode,
            snap_start,
            logging: self.logging_config.map(|logging| logging.check(violations)),
            layers: self.layers,
            dead_letter_target,
            unserved,
        }
    }

    /// The same for a new function.
    pub(crate) fn check_new(self, violations: &mut Violations) -> ConfigChange {
        violations.given(self.role.as_ref(), "role");
        self.check(violations)
    }

    fn unserved(&self) -> [(&'static str, Asked); 8] {
        [
            ("AcceleratorConfig", self.accelerator_config),
            ("CapacityProviderConfig", self.capacity_provider_config),
            ("DurableConfig", self.durable_config),
            ("FileSystemConfigs", self.file_system_configs),
            ("ImageConfig", self.image_config),
            ("KMSKeyArn", self.kms_key_arn),
            ("RuntimeConfig", self.runtime_config),
            ("VpcConfig", self.vpc_config),
        ]
    }
}

impl ConfigChange {
    /// The configuration of a new function.
    pub(crate) fn create(
        self,
        tenant_isolation: bool,
        layers: impl FindLayers,
    ) -> Result<FunctionConfig, ApiError> {
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
            tenant_isolation,
        };
        self.apply(&defaults, layers)
    }

    /// `before` with this change.
    pub(crate) fn apply(
        self,
        before: &FunctionConfig,
        layers: impl FindLayers,
    ) -> Result<FunctionConfig, ApiError> {
        if let Some(arn) = &self.dead_letter_target {
            check_dead_letter_target(arn)?;
        }
        unserved::refuse(&self.unserved)?;
        let runtime = self.runtime.map(|id| parse_runtime(&id)).transpose()?;
        let environment = self.variables.map(parse_environment).transpose()?;
        let logging = self.logging.map(LoggingChange::logging);
        let layers = self.layers.map(|arns| layers(&arns)).transpose()?;
        let before = before.clone();
        let config = FunctionConfig {
            runtime: runtime.unwrap_or(before.runtime),
            handler: self.handler.unwrap_or(before.handler),
            role: self.role.unwrap_or(before.role),
            description: self.description.unwrap_or(before.description),
            timeout_seconds: self.timeout_seconds.unwrap_or(before.timeout_seconds),
            memory_mib: self.memory_mib.unwrap_or(before.memory_mib),
            ephemeral_storage_mib: self
                .ephemeral_storage_mib
                .unwrap_or(before.ephemeral_storage_mib),
            environment: environment.or(before.environment),
            tracing_mode: self.tracing_mode.unwrap_or(before.tracing_mode),
            snap_start: self.snap_start.unwrap_or(before.snap_start),
            layers: layers.unwrap_or(before.layers),
            logging: logging.transpose()?.unwrap_or(before.logging),
            tenant_isolation: before.tenant_isolation,
        };
        if config.tenant_isolation && config.snap_start == "PublishedVersions" {
            return Err(ApiError::invalid(
                "SnapStart is not supported for functions with tenant isolation mode",
            ));
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::http::violations::checked;
    use crate::api::http::wire::parse;

    fn read(input: &Value) -> Result<ConfigInput, ApiError> {
        parse(input.to_string().as_bytes())
    }

    fn create(changes: Value) -> Result<FunctionConfig, ApiError> {
        let mut input = json!({
            "Runtime": "provided", "Handler": "bootstrap",
            "Role": "arn:aws:iam::000000000000:role/service/any",
        });
        input
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        checked(|violations| read(&input).map(|input| input.check_new(violations)))??
            .create(false, |_| Ok(Vec::new()))
    }

    #[test]
    fn defaults_are_lambdas() {
        let config = create(json!({})).unwrap();
        assert_eq!((config.timeout_seconds, config.memory_mib), (3, 128));
        assert_eq!(config.ephemeral_storage_mib, 512);
        assert_eq!(config.tracing_mode, "PassThrough");
    }

    #[test]
    fn limits_themselves_are_allowed_and_values_beyond_are_not() {
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
        with("K2", "\u{1F525}").unwrap();
        for (name, value) in [
            ("K", "x"),
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
    fn one_error_lists_all_members_out_of_form_before_later_checks() {
        let refused = create(json!({
            "Role": "me", "Handler": "a b", "Description": "x".repeat(257), "Timeout": 0,
            "MemorySize": 64, "DeadLetterConfig": {"TargetArn": "q"},
            "Environment": {"Variables": {"1BAD": "s3cret", "AWS_REGION": "x"}},
            "TracingConfig": {"Mode": "x"}, "Layers": ["l"], "EphemeralStorage": {"Size": 1},
            "SnapStart": {"ApplyOn": "x"}, "LoggingConfig": {"LogFormat": "x", "LogGroup": "a b"},
            "Runtime": "cobol",
        }))
        .unwrap_err();
        let message = format!("{refused:?}");
        let mut rest = message.as_str();
        for clause in [
            "13 validation errors detected: Value 'me' at 'role'",
            "; Value 'a b' at 'handler'",
            "' at 'description'",
            "; Value '0' at 'timeout'",
            "; Value '64' at 'memorySize'",
            "; Value 'q' at 'deadLetterConfig.targetArn'",
            "; Value at 'environment.variables' failed to satisfy constraint: Map keys must",
            "; Value 'x' at 'tracingConfig.mode'",
            "; Value '[l]' at 'layers'",
            "; Value '1' at 'ephemeralStorage.size'",
            "; Value 'x' at 'snapStart.applyOn'",
            "; Value 'x' at 'loggingConfig.logFormat'",
            "; Value 'a b' at 'loggingConfig.logGroup'",
        ] {
            let at = rest
                .find(clause)
                .unwrap_or_else(|| panic!("{clause} in {message}"));
            rest = &rest[at + clause.len()..];
        }
        assert!(!message.contains("s3cret"), "{message}");
    }

    fn updated(before: &FunctionConfig, changes: Value) -> FunctionConfig {
        let input = read(&changes).unwrap();
        let change = checked(|violations| input.check(violations)).unwrap();
        change.apply(before, |_| Ok(Vec::new())).unwrap()
    }

    /// `Environment={}` removed all variables.
    #[test]
    fn an_empty_member_of_an_update_changes_nothing() {
        let before = create(json!({
            "Environment": {"Variables": {"KEY": "1"}}, "TracingConfig": {"Mode": "Active"},
            "SnapStart": {"ApplyOn": "PublishedVersions"}, "Description": "d",
        }))
        .unwrap();
        for empty in [
            json!({"Environment": {}, "TracingConfig": {}, "SnapStart": {}, "VpcConfig": {}}),
            json!({"Environment": {"Variables": null}, "DeadLetterConfig": {}}),
            json!({"Environment": null, "TracingConfig": null, "EphemeralStorage": null}),
        ] {
            assert_eq!(updated(&before, empty.clone()), before, "{empty}");
        }
        let cleared = updated(&before, json!({"Environment": {"Variables": {}}}));
        assert_eq!(cleared.environment.unwrap().0.len(), 0);
        assert_eq!(updated(&before, json!({"Description": ""})).description, "");
    }

    #[test]
    fn an_update_replaces_the_logging_configuration_as_a_whole() {
        let levels = json!({"LogFormat": "JSON", "ApplicationLogLevel": "WARN", "LogGroup": "g"});
        let before = create(json!({"LoggingConfig": levels})).unwrap();
        let after = updated(&before, json!({"LoggingConfig": {"LogGroup": "h"}}));
        assert_eq!(after.logging.format, crate::function::LogFormat::Text);
        assert_eq!(after.logging.group_of("f"), "h");
        let after = updated(&before, json!({"LoggingConfig": {}}));
        assert_eq!(after.logging, Logging::default());
    }

    #[test]
    fn an_update_changes_only_the_members_that_it_names() {
        let before =
            create(json!({"Description": "d", "Environment": {"Variables": {"KEY": "1"}}}))
                .unwrap();
        let after = updated(&before, json!({"Timeout": 9}));
        assert_eq!(
            after,
            FunctionConfig {
                timeout_seconds: 9,
                ..before
            }
        );
    }
}
