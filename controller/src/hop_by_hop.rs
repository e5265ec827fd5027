//! Headers that belong to one connection and not to the message (RFC 9110, section 7.6.1). Every place
//! that passes a message on leaves them out, in both directions: function URLs from a request to its event
//! and from a result to its response, `hearth dev` between its client and its controller.

use axum::http::header::CONNECTION;
use axum::http::{HeaderMap, HeaderName};

/// The headers that always belong to the connection.
const ALWAYS: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The headers of one message that belong to its connection: nine that always do, and those that its
/// `Connection` header names.
#[derive(Debug, Default)]
pub struct HopByHop {
    named: Vec<String>,
}

impl HopByHop {
    /// Those of a message with these headers.
    pub fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(CONNECTION).iter();
        Self::named_by(values.filter_map(|value| value.to_str().ok()))
    }

    /// Those of a message whose `Connection` headers have these values.
    pub(crate) fn named_by<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        let names = values.flat_map(|value| value.split(','));
        Self {
            named: names.map(|name| name.trim().to_ascii_lowercase()).collect(),
        }
    }

    /// Whether the header belongs to the connection. `Host` never does: without it a message has no target.
    pub fn contains(&self, name: &HeaderName) -> bool {
        let name = name.as_str();
        ALWAYS.contains(&name) || (name != "host" && self.named.iter().any(|named| named == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connections_headers_are_nine_and_those_that_it_names() {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, "close, X-Hop".parse().unwrap());
        headers.append(CONNECTION, "x-more,Host".parse().unwrap());
        let found = HopByHop::of(&headers);
        let contains = |name: &str| found.contains(&name.parse().unwrap());
        for name in ALWAYS.iter().chain(&["x-hop", "X-More"]) {
            assert!(contains(name), "{name}");
        }
        for name in ["host", "content-type", "content-length", "cookie", "x-ho"] {
            assert!(!contains(name), "{name}");
        }
        assert!(!HopByHop::default().contains(&"x-hop".parse().unwrap()));
    }
}
