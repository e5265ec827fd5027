//! What happens to every request before it is routed and to every response after it.

use axum::body::Body;
use axum::extract::Request;
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{HeaderValue, Response};
use axum::middleware::Next;
use uuid::Uuid;

/// The id of a request: what a function sees, what the log says, what the response carries.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// Gives the request an id, and its response the same.
pub(crate) async fn assign(mut request: Request, next: Next) -> Response<Body> {
    let id = Uuid::new_v4().to_string();
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}

/// Older SDKs end some paths with a slash.
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
