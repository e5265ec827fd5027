//! Resource-based policies of functions and layers. They are stored and returned, but not enforced.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::is_account;

/// Longest policy, in bytes of JSON: Lambda's quota.
pub(crate) const MAX_POLICY: usize = 20_480;

/// A function's policies by qualifier. The unqualified function's is under `$LATEST`.
pub(crate) type Policies = BTreeMap<String, Vec<Statement>>;

/// One permission, with the members in the order in which Lambda writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Statement {
    pub(crate) sid: String,
    effect: String,
    principal: Value,
    action: String,
    resource: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    condition: Option<Value>,
}

/// The conditions of a permission.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conditions {
    pub(crate) source_arn: Option<String>,
    pub(crate) source_account: Option<String>,
    pub(crate) event_source_token: Option<String>,
    pub(crate) organization: Option<String>,
    pub(crate) function_url_auth: Option<String>,
    pub(crate) invoked_via_function_url: Option<bool>,
}

impl Statement {
    /// A statement that allows `principal` the `action` on `resource`. `None` if the principal is not
    /// valid.
    pub(crate) fn allow(
        sid: String,
        principal: &str,
        action: String,
        resource: String,
        conditions: Conditions,
    ) -> Option<Self> {
        Some(Self {
            sid,
            effect: "Allow".into(),
            principal: parse_principal(principal)?,
            action,
            resource,
            condition: conditions.document(),
        })
    }

    /// The statement as JSON.
    pub(crate) fn written(&self) -> String {
        serde_json::to_string(self).expect("strings and JSON values are JSON")
    }
}

/// Why a policy could not be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PolicyError {
    /// The policy has a statement of that id.
    #[error("there is a statement {0} already")]
    StatementExists(String),
    /// There is no policy.
    #[error("there is no policy")]
    NoPolicy,
    /// The policy has no statement of that id.
    #[error("there is no statement {0}")]
    NoStatement(String),
    /// The policy would be too long.
    #[error("a policy of {0} bytes is too long")]
    TooLong(usize),
}

/// Adds a permission to a policy.
pub(crate) fn add(
    statements: &mut Vec<Statement>,
    statement: Statement,
) -> Result<(), PolicyError> {
    if statements.iter().any(|known| known.sid == statement.sid) {
        return Err(PolicyError::StatementExists(statement.sid));
    }
    statements.push(statement);
    let size = document(statements).len();
    if size > MAX_POLICY {
        return Err(PolicyError::TooLong(size));
    }
    Ok(())
}

/// Removes a permission from a policy.
pub(crate) fn remove(statements: &mut Vec<Statement>, sid: &str) -> Result<(), PolicyError> {
    if statements.is_empty() {
        return Err(PolicyError::NoPolicy);
    }
    let before = statements.len();
    statements.retain(|statement| statement.sid != sid);
    if statements.len() == before {
        return Err(PolicyError::NoStatement(sid.into()));
    }
    Ok(())
}

impl Conditions {
    fn document(self) -> Option<Value> {
        let mut equal = Map::new();
        for (key, value) in [
            ("AWS:SourceAccount", self.source_account),
            ("lambda:EventSourceToken", self.event_source_token),
            ("aws:PrincipalOrgID", self.organization),
            ("lambda:FunctionUrlAuthType", self.function_url_auth),
        ] {
            if let Some(value) = value {
                equal.insert(key.into(), value.into());
            }
        }
        let mut document = Map::new();
        if !equal.is_empty() {
            document.insert("StringEquals".into(), equal.into());
        }
        if let Some(arn) = self.source_arn {
            document.insert("ArnLike".into(), json!({ "AWS:SourceArn": arn }));
        }
        if let Some(via) = self.invoked_via_function_url {
            let via = json!({ "lambda:InvokedViaFunctionUrl": via.to_string() });
            document.insert("Bool".into(), via);
        }
        (!document.is_empty()).then(|| document.into())
    }
}

/// Parses a principal: `*`, a service, an account, or the ARN of a user or role.
fn parse_principal(text: &str) -> Option<Value> {
    if text == "*" {
        return Some("*".into());
    }
    if is_account(text) {
        return Some(json!({ "AWS": format!("arn:aws:iam::{text}:root") }));
    }
    if text.starts_with("arn:") && text.split(':').count() >= 6 {
        return Some(json!({ "AWS": text }));
    }
    let host = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
    (text.contains('.') && text.bytes().all(host)).then(|| json!({ "Service": text }))
}

/// The policy as a JSON document.
pub(crate) fn document(statements: &[Statement]) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Document<'a> {
        version: &'static str,
        id: &'static str,
        statement: &'a [Statement],
    }
    let document = Document {
        version: "2012-10-17",
        id: "default",
        statement: statements,
    };
    serde_json::to_string(&document).expect("strings and JSON values are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_is_everybody_a_service_an_account_or_an_arn() {
        for (text, expected) in [
            ("*", json!("*")),
            ("s3.amazonaws.com", json!({"Service": "s3.amazonaws.com"})),
            (
                "123456789012",
                json!({"AWS": "arn:aws:iam::123456789012:root"}),
            ),
            (
                "arn:aws:iam::123456789012:user/u",
                json!({"AWS": "arn:aws:iam::123456789012:user/u"}),
            ),
        ] {
            assert_eq!(parse_principal(text), Some(expected));
        }
        for bad in ["", "somebody", "1234", "arn:aws", "a b.c", "é.com"] {
            assert_eq!(parse_principal(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_policy_is_written_in_lambdas_order() {
        let conditions = Conditions {
            source_arn: Some("arn:b".into()),
            source_account: Some("1".into()),
            invoked_via_function_url: Some(true),
            ..Conditions::default()
        };
        let (action, resource) = ("lambda:InvokeFunction".into(), "arn:f".into());
        let statement = Statement::allow("s".into(), "*", action, resource, conditions).unwrap();
        assert_eq!(
            document(&[statement]),
            r#"{"Version":"2012-10-17","Id":"default","Statement":[{"Sid":"s","Effect":"Allow","Principal":"*","Action":"lambda:InvokeFunction","Resource":"arn:f","Condition":{"ArnLike":{"AWS:SourceArn":"arn:b"},"Bool":{"lambda:InvokedViaFunctionUrl":"true"},"StringEquals":{"AWS:SourceAccount":"1"}}}]}"#
        );
    }
}
