//! Hearth's own API: what functions wrote, and the microVMs that serve them.

use serde::{Deserialize, Serialize};
use ureq::http::Method;

use super::{Client, ClientError};
use crate::function_name::FunctionName;

/// One line of a function's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogRecord {
    /// Grows by each record of the function.
    pub(crate) seq: u64,
    /// RFC 3339, UTC.
    pub(crate) time: String,
    /// The invocation that wrote it, if one did.
    pub(crate) request_id: Option<String>,
    /// `function`, or `platform` for START, END and REPORT.
    pub(crate) kind: String,
    /// Without its newline.
    pub(crate) message: String,
}

/// One microVM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Instance {
    pub(crate) id: u64,
    pub(crate) function: String,
    pub(crate) version: String,
    /// `starting`, `busy`, `finishing` or `idle`.
    pub(crate) state: String,
    pub(crate) age_seconds: f64,
    pub(crate) idle_seconds: Option<f64>,
    /// The microVM's size.
    pub(crate) memory_mib: u64,
    /// Of its sandbox, once it has one.
    pub(crate) pid: Option<u32>,
    /// What the sandbox's process holds of the host's memory, shared pages in proportion.
    pub(crate) pss_kib: Option<u64>,
    pub(crate) invocations: u64,
}

impl Client {
    /// The records after `after`, oldest first, or the newest if there are more than a page.
    pub(crate) fn logs(
        &self,
        name: &FunctionName,
        after: Option<u64>,
    ) -> Result<Vec<LogRecord>, ClientError> {
        let mut path = format!("/hearth/v1/functions/{name}/logs?limit=10000");
        if let Some(after) = after {
            path.push_str(&format!("&after={after}"));
        }
        let body = self.bytes(Method::GET, &path, b"")?;
        body.split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| self.parse(&path, line))
            .collect()
    }

    /// Every microVM that serves or served a function, as the controller wrote them.
    pub(crate) fn instances(&self) -> Result<Vec<serde_json::Value>, ClientError> {
        #[derive(Deserialize)]
        struct Instances {
            instances: Vec<serde_json::Value>,
        }
        let answer: Instances = self.json(Method::GET, "/hearth/v1/instances", b"")?;
        Ok(answer.instances)
    }
}
