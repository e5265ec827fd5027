//! The header `X-Amzn-Trace-Id`, which connects an invocation with the calls that it makes.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;

/// Longest header that is passed on to the function, in bytes.
const MAX_TRACE_ID: usize = 1024;

/// The trace id that the function gets: the client's, if it is short and printable, or else a new one.
/// Tracing libraries rely on there being one, as on Lambda. The controller does not record traces.
pub(crate) fn trace_id(headers: &HeaderMap, request_id: &str) -> String {
    headers
        .get("x-amzn-trace-id")
        .and_then(|value| value.to_str().ok())
        .filter(|value| value.len() <= MAX_TRACE_ID)
        .map_or_else(|| begin(request_id), ToOwned::to_owned)
}

/// The root of a trace, `Root=1-…`; the whole text if it names none.
pub(crate) fn root(trace_id: &str) -> &str {
    let mut parts = trace_id.split(';').map(str::trim);
    parts
        .find(|part| part.starts_with("Root="))
        .unwrap_or(trace_id)
}

/// A new trace, made unique by the random part of the request's id.
fn begin(request_id: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.unwrap_or_default().as_secs();
    let digits: String = request_id.chars().filter(|&c| c != '-').collect();
    let (root, parent) = (&digits[..24], &digits[digits.len() - 16..]);
    format!("Root=1-{seconds:08x}-{root};Parent={parent};Sampled=0")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01234567-89ab-4cde-8f01-23456789abcd";

    fn passed_on(header: &str) -> String {
        let headers =
            HeaderMap::from_iter([("x-amzn-trace-id".parse().unwrap(), header.parse().unwrap())]);
        trace_id(&headers, ID)
    }

    #[test]
    fn a_callers_trace_goes_on() {
        assert_eq!(passed_on("Root=1-2-3"), "Root=1-2-3");
    }

    #[test]
    fn a_root_is_told_from_the_rest_of_its_trace() {
        for trace in [
            "Root=1-2-3",
            "Root=1-2-3;Parent=4",
            "Self=0; Root=1-2-3;Sampled=1",
        ] {
            assert_eq!(root(trace), "Root=1-2-3", "{trace}");
        }
        assert_eq!(root("mine"), "mine");
    }

    #[test]
    fn a_trace_begins_where_there_is_none_that_can_be_handed_on() {
        for header in ["a".repeat(MAX_TRACE_ID + 1).as_str(), "\u{e9}"] {
            assert!(passed_on(header).starts_with("Root=1-"), "{header}");
        }
        let begun = trace_id(&HeaderMap::new(), ID);
        let (root, rest) = begun.split_once(';').unwrap();
        let [version, seconds, unique] = root
            .strip_prefix("Root=")
            .unwrap()
            .splitn(3, '-')
            .collect::<Vec<_>>()[..]
        else {
            panic!("{begun}");
        };
        assert_eq!((version, unique), ("1", "0123456789ab4cde8f012345"));
        assert!(u64::from_str_radix(seconds, 16).unwrap() > 1_700_000_000);
        assert_eq!(rest, "Parent=8f0123456789abcd;Sampled=0");
    }
}
