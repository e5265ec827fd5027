//! Reserved concurrency: put, read, delete.

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
use crate::api::http::response::json_response;
use crate::api::http::violations::found;
use crate::api::http::wire::parse;
use crate::api::target::extract::Function;
use crate::api::target::names::Named;
use crate::deploy::{Change, concurrency};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReserveInput {
    reserved_concurrent_executions: Option<i64>,
}

pub(crate) async fn put(
    State(app): State<Arc<App>>,
    Function(named): Function,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    check_unqualified(&named)?;
    app.function_by_version(&named)?;
    let body = read_small(&headers, body, "PutFunctionConcurrency").await?;
    let input: ReserveInput = parse(&body)?;
    let reserved = found(|violations| {
        let field = "reservedConcurrentExecutions";
        let wanted = violations.given(input.reserved_concurrent_executions, field)?;
        // A number above the account's limit gets the error of that limit, not of the model.
        let most = i32::MAX.unsigned_abs();
        violations.in_range(wanted.min(i64::from(most)), 0..=most, field)
    })?;
    reserve(&app, &named, Some(reserved)).await?;
    let answer = json!({ "ReservedConcurrentExecutions": reserved });
    Ok(json_response(StatusCode::OK, &answer))
}

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Function(named): Function,
) -> Result<Response, ApiError> {
    check_unqualified(&named)?;
    let function = app.find(&named)?;
    let answer = shown(function.record.reserved_concurrency);
    Ok(json_response(StatusCode::OK, &answer))
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Function(named): Function,
) -> Result<Response, ApiError> {
    check_unqualified(&named)?;
    app.find(&named)?;
    reserve(&app, &named, None).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Refuses every qualifier, also `$LATEST`.
fn check_unqualified(named: &Named) -> Result<(), ApiError> {
    match named.qualifier {
        None => Ok(()),
        Some(_) => Err(ApiError::invalid(
            "This operation is permitted on Lambda functions only. Aliases and versions do not \
             support this operation. Please specify either a function name or an unqualified \
             function ARN.",
        )),
    }
}

async fn reserve(app: &App, named: &Named, reserved: Option<u32>) -> Result<(), ApiError> {
    app.change_function(named, |deployer, name| async move {
        let reserve = |change: &mut Change<'_>| concurrency::reserve(change, reserved);
        deployer.change(&name, reserve).await
    })
    .await?;
    Ok(())
}

/// The JSON object that several operations return.
pub(crate) fn shown(reserved: Option<u32>) -> Value {
    match reserved {
        Some(reserved) => json!({ "ReservedConcurrentExecutions": reserved }),
        None => json!({}),
    }
}
