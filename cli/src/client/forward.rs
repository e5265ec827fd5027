//! Forwards a client's request to the controller unchanged, and its answer back.

use ureq::Body;
use ureq::http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header};

use super::{Client, ClientError};

/// Headers that belong to one connection, not to the message (RFC 9110, 7.6.1), and those that each
/// connection sets itself.
const OF_THE_CONNECTION: &[HeaderName] = &[
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

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
        for (name, value) in headers.iter().filter(|(name, _)| is_end_to_end(name)) {
            request = request.header(name, value);
        }
        let response: Response<Body> = self.any_status(request, path_and_query, body)?;
        let status = response.status();
        let headers = response
            .headers()
            .iter()
            .filter(|(name, _)| is_end_to_end(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        Ok(Answer {
            status,
            headers,
            body: self.read(path_and_query, response)?,
        })
    }
}

fn is_end_to_end(name: &HeaderName) -> bool {
    !OF_THE_CONNECTION.contains(name) && name.as_str() != "keep-alive"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connections_own_headers_stay_on_it() {
        for name in [
            "host",
            "connection",
            "keep-alive",
            "content-length",
            "transfer-encoding",
        ] {
            assert!(!is_end_to_end(&name.parse().unwrap()), "{name}");
        }
        for name in [
            "x-amz-log-type",
            "authorization",
            "content-type",
            "x-hearth-timeout-ms",
        ] {
            assert!(is_end_to_end(&name.parse().unwrap()), "{name}");
        }
    }
}
