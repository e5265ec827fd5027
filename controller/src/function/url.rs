//! A function's URL as the registry keeps it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A function's URLs: that of `$LATEST` under the empty name, those of aliases under theirs.
pub(crate) type FunctionUrls = BTreeMap<String, FunctionUrl>;

/// One URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FunctionUrl {
    /// First label of its host name: 32 letters and digits.
    pub(crate) id: String,
    pub(crate) auth: AuthType,
    pub(crate) cors: Option<Cors>,
    #[serde(default)]
    pub(crate) mode: InvokeMode,
    /// As Lambda writes it: `2026-11-22T08:00:00.000Z`.
    pub(crate) created: String,
    pub(crate) modified: String,
}

/// Who may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AuthType {
    #[serde(rename = "NONE")]
    None,
    #[serde(rename = "AWS_IAM")]
    Iam,
}

/// When a response leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum InvokeMode {
    /// When it is complete.
    #[default]
    Buffered,
    /// As the function writes it.
    ResponseStream,
}

/// What browsers are told about pages from elsewhere. Written and read as Lambda's API has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Cors {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allow_credentials: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allow_headers: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allow_methods: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allow_origins: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expose_headers: Option<Vec<String>>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_age: Option<u32>,
}
