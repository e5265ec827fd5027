//! The account's limits and their current use.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use crate::api::app::App;
use crate::api::http::error::ApiError;
use crate::api::http::response::json_response;
use crate::api::packages::upload::MAX_PACKAGE;

/// Maximum size of the code of all functions and layers together, in bytes: Lambda's quota. The
/// controller reports it but does not enforce it.
const TOTAL_CODE: u64 = 80_530_636_800;

pub(crate) async fn account_settings(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
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
