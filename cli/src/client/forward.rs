//! Forwards a client's request to the controller unchanged, and its answer back.

use hearth_controller::HopByHop;
use ureq::Body;
use ureq::http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header};

use super::{Client, ClientError};

/// Headers that each connection sets itself, beside those that belong to the connection. `Host` is not
/// among them: it may name a function URL, and the controller's answers contain links to it.
const SET_ANEW: &[HeaderName] = &[header::CONTENT_LENGTH, header::EXPECT];

/// An answer with its body read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Client {
    /// Sends the request to this controller and waits as long as an invocation may take.
    pub(crate) fn forward(
        &self,
        method: Method,
        path_and_query: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Answer, ClientError> {
        let mut request = Request::builder().method(method);
        for (name, value) in &end_to_end(headers) {
            request = request.header(name, value);
        }
        let response: Response<Body> = self.any_status(request, path_and_query, body)?;
        let status = response.status();
        let headers = end_to_end(response.headers());
        Ok(Answer {
            status,
            headers,
            body: self.read(path_and_query, response)?,
        })
    }
}

/// The headers that go with the message from one connection to the next.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let hop_by_hop = HopByHop::of(headers);
    let each = headers.iter();
    let kept = each.filter(|(name, _)| !hop_by_hop.contains(name) && !SET_ANEW.contains(name));
    // Not by `collect`, which keeps one value of each name.
    let mut passed = HeaderMap::new();
    for (name, value) in kept {
        passed.append(name, value.clone());
    }
    passed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connections_own_headers_stay_on_it() {
        let mut headers = HeaderMap::new();
        for name in [
            "keep-alive",
            "content-length",
            "expect",
            "transfer-encoding",
            "x-hop",
            "host",
            "origin",
            "authorization",
            "x-hearth-timeout-ms",
        ] {
            let name: HeaderName = name.parse().unwrap();
            headers.insert(name, "1".parse().unwrap());
        }
        headers.insert(header::CONNECTION, "close, X-Hop".parse().unwrap());
        for cookie in ["a=1", "b=2"] {
            headers.append(header::SET_COOKIE, cookie.parse().unwrap());
        }
        let passed = end_to_end(&headers);
        let mut names: Vec<&str> = passed.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let expected = [
            "authorization",
            "host",
            "origin",
            "set-cookie",
            "x-hearth-timeout-ms",
        ];
        assert_eq!(names, expected);
        assert_eq!(passed.get_all(header::SET_COOKIE).iter().count(), 2);
    }
}
