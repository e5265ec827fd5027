//! Turns a function's result into an HTTP response.
//!
//! A JSON object with a `statusCode` describes the response; any other result is itself the body, with
//! status 200 and type JSON.

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, SET_COOKIE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value};

use crate::hop_by_hop::HopByHop;

/// The result does not describe a valid response. The text is the reason, for the log.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(super) &'static str);

impl Malformed {
    /// A result ends before its prelude does.
    pub(crate) const CUT_SHORT: Self = Self("the result ends before its prelude");
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The headers of a result that are dropped, because the controller sets its connection's own.
pub(super) struct Dropped(HopByHop);

/// The response for a function's result.
pub(crate) fn response(result: Bytes) -> Result<Response<Body>, Malformed> {
    // A result with another first byte is no JSON object, so it need not be parsed.
    let described = match result.first() {
        Some(b'{' | b' ' | b'\t' | b'\r' | b'\n') => serde_json::from_slice::<Value>(&result).ok(),
        _ => None,
    };
    match described {
        Some(Value::Object(described)) if described.contains_key("statusCode") => {
            describe(described)
        }
        _ => {
            let mut response = Response::new(Body::from(result));
            response.headers_mut().insert(CONTENT_TYPE, JSON);
            Ok(response)
        }
    }
}

fn describe(mut described: Map<String, Value>) -> Result<Response<Body>, Malformed> {
    let status = status(&described["statusCode"])?;
    let encoded = match described.get("isBase64Encoded") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(encoded)) => *encoded,
        Some(_) => return Err(Malformed("isBase64Encoded is neither true nor false")),
    };
    let body = match described.remove("body") {
        None | Some(Value::Null) => Bytes::new(),
        Some(Value::String(text)) if encoded => STANDARD
            .decode(text)
            .map_err(|_| Malformed("body is not base64"))?
            .into(),
        Some(Value::String(text)) => text.into(),
        // The format wants a string, but functions return objects too. They become JSON, as on Lambda.
        Some(other) => other.to_string().into(),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    put_headers(headers, &described)?;
    headers.entry(CONTENT_TYPE).or_insert(JSON);
    Ok(response)
}

