//! axum extractors of a request's path segments and query parameters.

use std::collections::BTreeMap;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::Uri;
use axum::http::request::Parts;

use super::error::ApiError;

/// The path's segments, by the names that its route gives them in braces.
#[derive(Debug)]
pub(crate) struct Segments(BTreeMap<String, String>);

impl Segments {
    /// The segment `name`, percent-decoded.
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

    /// Every value of a parameter that the query may repeat.
    pub(crate) fn all(&self, name: &str) -> impl DoubleEndedIterator<Item = &str> {
        let named = self.0.iter().filter(move |(key, _)| key == name);
        named.map(|(_, value)| value.as_str())
    }

    /// Refuses parameters that are neither `known` nor part of a signature.
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

/// A whole number in a query.
pub(crate) fn number(text: &str, name: &str, least: u64, most: u64) -> Result<u64, ApiError> {
    text.parse()
        .ok()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| {
            ApiError::invalid(format!(
                "{name} must be a number from {least} to {most}, it was {text:?}"
            ))
        })
}
