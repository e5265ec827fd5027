//! The functions themselves: create, list, read, change, delete.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::configuration::Shown;
use super::fields::check_tags;
use super::validate::ConfigInput;
use crate::api::app::App;
use crate::api::change::{ChangeError, to_the_end};
use crate::api::concurrency::reserved;
use crate::api::events;
use crate::api::http::error::ApiError;
use crate::api::http::parameters::Parameters;
use crate::api::http::response::json_response;
use crate::api::http::unserved::{self, Asked};
use crate::api::http::violations::{Violations, checked, found};
use crate::api::http::wire::parse;
use crate::api::http::{page, request_id};
use crate::api::packages::upload::{self, CodeInput, read};
use crate::api::target::extract::{Function, Namespaced};
use crate::api::target::names::Named;
use crate::deploy::CodeUpdate;
use crate::function::{AliasName, FunctionName, LATEST};
use crate::registry::{self, Target};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateInput<'a> {
    function_name: Option<String>,
    #[serde(borrow)]
    code: Option<CodeInput<'a>>,
    package_type: Option<String>,
    architectures: Option<Vec<String>>,
    publish: Option<bool>,
    tags: Option<BTreeMap<String, String>>,
    #[serde(default)]
    code_signing_config_arn: Asked,
    #[serde(default)]
    publish_to: Asked,
    tenancy_config: Option<TenancyConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TenancyConfig {
    tenant_isolation_mode: Option<String>,
}

impl TenancyConfig {
    fn check(&self, violations: &mut Violations) {
        let field = "tenancyConfig.tenantIsolationMode";
        if let Some(mode) = violations.given(self.tenant_isolation_mode.as_ref(), field) {
            violations.one_of(mode, &["PER_TENANT"], field);
        }
    }
}

impl CreateInput<'_> {
    /// The members that are not served, besides those that an update has too.
    fn unserved(&self) -> [(&'static str, Asked); 2] {
        [
            ("CodeSigningConfigArn", self.code_signing_config_arn),
            ("PublishTo", self.publish_to),
        ]
    }
}

/// The members of `UpdateFunctionCode` besides those of [`CodeInput`], which are in the same object.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateCodeInput {
    architectures: Option<Vec<String>>,
    publish: Option<bool>,
    dry_run: Option<bool>,
    revision_id: Option<String>,
    #[serde(default)]
    publish_to: Asked,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Revision {
    revision_id: Option<String>,
}

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let permit = app.upload_permit().await?;
    let (config, tags, name, package, publish) = {
        let body = read(&headers, body, "CreateFunction").await?;
        let input: CreateInput<'_> = parse(&body)?;
        let config: ConfigInput = parse(&body)?;
        let kind = input.package_type.as_deref();
        let architectures = input.architectures.as_deref();
        let (name, code, config) = found(|violations| {
            let name = violations.given(input.function_name.as_deref(), "functionName");
            if let Some(name) = name {
                Named::check_new(violations, name);
            }
            let code = violations.given(input.code.as_ref(), "code");
            upload::check_kind(violations, kind, architectures);
            let config = config.check_new(violations);
            if let Some(tenancy) = &input.tenancy_config {
                tenancy.check(violations);
            }
            Some((name?, code?, config))
        })?;
        let name = Named::parse_new(name, &app.arn_scope)?;
        request_id::names_function(&name);
        upload::refuse_unsupported(kind, architectures)?;
        unserved::refuse(&input.unserved())?;
        let isolated = input.tenancy_config.is_some();
        let config = config.create(isolated, |arns| app.layers(arns))?;
        let tags = check_tags(input.tags.unwrap_or_default())?;
        let publish = input.publish.unwrap_or(false);
        (config, tags, name, code.package()?, publish)
    };
    let arn = app.arn_scope.arn(&name);
    let deployer = app.deployer.clone();
    let function = to_the_end(async move {
        let _permit = permit;
        deployer.create(name, config, tags, package, publish).await
    })
    .await?
    .map_err(|error| ApiError::control(error, &arn))?;
    Ok(json_response(
        StatusCode::CREATED,
        // The version that was published with it, but with the ARN and revision of `$LATEST`.
        &published_or_latest(&function, publish)
            .called(None)
            .of_revision(&function.record.revision_id)
            .configuration(&app.arn_scope),
    ))
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    // No function has copies in other regions, so all of them are all of `ALL`.
    if !matches!(parameters.get("MasterRegion"), None | Some("" | "ALL")) {
        return Err(unserved::unserved("MasterRegion"));
    }
    let versions = match parameters.get("FunctionVersion") {
        None => false,
        Some(version) => {
            checked(|violations| violations.one_of(version, &["ALL"], "functionVersion"))?;
            true
        }
    };
    if versions {
        return list_all_versions(&app, &parameters);
    }
    let marker = page::marker(&parameters)
        .map(FunctionName::parse)
        .transpose()
        .map_err(|_| page::bad_marker())?;
    let (functions, more) = app.catalog.list(marker.as_ref(), page::size(&parameters)?);
    let last = functions.last().filter(|_| more);
    let next = last.map(|function| function.record.name.to_string());
    let shown: Vec<Value> = functions
        .iter()
        .map(|function| Shown::latest(&function.record).listed(&app.arn_scope))
        .collect();
    Ok(page::answer("Functions", shown, next))
}

