//! Layers: publish, list, read, delete.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::compatible;
use super::names::LayerNamed;
use crate::api::app::App;
use crate::api::change::to_the_end;
use crate::api::http::error::ApiError;
use crate::api::http::page;
use crate::api::http::parameters::{Parameters, Segments};
use crate::api::http::response::json_response;
use crate::api::http::violations::found;
use crate::api::http::wire::parse;
use crate::api::packages::upload::{CodeInput, read};
use crate::function::{LayerName, LayerRecord, LayerVersion};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PublishInput<'a> {
    #[serde(borrow)]
    content: Option<CodeInput<'a>>,
    description: Option<String>,
    license_info: Option<String>,
    compatible_runtimes: Option<Vec<String>>,
    compatible_architectures: Option<Vec<String>>,
}

impl PublishInput<'_> {
    fn check(&self) -> Result<&CodeInput<'_>, ApiError> {
        found(|violations| {
            let description = self.description.as_deref().unwrap_or_default();
            violations.at_most(description, 256, "description");
            let content = violations.given(self.content.as_ref(), "content");
            compatible::check(
                violations,
                self.compatible_runtimes.as_deref(),
                self.compatible_architectures.as_deref(),
            );
            let license = self.license_info.as_deref().unwrap_or_default();
            violations.at_most(license, 512, "licenseInfo");
            content
        })
    }
}

pub(crate) async fn publish(
    State(app): State<Arc<App>>,
    segments: Segments,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let name = LayerNamed::parse(segments.get("name"), &app.arn_scope)?.name;
    let permit = app.upload_permit().await?;
    let body = read(&headers, body, "PublishLayerVersion").await?;
    let input: PublishInput<'_> = parse(&body)?;
    let package = input.check()?.package()?;
    let (description, license) = (input.description, input.license_info);
    let (runtimes, architectures) = (input.compatible_runtimes, input.compatible_architectures);
    let describe = move |code, created| LayerVersion {
        code,
        description: description.unwrap_or_default(),
        compatible_runtimes: runtimes,
        compatible_architectures: architectures,
        license,
        created,
        policy: None,
    };
    let (deployer, layer) = (app.deployer.clone(), name.clone());
    let (number, version) = to_the_end(async move {
        let _permit = permit;
        deployer.publish_layer(layer, package, describe).await
    })
    .await?
    .map_err(|error| ApiError::control(error, &app.arn_scope.layer_arn(&name)))?;
    let mut answer = describe_version(&app, &name, number, &version);
    answer["LayerArn"] = app.arn_scope.layer_arn(&name).into();
    answer["Content"] = content(&app, &version, &headers);
    Ok(json_response(StatusCode::CREATED, &answer))
}

/// All layers; or, with `find=LayerVersion`, the layer version whose ARN the query gives.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if parameters.get("find") == Some("LayerVersion") {
        let arn = found(|violations| violations.given(parameters.get("Arn"), "arn"))?;
        let (named, number) = LayerNamed::parse_version(arn, &app.arn_scope)?;
        return one_version(&app, &named.name, number, &headers);
    }
    compatible::check_wanted(&parameters)?;
    let layers = app.catalog.layers();
    let wanted = layers
        .iter()
        .filter_map(|layer| Some((layer, newest(layer, &parameters)?)));
    let (page, next) = page::cut(wanted, &parameters, |(layer, _)| layer.name.to_string())?;
    let shown: Vec<Value> = page
        .iter()
        .map(|(layer, (number, version))| {
            json!({
                "LayerName": layer.name,
                "LayerArn": app.arn_scope.layer_arn(&layer.name),
                "LatestMatchingVersion": list_version(&app, &layer.name, *number, version),
            })
        })
        .collect();
    Ok(page::answer("Layers", shown, next))
}

fn newest<'a>(layer: &'a LayerRecord, parameters: &Parameters) -> Option<(u32, &'a LayerVersion)> {
    let mut versions = layer.versions.iter().rev();
    let (number, version) = versions.find(|(_, version)| matches(version, parameters))?;
    Some((*number, version))
}

