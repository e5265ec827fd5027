//! Lambda's operations on function URLs: create, read, change, delete, list. Requests to the URLs
//! themselves are served by [`function_url_layer`](super::function_url_layer).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::app::App;
use crate::api::change::to_the_end;
use crate::api::http::body::read_small;
use crate::api::http::error::ApiError;
use crate::api::http::page;
use crate::api::http::parameters::Parameters;
use crate::api::http::response::json_response;
use crate::api::http::violations::{Violations, checked, found};
use crate::api::http::wire::parse;
use crate::api::target::extract::Function;
use crate::api::target::names::Named;
use crate::deploy::{Change, ControlError, UrlChange, UrlError, urls};
use crate::function::{AliasName, ArnScope, AuthType, Cors, FunctionUrl, InvokeMode};
use crate::web_pages::port_on_localhost;

/// Maximum number of items of a list in a CORS configuration, and maximum length of each.
const MAX_ORIGINS: (usize, usize) = (100, 253);
const MAX_METHODS: usize = 6;
const MAX_HEADERS: (usize, usize) = (100, 1024);
/// Maximum time that a browser may cache a preflight's response, in seconds: a day.
const MAX_AGE: u32 = 86_400;
/// Without `OPTIONS`, the method of preflights.
const METHODS: [&str; 7] = ["GET", "PUT", "HEAD", "POST", "PATCH", "DELETE", "*"];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UrlInput {
    auth_type: Option<String>,
    cors: Option<CorsInput>,
    invoke_mode: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CorsInput {
    allow_credentials: Option<bool>,
    allow_headers: Option<Vec<String>>,
    allow_methods: Option<Vec<String>>,
    allow_origins: Option<Vec<String>>,
    expose_headers: Option<Vec<String>>,
    max_age: Option<i64>,
}

impl UrlInput {
    fn check(self, violations: &mut Violations) -> UrlChange {
        if let Some(kind) = &self.auth_type {
            violations.one_of(kind, &["NONE", "AWS_IAM"], "authType");
        }
        let cors = self.cors.map(|cors| cors.check(violations));
        if let Some(mode) = &self.invoke_mode {
            violations.one_of(mode, &["RESPONSE_STREAM", "BUFFERED"], "invokeMode");
        }
        UrlChange {
            auth: self.auth_type.map(|kind| match kind.as_str() {
                "NONE" => AuthType::None,
                _ => AuthType::Iam,
            }),
            cors,
            mode: self.invoke_mode.map(|mode| match mode.as_str() {
                "BUFFERED" => InvokeMode::Buffered,
                _ => InvokeMode::ResponseStream,
            }),
        }
    }
}

impl CorsInput {
    fn check(self, violations: &mut Violations) -> Cors {
        let methods = self.allow_methods.as_deref().unwrap_or_default();
        violations.length(methods, 0..=MAX_METHODS, "cors.allowMethods");
        for method in methods {
            violations.one_of(method, &METHODS, "cors.allowMethods");
        }
        let mut list = |items: &Option<Vec<String>>, limits, field| {
            check_list(
                violations,
                items.as_deref().unwrap_or_default(),
                limits,
                field,
            );
        };
        list(&self.allow_headers, MAX_HEADERS, "cors.allowHeaders");
        list(&self.allow_origins, MAX_ORIGINS, "cors.allowOrigins");
        list(&self.expose_headers, MAX_HEADERS, "cors.exposeHeaders");
        let max_age = self.max_age;
        let max_age = max_age.and_then(|age| violations.in_range(age, 0..=MAX_AGE, "cors.maxAge"));
        Cors {
            allow_credentials: self.allow_credentials,
            allow_headers: self.allow_headers,
            allow_methods: self.allow_methods,
            allow_origins: self.allow_origins,
            expose_headers: self.expose_headers,
            max_age,
        }
    }
}

/// Checks a list whose items become part of a header.
fn check_list(
    violations: &mut Violations,
    items: &[String],
    (most, longest): (usize, usize),
    field: &str,
) {
    violations.length(items, 0..=most, field);
    for item in items {
        let printable = item.bytes().all(|b| b.is_ascii_graphic() && b != b',');
        if item.is_empty() || item.len() > longest || !printable {
            let constraint =
                format!("Member must have 1 to {longest} printable characters and no comma");
            violations.add(item, field, &constraint);
        }
    }
}

/// The alias that the qualifier names; empty for `$LATEST`, which must be given without a qualifier.
fn alias(named: &Named) -> Result<String, ApiError> {
    let Some(qualifier) = &named.qualifier else {
        return Ok(String::new());
    };
    match AliasName::parse(qualifier) {
        Ok(alias) => Ok(alias.to_string()),
        Err(_) => Err(ApiError::constraint(
            qualifier,
            "qualifier",
            "Member must satisfy regular expression pattern: ((?!^\\d+$)^[0-9a-zA-Z-_]+$)",
        )),
    }
}

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Function(named): Function,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let alias = alias(&named)?;
    let body = read_small(&headers, body, "CreateFunctionUrlConfig").await?;
    let input: UrlInput = parse(&body)?;
    let (auth, wish) = found(|violations| {
        violations.given(input.auth_type.as_ref(), "authType");
        let wish = input.check(violations);
        Some((wish.auth?, wish))
    })?;
    let mode_given = wish.mode.is_some();
    let (deployer, name, of) = (app.deployer.clone(), named.name.clone(), alias.clone());
    let made = to_the_end(async move {
        let create = |change: &mut Change<'_>| urls::create(change, &of, auth, wish);
        deployer.change(&name, create).await
    });
    let (_, url) = made
        .await?
        .map_err(|error| refused(error, &named, &app.arn_scope))?;
    let mut answer = written(&url, mode_given, &named, &alias, &headers, &app.arn_scope);
    if let Some(answer) = answer.as_object_mut() {
        answer.remove("LastModifiedTime");
    }
    Ok(json_response(StatusCode::CREATED, &answer))
}

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Function(named): Function,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let alias = alias(&named)?;
    let function = app.catalog.get(&named.name);
    let url = function
        .as_ref()
        .and_then(|function| function.record.urls.get(&alias))
        .ok_or_else(|| refused(UrlError::None, &named, &app.arn_scope))?;
    let answer = shown(url, &named, &alias, &headers, &app.arn_scope);
    Ok(json_response(StatusCode::OK, &answer))
}

