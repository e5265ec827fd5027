//! The canonical request: the text that is signed. All spellings of the same request have the same one.
//!
//! ```text
//! method
//! path           without empty and dot segments, each byte that is not unreserved escaped again:
//!                an escape that was sent as %3A is signed as %253A (every service but S3)
//! query          parameters escaped in one way and sorted
//! name:value     the signed headers, one a line, values trimmed and their blanks collapsed
//!
//! names          of the signed headers
//! hash           SHA-256 of the body in hexadecimal
//! ```

use axum::http::{HeaderMap, Method};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// All characters except RFC 3986's unreserved ones.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The query parameter of the signature itself, which the signature can't cover.
pub(super) const SIGNATURE_PARAMETER: &str = "X-Amz-Signature";

/// The canonical request without the body's hash, which is its last line. `names` are the signed
/// headers, in the order in which the client names them; `None` if the request lacks one of them.
pub(super) fn head(
    method: &Method,
    sent_path: &str,
    sent_query: &str,
    headers: &HeaderMap,
    names: &[&str],
) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(1024);
    text.extend_from_slice(method.as_str().as_bytes());
    text.push(b'\n');
    text.extend_from_slice(path(sent_path).as_bytes());
    text.push(b'\n');
    text.extend_from_slice(query(sent_query).as_bytes());
    text.push(b'\n');
    for name in names {
        text.extend_from_slice(name.as_bytes());
        text.push(b':');
        let mut values = headers.get_all(*name).iter();
        push_value(&mut text, values.next()?.as_bytes());
        for value in values {
            text.push(b',');
            push_value(&mut text, value.as_bytes());
        }
        text.push(b'\n');
    }
    text.push(b'\n');
    text.extend_from_slice(names.join(";").as_bytes());
    text.push(b'\n');
    Some(text)
}

fn path(sent: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in sent.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    let mut canonical = String::with_capacity(sent.len() + 16);
    for segment in &segments {
        canonical.push('/');
        canonical.extend(percent_encode(segment.as_bytes(), ESCAPED));
    }
    if segments.is_empty() || sent.ends_with('/') {
        canonical.push('/');
    }
    canonical
}

fn query(sent: &str) -> String {
    let mut parameters: Vec<(String, String)> = sent
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            (escaped_once(name), escaped_once(value))
        })
        .filter(|(name, _)| name != SIGNATURE_PARAMETER)
        .collect();
    parameters.sort_unstable();
    let mut canonical = String::with_capacity(sent.len());
    for (name, value) in parameters {
        if !canonical.is_empty() {
            canonical.push('&');
        }
        canonical.push_str(&name);
        canonical.push('=');
        canonical.push_str(&value);
    }
    canonical
}

/// Decodes a text and escapes it in the canonical way.
fn escaped_once(text: &str) -> String {
    let bytes: Vec<u8> = percent_decode_str(text).collect();
    percent_encode(&bytes, ESCAPED).to_string()
}

/// Appends a header's value, trimmed, with each run of blanks replaced by one space.
fn push_value(text: &mut Vec<u8>, value: &[u8]) {
    let words = value
        .split(|byte| matches!(byte, b' ' | b'\t'))
        .filter(|word| !word.is_empty());
    for (n, word) in words.enumerate() {
        if n > 0 {
            text.push(b' ');
        }
        text.extend_from_slice(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_loses_its_dots_and_is_escaped_again() {
        for (sent, canonical) in [
            ("", "/"),
            ("/", "/"),
            ("//", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/a//b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/../../b", "/b"),
            ("/a/..", "/"),
            (
                "/arn%3Aaws%3Alambda/invocations",
                "/arn%253Aaws%253Alambda/invocations",
            ),
            ("/f:live", "/f%3Alive"),
            ("/a~b-c_d.e", "/a~b-c_d.e"),
            ("/$LATEST", "/%24LATEST"),
            ("/ü", "/%C3%BC"),
        ] {
            assert_eq!(path(sent), canonical, "{sent:?}");
        }
    }

    #[test]
    fn a_query_is_sorted_and_escaped_in_one_way() {
        for (sent, canonical) in [
            ("", ""),
            ("a", "a="),
            ("a=", "a="),
            ("b=2&a=1", "a=1&b=2"),
            ("a=2&a=1", "a=1&a=2"),
            ("a1=x&a=y", "a=y&a1=x"),
            ("Qualifier=$LATEST", "Qualifier=%24LATEST"),
            ("Qualifier=%24LATEST", "Qualifier=%24LATEST"),
            ("q=%7e%2d", "q=~-"),
            ("q=a/b", "q=a%2Fb"),
            ("q=%", "q=%25"),
            ("q=a=b", "q=a%3Db"),
            ("X-Amz-Signature=ff&a=1", "a=1"),
            ("X-Amz%2DSignature=ff&a=1", "a=1"),
        ] {
            assert_eq!(query(sent), canonical, "{sent:?}");
        }
    }

    #[test]
    fn a_header_is_trimmed_joined_and_must_be_there() {
        let mut headers = HeaderMap::new();
        headers.append("x-amz-a", "  one \t  two ".parse().unwrap());
        headers.append("x-amz-a", "three".parse().unwrap());
        headers.append("host", "h".parse().unwrap());
        let head = |names: &[&str]| head(&Method::GET, "/", "", &headers, names);
        assert_eq!(
            head(&["host", "x-amz-a"]).unwrap(),
            b"GET\n/\n\nhost:h\nx-amz-a:one two,three\n\nhost;x-amz-a\n"
        );
        assert_eq!(head(&["host", "x-amz-b"]), None);
    }
}
