//! Parses the signature of a request: the `Authorization` header, or the query of a presigned URL.
//!
//! Order and messages are AWS's: first missing parameters, then the date, then the parts of the
//! credential. Nothing is verified here.

use axum::http::{HeaderMap, Uri, header};
use percent_encoding::percent_decode_str;

use super::ALGORITHM;
use super::error::{AuthError, hashed};
use super::signature::LENGTH;
use super::timestamp::Timestamp;
use crate::hex::unhex;

/// Maximum validity of a presigned URL, in seconds: a week.
const MAX_EXPIRES: u32 = 604_800;

/// A signature and its parameters, not verified yet.
#[derive(Debug)]
pub(super) struct Presented {
    pub(super) key_id: String,
    /// The credential's scope: day, region, service, terminator.
    pub(super) scope: [String; 4],
    /// As the client sent them, separated by semicolons.
    pub(super) signed_headers: String,
    /// `None` if it is not 64 hexadecimal digits: then it can't match.
    pub(super) signature: Option<[u8; LENGTH]>,
    pub(super) date: Timestamp,
    /// For a presigned URL: how long after its date it is valid, in seconds.
    pub(super) expires: Option<u32>,
    /// Whether there is a session token.
    pub(super) token: bool,
}

impl Presented {
    /// Reads the header or, without one, the query.
    pub(super) fn of(uri: &Uri, headers: &HeaderMap) -> Result<Self, AuthError> {
        let query = uri.query().unwrap_or_default();
        let in_query = parameter(query, "X-Amz-Algorithm")?;
        let mut headers_given = headers.get_all(header::AUTHORIZATION).iter();
        match (headers_given.next(), in_query) {
            (None, None) => Err(AuthError::Missing),
            (Some(_), Some(_)) => Err(AuthError::Invalid(
                "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP \
                 header."
                    .into(),
            )),
            (None, Some(algorithm)) => Self::of_query(query, &algorithm),
            (Some(given), None) => {
                let given = given.to_str().unwrap_or_default();
                if headers_given.next().is_some() {
                    return Err(AuthError::Incomplete(
                        "There is more than one 'Authorization' header.".into(),
                    ));
                }
                Self::of_header(given, headers)
            }
        }
    }

    fn of_header(given: &str, headers: &HeaderMap) -> Result<Self, AuthError> {
        let (algorithm, parameters) = given.trim().split_once(' ').unwrap_or((given.trim(), ""));
        let (mut credential, mut names, mut signature) = (None, None, None);
        let pieces = parameters.split(',').map(str::trim);
        for piece in pieces.filter(|piece| !piece.is_empty()) {
            let Some((name, value)) = piece.split_once('=') else {
                return Err(AuthError::Incomplete(format!(
                    "Invalid key=value pair (missing equal-sign) in Authorization header (hashed \
                     with SHA-256 and encoded with Base64): '{}'.",
                    hashed(given)
                )));
            };
            let place = match name.trim() {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut names,
                "Signature" => &mut signature,
                _ => continue,
            };
            if place.replace(value.trim()).is_some() {
                return Err(AuthError::Incomplete(format!(
                    "Authorization header has more than one '{}' parameter.",
                    name.trim()
                )));
            }
        }
        let date = headers.get("x-amz-date").or(headers.get(header::DATE));
        let mut missing = String::new();
        for (name, value) in [
            ("Credential", credential),
            ("Signature", signature),
            ("SignedHeaders", names),
        ] {
            if value.is_none_or(str::is_empty) {
                missing += &format!("Authorization header requires '{name}' parameter. ");
            }
        }
        if date.is_none() {
            missing += "Authorization header requires existence of either a 'X-Amz-Date' or a \
                        'Date' header. ";
        }
        let (Some(credential), Some(names), Some(signature), Some(date), true) =
            (credential, names, signature, date, missing.is_empty())
        else {
            return Err(AuthError::Incomplete(format!(
                "{missing}(Hashed with SHA-256 and encoded with Base64) Authorization={}",
                hashed(given)
            )));
        };
        let date = date.to_str().unwrap_or_default();
        let date = Timestamp::parse_http(date).ok_or_else(|| no_date(date))?;
        check_algorithm(algorithm)?;
        let (key_id, scope) = credential_parts(credential)?;
        Ok(Self {
            key_id,
            scope,
            signed_headers: names.into(),
            signature: unhex(signature),
            date,
            expires: None,
            token: headers.contains_key("x-amz-security-token"),
        })
    }

