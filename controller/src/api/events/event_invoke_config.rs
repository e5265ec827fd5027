//! Event invoke configurations: how often and for how long an event is retried, and which function is
//! invoked with its outcome.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::destinations::DestinationInput;
use crate::api::app::App;
use crate::api::http::error::ApiError;
use crate::api::http::parameters::Parameters;
use crate::api::http::response::json_response;
use crate::api::http::violations::checked;
use crate::api::http::wire::parse;
use crate::api::http::{body, page};
use crate::api::target::extract::Function;
use crate::api::target::names::Named;
use crate::events::{Destination, EventInvokeConfig, EventsError};
use crate::function::{ArnScope, LATEST};

/// Largest body, in bytes: two ARNs, two numbers, and room for unknown members.
const MAX_BODY: usize = 64 * 1024;
/// Configurations on a page: the default and the maximum.
const PAGE: u32 = 50;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Input {
    maximum_retry_attempts: Option<i64>,
    maximum_event_age_in_seconds: Option<i64>,
    destination_config: Option<DestinationInput>,
}

/// The members to change; `None` keeps a member as it is.
#[derive(Debug, Default)]
struct Change {
    maximum_retry_attempts: Option<u32>,
    maximum_event_age_seconds: Option<u32>,
    destinations: Option<(Option<Destination>, Option<Destination>)>,
}

impl Change {
    fn apply(self, mut config: EventInvokeConfig, now_ms: i64) -> EventInvokeConfig {
        if let Some((on_success, on_failure)) = self.destinations {
            config.on_success = on_success;
            config.on_failure = on_failure;
        }
        EventInvokeConfig {
            maximum_retry_attempts: self
                .maximum_retry_attempts
                .or(config.maximum_retry_attempts),
            maximum_event_age_seconds: self
                .maximum_event_age_seconds
                .or(config.maximum_event_age_seconds),
            last_modified_ms: now_ms,
            ..config
        }
    }
}

pub(crate) async fn put(
    State(app): State<Arc<App>>,
    Function(named): Function,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let change = app.change(&named, &read_input(&headers, body).await?)?;
    let config = change.apply(EventInvokeConfig::default(), app.events.now_ms());
    app.store(&named, |_| Ok(config)).await
}

pub(crate) async fn update(
    State(app): State<Arc<App>>,
    Function(named): Function,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let change = app.change(&named, &read_input(&headers, body).await?)?;
    let now_ms = app.events.now_ms();
    let arn_scope = app.arn_scope.clone();
    let missing = named.clone();
    app.store(&named, move |before| {
        let before = before.ok_or_else(|| none(&missing, &arn_scope))?;
        Ok(change.apply(before, now_ms))
    })
    .await
}

pub(crate) async fn read(
    State(app): State<Arc<App>>,
    Function(named): Function,
) -> Result<Response, ApiError> {
    let configs = app.events.configs();
    let config = configs
        .get(&named.name, named.qualifier.as_deref())
        .ok_or_else(|| none(&named, &app.arn_scope))?;
    Ok(json_response(
        StatusCode::OK,
        &shown(&config, &named, &app.arn_scope),
    ))
}

pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    Function(named): Function,
) -> Result<Response, ApiError> {
    let writer = app.events.configs().write().await;
    let qualifier = named.qualifier.as_deref();
    if app.events.configs().get(&named.name, qualifier).is_none() {
        return Err(none(&named, &app.arn_scope));
    }
    writer
        .delete(&named.name, qualifier)
        .await
        .map_err(|error| not_stored(&error))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Function(named): Function,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    app.function(&named).map_err(|_| no_function())?;
    let limit = page::items(&parameters, PAGE as usize, PAGE)?;
    let configs = app.events.configs();
    let (page, more) = configs.list(&named.name, page::marker(&parameters), limit);
    let items = page.iter().map(|(qualifier, config)| {
        let named = Named {
            name: named.name.clone(),
            qualifier: Some(qualifier.clone()),
        };
        shown(config, &named, &app.arn_scope)
    });
    let last = page.last().filter(|_| more);
    let next = last.map(|(qualifier, _)| qualifier.clone());
    let name = "FunctionEventInvokeConfigs";
    Ok(page::answer(name, items.collect(), next))
}

