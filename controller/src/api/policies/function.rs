//! Permissions in a function's policy: add, read, remove.

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
use crate::api::target::extract::{Function, Namespaced};
use crate::api::target::names::Named;
use crate::deploy::{Change, annotations};
use crate::function::{Conditions, LATEST, Statement, policy_document};
use crate::registry::Target;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PermissionInput {
    statement_id: Option<String>,
    action: Option<String>,
    principal: Option<String>,
    source_arn: Option<String>,
    source_account: Option<String>,
    event_source_token: Option<String>,
    #[serde(rename = "PrincipalOrgID")]
    principal_org_id: Option<String>,
    function_url_auth_type: Option<String>,
    invoked_via_function_url: Option<bool>,
    revision_id: Option<String>,
}

impl PermissionInput {
    /// Checks the form, without looking up the function.
    fn check(&self, violations: &mut Violations) {
        if let Some(sid) = violations.given(self.statement_id.as_ref(), "statementId") {
            check_sid(violations, sid);
        }
        if let Some(action) = violations.given(self.action.as_ref(), "action") {
            let name = action.strip_prefix("lambda:").unwrap_or_default();
            let named = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphabetic());
            if action != "*" && name != "*" && !named {
                violations.add(
                    action,
                    "action",
                    "Member must satisfy regular expression pattern: \
                     (lambda:[*]|lambda:[a-zA-Z]+|[*])",
                );
            }
        }
        violations.given(self.principal.as_ref(), "principal");
        if let Some(kind) = &self.function_url_auth_type {
            violations.one_of(kind, &["NONE", "AWS_IAM"], "functionUrlAuthType");
        }
    }

    fn statement(self, resource: String) -> Result<Statement, ApiError> {
        let (Some(sid), Some(action), Some(principal)) =
            (self.statement_id, self.action, self.principal)
        else {
            unreachable!("check() has found all three");
        };
        let conditions = Conditions {
            source_arn: self.source_arn,
            source_account: self.source_account,
            event_source_token: self.event_source_token,
            organization: self.principal_org_id,
            function_url_auth: self.function_url_auth_type,
            invoked_via_function_url: self.invoked_via_function_url,
        };
        Statement::allow(sid, &principal, action, resource, conditions).ok_or_else(|| {
            ApiError::invalid(
                "The provided principal was invalid. Please check the principal and try again.",
            )
        })
    }
}

pub(crate) async fn add(
    State(app): State<Arc<App>>,
    Function(named): Function,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read_small(&headers, body, "AddPermission").await?;
    let mut input: PermissionInput = parse(&body)?;
    checked(|violations| input.check(violations))?;
    let function = app.function(&named)?;
    if named.qualifier.as_deref() == Some(LATEST) {
        return Err(ApiError::invalid(
            "We currently do not support adding policies for $LATEST.",
        ));
    }
    app.target_or_alias(&function, &named)?;
    let revision = input.revision_id.take();
    let arn = named.arn(&app.arn_scope);
    let statement = input.statement(arn.clone())?;
    let written = statement.written();
    let deployer = app.deployer.clone();
    to_the_end(async move {
        let Named { name, qualifier } = named;
        let grant = |change: &mut Change<'_>| {
            annotations::grant(change, qualifier.as_deref(), statement, revision.as_deref())
        };
        deployer.change(&name, grant).await
    })
    .await?
    .map_err(|error| ApiError::control(error, &arn))?;
    Ok(json_response(
        StatusCode::CREATED,
        &json!({ "Statement": written }),
    ))
}

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Namespaced(named): Namespaced,
) -> Result<Response, ApiError> {
    let function = app.function(&named)?;
    let none = || ApiError::not_found("The resource you requested does not exist.");
    let target = function.target(named.qualifier.as_deref());
    let revision = match target.ok_or_else(none)? {
        Target::Latest => &function.record.revision_id,
        Target::Published(published) => &published.record.revision_id,
        Target::Alias(alias) => &alias.revision_id,
    };
    let key = named.qualifier.as_deref().unwrap_or(LATEST);
    let statements = function.record.policies.get(key).ok_or_else(none)?;
    let answer = json!({ "Policy": policy_document(statements), "RevisionId": revision });
    Ok(json_response(StatusCode::OK, &answer))
}

pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    Function(named): Function,
    segments: Segments,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let sid = segments.get("sid").to_owned();
    checked(|violations| check_sid(violations, &sid))?;
    let function = app.catalog.get(&named.name).ok_or_else(|| {
        ApiError::not_found(format!(
            "No policy found for: {}",
            named.arn(&app.arn_scope)
        ))
    })?;
    app.target_or_alias(&function, &named)?;
    let revision = parameters.get("RevisionId").map(str::to_owned);
    let arn = named.arn(&app.arn_scope);
    let deployer = app.deployer.clone();
    to_the_end(async move {
        let Named { name, qualifier } = named;
        let revoke = |change: &mut Change<'_>| {
            annotations::revoke(change, qualifier.as_deref(), &sid, revision.as_deref())
        };
        deployer.change(&name, revoke).await
    })
    .await?
    .map_err(|error| ApiError::control(error, &arn))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
