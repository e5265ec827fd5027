//! What routes take out of a request's line: the function in the path, the query.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::Uri;
use axum::http::request::Parts;

use super::App;
use super::error::ApiError;
use super::names::{NameForm, Named};

/// The function that the path names, with the query's qualifier.
#[derive(Debug)]
pub(crate) struct Function(pub(crate) Named);

/// The same, where the API takes longer names: for reading and for running one.
#[derive(Debug)]
pub(crate) struct Namespaced(pub(crate) Named);

/// What the path has in the places that its route names.
#[derive(Debug)]
pub(crate) struct Segments(BTreeMap<String, String>);

impl Segments {
    /// The text in the place `name`, percent-decoded.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// The query's parameters.
#[derive(Debug)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(crate) fn of_uri(uri: &Uri) -> Result<Self, ApiError> {
        Query::try_from_uri(uri)
            .map(|Query(parameters)| Self(parameters))
            .map_err(|error| ApiError::invalid(format!("The query could not be read: {error}")))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next_back()
    }

    /// Every value of a parameter that may be there more than once.
    pub(crate) fn all(&self, name: &str) -> impl DoubleEndedIterator<Item = &str> {
        let named = self.0.iter().filter(move |(key, _)| key == name);
        named.map(|(_, value)| value.as_str())
    }

    /// Refuses what is none of the `known` ones, nor part of a signature.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        let strange = |name: &str| !known.contains(&name) && !name.starts_with("X-Amz-");
        match self.0.iter().find(|(name, _)| strange(name)) {
            Some((name, _)) => Err(ApiError::invalid(format!(
                "There is no parameter {name:?} here: only {}",
                known.join(", ")
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
impl Parameters {
    pub(crate) fn of(query: &[(&str, &str)]) -> Self {
        let pairs = query
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()));
        Self(pairs.collect())
    }
}

impl<S: Sync> FromRequestParts<S> for Parameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::of_uri(&parts.uri)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Segments {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Path::from_request_parts(parts, state)
            .await
            .map(|Path(segments)| Self(segments))
            .map_err(|error| ApiError::validation(format!("The path could not be read: {error}")))
    }
}

impl FromRequestParts<Arc<App>> for Function {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        named(parts, app, NameForm::Function).await.map(Self)
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
    Named::parse(segments.get("name"), qualifier, form, &app.place)
}
