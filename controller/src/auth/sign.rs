//! Signs requests, for the command line. [`verify`](super::verify) checks them.

use std::fmt;
use std::time::SystemTime;

use axum::http::{HeaderMap, HeaderValue, Method, Uri};

use super::key::Secret;
use super::signature::{self, BodyHash, Scope};
use super::timestamp::Timestamp;
use super::{ALGORITHM, canonical};
use crate::hex::hex;

/// What a client needs to sign.
#[derive(Clone)]
pub struct Credentials {
    id: String,
    secret: Secret,
    region: String,
}

impl Credentials {
    /// An access key, for controllers of this region.
    pub fn new(id: String, secret: String, region: String) -> Self {
        Self {
            id,
            secret: Secret::new(secret),
            region,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials").field(&self.id).finish()
    }
}

/// The headers to add to a request to `uri` so that it is signed, including `host`. `headers` are those
/// that the request has already; those that start with `x-amz-` are signed too.
pub fn signed_headers(
    credentials: &Credentials,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
    now: SystemTime,
) -> Option<HeaderMap> {
    let now = Timestamp::of(now.into());
    let hash = BodyHash::of(body);
    let mut added = HeaderMap::new();
    added.insert("host", uri.authority()?.as_str().parse().ok()?);
    added.insert("x-amz-date", now.text.parse().ok()?);
    added.insert("x-amz-content-sha256", hash.parse().ok()?);
    let mut all = headers.clone();
    all.extend(added.clone());
    let mut names: Vec<&str> = all
        .keys()
        .map(|name| name.as_str())
        .filter(|name| *name == "host" || name.starts_with("x-amz-"))
        .collect();
    names.sort_unstable();
    let query = uri.query().unwrap_or_default();
    let mut canonical = canonical::head(method, uri.path(), query, &all, &names)?;
    canonical.extend_from_slice(hash.as_bytes());
    let scope = Scope {
        day: now.day(),
        region: &credentials.region,
    };
    let signature = signature::sign(&credentials.secret, scope, &now.text, &canonical);
    let authorization = format!(
        "{ALGORITHM} Credential={}/{}, SignedHeaders={}, Signature={}",
        credentials.id,
        scope.text(),
        names.join(";"),
        hex(&signature)
    );
    let mut authorization: HeaderValue = authorization.parse().ok()?;
    authorization.set_sensitive(true);
    added.insert("authorization", authorization);
    Some(added)
}