/// Parses a final HTTP status.
pub(super) fn status(given: &Value) -> Result<StatusCode, Malformed> {
    let status = match given {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    status
        .and_then(|status| u16::try_from(status).ok())
        .filter(|status| (200..=599).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or(Malformed(
            "statusCode is not an HTTP status from 200 to 599",
        ))
}

/// Adds `headers` and `cookies` of a description.
pub(super) fn put_headers(
    headers: &mut HeaderMap,
    described: &Map<String, Value>,
) -> Result<(), Malformed> {
    match described.get("headers") {
        None | Some(Value::Null) => {}
        Some(Value::Object(given)) => {
            let dropped = Dropped::of(given);
            for (name, value) in given {
                let name = HeaderName::try_from(name.as_str())
                    .map_err(|_| Malformed("a header's name is not valid"))?;
                let value = header_value(value)?;
                if !dropped.contains(&name) {
                    headers.insert(name, value);
                }
            }
        }
        Some(_) => return Err(Malformed("headers is not an object")),
    }
    match described.get("cookies") {
        None | Some(Value::Null) => {}
        Some(Value::Array(cookies)) => {
            for cookie in cookies {
                let cookie = cookie
                    .as_str()
                    .and_then(|cookie| HeaderValue::try_from(cookie).ok())
                    .ok_or(Malformed("a cookie is not a valid header value"))?;
                headers.append(SET_COOKIE, cookie);
            }
        }
        Some(_) => return Err(Malformed("cookies is not an array")),
    }
    Ok(())
}

impl Dropped {
    /// Those among a result's `headers`.
    pub(super) fn of(headers: &Map<String, Value>) -> Self {
        let values = headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
            .flat_map(|(_, value)| match value {
                Value::Array(values) => values.as_slice(),
                one => std::slice::from_ref(one),
            });
        Self(HopByHop::named_by(values.filter_map(Value::as_str)))
    }

    pub(super) fn contains(&self, name: &HeaderName) -> bool {
        *name == CONTENT_LENGTH || self.0.contains(name)
    }
}

pub(super) fn header_value(value: &Value) -> Result<HeaderValue, Malformed> {
    let value = match value {
        Value::String(text) => HeaderValue::try_from(text.as_str()),
        Value::Number(_) | Value::Bool(_) => HeaderValue::try_from(value.to_string()),
        _ => return Err(Malformed("a header's value is not text")),
    };
    value.map_err(|_| Malformed("a header's value is not valid"))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn made(answer: &str) -> Result<(u16, Vec<(String, String)>, Bytes), Malformed> {
        let response = response(Bytes::copy_from_slice(answer.as_bytes()))?;
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Ok((status, headers, body))
    }

    #[tokio::test]
    async fn a_result_that_describes_no_response_is_the_body() {
        let json = vec![("content-type".to_owned(), "application/json".to_owned())];
        for answer in [
            "{\"message\":\"hello\"}",
            "\"Hello, world!\"",
            "[{\"statusCode\":404}]",
            "null",
            "17",
            "",
            "{ \"a\" : {\"statusCode\":404} }",
        ] {
            let (status, headers, body) = made(answer).await.unwrap();
            assert_eq!((status, &headers, &*body), (200, &json, answer.as_bytes()));
        }
    }

    #[tokio::test]
    async fn a_description_is_followed() {
        let (status, headers, body) = made(
            r#" {"statusCode": 201, "headers": {"Content-Type": "text/html", "X-N": 1, "X-B": true,
            "Content-Length": "999", "Connection": "close, X-Hop", "x-hop": "1", "Keep-Alive": "timeout=5",
            "TE": "trailers", "Trailer": "x", "Proxy-Authenticate": "Basic"}, "cookies": ["a=1; HttpOnly", "b=2"],
            "body": "PGgxPg==", "isBase64Encoded": true}"#,
        )
        .await
        .unwrap();
        assert_eq!((status, &*body), (201, &b"<h1>"[..]));
        let expected = [
            ("content-type", "text/html"),
            ("x-n", "1"),
            ("x-b", "true"),
            ("set-cookie", "a=1; HttpOnly"),
            ("set-cookie", "b=2"),
        ];
        assert_eq!(headers.len(), expected.len(), "{headers:?}");
        for (name, value) in expected {
            assert!(headers.contains(&(name.into(), value.into())), "{name}");
        }
    }

    #[tokio::test]
    async fn a_description_needs_no_more_than_its_status() {
        let (status, headers, body) = made(r#"{"statusCode":"204","headers":null}"#)
            .await
            .unwrap();
        assert_eq!((status, &*body), (204, &b""[..]));
        assert_eq!(headers[0].1, "application/json");
        let (_, _, body) = made(r#"{"statusCode":200,"body":{"a":1}}"#).await.unwrap();
        assert_eq!(body, "{\"a\":1}");
    }

    #[tokio::test]
    async fn a_description_that_can_not_be_followed_is_malformed() {
        for answer in [
            r#"{"statusCode":"soon"}"#,
            r#"{"statusCode":null}"#,
            r#"{"statusCode":99}"#,
            r#"{"statusCode":101}"#,
            r#"{"statusCode":600}"#,
            r#"{"statusCode":200.5}"#,
            r#"{"statusCode":200,"headers":[]}"#,
            r#"{"statusCode":200,"headers":{"a b":"c"}}"#,
            r#"{"statusCode":200,"headers":{"a":"b\r\nset-cookie: c"}}"#,
            r#"{"statusCode":200,"headers":{"a":["b"]}}"#,
            r#"{"statusCode":200,"cookies":"a=1"}"#,
            r#"{"statusCode":200,"cookies":["a\nb"]}"#,
            r#"{"statusCode":200,"body":"%%%","isBase64Encoded":true}"#,
            r#"{"statusCode":200,"isBase64Encoded":"true"}"#,
        ] {
            assert!(made(answer).await.is_err(), "{answer}");
        }
    }
}
