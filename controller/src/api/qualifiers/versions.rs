//! Published versions: publish, list.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use crate::api::app::App;
use crate::api::functions::configuration::Shown;
use crate::api::http::body::read_small;
use crate::api::http::error::ApiError;
use crate::api::http::page;
use crate::api::http::parameters::Parameters;
use crate::api::http::response::json_response;
use crate::api::http::unserved::{self, Asked};
use crate::api::http::violations::checked;
use crate::api::http::wire::parse;
use crate::api::target::extract::{Function, Namespaced};
use crate::deploy::Publish;

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PublishInput {
    code_sha256: Option<String>,
    description: Option<String>,
    revision_id: Option<String>,
    #[serde(default)]
    publish_to: Asked,
}

pub(crate) async fn publish(
    State(app): State<Arc<App>>,
    Function(named): Function,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read_small(&headers, body, "PublishVersion").await?;
    let input: PublishInput = if body.is_empty() {
        PublishInput::default()
    } else {
        parse(&body)?
    };
    let description = input.description.as_deref().unwrap_or_default();
    checked(|violations| violations.at_most(description, 256, "description"))?;
    app.find(&named)?;
    unserved::refuse(&[("PublishTo", input.publish_to)])?;
    let wish = Publish {
        description: input.description,
        code_sha256: input.code_sha256.filter(|sha256| !sha256.is_empty()),
        revision: input.revision_id,
    };
    let (function, number) = app
        .change_function(&named, |deployer, name| async move {
            deployer.publish(&name, wish).await
        })
        .await?;
    let published = function
        .versions
        .get(&number)
        .ok_or_else(|| ApiError::service("The version was deleted meanwhile"))?;
    Ok(json_response(
        StatusCode::CREATED,
        &Shown::published(&function, published).configuration(&app.arn_scope),
    ))
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Namespaced(named): Namespaced,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let function = app.find(&named)?;
    let (page, next) = page::cut(Shown::all(&function), &parameters, Shown::key)?;
    let shown: Vec<Value> = page.iter().map(|v| v.listed(&app.arn_scope)).collect();
    Ok(page::answer("Versions", shown, next))
}
