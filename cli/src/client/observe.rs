//! Hearth's own API: the microVMs that serve functions.

use serde::{Deserialize, Serialize};
use ureq::http::Method;

use super::{Client, ClientError};

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
