//! Lambda's API for versions and aliases: what a release takes.

use serde_json::json;
use ureq::http::Method;

use super::function::{Configuration, FUNCTIONS, to_json};
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
        let path = format!("{FUNCTIONS}/{name}/configuration?Qualifier={version}");
        self.json(Method::GET, &path, b"")
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