pub(crate) async fn update(
    State(app): State<Arc<App>>,
    Function(named): Function,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let alias = alias(&named)?;
    let body = read_small(&headers, body, "UpdateFunctionUrlConfig").await?;
    let input: UrlInput = parse(&body)?;
    let wish = checked(|violations| input.check(violations))?;
    let mode_given = wish.mode.is_some();
    let (deployer, name, of) = (app.deployer.clone(), named.name.clone(), alias.clone());
    let changed = to_the_end(async move {
        let update = |change: &mut Change<'_>| urls::update(change, &of, wish);
        deployer.change(&name, update).await
    });
    let (_, url) = changed
        .await?
        .map_err(|error| refused(error, &named, &app.arn_scope))?;
    let answer = written(&url, mode_given, &named, &alias, &headers, &app.arn_scope);
    Ok(json_response(StatusCode::OK, &answer))
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Function(named): Function,
) -> Result<Response, ApiError> {
    let alias = alias(&named)?;
    let (deployer, name) = (app.deployer.clone(), named.name.clone());
    let deleted = to_the_end(async move {
        let delete = |change: &mut Change<'_>| urls::delete(change, &alias);
        deployer.change(&name, delete).await
    });
    deleted.await?.map_err(|error| match error {
        UrlError::Control(ControlError::NotFound) => {
            refused(UrlError::None, &named, &app.arn_scope)
        }
        error => refused(error, &named, &app.arn_scope),
    })?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(crate) async fn list_all(
    State(app): State<Arc<App>>,
    Function(named): Function,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let function = app
        .catalog
        .get(&named.name)
        .ok_or_else(|| ApiError::not_found("Function does not exist"))?;
    let urls = function.record.urls.iter();
    let (urls, next) = page::cut(urls, &parameters, |(alias, _)| (*alias).clone())?;
    let shown: Vec<Value> = urls
        .iter()
        .map(|(alias, url)| shown(url, &named, alias, &headers, &app.arn_scope))
        .collect();
    Ok(page::answer("FunctionUrlConfigs", shown, next))
}

/// The response to a create or update: `InvokeMode` only if the request gave it.
fn written(
    url: &FunctionUrl,
    mode_given: bool,
    named: &Named,
    alias: &str,
    headers: &HeaderMap,
    arn_scope: &ArnScope,
) -> Value {
    let mut answer = shown(url, named, alias, headers, arn_scope);
    if let Some(answer) = answer.as_object_mut().filter(|_| !mode_given) {
        answer.remove("InvokeMode");
    }
    answer
}

/// The URL's configuration as JSON.
fn shown(
    url: &FunctionUrl,
    named: &Named,
    alias: &str,
    headers: &HeaderMap,
    arn_scope: &ArnScope,
) -> Value {
    let called = Named {
        name: named.name.clone(),
        qualifier: (!alias.is_empty()).then(|| alias.to_owned()),
    };
    let mut answer = json!({
        "FunctionUrl": address(url, &called, headers),
        "FunctionArn": called.arn(arn_scope),
        "AuthType": url.auth,
        "CreationTime": url.created,
        "LastModifiedTime": url.modified,
        "InvokeMode": url.mode,
    });
    if let Some(cors) = &url.cors {
        answer["Cors"] = json!(cors);
    }
    answer
}

/// The URL's address for the client that asks. On this machine it is a host name of its own, which
/// browsers resolve to loopback, and which keeps the function's pages apart from others. There may be no
/// such names on the host by which a client from elsewhere comes, so that client gets a path on it.
fn address(url: &FunctionUrl, called: &Named, headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST);
    let host = host
        .and_then(|host| host.to_str().ok())
        .unwrap_or("localhost");
    if let Some(port) = port_on_localhost(host) {
        return format!("http://{}.lambda-url.localhost{port}/", url.id);
    }
    let alias = called.qualifier.as_deref().map(|alias| format!(":{alias}"));
    let alias = alias.unwrap_or_default();
    format!("http://{host}/fn/{}{alias}/", called.name)
}

fn refused(error: UrlError, named: &Named, arn_scope: &ArnScope) -> ApiError {
    let arn = named.arn(arn_scope);
    match error {
        UrlError::Control(ControlError::NotFound) => ApiError::not_found("Function does not exist"),
        UrlError::Control(error) => ApiError::control(error, &arn),
        UrlError::Exists => ApiError::conflict(format!(
            "Failed to create function url config for [functionArn = {arn}]. Error message:  \
             FunctionUrlConfig exists for this Lambda function"
        )),
        UrlError::None => ApiError::not_found("The resource you requested does not exist."),
    }
}
