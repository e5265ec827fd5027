//! The prelude of a streamed HTTP response: JSON with status, headers and cookies, then eight NUL bytes,
//! then the body.
//!
//! A result has a prelude if the runtime gives it the `Content-Type` [`INTEGRATION_RESPONSE`].

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value};

use super::answer::{Dropped, Malformed, header_value, put_headers, status};

/// `Content-Type` of a result with a prelude.
pub(crate) const INTEGRATION_RESPONSE: &str = "application/vnd.awslambda.http-integration-response";

/// The content type of a streamed body for which the function gives none.
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const SEPARATOR: [u8; 8] = [0; 8];
/// Longest prelude, in bytes: more headers than any client takes.
const MAX_PRELUDE: usize = 256 * 1024;

/// The bytes of a prelude so far.
#[derive(Debug, Default)]
pub(crate) struct Prelude(BytesMut);

/// A result has no valid prelude.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SplitError {
    /// It is too long.
    #[error("the prelude is longer than {MAX_PRELUDE} bytes")]
    TooLong,
    /// It does not describe a valid response.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl Prelude {
    /// Adds bytes. Once the prelude is complete, returns the response without its body, and the bytes of
    /// the body that have been added.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
    ) -> Result<Option<(Response<()>, Bytes)>, SplitError> {
        // The separator may have begun in earlier bytes.
        let seen = self.0.len().saturating_sub(SEPARATOR.len() - 1);
        self.0.extend_from_slice(bytes);
        let found = self.0[seen..]
            .windows(SEPARATOR.len())
            .position(|window| window == SEPARATOR);
        let Some(found) = found else {
            if self.0.len() > MAX_PRELUDE {
                return Err(SplitError::TooLong);
            }
            return Ok(None);
        };
        let json = self.0.split_to(seen + found);
        if json.len() > MAX_PRELUDE {
            return Err(SplitError::TooLong);
        }
        let rest = self.0.split_off(SEPARATOR.len()).freeze();
        Ok(Some((parse(&json)?, rest)))
    }
}

/// The response for a whole result with a prelude.
pub(crate) fn with_prelude(result: &Bytes) -> Result<Response<Body>, SplitError> {
    match Prelude::default().push(result)? {
        Some((response, body)) => Ok(response.map(|()| Body::from(body))),
        None => Err(Malformed::CUT_SHORT.into()),
    }
}

fn parse(json: &[u8]) -> Result<Response<()>, Malformed> {
    let mut described: Map<String, Value> =
        serde_json::from_slice(json).map_err(|_| Malformed("the prelude is not a JSON object"))?;
    let mut response = Response::new(());
    *response.status_mut() = match described.get("statusCode") {
        None | Some(Value::Null) => StatusCode::OK,
        Some(given) => status(given)?,
    };
    let several = several(&mut described)?;
    let headers = response.headers_mut();
    put_headers(headers, &described)?;
    for (name, value) in &several {
        headers.append(name.clone(), value.clone());
    }
    headers.entry(CONTENT_TYPE).or_insert(OCTETS);
    Ok(response)
}

/// Removes and returns the headers whose value is a list: runtimes write a header with several values
/// like that.
fn several(described: &mut Map<String, Value>) -> Result<HeaderMap, Malformed> {
    let mut several = HeaderMap::new();
    let Some(Value::Object(headers)) = described.get_mut("headers") else {
        return Ok(several);
    };
    let dropped = Dropped::of(headers);
    let mut kept = Map::new();
    for (name, value) in std::mem::take(headers) {
        let parsed = HeaderName::try_from(name.as_str());
        if parsed.as_ref().is_ok_and(|name| dropped.contains(name)) {
            continue;
        }
        match value {
            Value::Array(values) => {
                let name = parsed.map_err(|_| Malformed("a header's name is not valid"))?;
                for value in &values {
                    several.append(name.clone(), header_value(value)?);
                }
            }
            other => drop(kept.insert(name, other)),
        }
    }
    *headers = kept;
    Ok(several)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] = b"{\"statusCode\":201,\"headers\":{\"X-A\":\"1\",\"x-b\":[\"2\",\"3\"],\
        \"Content-Length\":[\"9\"],\"connection\":[\"close\",\"X-Hop\"],\"x-hop\":\"1\"},\"cookies\":[\"c=1\"]}\0\0\0\0\0\0\0\0bo\0dy";

    fn check(response: &Response<()>) {
        let headers = response.headers();
        assert_eq!(response.status(), 201);
        assert_eq!(headers["x-a"], "1");
        assert_eq!(headers.get_all("x-b").iter().count(), 2);
        assert_eq!(headers["set-cookie"], "c=1");
        assert_eq!(headers["content-type"], "application/octet-stream");
        for name in ["content-length", "connection", "x-hop"] {
            assert!(!headers.contains_key(name), "{name}");
        }
    }

    #[test]
    fn a_prelude_is_found_however_its_bytes_arrive() {
        for size in [1, 3, 7, WHOLE.len()] {
            let mut prelude = Prelude::default();
            let mut body = Vec::new();
            let mut response = None;
            for piece in WHOLE.chunks(size) {
                if response.is_some() {
                    body.extend_from_slice(piece);
                } else if let Some((made, rest)) = prelude.push(piece).unwrap() {
                    body.extend_from_slice(&rest);
                    response = Some(made);
                }
            }
            check(&response.unwrap());
            assert_eq!(body, b"bo\0dy", "{size}");
        }
    }

    #[test]
    fn an_empty_prelude_is_an_ordinary_response() {
        let (response, rest) = Prelude::default()
            .push(b"{}\0\0\0\0\0\0\0\0")
            .unwrap()
            .unwrap();
        assert_eq!((response.status().as_u16(), &rest[..]), (200, &b""[..]));
    }

    #[test]
    fn an_invalid_prelude_is_refused_and_an_endless_one_does_not_grow() {
        for bad in [
            &b"[]\0\0\0\0\0\0\0\0"[..],
            b"{\"statusCode\":99}\0\0\0\0\0\0\0\0",
            b"{\"headers\":{\"a\":[\"b\\r\\nc: d\"]}}\0\0\0\0\0\0\0\0",
            b"\0\0\0\0\0\0\0\0",
        ] {
            assert!(Prelude::default().push(bad).is_err());
        }
        let mut endless = Prelude::default();
        let piece = [b' '; 1 << 16];
        for _ in 0..MAX_PRELUDE >> 16 {
            assert_eq!(endless.push(&piece).unwrap().map(drop), None);
        }
        assert_eq!(endless.push(&piece).unwrap_err(), SplitError::TooLong);
        let truncated = Bytes::from_static(b"{\"statusCode\":200}\0\0");
        assert!(with_prelude(&truncated).is_err());
    }
}
