//! The checks of one request, in AWS's order: first those that need no secret, then the key, then the
//! signature, then the body.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::{HeaderMap, Method, Uri};
use time::{Duration, OffsetDateTime};

use super::error::AuthError;
use super::key::AccessKey;
use super::key_file::KeysError;
use super::key_ring::KeyRing;
use super::presented::Presented;
use super::signature::{self, Scope};
use super::timestamp::Timestamp;
use super::{SERVICE, TERMINATOR, canonical};
use crate::hex::unhex;

/// Maximum difference between a client's clock and ours.
const SKEW: Duration = Duration::minutes(5);
const SKEW_TEXT: &str = "5 min.";

/// The header with the hash of the body that the client has signed.
const CONTENT_HASH: &str = "x-amz-content-sha256";

/// Checks signatures for one region.
#[derive(Debug)]
pub(crate) struct Verifier {
    keys: KeyRing,
    region: String,
}

/// A request that has passed all checks that need no body.
#[derive(Debug)]
pub(crate) struct Claim {
    key: Arc<AccessKey>,
    body: Body,
}

/// The check of the body that is still missing.
#[derive(Debug)]
enum Body {
    /// The signature is valid for a body with this hash.
    Declared(String),
    /// The signature can be checked only with the body's hash.
    Unknown {
        presented: Box<Presented>,
        canonical_head: Vec<u8>,
    },
}

impl Verifier {
    pub(crate) fn new(keys: KeyRing, region: String) -> Self {
        Self { keys, region }
    }

    /// All checks that need no body.
    pub(crate) fn examine(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        now: OffsetDateTime,
    ) -> Result<Claim, AuthError> {
        let presented = Presented::of(uri, headers)?;
        check_date(&presented, &Timestamp::of(now))?;
        let names = check_signed_headers(&presented.signed_headers, headers)?;
        self.check_scope(&presented)?;
        let key = self
            .keys
            .find(&presented.key_id)
            .map_err(|error: KeysError| {
                tracing::error!(%error, "the controller refuses all requests: it can't read the access keys");
                AuthError::Keys
            })?
            .ok_or(AuthError::Unrecognized)?;
        // There are no temporary credentials here, so every session token is unknown.
        if presented.token {
            return Err(AuthError::Unrecognized);
        }
        let query = uri.query().unwrap_or_default();
        let canonical_head = canonical::head(method, uri.path(), query, headers, &names)
            .ok_or_else(AuthError::mismatch)?;
        let body = match declared_hash(headers)? {
            None => Body::Unknown {
                presented: Box::new(presented),
                canonical_head,
            },
            Some(hash) => {
                check_signature(&key, &presented, canonical_head, &hash)?;
                Body::Declared(hash)
            }
        };
        Ok(Claim { key, body })
    }

    fn check_scope(&self, presented: &Presented) -> Result<(), AuthError> {
        let [day, region, service, terminator] = &presented.scope;
        let date = &presented.date;
        let mut wrong = String::new();
        if *region != self.region {
            wrong += &format!("Credential should be scoped to a valid region, not '{region}'. ");
        }
        if service != SERVICE {
            wrong += &format!("Credential should be scoped to correct service: '{SERVICE}'. ");
        }
        if terminator != TERMINATOR {
            wrong += &format!(
                "Credential should be scoped with a valid terminator: '{TERMINATOR}', not \
                 '{terminator}'. "
            );
        }
        if day != date.day() {
            wrong += &format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date \
                 from HTTP: '{day}' != '{}', from '{}'. ",
                date.day(),
                date.text
            );
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(AuthError::Invalid(wrong))
    }
}

impl Claim {
    /// Whether the signature has been checked already, because the client has sent the body's hash.
    pub(crate) fn is_signed(&self) -> bool {
        matches!(self.body, Body::Declared(_))
    }

