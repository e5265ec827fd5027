//! Lambda's API for functions: create, update, read, list, delete.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use ureq::http::Method;

use super::{Client, ClientError};
use crate::function_name::FunctionName;

pub(super) const FUNCTIONS: &str = "/2015-03-31/functions";

/// A function as the controller describes it. Only what the commands show or compare.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Configuration {
    pub(crate) function_name: String,
    #[serde(default)]
    pub(crate) function_arn: String,
    #[serde(default)]
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) runtime: String,
    #[serde(default)]
    pub(crate) handler: String,
    #[serde(default)]
    pub(crate) code_size: u64,
    /// Base64 of the package's SHA-256.
    #[serde(default)]
    pub(crate) code_sha256: String,
    pub(crate) memory_size: u32,
    pub(crate) timeout: u32,
    #[serde(default)]
    pub(crate) last_modified: String,
    #[serde(default)]
    pub(crate) environment: Environment,
    /// Only how many there are is looked at.
    #[serde(default)]
    pub(crate) layers: Vec<serde::de::IgnoredAny>,
    #[serde(default)]
    pub(crate) state: String,
    pub(crate) state_reason: Option<String>,
    pub(crate) state_reason_code: Option<String>,
    pub(crate) last_update_status: Option<String>,
    pub(crate) last_update_status_reason: Option<String>,
    pub(crate) last_update_status_reason_code: Option<String>,
    #[serde(default)]
    pub(crate) hearth: Hearth,
}

/// What only Hearth says of a function.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Hearth {
    /// Why its init runs in each instance; empty if instances start from a snapshot of after it.
    #[serde(default)]
    pub(crate) init_in_each_instance: Vec<SharedGenerator>,
    /// Set if its init failed at the deploy: each invocation tries it again, and gets the error.
    pub(crate) init_failed: Option<FailedInit>,
    /// Whether its last deploy used the snapshot of an earlier one instead of running init.
    #[serde(default)]
    pub(crate) snapshot_reused: bool,
}

/// An init that failed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct FailedInit {
    pub(crate) reason: String,
    pub(crate) reason_code: String,
}

/// A library with a random generator that all instances would share if they started from a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "PascalCase"))]
pub(crate) struct SharedGenerator {
    pub(crate) library: String,
    pub(crate) file: String,
}

impl Hearth {
    /// The names of those libraries; `None` if there are none.
    pub(crate) fn libraries(&self) -> Option<String> {
        let names = self.init_in_each_instance.iter();
        let names: Vec<&str> = names.map(|found| found.library.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Why init runs in each instance, for people.
    pub(crate) fn notice(&self) -> Option<String> {
        let found = self.init_in_each_instance.iter();
        let found: Vec<String> = found
            .map(|SharedGenerator { library, file }| format!("{library} ({file})"))
            .collect();
        let have = match found.len() {
            0 => return None,
            1 => "has a random generator",
            _ => "have random generators",
        };
        Some(format!(
            "init runs in each instance: {} {have} that can't be reseeded in a snapshot. SnapStart opts in \
             to the snapshot.",
            found.join(", ")
        ))
    }
}

impl Configuration {
    /// Whether what was asked for last does not serve, because its deploy or its init failed.
    pub(crate) fn is_failed(&self) -> bool {
        self.state == "Failed"
            || self.last_update_status.as_deref() == Some("Failed")
            || self.hearth.init_failed.is_some()
    }

    /// Whether a deploy of it is under way.
    pub(crate) fn is_under_way(&self) -> bool {
        self.state == "Pending" || self.last_update_status.as_deref() == Some("InProgress")
    }

    /// What its deploy does at the moment, if the controller says it.
    pub(crate) fn phase(&self) -> Option<&str> {
        let reason = match self.last_update_status.as_deref() {
            Some("InProgress") => &self.last_update_status_reason,
            _ => &self.state_reason,
        };
        Some(reason.as_deref()?.split_once(" Now: ")?.1)
    }

    /// Why it, or its last update, failed.
    pub(crate) fn failure(&self) -> Option<&str> {
        if self.state == "Failed" {
            self.state_reason.as_deref()
        } else if self.last_update_status.as_deref() == Some("Failed") {
            self.last_update_status_reason.as_deref()
        } else {
            let failed = self.hearth.init_failed.as_ref();
            failed.map(|failed| failed.reason.as_str())
        }
    }
}

/// A function's variables; their values are never shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Environment {
    #[serde(default, rename = "Variables")]
    pub(crate) variables: BTreeMap<String, String>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// Body of `POST …/functions`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Create<'a> {
    pub(crate) function_name: &'a str,
    pub(crate) role: &'a str,
    pub(crate) runtime: &'a str,
    pub(crate) handler: &'a str,
    pub(crate) code: Code,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) environment: Option<Variables<'a>>,
}

/// Body of `PUT …/code`, and the package in the body of a create.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Code {
    /// Base64.
    pub(crate) zip_file: String,
}

/// Body of `PUT …/configuration`; fields that are left out keep their value.
#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Change<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) runtime: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) handler: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) environment: Option<Variables<'a>>,
}

impl Change<'_> {
    /// Whether there is nothing to change.
    pub(crate) fn is_empty(&self) -> bool {
        self.runtime.is_none()
            && self.handler.is_none()
            && self.memory_size.is_none()
            && self.timeout.is_none()
            && self.environment.is_none()
    }
}

/// All variables of a function.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Variables<'a> {
    pub(crate) variables: &'a BTreeMap<String, String>,
}

pub(super) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings, numbers and maps with string keys are JSON")
}

