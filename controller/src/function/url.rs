//! The registry's record of a function URL.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A function's URLs by alias; that of `$LATEST` is under the empty name.
pub(crate) type FunctionUrls = BTreeMap<String, FunctionUrl>;

/// A function URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FunctionUrl {
    /// The first label of its host name: 32 letters and digits.
    pub(crate) id: String,
    pub(crate) auth: AuthType,
    pub(crate) cors: Option<Cors>,
    #[serde(default)]
    pub(crate) mode: InvokeMode,
    /// As Lambda writes it: `2026-11-22T08:00:00.000Z`.
    pub(crate) created: String,
    pub(crate) modified: String,
}

/// Whether clients have to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AuthType {
    #[serde(rename = "NONE")]
    None,
    #[serde(rename = "AWS_IAM")]
    Iam,
}

/// When a response is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum InvokeMode {
    /// When the result is complete.
    #[default]
    Buffered,
    /// While the function writes it.
    ResponseStream,
}

/// The CORS configuration, with the member names of Lambda's API.
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
