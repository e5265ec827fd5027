//! Hearth's own routes: instances, status, the benchmark's unit, health, metrics.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use nix::sys::statvfs::statvfs;
use serde_json::json;

use super::App;
use super::error::ApiError;
use super::extract::{Namespaced, Parameters};
use super::fields::number;
use super::functions::json_response;
use super::names::{NameForm, Named};
use crate::function::Runtime;

const MAX_PINGS: u32 = 10_000;
const PINGS: u32 = 100;

pub(super) async fn instances(
    State(app): State<Arc<App>>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let pool = app.pool.clone();
    let named = parameters
        .get("function")
        .map(|name| Named::parse(name, None, NameForm::Function, &app.place))
        .transpose()?;
    // Asks the kernel about each process's pages: not on a thread that serves requests.
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
pub(super) async fn give_up(
    State(app): State<Arc<App>>,
    Namespaced(named): Namespaced,
) -> Result<Response, ApiError> {
    app.deployer
        .give_up(&named.name)
        .map_err(|error| ApiError::control(error, &app.place.arn(&named.name)))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn status(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
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

pub(super) async fn agent_ping(
    State(app): State<Arc<App>>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let name = parameters
        .get("function")
        .ok_or_else(|| ApiError::invalid("function is missing: say ?function=NAME"))?;
    let named = Named::parse(name, None, NameForm::Function, &app.place)?;
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

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    if app.leaving.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    (StatusCode::OK, "ready\n")
}

pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    app.events.take_census().await;
    let (running, waiting) = app.builder.progress.count();
    let disk = statvfs(app.builder.data.root()).ok();
    let free = disk.map(|disk| disk.blocks_available().saturating_mul(disk.fragment_size()));
    app.metrics.set_current(running, waiting, free);
    let text = app
        .metrics
        .text(app.pool.census(), app.pool.shells())
        .map_err(|error| ApiError::service(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response())
}
