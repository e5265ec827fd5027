//! Rules for single members of a configuration: ranges, patterns, sizes, with Lambda's texts.

use std::collections::BTreeMap;

use crate::api::http::error::ApiError;
use crate::api::http::violations::{Violations, checked};
use crate::function::{Environment, Runtime, is_account, is_partition};

/// Largest size of all environment variables as JSON, in bytes.
const MAX_ENVIRONMENT: usize = 4096;
const MAX_TAGS: usize = 50;

/// Variables that the platform sets.
const RESERVED: [&str; 20] = [
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_LAMBDA_RUNTIME_API",
    "LAMBDA_TASK_ROOT",
    "LAMBDA_RUNTIME_DIR",
    "AWS_LAMBDA_MAX_CONCURRENCY",
    "AWS_LAMBDA_METADATA_API",
];

pub(crate) fn parse_runtime(id: &str) -> Result<Runtime, ApiError> {
    Runtime::parse(id).ok_or_else(|| {
        let known: Vec<&str> = Runtime::ALL.iter().map(|runtime| runtime.id()).collect();
        let shown: String = id.chars().take(100).collect();
        ApiError::invalid(format!(
            "Value {shown} at 'runtime' failed to satisfy constraint: Member must satisfy enum \
             value set: [{}] or be a valid ARN",
            known.join(", ")
        ))
    })
}

pub(crate) fn check_handler(violations: &mut Violations, handler: &str) {
    violations.at_most(handler, 128, "handler");
    if handler.is_empty() || handler.chars().any(|c| c.is_whitespace() || c.is_control()) {
        violations.add(
            handler,
            "handler",
            "Member must satisfy regular expression pattern: [^\\s]+",
        );
    }
}

/// Checks `arn:aws:iam::<account>:role/<path>`. Clients send a role and expect it back; the controller
/// does not use it.
pub(crate) fn check_role(violations: &mut Violations, role: &str) {
    let fine = |path: &str| {
        !path.is_empty()
            && path
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+=,.@-_/".contains(&b))
    };
    let parts: Vec<&str> = role.splitn(6, ':').collect();
    let good = match parts.as_slice() {
        ["arn", partition, "iam", "", account, resource] => {
            is_partition(partition)
                && is_account(account)
                && resource.strip_prefix("role").is_some_and(fine)
                && role.len() <= 2048
        }
        _ => false,
    };
    if !good {
        violations.add(
            role,
            "role",
            "Member must satisfy regular expression pattern: \
             arn:(aws[a-zA-Z-]*)?:iam::\\d{12}:role/?[a-zA-Z_0-9+=,.@\\-_/]+",
        );
    }
}

/// Checks the names of environment variables.
pub(crate) fn check_variables(violations: &mut Violations, variables: &BTreeMap<String, String>) {
    let good = |name: &String| {
        let mut bytes = name.bytes();
        name.len() >= 2
            && bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let belongs_to_lambda = |name: &String| RESERVED.contains(&name.as_str());
    if !variables
        .keys()
        .all(|name| good(name) || belongs_to_lambda(name))
    {
        violations.add_secret(
            "environment.variables",
            "Map keys must satisfy constraint: [Member must satisfy regular expression pattern: \
             [a-zA-Z]([a-zA-Z0-9_])+, Member must not be null]",
        );
    }
}

pub(crate) fn parse_environment(
    variables: BTreeMap<String, String>,
) -> Result<Environment, ApiError> {
    let reserved = |name: &&String| RESERVED.contains(&name.as_str());
    let taken: Vec<&str> = variables
        .keys()
        .filter(reserved)
        .map(String::as_str)
        .collect();
    if !taken.is_empty() {
        return Err(ApiError::invalid(format!(
            "Lambda was unable to configure your environment variables because the environment \
             variables you have provided contains reserved keys that are currently not supported \
             for modification. Reserved keys used in this request: {}",
            taken.join(", ")
        )));
    }
    if let Some((name, _)) = variables.iter().find(|(_, value)| value.contains('\0')) {
        return Err(ApiError::invalid(format!(
            "The value of variable {name} contains a NUL byte"
        )));
    }
    let measured =
        serde_json::to_string(&variables).map_err(|error| ApiError::invalid(error.to_string()))?;
    if measured.len() > MAX_ENVIRONMENT {
        // Lambda's message repeats the whole string here. Ours does not: values may be secrets, and
        // clients log messages.
        return Err(ApiError::invalid(format!(
            "Lambda was unable to configure your environment variables because the environment \
             variables you have provided exceeded the 4KB limit. String measured: {} bytes",
            measured.len()
        )));
    }
    Ok(Environment(variables))
}

pub(crate) fn check_tags(
    tags: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ApiError> {
    if tags.len() > MAX_TAGS {
        return Err(ApiError::invalid(
            "Number of tags exceeds resource tag limit.",
        ));
    }
    checked(|violations| {
        for (key, value) in &tags {
            violations.at_most(key, 128, "tags.key");
            violations.at_most(value, 256, "tags.value");
        }
    })?;
    Ok(tags)
}
