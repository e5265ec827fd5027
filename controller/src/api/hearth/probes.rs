//! For monitors: liveness, readiness, metrics.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::api::app::App;
use crate::api::http::error::ApiError;

pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

pub(crate) async fn readyz(State(app): State<Arc<App>>) -> (StatusCode, Cow<'static, str>) {
    if app.leaving.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".into());
    }
    match failed_workers(&app) {
        failed if failed.is_empty() => match app.builder.data.low_space() {
            None => (StatusCode::OK, "ready\n".into()),
            // Invocations go on. A load balancer must not take them away from here.
            Some(low) => (
                StatusCode::OK,
                format!("ready, but deploys and events are refused: {low}\n").into(),
            ),
        },
        failed => {
            let text = format!("not ready: a bug has ended: {}\n", failed.join(", "));
            (StatusCode::SERVICE_UNAVAILABLE, text.into())
        }
    }
}

/// The workers that have panicked. The controller goes on without them, but not as it should: it must be
/// restarted.
fn failed_workers(app: &App) -> Vec<&'static str> {
    let workers = [
        ("registry", app.catalog.is_alive()),
        ("events", app.events.is_alive()),
        ("logs", app.logs.is_alive()),
        ("launcher", app.pool.can_launch()),
    ];
    let ended = workers.into_iter().filter(|(_, alive)| !alive);
    ended.map(|(name, _)| name).collect()
}

pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    app.events.take_census().await;
    let (running, waiting) = app.builder.progress.count();
    let free = app.builder.data.free();
    app.metrics.set_current(running, waiting, free);
    app.metrics.set_kept_snapshots(app.builder.kept.bytes());
    let text = app
        .metrics
        .text(app.pool.census(), app.pool.shells())
        .map_err(|error| ApiError::service(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response())
}
