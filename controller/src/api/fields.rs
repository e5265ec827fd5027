//! The rules for single values: ranges, patterns, sizes, with Lambda's texts.

use std::collections::BTreeMap;

use super::error::ApiError;
use crate::function::{Environment, Runtime};

/// Largest sum of names and values of environment variables, as JSON, in bytes.
const MAX_ENVIRONMENT: usize = 4096;
const MAX_TAGS: usize = 50;

/// Variables that belong to the platform.
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

pub(super) fn missing(field: &str) -> ApiError {
    ApiError::validation(format!(
        "1 validation error detected: Value null at '{field}' failed to satisfy constraint: Member \
         must not be null"
    ))
}

pub(super) fn parse_runtime(id: &str) -> Result<Runtime, ApiError> {
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

pub(super) fn parse_handler(handler: String) -> Result<String, ApiError> {
    at_most(&handler, 128, "handler")?;
    if handler.is_empty() || handler.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(ApiError::constraint(
            &handler,
            "handler",
            "Member must satisfy regular expression pattern: [^\\s]+",
        ));
    }
    Ok(handler)
}

/// `arn:aws:iam::<account>:role/<path>`: nobody here assumes it, but clients send and expect it.
pub(super) fn parse_role(role: String) -> Result<String, ApiError> {
    let fine = |path: &str| {
        !path.is_empty()
            && path
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+=,.@-_/".contains(&b))
    };
    let parts: Vec<&str> = role.splitn(6, ':').collect();
    let good = match parts.as_slice() {
        ["arn", partition, "iam", "", account, resource] => {
            partition.starts_with("aws")
                && partition
                    .bytes()
                    .all(|b| b.is_ascii_alphabetic() || b == b'-')
                && account.len() == 12
                && account.bytes().all(|b| b.is_ascii_digit())
                && resource.strip_prefix("role").is_some_and(fine)
                && role.len() <= 2048
        }
        _ => false,
    };
    if good {
        return Ok(role);
    }
    Err(ApiError::constraint(
        &role,
        "role",
        "Member must satisfy regular expression pattern: \
         arn:(aws[a-zA-Z-]*)?:iam::\\d{12}:role/?[a-zA-Z_0-9+=,.@\\-_/]+",
    ))
}

pub(super) fn parse_environment(
    variables: BTreeMap<String, String>,
) -> Result<Environment, ApiError> {
    for (name, value) in &variables {
        let mut bytes = name.bytes();
        let good = bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
            && name.len() >= 2
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
        // Names of one letter are outside of the API's pattern, and taken all the same.
        let single = name.len() == 1 && name.bytes().all(|b| b.is_ascii_alphabetic());
        if RESERVED.contains(&name.as_str()) {
            return Err(ApiError::invalid(format!(
                "Lambda was unable to configure your environment variables because the environment \
                 variables you have provided contains reserved keys that are currently not \
                 supported for modification. Reserved keys used in this request: {name}"
            )));
        }
        if !good && !single {
            let shown: String = name.chars().take(100).collect();
            return Err(ApiError::validation(format!(
                "1 validation error detected: Value at 'environment.variables' failed to satisfy \
                 constraint: Map keys must satisfy constraint: [Member must satisfy regular \
                 expression pattern: [a-zA-Z]([a-zA-Z0-9_])+], the key was {shown:?}"
            )));
        }
        if value.contains('\0') {
            return Err(ApiError::invalid(format!(
                "The value of variable {name} contains a NUL byte"
            )));
        }
    }
    let measured =
        serde_json::to_string(&variables).map_err(|error| ApiError::invalid(error.to_string()))?;
    if measured.len() > MAX_ENVIRONMENT {
        // Lambda repeats the whole string here. Values are secrets: not even in an answer that a
        // client may log.
        return Err(ApiError::invalid(format!(
            "Lambda was unable to configure your environment variables because the environment \
             variables you have provided exceeded the 4KB limit. String measured: {} bytes",
            measured.len()
        )));
    }
    Ok(Environment(variables))
}

pub(super) fn check_tags(
    tags: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ApiError> {
    if tags.len() > MAX_TAGS {
        return Err(ApiError::invalid(
            "Number of tags exceeds resource tag limit.",
        ));
    }
    for (key, value) in &tags {
        at_most(key, 128, "tags.key")?;
        at_most(value, 256, "tags.value")?;
    }
    Ok(tags)
}

pub(super) fn at_most(text: &str, limit: usize, field: &str) -> Result<(), ApiError> {
    if text.chars().count() > limit {
        let constraint = format!("Member must have length less than or equal to {limit}");
        return Err(ApiError::constraint(text, field, &constraint));
    }
    Ok(())
}

pub(super) fn in_range(value: i64, least: u32, most: u32, field: &str) -> Result<u32, ApiError> {
    let shown = value.to_string();
    match u32::try_from(value) {
        Ok(value) if value > most => {
            let constraint = format!("Member must have value less than or equal to {most}");
            Err(ApiError::constraint(&shown, field, &constraint))
        }
        Ok(value) if value >= least => Ok(value),
        _ if value > i64::from(most) => {
            let constraint = format!("Member must have value less than or equal to {most}");
            Err(ApiError::constraint(&shown, field, &constraint))
        }
        _ => {
            let constraint = format!("Member must have value greater than or equal to {least}");
            Err(ApiError::constraint(&shown, field, &constraint))
        }
    }
}

/// A whole number in a query.
pub(super) fn number(text: &str, name: &str, least: u64, most: u64) -> Result<u64, ApiError> {
    text.parse()
        .ok()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| {
            ApiError::invalid(format!(
                "{name} must be a number from {least} to {most}, it was {text:?}"
            ))
        })
}

pub(super) fn one_of(value: String, known: &[&str], field: &str) -> Result<String, ApiError> {
    if known.contains(&value.as_str()) {
        return Ok(value);
    }
    let constraint = format!("Member must satisfy enum value set: [{}]", known.join(", "));
    Err(ApiError::constraint(&value, field, &constraint))
}
