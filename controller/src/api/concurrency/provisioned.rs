//! Provisioned concurrency: put, read, list, delete.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::app::App;
use crate::api::http::body::read_small;
use crate::api::http::error::ApiError;
use crate::api::http::page;
use crate::api::http::parameters::Parameters;
use crate::api::http::response::json_response;
use crate::api::http::violations::found;
use crate::api::http::wire::parse;
use crate::api::target::extract::Function;
use crate::api::target::names::Named;
use crate::deploy::{Change, provisioning};
use crate::function::{LATEST, ProvisionedRecord, State as VersionState};
use crate::registry::{self, Target};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutInput {
    provisioned_concurrent_executions: Option<i64>,
}

/// The function, and the qualifier of the version or alias that the request must name. `refusal` is the
/// message for `$LATEST`.
fn provisionable(
    app: &App,
    named: &Named,
    refusal: &str,
) -> Result<(Arc<registry::Function>, String), ApiError> {
    let qualifier = named.qualifier.clone();
    let qualifier = found(|violations| violations.given(qualifier, "qualifier"))?;
    if qualifier == LATEST {
        return Err(ApiError::invalid(refusal));
    }
    let found = app.catalog.get(&named.name);
    // Lambda's error names the version or alias even if the function does not exist.
    let function = found.ok_or_else(|| app.no_target(named))?;
    app.target_or_alias(&function, named)?;
    Ok((function, qualifier))
}

const NOT_PUBLISHED: &str =
    "Provisioned Concurrency Configs cannot be applied to unpublished function versions.";
const NOT_A_VERSION: &str =
    "The function resource provided must be an alias or a published version.";

pub(crate) async fn put(
    State(app): State<Arc<App>>,
    Function(named): Function,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read_small(&headers, body, "PutProvisionedConcurrencyConfig").await?;
    let input: PutInput = parse(&body)?;
    let requested = found(|violations| {
        violations.given(named.qualifier.as_ref(), "qualifier");
        let field = "provisionedConcurrentExecutions";
        let wanted = violations.given(input.provisioned_concurrent_executions, field)?;
        // A number above the account's limit gets the error of that limit, not of the model.
        let most = i32::MAX.unsigned_abs();
        violations.in_range(wanted.min(i64::from(most)), 1..=most, field)
    })?;
    let (_, qualifier) = provisionable(&app, &named, NOT_PUBLISHED)?;
    let key = qualifier.clone();
    let function = app
        .change_function(&named, |deployer, name| async move {
            deployer.put_provisioned(&name, &key, requested).await
        })
        .await?;
    let record = function.record.provisioned.get(&qualifier);
    let record =
        record.ok_or_else(|| ApiError::service("The configuration was deleted meanwhile"))?;
    // Lambda responds with 0 available here, even if some instances are ready.
    let answer = describe(record, 0, "IN_PROGRESS", None);
    Ok(json_response(StatusCode::ACCEPTED, &answer))
}

pub(crate) async fn get_or_list(
    State(app): State<Arc<App>>,
    Function(named): Function,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    if parameters.get("List") == Some("ALL") {
        return list(&app, &named, &parameters);
    }
    let (function, qualifier) = provisionable(&app, &named, NOT_A_VERSION)?;
    let Some(record) = function.record.provisioned.get(&qualifier) else {
        return Err(ApiError::no_provisioned());
    };
    let answer = status(&app, &function, &qualifier, record);
    Ok(json_response(StatusCode::OK, &answer))
}

fn list(app: &App, named: &Named, parameters: &Parameters) -> Result<Response, ApiError> {
    let function = app.find(named)?;
    let all = function.record.provisioned.iter();
    let (page, next) = page::cut(all, parameters, |(qualifier, _)| (*qualifier).clone())?;
    let shown: Vec<Value> = page
        .iter()
        .map(|(qualifier, record)| {
            let mut item = status(app, &function, qualifier, record);
            item["FunctionArn"] = app.arn_scope.qualified_arn(&named.name, qualifier).into();
            item
        })
        .collect();
    Ok(page::answer("ProvisionedConcurrencyConfigs", shown, next))
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Function(named): Function,
) -> Result<Response, ApiError> {
    let (_, qualifier) = provisionable(&app, &named, NOT_A_VERSION)?;
    app.change_function(&named, |deployer, name| async move {
        let delete = |change: &mut Change<'_>| provisioning::delete(change, &qualifier);
        deployer.change(&name, delete).await
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn status(
    app: &App,
    function: &registry::Function,
    qualifier: &str,
    record: &ProvisionedRecord,
) -> Value {
    let named = Named {
        name: function.record.name.clone(),
        qualifier: Some(qualifier.into()),
    };
    let published = match app.target(function, &named) {
        Ok(Target::Published(published)) => Some(published.as_ref()),
        Ok(Target::Alias(alias)) => function.published(alias.version).map(AsRef::as_ref),
        Ok(Target::Latest) | Err(_) => None,
    };
    let Some(published) = published else {
        return describe(record, 0, "FAILED", Some("there is no version to start"));
    };
    let Some(live) = &published.live else {
        let state = &published.record.state;
        return match state.is {
            VersionState::Failed => describe(record, 0, "FAILED", state.reason.as_deref()),
            _ => describe(record, 0, "IN_PROGRESS", None),
        };
    };
    let provisioned = app.pool.provisioned(live);
    let ready = provisioned.ready.min(record.requested);
    match provisioned.failed {
        _ if ready == record.requested => describe(record, ready, "READY", None),
        Some(why) => describe(record, ready, "FAILED", Some(&why)),
        None => describe(record, ready, "IN_PROGRESS", None),
    }
}

fn describe(record: &ProvisionedRecord, ready: u32, status: &str, reason: Option<&str>) -> Value {
    let mut out = json!({
        "RequestedProvisionedConcurrentExecutions": record.requested,
        "AvailableProvisionedConcurrentExecutions": ready,
        "AllocatedProvisionedConcurrentExecutions": ready,
        "Status": status,
        "LastModified": record.last_modified,
    });
    if let Some(reason) = reason {
        out["StatusReason"] = reason.into();
    }
    out
}
