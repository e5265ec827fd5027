//! Aliases: create, list, read, change, delete.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::app::App;
use crate::api::http::body::read_small;
use crate::api::http::error::ApiError;
use crate::api::http::page;
use crate::api::http::parameters::{Parameters, Segments};
use crate::api::http::response::json_response;
use crate::api::http::violations::{Violations, checked, found};
use crate::api::http::wire::parse;
use crate::api::target::extract::Function;
use crate::api::target::names::Named;
use crate::deploy::{AliasChange, Change, aliases};
use crate::function::{AliasName, AliasRecord, VersionId, Weighted};
use crate::registry;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateInput {
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AliasInput {
    function_version: Option<String>,
    description: Option<String>,
    routing_config: Option<RoutingConfig>,
    revision_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RoutingConfig {
    additional_version_weights: Option<BTreeMap<String, f64>>,
}

impl AliasInput {
    /// Checks the form, without looking up the function.
    fn check_form(&self, violations: &mut Violations) {
        if let Some(version) = &self.function_version {
            check_version(violations, version);
        }
        if let Some(description) = &self.description {
            violations.at_most(description, 256, "description");
        }
        if let Some(routing) = &self.routing_config {
            routing.check_form(violations);
        }
    }

    fn change(self, named: &Named, app: &App) -> Result<AliasChange, ApiError> {
        let version = self
            .function_version
            .map(|text| parse_version(&text, named, app))
            .transpose()?;
        Ok(AliasChange {
            version,
            description: self.description,
            additional: self
                .routing_config
                .map(|routing| routing.parse(named, app))
                .transpose()?,
            revision: self.revision_id,
        })
    }
}

impl RoutingConfig {
    fn check_form(&self, violations: &mut Violations) {
        let mut violate = |version: &str, weight: f64, constraint: &str| {
            // `2=2.0`: with a fraction, as Lambda writes it.
            let value = format!("{{{version}={weight:?}}}");
            violations.add(&value, "routingConfig.additionalVersionWeights", constraint);
        };
        for (version, weight) in self.additional_version_weights.iter().flatten() {
            if !(0.0..=1.0).contains(weight) {
                violate(
                    version,
                    *weight,
                    "Map value must satisfy constraint: [Member must have value less than or equal \
                     to 1.0, Member must have value greater than or equal to 0.0, Member must not \
                     be null]",
                );
            }
            if !is_number(version) {
                violate(
                    version,
                    *weight,
                    "Map keys must satisfy constraint: [Member must have length less than or equal \
                     to 1024, Member must have length greater than or equal to 1, Member must \
                     satisfy regular expression pattern: [0-9]+, Member must not be null]",
                );
            }
        }
    }

    /// An empty map of weights removes the second version.
    fn parse(self, named: &Named, app: &App) -> Result<Option<Weighted>, ApiError> {
        let weights = self.additional_version_weights.unwrap_or_default();
        if weights.len() > 1 {
            return Err(ApiError::invalid(
                "Number of items in AdditionalVersionWeights cannot be greater than 1",
            ));
        }
        let Some((version, weight)) = weights.into_iter().next() else {
            return Ok(None);
        };
        match parse_version(&version, named, app)? {
            VersionId::Number(number) => Ok(Some(Weighted { number, weight })),
            VersionId::Latest => unreachable!("it is made of digits"),
        }
    }
}

fn is_number(version: &str) -> bool {
    !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit())
}

fn check_version(violations: &mut Violations, text: &str) {
    if !is_number(text) && VersionId::parse(text).is_err() {
        violations.add(
            text,
            "functionVersion",
            "Member must satisfy regular expression pattern: (\\$LATEST|[0-9]+)",
        );
    }
}

/// Parses the version that an alias is to point to. A number too large for a version is an error.
fn parse_version(text: &str, named: &Named, app: &App) -> Result<VersionId, ApiError> {
    VersionId::parse(text)
        .map_err(|_| ApiError::function_not_found(&app.arn_scope.qualified_arn(&named.name, text)))
}

fn check_alias(violations: &mut Violations, text: &str) -> Option<AliasName> {
    let alias = AliasName::parse(text).ok();
    if alias.is_none() {
        violations.add(
            text,
            "name",
            "Member must satisfy regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)",
        );
    }
    alias
}

/// The alias that the path names.
fn parse_alias(segments: &Segments) -> Result<AliasName, ApiError> {
    found(|violations| check_alias(violations, segments.get("alias")))
}

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Function(named): Function,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read_small(&headers, body, "CreateAlias").await?;
    let CreateInput { name } = parse(&body)?;
    let input: AliasInput = parse(&body)?;
    let alias = found(|violations| {
        let version = input.function_version.as_deref();
        violations.given(version, "functionVersion");
        input.check_form(violations);
        let name = violations.given(name.as_deref(), "name")?;
        check_alias(violations, name)
    })?;
    let change = input.change(&named, &app)?;
    let version = change.version.expect("it was given");
    if app.catalog.get(&named.name).is_none() {
        // Lambda's error names the version that the alias is to point to.
        let arn = app.arn_scope.qualified_arn(&named.name, version);
        return Err(ApiError::function_not_found(&arn));
    }
    app.find(&named)?;
    let record = AliasRecord {
        version,
        description: change.description.unwrap_or_default(),
        additional: change.additional.flatten(),
        revision_id: String::new(),
    };
    let made = alias.clone();
    let (function, ()) = app
        .change_function(&named, |deployer, name| async move {
            let create = |change: &mut Change<'_>| aliases::create(change, made, record);
            deployer.change(&name, create).await
        })
        .await?;
    shown(&app, &function, &alias, StatusCode::CREATED)
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Function(named): Function,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let function = app.find(&named)?;
    let of_version = parameters
        .get("FunctionVersion")
        .map(|text| {
            checked(|violations| check_version(violations, text))?;
            parse_version(text, &named, &app)
        })
        .transpose()?;
    let wanted = function
        .record
        .aliases
        .iter()
        .filter(|(_, alias)| of_version.is_none_or(|version| alias.uses(version)));
    let (page, next) = page::cut(wanted, &parameters, |(name, _)| name.to_string())?;
    let aliases: Vec<Value> = page
        .iter()
        .map(|(name, alias)| describe(&app, &function, name, alias))
        .collect();
    Ok(page::answer("Aliases", aliases, next))
}

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Function(named): Function,
    segments: Segments,
) -> Result<Response, ApiError> {
    let function = app.find(&named)?;
    let alias = parse_alias(&segments)?;
    shown(&app, &function, &alias, StatusCode::OK)
}