    fn of_query(query: &str, algorithm: &str) -> Result<Self, AuthError> {
        let mut missing = String::new();
        let mut required = |name: &str| -> Result<String, AuthError> {
            let value = parameter(query, name)?.unwrap_or_default();
            if value.is_empty() {
                missing += &format!("AWS query-string parameters must include '{name}'. ");
            }
            Ok(value)
        };
        let credential = required("X-Amz-Credential")?;
        let signature = required("X-Amz-Signature")?;
        let names = required("X-Amz-SignedHeaders")?;
        let date = required("X-Amz-Date")?;
        let expires = required("X-Amz-Expires")?;
        if !missing.is_empty() {
            return Err(AuthError::Incomplete(
                missing + "Re-examine the query-string parameters.",
            ));
        }
        let date = Timestamp::parse(&date).ok_or_else(|| no_date(&date))?;
        let expires = Some(expires.as_str())
            .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|text| text.parse().ok())
            .filter(|seconds| (1..=MAX_EXPIRES).contains(seconds))
            .ok_or_else(|| {
                AuthError::Incomplete(format!(
                    "X-Amz-Expires must be a number of seconds from 1 to {MAX_EXPIRES} (a week)."
                ))
            })?;
        check_algorithm(algorithm)?;
        let (key_id, scope) = credential_parts(&credential)?;
        Ok(Self {
            key_id,
            scope,
            signed_headers: names,
            signature: unhex(&signature),
            date,
            expires: Some(expires),
            token: parameter(query, "X-Amz-Security-Token")?.is_some(),
        })
    }
}

fn check_algorithm(algorithm: &str) -> Result<(), AuthError> {
    if algorithm == ALGORITHM {
        return Ok(());
    }
    // AWS's message, including "for now".
    Err(AuthError::Incomplete(format!(
        "Unsupported AWS 'algorithm': '{algorithm}' (only {ALGORITHM} for now). "
    )))
}

fn credential_parts(credential: &str) -> Result<(String, [String; 4]), AuthError> {
    let parts: Vec<&str> = credential.split('/').collect();
    let [id, scope @ ..] = parts.as_slice() else {
        unreachable!("a split has at least one part");
    };
    match <[&str; 4]>::try_from(scope) {
        Ok(scope) => Ok(((*id).into(), scope.map(str::to_owned))),
        Err(_) => Err(AuthError::Incomplete(format!(
            "Credential must have exactly 5 slash-delimited elements, e.g. \
             keyid/date/region/service/term, got '{credential}'"
        ))),
    }
}

fn no_date(given: &str) -> AuthError {
    AuthError::Incomplete(format!(
        "Date must be in ISO-8601 'basic format'. Got '{given}'. See \
         http://en.wikipedia.org/wiki/ISO_8601"
    ))
}

/// The decoded value of a query parameter. It is an error if the query has it twice.
fn parameter(query: &str, name: &str) -> Result<Option<String>, AuthError> {
    let mut found = None;
    for pair in query.split('&') {
        let (given, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !percent_decode_str(given).eq(name.bytes()) {
            continue;
        }
        let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
        if found.replace(value).is_some() {
            return Err(AuthError::Incomplete(format!(
                "AWS query-string parameters must include '{name}' once. Re-examine the \
                 query-string parameters."
            )));
        }
    }
    Ok(found)
}