/// Every version of every function.
fn list_all_versions(app: &App, parameters: &Parameters) -> Result<Response, ApiError> {
    let (functions, _) = app.catalog.list(None, usize::MAX);
    let all = functions.iter().flat_map(|function| Shown::all(function));
    let key = |shown: &Shown<'_>| shown.key();
    let (page, next) = page::cut(all, parameters, key)?;
    let shown: Vec<Value> = page.iter().map(|v| v.listed(&app.arn_scope)).collect();
    Ok(page::answer("Functions", shown, next))
}

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Namespaced(named): Namespaced,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let function = app.function(&named)?;
    let target = app.target(&function, &named)?;
    let shown = target.shown(&function, &named);
    let mut answer = json!({
        "Configuration": shown.configuration_now(&app.arn_scope, &app.builder.progress),
        // The type for which clients download `Location` as a ZIP file.
        "Code": { "RepositoryType": "S3", "Location": app.downloads.location(shown.code(), &headers) },
    });
    if function.record.reserved_concurrency.is_some() {
        answer["Concurrency"] = reserved::shown(function.record.reserved_concurrency);
    }
    let tags = &function.record.tags;
    if !tags.is_empty() {
        answer["Tags"] = json!(tags);
    }
    Ok(json_response(StatusCode::OK, &answer))
}

pub(crate) async fn get_configuration(
    State(app): State<Arc<App>>,
    Namespaced(named): Namespaced,
) -> Result<Response, ApiError> {
    let function = app.function(&named)?;
    let target = app.target(&function, &named)?;
    Ok(json_response(
        StatusCode::OK,
        &target
            .shown(&function, &named)
            .configuration_now(&app.arn_scope, &app.builder.progress),
    ))
}

/// A function, or one version of it.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Function(named): Function,
) -> Result<Response, ApiError> {
    let qualifier = named.qualifier.as_deref();
    // Lambda refuses these qualifiers even if the function does not exist.
    if qualifier == Some(LATEST) {
        return Err(ApiError::invalid(
            "$LATEST version cannot be deleted without deleting the function.",
        ));
    }
    if qualifier.is_some_and(|text| AliasName::parse(text).is_ok()) {
        return Err(ApiError::invalid(
            "Deletion of aliases is not currently supported.",
        ));
    }
    let arn = app.arn_scope.arn(&named.name);
    let function = app.catalog.get(&named.name);
    let function = function.ok_or_else(|| ApiError::function_not_found(&arn))?;
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let version = match app.target(&function, &named) {
        Ok(Target::Published(published)) => Some(published.record.number),
        Ok(Target::Latest | Target::Alias(_)) => None,
        // Deleting a version that does not exist succeeds.
        Err(_) if qualifier.is_some_and(is_number) => {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        Err(error) => return Err(error),
    };
    let arn = named.arn(&app.arn_scope);
    let deployer = app.deployer.clone();
    to_the_end(async move {
        let deleted = match version {
            None => deployer.delete(&named.name).await,
            Some(number) => deployer.delete_version(&named.name, number).await,
        };
        deleted.map_err(|error| ApiError::control(error, &arn))?;
        match version {
            None => events::forget(&app, &named.name).await,
            Some(_) => Ok(()),
        }
    })
    .await??;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn update_code(
    State(app): State<Arc<App>>,
    Function(named): Function,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let permit = app.upload_permit().await?;
    let (revision, wish, package) = {
        let body = read(&headers, body, "UpdateFunctionCode").await?;
        let input: UpdateCodeInput = parse(&body)?;
        let code: CodeInput<'_> = parse(&body)?;
        let architectures = input.architectures.as_deref();
        checked(|violations| upload::check_kind(violations, None, architectures))?;
        app.find(&named)?;
        upload::refuse_unsupported(None, architectures)?;
        unserved::refuse(&[("PublishTo", input.publish_to)])?;
        let wish = CodeUpdate {
            dry_run: input.dry_run.unwrap_or(false),
            publish: input.publish.unwrap_or(false),
        };
        (input.revision_id, wish, code.update()?)
    };
    let function = app
        .change_function(&named, |deployer, name| async move {
            let _permit = permit;
            deployer
                .update_code(&name, revision.as_deref(), package, wish)
                .await
        })
        .await?;
    Ok(json_response(
        StatusCode::OK,
        &published_or_latest(&function, wish.publish && !wish.dry_run)
            .configuration(&app.arn_scope),
    ))
}

pub(crate) async fn update_configuration(
    State(app): State<Arc<App>>,
    Function(named): Function,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read(&headers, body, "UpdateFunctionConfiguration").await?;
    let Revision { revision_id } = parse(&body)?;
    let input: ConfigInput = parse(&body)?;
    let config = checked(|violations| input.check(violations))?;
    app.find(&named)?;
    let arn = app.arn_scope.arn(&named.name);
    let changing = app.clone();
    let function = to_the_end(async move {
        let layers = |arns: &[String]| changing.layers(arns);
        let change = |before: &_| config.apply(before, layers).map_err(ChangeError::Api);
        changing
            .deployer
            .update_config(&named.name, revision_id.as_deref(), change)
            .await
    })
    .await?
    .map_err(|error| error.into_api_error(&arn))?;
    Ok(json_response(
        StatusCode::OK,
        &Shown::latest(&function.record).configuration(&app.arn_scope),
    ))
}

/// The version that a change returns: the published one if it has published, or else `$LATEST`.
fn published_or_latest(function: &registry::Function, publish: bool) -> Shown<'_> {
    let number = function.record.last_version;
    match function.versions.get(&number) {
        Some(published) if publish => Shown::published(function, published),
        _ => Shown::latest(&function.record),
    }
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
