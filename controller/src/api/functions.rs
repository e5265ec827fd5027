//! The functions themselves: create, list, read, change, delete.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ApiError;
use super::extract::{Function, Parameters};
use super::validate::ConfigInput;
use super::{App, body};
use crate::deploy::ControlError;
use crate::function::{FunctionName, FunctionRecord, LATEST, Place};
use crate::registry;

/// Largest body of a create or update: a 50 MB package in base64, and the rest.
const MAX_BODY: usize = 70_167_211;
/// Largest package.
const MAX_PACKAGE: usize = 52_428_800;
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

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CodeInput<'a> {
    #[serde(borrow)]
    zip_file: Option<Cow<'a, str>>,
    image_uri: Option<String>,
    #[serde(rename = "S3Bucket")]
    s3_bucket: Option<String>,
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
    to_the_end(async move {
        let deleted = deployer.delete(&named.name).await;
        deleted.map_err(|error| ApiError::control(error, &arn))?;
        super::events::forget(&app, &named.name).await
    })
    .await??;
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

impl CodeInput<'_> {
    fn package(&self) -> Result<Bytes, ApiError> {
        if self.image_uri.is_some() || self.s3_bucket.is_some() {
            return Err(ApiError::invalid(
                "Code comes as ZipFile; S3 and images are not supported yet",
            ));
        }
        let Some(text) = &self.zip_file else {
            return Err(ApiError::invalid(
                "Please provide a source for function code.",
            ));
        };
        if text.len() / 4 * 3 > MAX_PACKAGE + 3 {
            return Err(ApiError::invalid(format!(
                "Zipped size must be smaller than {MAX_PACKAGE} bytes"
            )));
        }
        let package = STANDARD
            .decode(text.as_bytes())
            .map_err(|error| ApiError::serialization(format!("ZipFile is not base64: {error}")))?;
        Ok(package.into())
    }
}

async fn read(headers: &HeaderMap, body: Body, operation: &str) -> Result<Bytes, ApiError> {
    body::read(headers, body, MAX_BODY, || {
        ApiError::too_large(
            "RequestEntityTooLargeException",
            format!("Request must be smaller than {MAX_BODY} bytes for the {operation} operation"),
        )
    })
    .await
}

/// A JSON object as `T`; members that `T` does not know are skipped.
fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    let start = body.iter().find(|byte| !byte.is_ascii_whitespace());
    if start != Some(&b'{') {
        return Err(ApiError::bad_content(
            "Could not parse request body into json: expected an object",
        ));
    }
    serde_json::from_slice(body).map_err(|error| {
        ApiError::bad_content(format!("Could not parse request body into json: {error}"))
    })
}

fn check_package_kind(
    package_type: Option<&str>,
    architectures: Option<&[String]>,
) -> Result<(), ApiError> {
    match package_type {
        None | Some("Zip") => {}
        Some("Image") => return Err(ApiError::invalid("PackageType Image is not supported yet")),
        Some(other) => {
            return Err(ApiError::constraint(
                other,
                "packageType",
                "Member must satisfy enum value set: [Zip, Image]",
            ));
        }
    }
    match architectures {
        None => Ok(()),
        Some([one]) if one == "x86_64" => Ok(()),
        Some([one]) if one == "arm64" => Err(ApiError::invalid(
            "Architecture arm64 is not supported: this host is x86_64",
        )),
        Some(other) => Err(ApiError::constraint(
            &format!("{other:?}"),
            "architectures",
            "Member must be one of [x86_64, arm64]",
        )),
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

/// What Lambda says about a function, with everything that is always present.
fn configuration(record: &FunctionRecord, place: &Place) -> Value {
    let config = &record.config;
    let sha256 = (0..record.code.sha256.len())
        .step_by(2)
        .filter_map(|at| u8::from_str_radix(record.code.sha256.get(at..at + 2)?, 16).ok())
        .collect::<Vec<u8>>();
    let mut out = json!({
        "FunctionName": record.name,
        "FunctionArn": place.arn(&record.name),
        "Runtime": config.runtime.id(),
        "Role": config.role,
        "Handler": config.handler,
        "CodeSize": record.code.size,
        "Description": config.description,
        "Timeout": config.timeout_seconds,
        "MemorySize": config.memory_mib,
        "LastModified": record.last_modified,
        "CodeSha256": STANDARD.encode(sha256),
        "Version": LATEST,
        "TracingConfig": { "Mode": config.tracing_mode },
        "RevisionId": record.revision_id,
        "PackageType": "Zip",
        "Architectures": ["x86_64"],
        "EphemeralStorage": { "Size": config.ephemeral_storage_mib },
        "SnapStart": { "ApplyOn": config.snap_start, "OptimizationStatus": "Off" },
        "LoggingConfig": {
            "LogFormat": "Text",
            "LogGroup": format!("/aws/lambda/{}", record.name),
        },
        "RuntimeVersionConfig": {
            "RuntimeVersionArn":
                format!("arn:aws:lambda:{}::runtime:hearth-{}", place.region, config.runtime.id()),
        },
        "State": record.state.is.name(),
    });
    if !config.environment.0.is_empty() {
        out["Environment"] = json!({ "Variables": config.environment });
    }
    let mut put = |key: &str, value: &Option<String>| {
        if let Some(value) = value {
            out[key] = value.as_str().into();
        }
    };
    put("StateReason", &record.state.reason);
    put("StateReasonCode", &record.state.reason_code);
    if let Some(update) = &record.last_update {
        put("LastUpdateStatus", &Some(update.is.name().into()));
        put("LastUpdateStatusReason", &update.reason);
        put("LastUpdateStatusReasonCode", &update.reason_code);
    }
    out
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

    #[test]
    fn a_package_is_base64_of_at_most_fifty_megabytes_and_nothing_else() {
        let code = |json: &str| -> Result<Bytes, ApiError> {
            parse::<CodeInput<'_>>(json.as_bytes())?.package()
        };
        assert_eq!(code(r#"{"ZipFile":"UEs="}"#).unwrap(), "PK");
        for bad in [
            r#"{}"#,
            r#"{"ZipFile":"not base64!"}"#,
            r#"{"ImageUri":"x"}"#,
            r#"{"S3Bucket":"b"}"#,
        ] {
            assert!(code(bad).is_err(), "{bad}");
        }
        let large = format!(r#"{{"ZipFile":"{}"}}"#, "A".repeat(70_000_000));
        assert!(code(&large).is_err());
    }
}
