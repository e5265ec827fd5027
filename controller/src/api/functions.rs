//! The functions themselves: create, list, read, change, delete.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use super::configuration::configuration;
use super::error::ApiError;
use super::extract::{Function, Parameters};
use super::package::{CodeInput, check_package_kind, parse, read};
use super::validate::ConfigInput;
use crate::deploy::ControlError;
use crate::function::{FunctionName, LATEST};
use crate::registry;

/// Functions on a page unless asked otherwise.
const PAGE: usize = 50;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateInput<'a> {
    function_name: String,
    #[serde(borrow)]
    code: CodeInput<'a>,
    package_type: Option<String>,
    architectures: Option<Vec<String>>,
    publish: Option<bool>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

/// The members of an update besides those of the code, which it has at its top as well.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateCodeInput {
    architectures: Option<Vec<String>>,
    publish: Option<bool>,
    dry_run: Option<bool>,
    revision_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Revision {
    revision_id: Option<String>,
}

pub(super) async fn create(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (config, name, package) = {
        let _slot = app.upload_slot().await?;
        let body = read(&headers, body, "CreateFunction").await?;
        let input: CreateInput<'_> = parse(&body)?;
        let config: ConfigInput = parse(&body)?;
        let named = super::Named::parse(&input.function_name, None, &app.place)?;
        if named.qualifier.is_some() {
            return Err(ApiError::invalid(
                "The function name of a new function has no qualifier",
            ));
        }
        check_package_kind(
            input.package_type.as_deref(),
            input.architectures.as_deref(),
        )?;
        refuse_publish(input.publish)?;
        let config = config.create(input.tags)?;
        (config, named.name, input.code.package()?)
    };
    let arn = app.place.arn(&name);
    let deployer = app.deployer.clone();
    let function = to_the_end(async move { deployer.create(name, config, package).await })
        .await?
        .map_err(|error| ApiError::control(error, &arn))?;
    Ok(json_response(
        StatusCode::CREATED,
        &configuration(&function.record, &app.place),
    ))
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let limit = match parameters.get("MaxItems") {
        None => PAGE,
        Some(text) => match text.parse::<usize>() {
            Ok(limit @ 1..=10_000) => limit.min(PAGE),
            _ => {
                return Err(ApiError::constraint(
                    text,
                    "maxItems",
                    "Member must have value between 1 and 10000",
                ));
            }
        },
    };
    let marker = parameters
        .get("Marker")
        .map(FunctionName::parse)
        .transpose()
        .map_err(|_| ApiError::invalid("The Marker is not one that this API gave out"))?;
    let (page, more) = app.catalog.list(marker.as_ref(), limit);
    let functions: Vec<Value> = page
        .iter()
        .map(|function| configuration(&function.record, &app.place))
        .collect();
    let mut answer = json!({ "Functions": functions });
    if let Some(last) = page.last().filter(|_| more) {
        answer["NextMarker"] = last.record.name.to_string().into();
    }
    Ok(json_response(StatusCode::OK, &answer))
}

pub(super) async fn get(
    State(app): State<Arc<App>>,
    Function(named): Function,
) -> Result<Response, ApiError> {
    let function = app.find(&named)?;
    let mut answer = json!({
        "Configuration": configuration(&function.record, &app.place),
        "Code": { "RepositoryType": "Hearth" },
    });
    let tags = &function.record.config.tags;
    if !tags.is_empty() {
        answer["Tags"] = json!(tags);
    }
    Ok(json_response(StatusCode::OK, &answer))
}

