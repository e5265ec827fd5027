//! `Location`: links by which clients download packages of functions and layers.
//!
//! As on Lambda, a link needs no access key and works for ten minutes. It carries an HMAC whose key
//! exists only in this process, so clients get links only from operations that they are permitted.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Response, Uri, header};
use axum::response::IntoResponse;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::api::http::error::ApiError;
use crate::api::http::parameters::Parameters;
use crate::deploy::Builder;
use crate::function::Code;
use crate::hex::{hex, unhex};

/// The path of links, on every host name except those of function URLs.
const PREFIX: &str = "/hearth/v1/packages/";
/// How long a link works.
const LIFETIME: Duration = Duration::from_secs(600);

/// Makes links and verifies them.
pub(crate) struct Downloads {
    mac: Hmac<Sha256>,
}

impl std::fmt::Debug for Downloads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Downloads")
    }
}

impl Downloads {
    /// With a new key.
    pub(crate) fn new() -> io::Result<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
        let mac = Hmac::new_from_slice(&key).expect("HMAC takes keys of any length");
        Ok(Self { mac })
    }

    /// A link to a package, on the host that the request names.
    pub(crate) fn location(&self, code: &Code, headers: &HeaderMap) -> String {
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or("localhost");
        let expires = (now() + LIFETIME).as_secs();
        let signature = hex(&self.sign(&code.sha256, expires).finalize().into_bytes());
        format!(
            "http://{host}{PREFIX}{}?Expires={expires}&Signature={signature}",
            code.sha256
        )
    }

    fn sign(&self, sha256: &str, expires: u64) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        mac.update(sha256.as_bytes());
        mac.update(b"\n");
        mac.update(expires.to_string().as_bytes());
        mac
    }

    /// Whether this process has made the link, and it has not expired.
    fn is_valid(&self, sha256: &str, parameters: &Parameters, now: Duration) -> bool {
        let expires = parameters.get("Expires").and_then(|text| text.parse().ok());
        let signature = parameters.get("Signature").and_then(unhex::<32>);
        let (Some(expires), Some(signature)) = (expires, signature) else {
            return false;
        };
        let genuine = self.sign(sha256, expires).verify_slice(&signature).is_ok();
        genuine && now.as_secs() <= expires
    }
}

/// Whether a path is that of a link.
pub(crate) fn is_link(path: &str) -> bool {
    path.starts_with(PREFIX)
}

/// Serves a request for a link.
pub(crate) async fn serve(
    downloads: &Downloads,
    builder: &Builder,
    method: &Method,
    uri: &Uri,
) -> Response<Body> {
    match send(downloads, builder, method, uri).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn send(
    downloads: &Downloads,
    builder: &Builder,
    method: &Method,
    uri: &Uri,
) -> Result<Response<Body>, ApiError> {
    if method != Method::GET {
        return Err(ApiError::method());
    }
    let sha256 = uri.path().strip_prefix(PREFIX).unwrap_or_default();
    let parameters = Parameters::of_uri(uri)?;
    if !downloads.is_valid(sha256, &parameters, now()) {
        return Err(ApiError::expired_link());
    }
    // It was replaced or deleted after the link was made.
    let gone = |_| ApiError::not_found("The package is not there any more");
    let (size, package) = builder.packages.stream(sha256).await.map_err(gone)?;
    let mut response = Response::new(Body::from_stream(package));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/zip"),
    );
    headers.insert(header::CONTENT_LENGTH, size.into());
    Ok(response)
}

fn now() -> Duration {
    // If the clock is before 1970, links expire at once.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> Code {
        Code {
            sha256: "ab".repeat(32),
            size: 2,
            unpacked: 0,
        }
    }

    #[test]
    fn a_link_is_valid_for_its_package_alone_and_until_it_expires() {
        let downloads = Downloads::new().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("h:1"));
        let code = code();
        let location = downloads.location(&code, &headers);
        let uri: Uri = location.parse().unwrap();
        assert_eq!(uri.host(), Some("h"));
        let sha256 = uri.path().strip_prefix(PREFIX).unwrap();
        assert_eq!(sha256, code.sha256);
        let parameters = Parameters::of_uri(&uri).unwrap();
        assert!(downloads.is_valid(sha256, &parameters, now()));
        let later = now() + LIFETIME + Duration::from_secs(2);
        assert!(!downloads.is_valid(sha256, &parameters, later));
        assert!(!downloads.is_valid(&"cd".repeat(32), &parameters, now()));
        assert!(
            !Downloads::new()
                .unwrap()
                .is_valid(sha256, &parameters, now())
        );
        let signature = parameters.get("Signature").unwrap();
        for (expires, signature) in [
            ("99999999999", signature),
            ("x", signature),
            (parameters.get("Expires").unwrap(), "é0"),
            (parameters.get("Expires").unwrap(), "0"),
            (parameters.get("Expires").unwrap(), ""),
        ] {
            let forged = Parameters::of(&[("Expires", expires), ("Signature", signature)]);
            assert!(!downloads.is_valid(sha256, &forged, now()), "{forged:?}");
        }
        assert!(!downloads.is_valid(sha256, &Parameters::of(&[]), now()));
    }
}
