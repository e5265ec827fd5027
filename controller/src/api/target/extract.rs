//! axum extractors of the function that a request's path and query name.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::names::{NameForm, Named};
use crate::api::app::App;
use crate::api::http::error::ApiError;
use crate::api::http::parameters::{Parameters, Segments};
use crate::api::http::request_id;

/// The function that the path names, with the query's qualifier.
#[derive(Debug)]
pub(crate) struct Function(pub(crate) Named);

/// The same for operations whose model has the type `NamespacedFunctionName`, which allows longer
/// names: reading a function and invoking it.
#[derive(Debug)]
pub(crate) struct Namespaced(pub(crate) Named);

impl FromRequestParts<Arc<App>> for Function {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let named = named(parts, app, NameForm::Function).await?;
        request_id::names_function(&named.name);
        Ok(Self(named))
    }
}

impl FromRequestParts<Arc<App>> for Namespaced {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        named(parts, app, NameForm::Namespaced).await.map(Self)
    }
}

async fn named(parts: &mut Parts, app: &Arc<App>, form: NameForm) -> Result<Named, ApiError> {
    let segments = Segments::from_request_parts(parts, app).await?;
    let parameters = Parameters::from_request_parts(parts, app).await?;
    let qualifier = parameters
        .get("Qualifier")
        .filter(|qualifier| !qualifier.is_empty());
    Named::parse(segments.get("name"), qualifier, form, &app.arn_scope)
}