pub(super) async fn get_configuration(
    State(app): State<Arc<App>>,
    Function(named): Function,
) -> Result<Response, ApiError> {
    let function = app.find(&named)?;
    Ok(json_response(
        StatusCode::OK,
        &configuration(&function.record, &app.place),
    ))
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Function(named): Function,
) -> Result<Response, ApiError> {
    app.find(&named)?;
    if named.qualifier.as_deref() == Some(LATEST) {
        return Err(ApiError::invalid(
            "$LATEST version cannot be deleted without deleting the function.",
        ));
    }
    let arn = named.arn(&app.place);
    let deployer = app.deployer.clone();
    to_the_end(async move { deployer.delete(&named.name).await })
        .await?
        .map_err(|error| ApiError::control(error, &arn))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn update_code(
    State(app): State<Arc<App>>,
    Function(named): Function,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    app.find(&named)?;
    let (revision, dry_run, package) = {
        let _slot = app.upload_slot().await?;
        let body = read(&headers, body, "UpdateFunctionCode").await?;
        let input: UpdateCodeInput = parse(&body)?;
        let code: CodeInput<'_> = parse(&body)?;
        check_package_kind(None, input.architectures.as_deref())?;
        refuse_publish(input.publish)?;
        (
            input.revision_id,
            input.dry_run.unwrap_or(false),
            code.package()?,
        )
    };
    let arn = app.place.arn(&named.name);
    let deployer = app.deployer.clone();
    let function = to_the_end(async move {
        deployer
            .update_code(&named.name, revision.as_deref(), package, dry_run)
            .await
    })
    .await?
    .map_err(|error| ApiError::control(error, &arn))?;
    Ok(json_response(
        StatusCode::OK,
        &configuration(&function.record, &app.place),
    ))
}

pub(super) async fn update_configuration(
    State(app): State<Arc<App>>,
    Function(named): Function,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    app.find(&named)?;
    let body = read(&headers, body, "UpdateFunctionConfiguration").await?;
    let Revision { revision_id } = parse(&body)?;
    let input: ConfigInput = parse(&body)?;
    let arn = app.place.arn(&named.name);
    let deployer = app.deployer.clone();
    let function = to_the_end(async move {
        let change = |before: &_| input.apply(before).map_err(ChangeError::Api);
        deployer
            .update_config(&named.name, revision_id.as_deref(), change)
            .await
    })
    .await?
    .map_err(|error| match error {
        ChangeError::Api(error) => error,
        ChangeError::Control(error) => ApiError::control(error, &arn),
    })?;
    Ok(json_response(
        StatusCode::OK,
        &configuration(&function.record, &app.place),
    ))
}

/// Does a change to its end, also when the client goes away in the middle of it.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = T> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(change)
        .await
        .map_err(|_| ApiError::service("The change was not finished"))
}

enum ChangeError {
    Api(ApiError),
    Control(ControlError),
}

impl From<ControlError> for ChangeError {
    fn from(error: ControlError) -> Self {
        Self::Control(error)
    }
}

impl App {
    /// The function that somebody speaks of, in the version that exists.
    pub(super) fn find(&self, named: &super::Named) -> Result<Arc<registry::Function>, ApiError> {
        named.latest(&self.place)?;
        self.catalog
            .get(&named.name)
            .ok_or_else(|| ApiError::function_not_found(&named.arn(&self.place)))
    }
}

fn refuse_publish(publish: Option<bool>) -> Result<(), ApiError> {
    if publish == Some(true) {
        return Err(ApiError::invalid(
            "Publish is not supported yet: there is only $LATEST",
        ));
    }
    Ok(())
}

/// A JSON response.
pub(super) fn json_response(status: StatusCode, body: &Value) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_create_body_is_an_object_with_each_member_once() {
        for bad in [
            &b""[..],
            b"{",
            b"[]",
            b"null",
            b"\xff",
            br#"{"FunctionName": 7}"#,
            br#"{"FunctionName":"a","FunctionName":"b","Code":{}}"#,
        ] {
            assert!(parse::<CreateInput<'_>>(bad).is_err(), "{bad:?}");
        }
        let deep = vec![b'['; 200_000];
        assert!(parse::<CreateInput<'_>>(&deep).is_err());
    }
}
