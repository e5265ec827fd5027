//! Makes a page of a function URL by path an origin of its own.
//!
//! All `/fn/…` on one host, and the controller's API, are one origin for a browser. Without this a
//! function's page could use the API and read what other functions store in the browser.

use axum::http::header::CONTENT_SECURITY_POLICY;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// Without `allow-same-origin` a browser gives the page an origin that equals no other, `null`.
const SANDBOX: HeaderValue = HeaderValue::from_static(
    "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts",
);

/// Headers that act on the whole origin.
const OF_THE_ORIGIN: [HeaderName; 2] = [
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("service-worker-allowed"),
];

/// A browser sends this header with the request for a service worker's script.
const SERVICE_WORKER: &str = "service-worker";

/// Changes the headers of a response to a request by path. A policy of the function's own applies besides.
pub(crate) fn isolate(headers: &mut HeaderMap) {
    for name in OF_THE_ORIGIN {
        headers.remove(name);
    }
    headers.append(CONTENT_SECURITY_POLICY, SANDBOX);
}

/// Whether a browser wants to install a service worker: by path it would control pages of others, too.
pub(crate) fn is_for_service_worker(headers: &HeaderMap) -> bool {
    headers.contains_key(SERVICE_WORKER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_by_path_has_an_origin_of_its_own() {
        let mut headers = HeaderMap::new();
        headers.append(
            CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("img-src *"),
        );
        headers.append("service-worker-allowed", HeaderValue::from_static("/"));
        headers.append("clear-site-data", HeaderValue::from_static("\"*\""));
        isolate(&mut headers);
        let policies: Vec<&str> = headers
            .get_all(CONTENT_SECURITY_POLICY)
            .iter()
            .map(|policy| policy.to_str().unwrap())
            .collect();
        assert_eq!(policies[0], "img-src *");
        assert!(policies[1].starts_with("sandbox ") && !policies[1].contains("same-origin"));
        assert_eq!(headers.len(), 2, "{headers:?}");
    }
}
