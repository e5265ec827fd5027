//! Lambda's settings that have one fixed value here. Clients that compare all settings of a function
//! read them.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use crate::api::app::App;
use crate::api::http::error::ApiError;
use crate::api::http::response::json_response;
use crate::api::target::extract::Namespaced;

/// Empty: there is no code signing here.
pub(crate) async fn code_signing(
    State(app): State<Arc<App>>,
    Namespaced(named): Namespaced,
) -> Result<Response, ApiError> {
    app.function(&named)?;
    Ok(json_response(StatusCode::OK, &json!({})))
}

/// `Auto`: each deploy uses the current build of the runtime image.
pub(crate) async fn runtime_management(
    State(app): State<Arc<App>>,
    Namespaced(named): Namespaced,
) -> Result<Response, ApiError> {
    let function = app.function(&named)?;
    app.target(&function, &named)?;
    let answer = json!({ "UpdateRuntimeOn": "Auto", "FunctionArn": named.arn(&app.arn_scope) });
    Ok(json_response(StatusCode::OK, &answer))
}
