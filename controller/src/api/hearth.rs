//! Hearth's own routes: logs, instances, status, the benchmark's unit, health, metrics.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::App;
use super::error::ApiError;
use super::extract::{Function, Parameters};
use super::functions::json_response;
use super::names::Named;
use crate::function::Runtime;
use crate::logs::Query;

const MAX_LOG_RECORDS: usize = 10_000;
const LOG_RECORDS: usize = 1000;
const MAX_PINGS: u32 = 10_000;
const PINGS: u32 = 100;

pub(super) async fn logs(
    State(app): State<Arc<App>>,
    Function(named): Function,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    app.find(&named)?;
    let query = log_query(&parameters, SystemTime::now())?;
    let records = app
        .logs
        .read(&named.name, query)
        .await
        .map_err(|error| ApiError::service(format!("The log could not be read: {error}")))?;
    let mut lines = String::new();
    for record in records {
        lines.push_str(
            &serde_json::to_string(&record).map_err(|e| ApiError::service(e.to_string()))?,
        );
        lines.push('\n');
    }
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response())
}

fn log_query(parameters: &Parameters, now: SystemTime) -> Result<Query, ApiError> {
    let since = parameters
        .get("since")
        .map(|text| {
            parse_since(text, now).ok_or_else(|| {
                ApiError::invalid(format!(
                    "since must be a time like 2026-11-22T08:00:00Z or a span like 90s, 15m, 2h, 1d; \
                     it was {text:?}"
                ))
            })
        })
        .transpose()?;
    let after = parameters
        .get("after")
        .map(|text| number(text, "after", 0, u64::MAX))
        .transpose()?;
    let limit = match parameters.get("limit") {
        None => LOG_RECORDS,
        Some(text) => usize::try_from(number(text, "limit", 1, MAX_LOG_RECORDS as u64)?)
            .unwrap_or(LOG_RECORDS),
    };
    Ok(Query {
        since,
        after,
        limit,
    })
}

fn parse_since(text: &str, now: SystemTime) -> Option<SystemTime> {
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return Some(time.into());
    }
    let unit = text.chars().last()?;
    let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    now.checked_sub(Duration::from_secs(count.checked_mul(seconds)?))
}

fn number(text: &str, name: &str, least: u64, most: u64) -> Result<u64, ApiError> {
    text.parse()
        .ok()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| {
            ApiError::invalid(format!(
                "{name} must be a number from {least} to {most}, it was {text:?}"
            ))
        })
}

pub(super) async fn instances(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let pool = app.pool.clone();
    // Asks the kernel about each process's pages: not on a thread that serves requests.
    let instances = tokio::task::spawn_blocking(move || pool.instances())
        .await
        .map_err(|error| ApiError::service(error.to_string()))?;
    Ok(json_response(
        StatusCode::OK,
        &json!({ "instances": instances }),
    ))
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
    let named = Named::parse(name, None, &app.place)?;
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
    if app.draining.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    (StatusCode::OK, "ready\n")
}

pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    app.events.take_census().await;
    let text = app
        .metrics
        .text(app.pool.census(), app.pool.shells())
        .map_err(|error| ApiError::service(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_a_span_back_from_now() {
        let now = SystemTime::now();
        assert_eq!(
            parse_since("90s", now),
            now.checked_sub(Duration::from_secs(90))
        );
        assert_eq!(
            parse_since("2h", now),
            now.checked_sub(Duration::from_secs(7200))
        );
        let time = parse_since("1970-01-01T00:00:01Z", now).unwrap();
        assert_eq!(time, SystemTime::UNIX_EPOCH + Duration::from_secs(1));
        for bad in [
            "",
            "s",
            "1",
            "1w",
            "-1s",
            "99999999999999999999s",
            "yesterday",
            "1é",
        ] {
            assert_eq!(parse_since(bad, now), None, "{bad:?}");
        }
    }
}
