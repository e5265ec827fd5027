//! Tags of functions: read, put, remove.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::fields::check_tags;
use crate::api::app::App;
use crate::api::change::{ChangeError, to_the_end};
use crate::api::http::body::read_small;
use crate::api::http::error::ApiError;
use crate::api::http::parameters::{Parameters, Segments};
use crate::api::http::response::json_response;
use crate::api::http::violations::found;
use crate::api::http::wire::parse;
use crate::api::target::names::{NameForm, Named};
use crate::deploy::{Change, annotations};

const PATTERN: &str = "Member must satisfy regular expression pattern: \
    arn:(aws[a-zA-Z-]*)?:lambda:[a-z]{2}((-gov)|(-iso(b?)))?-[a-z]+-\\d{1}:\\d{12}:\
    (function:[a-zA-Z0-9-_]+(:(\\$LATEST|[a-zA-Z0-9-_]+))?|layer:[a-zA-Z0-9-_]+)";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TagsInput {
    tags: Option<BTreeMap<String, String>>,
}

/// The function whose full ARN is in the path. Only functions have tags.
fn tagged(app: &App, segments: &Segments) -> Result<Named, ApiError> {
    let arn = segments.get("arn");
    if !Named::is_whole_arn(arn) {
        return Err(ApiError::constraint(arn, "resource", PATTERN));
    }
    let named = Named::parse(arn, None, NameForm::Function, &app.arn_scope)?;
    if named.qualifier.is_some() {
        return Err(ApiError::invalid(
            "Tags on function aliases and versions are not supported. Please specify a function \
             ARN.",
        ));
    }
    app.function(&named)?;
    Ok(named)
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    segments: Segments,
) -> Result<Response, ApiError> {
    let function = app.function(&tagged(&app, &segments)?)?;
    let answer = json!({ "Tags": function.record.tags });
    Ok(json_response(StatusCode::OK, &answer))
}

pub(crate) async fn put(
    State(app): State<Arc<App>>,
    segments: Segments,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let named = tagged(&app, &segments)?;
    let body = read_small(&headers, body, "TagResource").await?;
    let TagsInput { tags } = parse(&body)?;
    let tags = found(|violations| violations.given(tags, "tags"))?;
    if tags.is_empty() {
        return Err(ApiError::invalid(
            "An error occurred and the request cannot be processed.",
        ));
    }
    change(&app, named, move |known| {
        let mut all = known.clone();
        all.extend(tags);
        *known = check_tags(all).map_err(ChangeError::Api)?;
        Ok(())
    })
    .await
}

pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    segments: Segments,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let named = tagged(&app, &segments)?;
    let keys: Vec<String> = parameters.all("tagKeys").map(str::to_owned).collect();
    found(|violations| violations.given(keys.first(), "tagKeys"))?;
    change(&app, named, move |known| {
        known.retain(|key, _| !keys.contains(key));
        Ok(())
    })
    .await
}

async fn change(
    app: &App,
    named: Named,
    wish: impl FnOnce(&mut BTreeMap<String, String>) -> Result<(), ChangeError> + Send + 'static,
) -> Result<Response, ApiError> {
    let arn = app.arn_scope.arn(&named.name);
    let deployer = app.deployer.clone();
    to_the_end(async move {
        let change_tags = |change: &mut Change<'_>| annotations::change_tags(change, wish);
        deployer.change(&named.name, change_tags).await
    })
    .await?
    .map_err(|error| error.into_api_error(&arn))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