    /// The last check, with the body's hash.
    pub(crate) fn settle(self, hash: &str) -> Result<Arc<AccessKey>, AuthError> {
        match self.body {
            Body::Declared(declared) if declared == hash => {}
            Body::Declared(_) => {
                return Err(AuthError::Invalid(format!(
                    "The provided '{CONTENT_HASH}' header does not match what was computed."
                )));
            }
            Body::Unknown {
                presented,
                canonical_head,
            } => check_signature(&self.key, &presented, canonical_head, hash)?,
        }
        Ok(self.key)
    }
}

fn check_signature(
    key: &AccessKey,
    presented: &Presented,
    mut canonical: Vec<u8>,
    hash: &str,
) -> Result<(), AuthError> {
    canonical.extend_from_slice(hash.as_bytes());
    let [day, region, ..] = &presented.scope;
    let holds = presented.signature.is_some_and(|given| {
        let scope = Scope { day, region };
        signature::is_signature_of(&key.secret, scope, &presented.date.text, &canonical, &given)
    });
    if holds {
        return Ok(());
    }
    // Helps authors of clients. The canonical request contains no secret.
    tracing::debug!(
        canonical = %String::from_utf8_lossy(&canonical),
        "a request's signature is not that of this canonical request"
    );
    Err(AuthError::mismatch())
}

fn check_date(presented: &Presented, now: &Timestamp) -> Result<(), AuthError> {
    let date = &presented.date;
    if date.time - now.time > SKEW {
        return Err(AuthError::Invalid(format!(
            "Signature not yet current: {} is still later than {} ({} + {SKEW_TEXT})",
            date.text,
            now.shifted(SKEW),
            now.text
        )));
    }
    let (good_for, text) = match presented.expires {
        None => (SKEW, SKEW_TEXT.to_owned()),
        Some(seconds) if seconds % 60 == 0 => (
            Duration::seconds(seconds.into()),
            format!("{} min.", seconds / 60),
        ),
        Some(seconds) => (Duration::seconds(seconds.into()), format!("{seconds} sec.")),
    };
    if now.time - date.time > good_for {
        return Err(AuthError::Invalid(format!(
            "Signature expired: {} is now earlier than {} ({} - {text})",
            date.text,
            now.shifted(-good_for),
            now.text
        )));
    }
    Ok(())
}

/// The names of the signed headers, without duplicates. They must contain the host, so that a request
/// can't be replayed to another one, and every `x-amz-` header, because these change the operation.
fn check_signed_headers<'a>(
    names: &'a str,
    headers: &HeaderMap,
) -> Result<Vec<&'a str>, AuthError> {
    let list: Vec<&str> = names.split(';').collect();
    let set: BTreeSet<&str> = list.iter().copied().collect();
    if !set.contains("host") {
        return Err(AuthError::not_signed("'Host' or ':authority'"));
    }
    let unsigned = headers
        .keys()
        .map(|name| name.as_str())
        .find(|name| name.starts_with("x-amz-") && !set.contains(name));
    if let Some(unsigned) = unsigned {
        return Err(AuthError::not_signed(&format!("'{unsigned}'")));
    }
    if set.len() != list.len() {
        return Err(AuthError::Incomplete(
            "A header is named more than once in 'SignedHeaders'.".into(),
        ));
    }
    Ok(list)
}

/// The body's hash according to the client. As on Lambda, `UNSIGNED-PAYLOAD` is refused.
fn declared_hash(headers: &HeaderMap) -> Result<Option<String>, AuthError> {
    let mut values = headers.get_all(CONTENT_HASH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let hash = value
        .to_str()
        .ok()
        .filter(|text| unhex::<{ signature::LENGTH }>(text).is_some());
    match (hash, values.next()) {
        (Some(hash), None) => Ok(Some(hash.into())),
        _ => Err(AuthError::Invalid(format!(
            "'{CONTENT_HASH}' must be the SHA-256 of the body in hexadecimal: unsigned bodies are \
             refused."
        ))),
    }
}
