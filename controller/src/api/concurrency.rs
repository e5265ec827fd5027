//! Reserved concurrency and the account's settings.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ApiError;
use super::extract::Function;
use super::functions::json_response;
use super::package::{MAX_PACKAGE, read_small};
use super::violations::found;
use super::wire::parse;
use super::{App, Named};

/// Most code of all functions and layers together, in bytes: Lambda's quota. Nothing enforces it.
const TOTAL_CODE: u64 = 80_530_636_800;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReserveInput {
    reserved_concurrent_executions: Option<i64>,
}

pub(super) async fn put(
    State(app): State<Arc<App>>,
    Function(named): Function,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    of_the_whole(&named)?;
    app.function_by_version(&named)?;
    let body = read_small(&headers, body, "PutFunctionConcurrency").await?;
    let input: ReserveInput = parse(&body)?;
    let reserved = found(|violations| {
        let field = "reservedConcurrentExecutions";
        let wanted = violations.given(input.reserved_concurrent_executions, field)?;
        // Above every account's limit is refused with the account's own words.
        let most = i32::MAX.unsigned_abs();
        violations.in_range(wanted.min(i64::from(most)), 0..=most, field)
    })?;
    reserve(&app, &named, Some(reserved)).await?;
    let answer = json!({ "ReservedConcurrentExecutions": reserved });
    Ok(json_response(StatusCode::OK, &answer))
}

pub(super) async fn get(
    State(app): State<Arc<App>>,
    Function(named): Function,
) -> Result<Response, ApiError> {
    of_the_whole(&named)?;
    let function = app.find(&named)?;
    let answer = shown(function.record.reserved_concurrency);
    Ok(json_response(StatusCode::OK, &answer))
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Function(named): Function,
) -> Result<Response, ApiError> {
    of_the_whole(&named)?;
    app.find(&named)?;
    reserve(&app, &named, None).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Refuses qualifiers, `$LATEST` among them.
fn of_the_whole(named: &Named) -> Result<(), ApiError> {
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
        deployer.reserve_concurrency(&name, reserved).await
    })
    .await?;
    Ok(())
}

/// As it is part of several answers.
pub(super) fn shown(reserved: Option<u32>) -> Value {
    match reserved {
        Some(reserved) => json!({ "ReservedConcurrentExecutions": reserved }),
        None => json!({}),
    }
}

pub(super) async fn account_settings(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let (functions, _) = app.catalog.list(None, usize::MAX);
    let code: u64 = functions
        .iter()
        .map(|function| {
            let versions = function.versions.values();
            let published: u64 = versions.map(|version| version.record.code.size).sum();
            function.record.code.size + published
        })
        .sum();
    let layers = app.catalog.layers();
    let versions = layers.iter().flat_map(|layer| layer.versions.values());
    let in_layers: u64 = versions.map(|version| version.code.size).sum();
    let concurrency = app.pool.concurrency();
    Ok(json_response(
        StatusCode::OK,
        &json!({
            "AccountLimit": {
                "TotalCodeSize": TOTAL_CODE,
                "CodeSizeUnzipped": hearth_rootfs::function::MAX_UNZIPPED_BYTES,
                "CodeSizeZipped": MAX_PACKAGE,
                "ConcurrentExecutions": concurrency.limit(),
                "UnreservedConcurrentExecutions": concurrency.unreserved(),
            },
            "AccountUsage": {
                "TotalCodeSize": code + in_layers,
                "FunctionCount": functions.len(),
            },
        }),
    ))
}
