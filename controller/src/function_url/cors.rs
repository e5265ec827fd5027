//! CORS as a URL's configuration says. The controller answers preflights itself, without the function,
//! and replaces CORS headers that the function sends.

use axum::body::Body;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response};

use crate::function::Cors;

/// Whether a request is a preflight: a browser asks for permission before the actual request.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The response to a preflight. Without CORS headers in it a browser does not send its request.
pub(crate) fn preflight(cors: &Cors, asked: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let answer = response.headers_mut();
    if !allow_origin(cors, asked, answer) {
        return response;
    }
    let method = asked.get(ACCESS_CONTROL_REQUEST_METHOD);
    let methods = cors.allow_methods.as_deref().unwrap_or_default();
    put_list(answer, ACCESS_CONTROL_ALLOW_METHODS, methods, method);
    let names = cors.allow_headers.as_deref().unwrap_or_default();
    let wanted = asked.get(ACCESS_CONTROL_REQUEST_HEADERS);
    put_list(answer, ACCESS_CONTROL_ALLOW_HEADERS, names, wanted);
    if let Some(seconds) = cors.max_age {
        answer.insert(ACCESS_CONTROL_MAX_AGE, seconds.into());
    }
    response
}

/// Replaces the CORS headers of a response by those of the configuration.
pub(crate) fn add_cors_headers(cors: &Cors, asked: &HeaderMap, answer: &mut HeaderMap) {
    for name in [
        ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_ALLOW_CREDENTIALS,
        ACCESS_CONTROL_EXPOSE_HEADERS,
    ] {
        answer.remove(name);
    }
    if allow_origin(cors, asked, answer) {
        let names = cors.expose_headers.as_deref().unwrap_or_default();
        put_list(answer, ACCESS_CONTROL_EXPOSE_HEADERS, names, None);
    }
}

fn allows_all(cors: &Cors) -> bool {
    let origins = cors.allow_origins.as_deref().unwrap_or_default();
    origins.iter().any(|allowed| allowed == "*")
}

/// Whether a request has an origin that the configuration allows.
pub(crate) fn allows_origin(cors: &Cors, asked: &HeaderMap) -> bool {
    let Some(origin) = asked.get(ORIGIN) else {
        return false;
    };
    let mut origins = cors.allow_origins.iter().flatten();
    allows_all(cors)
        || origins.any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin.as_bytes()))
}

/// Adds `Access-Control-Allow-Origin` if the origin is allowed, and returns whether it is. With
/// credentials it must name the origin, because browsers then reject `*`.
fn allow_origin(cors: &Cors, asked: &HeaderMap, answer: &mut HeaderMap) -> bool {
    let Some(origin) = asked.get(ORIGIN) else {
        return false;
    };
    if !allows_origin(cors, asked) {
        return false;
    }
    let credentials = cors.allow_credentials == Some(true);
    if allows_all(cors) && !credentials {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    } else {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.append(VARY, HeaderValue::from_static("Origin"));
    }
    if credentials {
        answer.insert(
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
    true
}

/// Adds a list as a header. `*` in it is replaced by what the browser has asked for, because with
/// credentials browsers take `*` for a name.
fn put_list(
    answer: &mut HeaderMap,
    name: HeaderName,
    list: &[String],
    asked: Option<&HeaderValue>,
) {
    if list.is_empty() {
        return;
    }
    let value = match asked {
        Some(asked) if list.iter().any(|item| item == "*") => Some(asked.clone()),
        _ => HeaderValue::try_from(list.join(",")).ok(),
    };
    if let Some(value) = value {
        answer.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Option<Vec<String>> {
        Some(items.iter().map(ToString::to_string).collect())
    }

    fn asked(origin: &str) -> HeaderMap {
        let mut asked = HeaderMap::new();
        asked.insert(ORIGIN, origin.parse().unwrap());
        asked.insert(ACCESS_CONTROL_REQUEST_METHOD, "PUT".parse().unwrap());
        asked.insert(ACCESS_CONTROL_REQUEST_HEADERS, "x-a".parse().unwrap());
        asked
    }

    #[test]
    fn a_preflight_is_options_with_an_origin_and_a_method() {
        let full = asked("https://a");
        assert!(is_preflight(&Method::OPTIONS, &full));
        assert!(!is_preflight(&Method::GET, &full));
        for name in [ORIGIN, ACCESS_CONTROL_REQUEST_METHOD] {
            let mut less = full.clone();
            less.remove(name);
            assert!(!is_preflight(&Method::OPTIONS, &less));
        }
    }

    #[test]
    fn only_an_origin_that_is_named_gets_cors_headers() {
        let cors = Cors {
            allow_origins: list(&["https://a"]),
            allow_methods: list(&["GET", "PUT"]),
            allow_headers: list(&["*"]),
            max_age: Some(60),
            ..Cors::default()
        };
        let response = preflight(&cors, &asked("https://a"));
        let headers = response.headers();
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_METHODS], "GET,PUT");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_HEADERS], "x-a");
        assert_eq!(headers[ACCESS_CONTROL_MAX_AGE], "60");
        assert_eq!(headers[VARY], "Origin");
        for other in ["https://b", "https://a.b", "https://", "null"] {
            assert!(preflight(&cors, &asked(other)).headers().is_empty());
        }
    }

    #[test]
    fn every_origin_is_a_star_unless_credentials_come_with_it() {
        let mut cors = Cors {
            allow_origins: list(&["*"]),
            expose_headers: list(&["x-a", "x-b"]),
            ..Cors::default()
        };
        let mut answer = HeaderMap::new();
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, "https://own".parse().unwrap());
        add_cors_headers(&cors, &asked("https://a"), &mut answer);
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert_eq!(answer[ACCESS_CONTROL_EXPOSE_HEADERS], "x-a,x-b");
        cors.allow_credentials = Some(true);
        add_cors_headers(&cors, &asked("https://a"), &mut answer);
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a");
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
    }

    #[test]
    fn cors_headers_of_the_function_are_removed_for_origins_that_are_not_allowed() {
        let cors = Cors {
            allow_origins: list(&["https://a"]),
            ..Cors::default()
        };
        let mut answer = HeaderMap::new();
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, "*".parse().unwrap());
        add_cors_headers(&cors, &asked("https://b"), &mut answer);
        assert!(answer.is_empty());
    }
}