impl Client {
    /// The function as it is.
    pub(crate) fn configuration(&self, name: &FunctionName) -> Result<Configuration, ClientError> {
        self.json(
            Method::GET,
            &format!("{FUNCTIONS}/{name}/configuration"),
            b"",
        )
    }

    /// A new function. It is `Pending` at first.
    pub(crate) fn create(&self, create: &Create<'_>) -> Result<Configuration, ClientError> {
        self.json(Method::POST, FUNCTIONS, &to_json(create))
    }

    /// New code for a function. The update is in progress at first.
    pub(crate) fn update_code(
        &self,
        name: &FunctionName,
        code: &Code,
    ) -> Result<Configuration, ClientError> {
        self.json(
            Method::PUT,
            &format!("{FUNCTIONS}/{name}/code"),
            &to_json(code),
        )
    }

    /// New settings for a function. The update is in progress at first.
    pub(crate) fn update_configuration(
        &self,
        name: &FunctionName,
        change: &Change<'_>,
    ) -> Result<Configuration, ClientError> {
        let path = format!("{FUNCTIONS}/{name}/configuration");
        self.json(Method::PUT, &path, &to_json(change))
    }

    /// Deletes a function, its code and its instances.
    pub(crate) fn delete(&self, name: &FunctionName) -> Result<(), ClientError> {
        self.bytes(Method::DELETE, &format!("{FUNCTIONS}/{name}"), b"")?;
        Ok(())
    }

    /// The deploy of the function that is under way ends without a result.
    pub(crate) fn give_up(&self, name: &FunctionName) -> Result<(), ClientError> {
        let path = format!("/hearth/v1/functions/{name}/deploy");
        self.bytes(Method::DELETE, &path, b"").map(drop)
    }

    /// All functions, as the controller wrote them. Listings say nothing of a function's state, so
    /// each is asked for by itself; what was deleted meanwhile is left out.
    pub(crate) fn functions(&self) -> Result<Vec<serde_json::Value>, ClientError> {
        let mut all = Vec::new();
        for name in self.function_names()? {
            let path = format!("{FUNCTIONS}/{}/configuration", percent_encode(&name));
            match self.json(Method::GET, &path, b"") {
                Ok(function) => all.push(function),
                Err(ClientError::Refused { status: 404, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// The names of all functions, by page after page.
    fn function_names(&self) -> Result<Vec<String>, ClientError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Page {
            functions: Vec<Listed>,
            next_marker: Option<String>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Listed {
            function_name: String,
        }
        let mut all = Vec::new();
        let mut path = FUNCTIONS.to_owned();
        loop {
            let page: Page = self.json(Method::GET, &path, b"")?;
            let empty = page.functions.is_empty();
            all.extend(
                page.functions
                    .into_iter()
                    .map(|listed| listed.function_name),
            );
            match page.next_marker {
                // An empty page with a marker would make this loop endless.
                Some(marker) if !marker.is_empty() && !empty => {
                    path = format!("{FUNCTIONS}?Marker={}", percent_encode(&marker));
                }
                _ => return Ok(all),
            }
        }
    }
}

/// `text` as a value in a query: everything but RFC 3986's unreserved characters is escaped.
pub(super) fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_names_only_what_changes() {
        let change = Change {
            timeout: Some(5),
            ..Change::default()
        };
        assert_eq!(to_json(&change), br#"{"Timeout":5}"#);
        assert!(!change.is_empty() && Change::default().is_empty());
    }

    #[test]
    fn lambdas_configuration_is_understood_whatever_else_it_holds() {
        let text = r#"{"FunctionName":"f","MemorySize":128,"Timeout":3,"State":"Pending",
            "StateReasonCode":"Creating","CodeSha256":"x=","Environment":{"Variables":{"A1":"s"}},
            "Layers":[],"SnapStart":{"ApplyOn":"None"}}"#;
        let configuration: Configuration = serde_json::from_str(text).unwrap();
        assert_eq!(configuration.code_sha256, "x=");
        assert_eq!(configuration.state, "Pending");
        assert!(!format!("{configuration:?}").contains("\"s\""));
    }

    #[test]
    fn why_init_runs_in_each_instance_is_said_with_every_library() {
        let text = r#"{"FunctionName":"f","MemorySize":128,"Timeout":3,"Hearth":{"InitInEachInstance":[
            {"Library":"GnuTLS","File":"/opt/lib/libgnutls.so.30"},
            {"Library":"NSS","File":"/opt/lib/libnss3.so"}]}}"#;
        let configuration: Configuration = serde_json::from_str(text).unwrap();
        let hearth = configuration.hearth;
        assert_eq!(hearth.libraries().as_deref(), Some("GnuTLS, NSS"));
        let notice = hearth.notice().unwrap();
        assert!(
            notice.contains("GnuTLS (/opt/lib/libgnutls.so.30), NSS (/opt/lib/libnss3.so) have"),
            "{notice}"
        );
        assert_eq!(Hearth::default().notice(), None);
        assert_eq!(Hearth::default().libraries(), None);
    }

    #[test]
    fn a_reused_snapshot_is_understood() {
        let text =
            r#"{"FunctionName":"f","MemorySize":128,"Timeout":3,"Hearth":{"SnapshotReused":true}}"#;
        let configuration: Configuration = serde_json::from_str(text).unwrap();
        assert!(configuration.hearth.snapshot_reused);
        assert!(!Hearth::default().snapshot_reused);
    }

    #[test]
    fn a_query_value_is_escaped() {
        assert_eq!(percent_encode("$LATEST a/b&c"), "%24LATEST%20a%2Fb%26c");
        assert_eq!(percent_encode("ä"), "%C3%A4");
    }
}