pub(crate) async fn update(
    State(app): State<Arc<App>>,
    Function(named): Function,
    segments: Segments,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read_small(&headers, body, "UpdateAlias").await?;
    let input: AliasInput = parse(&body)?;
    let alias = found(|violations| {
        input.check_form(violations);
        check_alias(violations, segments.get("alias"))
    })?;
    app.find(&named)?;
    let wish = input.change(&named, &app)?;
    let changed = alias.clone();
    let (function, ()) = app
        .change_function(&named, |deployer, name| async move {
            let update = |change: &mut Change<'_>| aliases::update(change, changed, wish);
            deployer.change(&name, update).await
        })
        .await?;
    shown(&app, &function, &alias, StatusCode::OK)
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Function(named): Function,
    segments: Segments,
) -> Result<Response, ApiError> {
    app.find(&named)?;
    let alias = parse_alias(&segments)?;
    app.change_function(&named, |deployer, name| async move {
        let delete = |change: &mut Change<'_>| aliases::delete(change, &alias);
        deployer.change(&name, delete).await
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn shown(
    app: &App,
    function: &registry::Function,
    name: &AliasName,
    status: StatusCode,
) -> Result<Response, ApiError> {
    let Some(alias) = function.record.aliases.get(name) else {
        let arn = app.arn_scope.qualified_arn(&function.record.name, name);
        return Err(ApiError::alias_not_found(&arn));
    };
    let body = describe(app, function, name, alias);
    Ok(json_response(status, &body))
}

fn describe(
    app: &App,
    function: &registry::Function,
    name: &AliasName,
    alias: &AliasRecord,
) -> Value {
    let mut out = json!({
        "AliasArn": app.arn_scope.qualified_arn(&function.record.name, name),
        "Name": name,
        "FunctionVersion": alias.version,
        "Description": alias.description,
        "RevisionId": alias.revision_id,
    });
    if let Some(Weighted { number, weight }) = alias.additional {
        out["RoutingConfig"] =
            json!({ "AdditionalVersionWeights": { number.to_string(): weight } });
    }
    out
}