impl App {
    /// Checks a change of a function's configuration.
    fn change(&self, named: &Named, input: &Input) -> Result<Change, ApiError> {
        let targets = input.destination_config.as_ref();
        let change = checked(|violations| {
            let mut within = |number: Option<i64>, range, field: &str| {
                number.and_then(|number| violations.in_range(number, range, field))
            };
            let attempts = within(input.maximum_retry_attempts, 0..=2, "maximumRetryAttempts");
            let age = within(
                input.maximum_event_age_in_seconds,
                60..=21_600,
                "maximumEventAgeInSeconds",
            );
            if let Some(targets) = targets {
                targets.check_form(violations);
            }
            Change {
                maximum_retry_attempts: attempts,
                maximum_event_age_seconds: age,
                destinations: None,
            }
        })?;
        let nothing = change.maximum_retry_attempts.is_none()
            && change.maximum_event_age_seconds.is_none()
            && targets.is_none();
        if nothing {
            return Err(ApiError::invalid(
                "You must specify at least one of error handling or destination setting.",
            ));
        }
        self.check_exists(named).map_err(|_| no_function())?;
        Ok(Change {
            destinations: targets
                .map(|targets| self.destinations(targets, named))
                .transpose()?,
            ..change
        })
    }

    /// Stores the configuration that `change` returns for the current one.
    async fn store(
        &self,
        named: &Named,
        change: impl FnOnce(Option<EventInvokeConfig>) -> Result<EventInvokeConfig, ApiError>,
    ) -> Result<Response, ApiError> {
        let configs = self.events.configs();
        let qualifier = named.qualifier.as_deref();
        let writer = configs.write().await;
        let before = configs.get(&named.name, qualifier);
        let config = change(before.as_deref().cloned())?;
        let config = writer
            .put(&named.name, qualifier, config)
            .await
            .map_err(|error| not_stored(&error))?;
        Ok(json_response(
            StatusCode::OK,
            &shown(&config, named, &self.arn_scope),
        ))
    }
}

async fn read_input(headers: &HeaderMap, body: Body) -> Result<Input, ApiError> {
    let body = body::read(headers, body, MAX_BODY, || {
        ApiError::too_large(
            "RequestEntityTooLargeException",
            format!("Request must be smaller than {MAX_BODY} bytes for this operation"),
        )
    })
    .await?;
    parse(&body)
}

/// The configuration as Lambda returns it.
fn shown(config: &EventInvokeConfig, named: &Named, arn_scope: &ArnScope) -> Value {
    let target = |destination: &Option<Destination>| match destination {
        Some(destination) => json!({ "Destination": destination.arn }),
        None => json!({}),
    };
    let seconds = config.last_modified_ms / 1000;
    let millis = config.last_modified_ms % 1000;
    let mut shown = json!({
        "LastModified": format!("{seconds}.{millis:03}").parse::<f64>().unwrap_or_default(),
        "FunctionArn": qualified_arn(named, arn_scope),
        "DestinationConfig": {
            "OnSuccess": target(&config.on_success),
            "OnFailure": target(&config.on_failure),
        },
    });
    if let Some(attempts) = config.maximum_retry_attempts {
        shown["MaximumRetryAttempts"] = attempts.into();
    }
    if let Some(seconds) = config.maximum_event_age_seconds {
        shown["MaximumEventAgeInSeconds"] = seconds.into();
    }
    shown
}

fn qualified_arn(named: &Named, arn_scope: &ArnScope) -> String {
    let qualifier = named.qualifier.as_deref().unwrap_or(LATEST);
    arn_scope.qualified_arn(&named.name, qualifier)
}

fn none(named: &Named, arn_scope: &ArnScope) -> ApiError {
    ApiError::not_found(format!(
        "The function {} doesn't have an EventInvokeConfig",
        qualified_arn(named, arn_scope)
    ))
}

fn no_function() -> ApiError {
    ApiError::not_found("The function doesn't exist.")
}

fn not_stored(error: &EventsError) -> ApiError {
    ApiError::service(format!("The configuration was not stored: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_keeps_the_members_that_it_does_not_name() {
        let before = EventInvokeConfig {
            maximum_retry_attempts: Some(1),
            maximum_event_age_seconds: Some(60),
            ..EventInvokeConfig::default()
        };
        let change = Change {
            maximum_retry_attempts: Some(0),
            ..Change::default()
        };
        let after = change.apply(before, 5);
        assert_eq!(after.maximum_retry_attempts, Some(0));
        assert_eq!(after.maximum_event_age_seconds, Some(60));
        assert_eq!(after.last_modified_ms, 5);
    }
}
