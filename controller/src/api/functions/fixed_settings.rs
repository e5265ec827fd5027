//! Settings of Lambda's that are the same for every function here. They can't be changed; clients
//! that compare all of a function's settings read them.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use crate::api::app::App;
use crate::api::http::error::ApiError;
use crate::api::http::response::json_response;
use crate::api::target::extract::Namespaced;

/// No function's code has to be signed.
pub(crate) async fn code_signing(
    State(app): State<Arc<App>>,
    Namespaced(named): Namespaced,
) -> Result<Response, ApiError> {
    app.function(&named)?;
    Ok(json_response(StatusCode::OK, &json!({})))
}

/// A function gets a new build of its runtime whenever it is deployed on one.
pub(crate) async fn runtime_management(
    State(app): State<Arc<App>>,
    Namespaced(named): Namespaced,
) -> Result<Response, ApiError> {
    let function = app.function(&named)?;
    app.target(&function, &named)?;
    let answer = json!({ "UpdateRuntimeOn": "Auto", "FunctionArn": named.arn(&app.place) });
    Ok(json_response(StatusCode::OK, &answer))
}