/// Whether a version is compatible with the filters.
fn matches(version: &LayerVersion, parameters: &Parameters) -> bool {
    let among = |name: &str, all: &Option<Vec<String>>| {
        let asked = parameters.get(name).filter(|asked| !asked.is_empty());
        asked.is_none_or(|asked| all.iter().flatten().any(|one| one == asked))
    };
    among("CompatibleRuntime", &version.compatible_runtimes)
        && among("CompatibleArchitecture", &version.compatible_architectures)
}

/// Newest first.
pub(crate) async fn list_versions(
    State(app): State<Arc<App>>,
    segments: Segments,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let name = LayerNamed::parse(segments.get("name"), &app.arn_scope)?.name;
    compatible::check_wanted(&parameters)?;
    let layer = app.catalog.layer(&name);
    let versions = layer.iter().flat_map(|layer| layer.versions.iter().rev());
    let wanted = versions.filter(|(_, version)| matches(version, &parameters));
    let (page, next) = page::cut(wanted, &parameters, |(number, _)| number.to_string())?;
    let shown: Vec<Value> = page
        .iter()
        .map(|(number, version)| list_version(&app, &name, **number, version))
        .collect();
    Ok(page::answer("LayerVersions", shown, next))
}

pub(crate) async fn get_version(
    State(app): State<Arc<App>>,
    segments: Segments,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (name, number) = path_version(&app, &segments)?;
    one_version(&app, &name, number, &headers)
}

pub(crate) async fn delete_version(
    State(app): State<Arc<App>>,
    segments: Segments,
) -> Result<Response, ApiError> {
    let (name, number) = path_version(&app, &segments)?;
    let arn = app.arn_scope.layer_arn(&name);
    let deployer = app.deployer.clone();
    to_the_end(async move { deployer.delete_layer(&name, number).await })
        .await?
        .map_err(|error| ApiError::control(error, &arn))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) fn path_version(app: &App, segments: &Segments) -> Result<(LayerName, u32), ApiError> {
    let named = LayerNamed::parse(segments.get("name"), &app.arn_scope)?;
    let text = segments.get("version");
    match text.parse::<i64>() {
        Ok(..=0) => Err(ApiError::invalid("Layer Version Cannot be less than 1")),
        // A number too large for `u32` is larger than any version's.
        Ok(number) => Ok((named.name, u32::try_from(number).unwrap_or(u32::MAX))),
        Err(_) => Err(ApiError::constraint(
            text,
            "versionNumber",
            "Member must be a number",
        )),
    }
}

fn one_version(
    app: &App,
    name: &LayerName,
    number: u32,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let layer = app.catalog.layer(name);
    let Some(version) = layer.as_ref().and_then(|layer| layer.versions.get(&number)) else {
        return Err(ApiError::not_found(
            "The resource you requested does not exist.",
        ));
    };
    let mut answer = describe_version(app, name, number, version);
    answer["LayerArn"] = app.arn_scope.layer_arn(name).into();
    answer["Content"] = content(app, version, headers);
    Ok(json_response(StatusCode::OK, &answer))
}

fn content(app: &App, version: &LayerVersion, headers: &HeaderMap) -> Value {
    json!({
        "Location": app.downloads.location(&version.code, headers),
        "CodeSha256": version.code.sha256_base64(),
        "CodeSize": version.code.size,
    })
}

/// A version as lists show it: without `Description` if that is empty.
fn list_version(app: &App, name: &LayerName, number: u32, version: &LayerVersion) -> Value {
    let mut out = describe_version(app, name, number, version);
    if version.description.is_empty()
        && let Some(members) = out.as_object_mut()
    {
        members.remove("Description");
    }
    out
}

fn describe_version(app: &App, name: &LayerName, number: u32, version: &LayerVersion) -> Value {
    let mut out = json!({
        "LayerVersionArn": app.arn_scope.layer_version_arn(name, number),
        "Version": number,
        "Description": version.description,
        "CreatedDate": version.created,
    });
    if let Some(runtimes) = &version.compatible_runtimes {
        out["CompatibleRuntimes"] = json!(runtimes);
    }
    if let Some(architectures) = &version.compatible_architectures {
        out["CompatibleArchitectures"] = json!(architectures);
    }
    if let Some(license) = &version.license {
        out["LicenseInfo"] = license.as_str().into();
    }
    out
}
