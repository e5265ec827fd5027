//! For monitors: liveness, readiness, metrics.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use nix::sys::statvfs::statvfs;

use crate::api::app::App;
use crate::api::http::error::ApiError;

pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

pub(crate) async fn readyz(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    if app.leaving.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    (StatusCode::OK, "ready\n")
}

pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    app.events.take_census().await;
    let (running, waiting) = app.builder.progress.count();
    let disk = statvfs(app.builder.data.root()).ok();
    let free = disk.map(|disk| disk.blocks_available().saturating_mul(disk.fragment_size()));
    app.metrics.set_current(running, waiting, free);
    app.metrics.set_kept_snapshots(app.builder.kept.bytes());
    let text = app
        .metrics
        .text(app.pool.census(), app.pool.shells())
        .map_err(|error| ApiError::service(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response())
}
