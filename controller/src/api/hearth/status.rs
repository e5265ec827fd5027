//! The controller's instances, its status, and how long a ping to a guest takes. And a request that ends
//! a deploy.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::api::app::App;
use crate::api::http::error::ApiError;
use crate::api::http::parameters::{Parameters, number};
use crate::api::http::response::json_response;
use crate::api::target::extract::Namespaced;
use crate::api::target::names::{NameForm, Named};
use crate::function::Runtime;

const MAX_PINGS: u32 = 10_000;
const PINGS: u32 = 100;

pub(crate) async fn instances(
    State(app): State<Arc<App>>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let pool = app.pool.clone();
    let named = parameters
        .get("function")
        .map(|name| Named::parse(name, None, NameForm::Function, &app.arn_scope))
        .transpose()?;
    // The kernel counts each process's pages, which takes long: not on a thread that serves requests.
    let list = move || pool.instances(named.as_ref().map(|named| &named.name));
    let instances = tokio::task::spawn_blocking(list)
        .await
        .map_err(|error| ApiError::service(error.to_string()))?;
    Ok(json_response(
        StatusCode::OK,
        &json!({ "instances": instances }),
    ))
}

/// Ends the deploy of a function that is under way: its owner has something newer to deploy.
pub(crate) async fn stop_deploy(
    State(app): State<Arc<App>>,
    Namespaced(named): Namespaced,
) -> Result<Response, ApiError> {
    app.deployer
        .give_up(&named.name)
        .map_err(|error| ApiError::control(error, &app.arn_scope.arn(&named.name)))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn status(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let host = &app.builder.host;
    let kernel = host
        .kernel()
        .map_err(|error| ApiError::service(error.to_string()))?;
    let runtimes: Vec<&str> = Runtime::ALL
        .into_iter()
        .filter(|runtime| host.has_runtime(*runtime))
        .map(Runtime::id)
        .collect();
    let census = app.pool.census();
    let count = census.starting + census.busy + census.finishing + census.idle;
    Ok(json_response(
        StatusCode::OK,
        &json!({
            "version": crate::VERSION,
            "host_kind": host.kind,
            "cpu_isolation": app.isolation.name(),
            "jail": app.jail,
            "kernel": kernel.map(|kernel| kernel.sha256),
            "runtimes": runtimes,
            "sandbox": host.sandbox,
            "data_dir": app.builder.data.root(),
            "uptime_seconds": app.started.elapsed().as_secs_f64(),
            "instances": count,
            "memory_mib": census.memory_mib,
            "memory_budget_mib": app.pool.memory_budget_mib(),
            "shells": app.pool.shells(),
            "warnings": app.warnings,
        }),
    ))
}

pub(crate) async fn agent_ping(
    State(app): State<Arc<App>>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let name = parameters
        .get("function")
        .ok_or_else(|| ApiError::invalid("function is missing: say ?function=NAME"))?;
    let named = Named::parse(name, None, NameForm::Function, &app.arn_scope)?;
    let count = match parameters.get("count") {
        None => PINGS,
        Some(text) => u32::try_from(number(text, "count", 1, MAX_PINGS.into())?).unwrap_or(PINGS),
    };
    let function = app.find(&named)?;
    let Some(version) = &function.live else {
        return Err(ApiError::conflict(
            "The function has no version that can run",
        ));
    };
    let micros = app
        .pool
        .ping(version, count)
        .await
        .map_err(|error| ApiError::ping(&error))?;
    Ok(json_response(
        StatusCode::OK,
        &json!({ "function": named.name, "count": count, "micros": micros }),
    ))
}
