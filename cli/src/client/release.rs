//! Lambda's API for versions and aliases: what a release takes.

use serde::Deserialize;
use serde_json::json;
use ureq::http::Method;

use super::function::{Configuration, FUNCTIONS, percent_encode, to_json};
use super::{Client, ClientError};
use crate::function_name::{AliasName, FunctionName};

impl Client {
    /// Publishes `$LATEST`. The version is `Pending` at first; what has not changed since it was
    /// published last is that version again.
    pub(crate) fn publish(&self, name: &FunctionName) -> Result<Configuration, ClientError> {
        self.json(Method::POST, &format!("{FUNCTIONS}/{name}/versions"), b"{}")
    }

    /// A version as it is.
    pub(crate) fn version(
        &self,
        name: &FunctionName,
        version: &str,
    ) -> Result<Configuration, ClientError> {
        let path = format!(
            "{FUNCTIONS}/{name}/configuration?Qualifier={}",
            percent_encode(version)
        );
        self.json(Method::GET, &path, b"")
    }

    /// How many concurrent invocations are reserved for the function, if any are.
    pub(crate) fn reserved_concurrency(
        &self,
        name: &FunctionName,
    ) -> Result<Option<u32>, ClientError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Concurrency {
            reserved_concurrent_executions: Option<u32>,
        }
        let path = format!("/2019-09-30/functions/{name}/concurrency");
        let answer: Concurrency = self.json(Method::GET, &path, b"")?;
        Ok(answer.reserved_concurrent_executions)
    }

    /// Points an alias to a version, and to that one alone; makes the alias where there is none.
    pub(crate) fn point(
        &self,
        name: &FunctionName,
        alias: &AliasName,
        version: &str,
    ) -> Result<(), ClientError> {
        let aliases = format!("{FUNCTIONS}/{name}/aliases");
        let moved = json!({ "FunctionVersion": version, "RoutingConfig": {} });
        match self.bytes(Method::PUT, &format!("{aliases}/{alias}"), &to_json(&moved)) {
            Err(error) if error.is_not_found() => {}
            other => return other.map(drop),
        }
        let made = json!({ "Name": alias.as_str(), "FunctionVersion": version });
        self.bytes(Method::POST, &aliases, &to_json(&made))
            .map(drop)
    }
}
