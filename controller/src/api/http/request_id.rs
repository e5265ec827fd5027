//! Request ids, and paths with a trailing slash.

use axum::body::Body;
use axum::extract::Request;
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{HeaderValue, Response};
use axum::middleware::Next;
use uuid::Uuid;

/// The id of a request. The function, the log and the response's `x-amzn-RequestId` have the same.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// Gives each request an id, and its response the same.
pub(crate) async fn assign(mut request: Request, next: Next) -> Response<Body> {
    let id = Uuid::new_v4().to_string();
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}

/// Removes a slash at the path's end, because older SDKs send one on some paths.
pub(crate) fn without_trailing_slash(mut request: Request) -> Request {
    let path = request.uri().path();
    if path.len() < 2 || !path.ends_with('/') {
        return request;
    }
    let path = &path[..path.len() - 1];
    let shorter = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    if let Ok(shorter) = PathAndQuery::try_from(shorter) {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.path_and_query = Some(shorter);
        *request.uri_mut() = Uri::from_parts(parts).expect("only the path became shorter");
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_trailing_slash_is_taken_off_and_the_query_stays() {
        for (before, after) in [
            ("/a/", "/a"),
            ("/a/?q=1/", "/a?q=1/"),
            ("/a", "/a"),
            ("/", "/"),
            ("/a//", "/a/"),
        ] {
            let request = Request::builder().uri(before).body(Body::empty()).unwrap();
            assert_eq!(without_trailing_slash(request).uri(), after);
        }
    }
}
