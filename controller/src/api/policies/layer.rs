//! Permissions in the policy of a layer's version: add, read, remove.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::statement::check_sid;
use crate::api::app::App;
use crate::api::change::to_the_end;
use crate::api::http::body::read_small;
use crate::api::http::error::ApiError;
use crate::api::http::parameters::{Parameters, Segments};
use crate::api::http::response::json_response;
use crate::api::http::violations::{Violations, checked};
use crate::api::http::wire::parse;
use crate::api::layers::versions::path_version;
use crate::function::{Conditions, Statement, is_account, is_partition, policy_document};

/// The only action that a layer's policy can allow.
const ACTION: &str = "lambda:GetLayerVersion";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PermissionInput {
    statement_id: Option<String>,
    action: Option<String>,
    principal: Option<String>,
    organization_id: Option<String>,
}

impl PermissionInput {
    fn check(&self, violations: &mut Violations) {
        if let Some(action) = violations.given(self.action.as_deref(), "action")
            && action != ACTION
        {
            let pattern = format!("Member must satisfy regular expression pattern: {ACTION}");
            violations.add(action, "action", &pattern);
        }
        if let Some(principal) = violations.given(self.principal.as_deref(), "principal")
            && !is_principal(principal)
        {
            violations.add(
                principal,
                "principal",
                "Member must satisfy regular expression pattern: \
                 \\d{12}|\\*|arn:(aws[a-zA-Z-]*):iam::\\d{12}:root",
            );
        }
        if let Some(sid) = violations.given(self.statement_id.as_deref(), "statementId") {
            check_sid(violations, sid);
        }
    }

    fn statement(self, resource: String) -> Option<Statement> {
        let conditions = Conditions {
            organization: self.organization_id,
            ..Conditions::default()
        };
        let (sid, principal, action) = (self.statement_id?, self.principal?, self.action?);
        Statement::allow(sid, &principal, action, resource, conditions)
    }
}

/// `*`, an account, or the ARN of an account's root.
fn is_principal(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        ["arn", partition, "iam", "", account, "root"] => {
            is_partition(partition) && is_account(account)
        }
        _ => text == "*" || is_account(text),
    }
}

pub(crate) async fn add(
    State(app): State<Arc<App>>,
    segments: Segments,
    parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read_small(&headers, body, "AddLayerVersionPermission").await?;
    let input: PermissionInput = parse(&body)?;
    checked(|violations| input.check(violations))?;
    let (name, number) = path_version(&app, &segments)?;
    let arn = app.arn_scope.layer_version_arn(&name, number);
    let statement = input.statement(arn.clone()).expect("it was checked");
    let written = statement.written();
    let seen = parameters.get("RevisionId").map(str::to_owned);
    let deployer = app.deployer.clone();
    let revision = to_the_end(async move {
        deployer
            .grant_layer(&name, number, statement, seen.as_deref())
            .await
    })
    .await?
    .map_err(|error| ApiError::layer_control(error, &arn))?;
    Ok(json_response(
        StatusCode::CREATED,
        &json!({ "Statement": written, "RevisionId": revision }),
    ))
}

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    segments: Segments,
) -> Result<Response, ApiError> {
    let (name, number) = path_version(&app, &segments)?;
    let layer = app.catalog.layer(&name);
    let version = layer.as_ref().and_then(|layer| layer.versions.get(&number));
    let arn = app.arn_scope.layer_version_arn(&name, number);
    let version = version.ok_or_else(|| ApiError::layer_version_not_found(&arn))?;
    let policy = version.policy.as_ref().ok_or_else(ApiError::no_policy)?;
    let answer = json!({
        "Policy": policy_document(&policy.statements),
        "RevisionId": policy.revision_id,
    });
    Ok(json_response(StatusCode::OK, &answer))
}

pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    segments: Segments,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let sid = segments.get("sid").to_owned();
    checked(|violations| check_sid(violations, &sid))?;
    let (name, number) = path_version(&app, &segments)?;
    let arn = app.arn_scope.layer_version_arn(&name, number);
    let seen = parameters.get("RevisionId").map(str::to_owned);
    let deployer = app.deployer.clone();
    to_the_end(async move {
        deployer
            .revoke_layer(&name, number, &sid, seen.as_deref())
            .await
    })
    .await?
    .map_err(|error| ApiError::layer_control(error, &arn))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_for_everybody_or_for_accounts() {
        for good in [
            "*",
            "123456789012",
            "arn:aws:iam::123456789012:root",
            "arn:aws-cn:iam::123456789012:root",
        ] {
            assert!(is_principal(good), "{good}");
        }
        for bad in [
            "",
            "s3.amazonaws.com",
            "1234",
            "arn:aws:iam::123456789012:user/u",
            "arn:x:iam::123456789012:root",
            "arn:aws:iam::1234:root",
        ] {
            assert!(!is_principal(bad), "{bad}");
        }
    }
}
