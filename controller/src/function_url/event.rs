//! Turns an HTTP request into an event in payload format 2.0.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use axum::http::{HeaderMap, HeaderName, Method, Version, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::hop_by_hop::HopByHop;

/// The header with the root of the invocation's trace.
const TRACE_ID: &str = "x-amzn-trace-id";

/// The parts of a request that become its event.
#[derive(Debug)]
pub(crate) struct Incoming<'a> {
    pub(crate) method: &'a Method,
    pub(crate) version: Version,
    /// The path without `/fn/<name>`, as the client has sent it.
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
    /// The client's address.
    pub(crate) peer: Option<SocketAddr>,
    /// The id of the function URL.
    pub(crate) id: &'a str,
    pub(crate) request_id: &'a str,
    /// The root of the invocation's trace: `Root=1-…`.
    pub(crate) trace_root: &'a str,
    /// The signer of the request, if the URL's `AuthType` is `AWS_IAM`.
    pub(crate) caller: Option<Caller<'a>>,
    pub(crate) now: OffsetDateTime,
}

/// The signer of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub(crate) key_id: &'a str,
    pub(crate) name: &'a str,
    pub(crate) account: &'a str,
}

/// The event of a request.
pub(crate) fn event(incoming: &Incoming<'_>) -> Value {
    let mut event = Map::new();
    event.insert("version".into(), "2.0".into());
    event.insert("routeKey".into(), "$default".into());
    event.insert("rawPath".into(), incoming.path.into());
    event.insert("rawQueryString".into(), incoming.query.into());
    let cookies = cookies(incoming.headers);
    if !cookies.is_empty() {
        event.insert("cookies".into(), cookies.into());
    }
    event.insert("headers".into(), headers(incoming).into());
    let parameters = parameters(incoming.query);
    if !parameters.is_empty() {
        event.insert("queryStringParameters".into(), parameters.into());
    }
    event.insert("requestContext".into(), context(incoming));
    let text = std::str::from_utf8(incoming.body)
        .ok()
        .filter(|_| is_text(incoming.headers));
    match text {
        _ if incoming.body.is_empty() => {}
        Some(text) => drop(event.insert("body".into(), text.into())),
        None => drop(event.insert("body".into(), STANDARD.encode(incoming.body).into())),
    }
    let encoded = text.is_none() && !incoming.body.is_empty();
    event.insert("isBase64Encoded".into(), encoded.into());
    event.into()
}

/// `headers` of the event: names in lower case, several values of one name joined by commas. Headers of
/// the connection are left out, and `Expect`, which the controller has answered.
fn headers(incoming: &Incoming<'_>) -> Map<String, Value> {
    let mut joined: BTreeMap<&str, String> = BTreeMap::new();
    let hop_by_hop = HopByHop::of(incoming.headers);
    for (name, value) in incoming.headers {
        if hop_by_hop.contains(name) || *name == header::EXPECT || name == TRACE_ID {
            continue;
        }
        // Cookies have a separator of their own (RFC 6265, section 5.4).
        let separator = if *name == header::COOKIE { "; " } else { "," };
        add(
            &mut joined,
            name.as_str(),
            &text(value.as_bytes()),
            separator,
        );
    }
    // A body in chunks is whole now: whoever sends the event on has to know its length.
    if incoming.headers.contains_key(header::TRANSFER_ENCODING) {
        joined.insert("content-length", incoming.body.len().to_string());
    }
    if let Some(peer) = incoming.peer {
        add(&mut joined, "x-forwarded-for", &peer.ip().to_string(), ",");
    }
    let proto = joined
        .entry("x-forwarded-proto")
        .or_insert_with(|| "http".into());
    let default_port = if proto == "https" { "443" } else { "80" };
    let (_, port) = domain_and_port(incoming.headers);
    joined
        .entry("x-forwarded-port")
        .or_insert_with(|| port.unwrap_or_else(|| default_port.into()));
    joined.insert(TRACE_ID, incoming.trace_root.to_owned());
    joined
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect()
}

fn add<'a>(joined: &mut BTreeMap<&'a str, String>, name: &'a str, value: &str, separator: &str) {
    joined
        .entry(name)
        .and_modify(|all| {
            all.push_str(separator);
            all.push_str(value);
        })
        .or_insert_with(|| value.to_owned());
}

/// A header's value as text: UTF-8, or else Latin-1, which gives a character to every byte.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }
}

fn cookies(headers: &HeaderMap) -> Vec<String> {
    let mut cookies = Vec::new();
    for value in headers.get_all(header::COOKIE) {
        let all = text(value.as_bytes());
        let each = all.split(';').map(str::trim);
        cookies.extend(each.filter(|cookie| !cookie.is_empty()).map(str::to_owned));
    }
    cookies
}

/// `queryStringParameters` of the event: decoded, several values of one name joined by commas.
fn parameters(query: &str) -> Map<String, Value> {
    let mut joined: BTreeMap<String, String> = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value);
        joined
            .entry(decoded(name))
            .and_modify(|all| {
                all.push(',');
                all.push_str(&value);
            })
            .or_insert(value);
    }
    joined
        .into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect()
}

fn decoded(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

/// The host and the port in `Host`. A client leaves out the port if it is the scheme's own.
fn domain_and_port(headers: &HeaderMap) -> (String, Option<String>) {
    let host = headers.get(header::HOST);
    let host = host.map(|host| text(host.as_bytes())).unwrap_or_default();
    // An IPv6 address has colons of its own, in brackets.
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => {
            let port = (!port.is_empty()).then(|| port.to_owned());
            (name.to_owned(), port)
        }
        _ => (host, None),
    }
}

fn context(incoming: &Incoming<'_>) -> Value {
    let header = |name: HeaderName| {
        let value = incoming.headers.get(name)?;
        Some(text(value.as_bytes()))
    };
    let (domain, _) = domain_and_port(incoming.headers);
    let time = incoming.now.format(format_description!(
        "[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000"
    ));
    let account = incoming.caller.map_or("anonymous", |caller| caller.account);
    let mut context = json!({
        "accountId": account,
        "apiId": incoming.id,
        "domainName": domain,
        "domainPrefix": incoming.id,
        "http": {
            "method": incoming.method.as_str(),
            "path": incoming.path,
            "protocol": format!("{:?}", incoming.version),
            "sourceIp": incoming.peer.map(|peer| peer.ip().to_string()).unwrap_or_default(),
            "userAgent": header(header::USER_AGENT).unwrap_or_default(),
        },
        "requestId": incoming.request_id,
        "routeKey": "$default",
        "stage": "$default",
        "time": time.unwrap_or_default(),
        "timeEpoch": i64::try_from(incoming.now.unix_timestamp_nanos() / 1_000_000).unwrap_or_default(),
    });
    if let Some(Caller {
        key_id,
        name,
        account,
    }) = incoming.caller
    {
        context["authorizer"] = json!({ "iam": {
            "accessKey": key_id,
            "accountId": account,
            "callerId": name,
            "cognitoIdentity": null,
            "principalOrgId": null,
            "userArn": format!("arn:aws:iam::{account}:user/{name}"),
            "userId": name,
        } });
    }
    context
}

/// Whether the event has a body of this type as text; all others are base64.
fn is_text(headers: &HeaderMap) -> bool {
    if headers.contains_key(header::CONTENT_ENCODING) {
        return false;
    }
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    kind.starts_with("text/")
        || matches!(
            kind.as_str(),
            "application/json" | "application/javascript" | "application/xml"
        )
        || kind.ends_with("+json")
        || kind.ends_with("+xml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(target: &str, headers: &[(&str, &str)], body: &[u8]) -> Value {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        event(&Incoming {
            method: &Method::POST,
            version: Version::HTTP_11,
            path,
            query,
            headers: &map,
            body,
            peer: Some(([192, 0, 2, 7], 4711).into()),
            id: "abc",
            request_id: "r",
            trace_root: "Root=1-2-3",
            caller: None,
            now: OffsetDateTime::from_unix_timestamp(1_583_348_638).unwrap(),
        })
    }

    #[test]
    fn a_request_is_an_event_of_format_two() {
        let event = made(
            "/a%20b?x=1&y=a%2Fb&x=2+3&z",
            &[
                ("host", "h.example:9070"),
                ("User-Agent", "t/1"),
                ("x-many", "one"),
                ("x-many", "two"),
                ("cookie", "a=1; b=2"),
                ("cookie", "c=3"),
                ("content-type", "application/json; charset=utf-8"),
            ],
            b"{}",
        );
        assert_eq!(
            event,
            json!({
                "version": "2.0",
                "routeKey": "$default",
                "rawPath": "/a%20b",
                "rawQueryString": "x=1&y=a%2Fb&x=2+3&z",
                "cookies": ["a=1", "b=2", "c=3"],
                "headers": {
                    "host": "h.example:9070",
                    "user-agent": "t/1",
                    "x-many": "one,two",
                    "content-type": "application/json; charset=utf-8",
                    "cookie": "a=1; b=2; c=3",
                    "x-amzn-trace-id": "Root=1-2-3",
                    "x-forwarded-for": "192.0.2.7",
                    "x-forwarded-port": "9070",
                    "x-forwarded-proto": "http",
                },
                "queryStringParameters": { "x": "1,2 3", "y": "a/b", "z": "" },
                "requestContext": {
                    "accountId": "anonymous",
                    "apiId": "abc",
                    "domainName": "h.example",
                    "domainPrefix": "abc",
                    "http": {
                        "method": "POST",
                        "path": "/a%20b",
                        "protocol": "HTTP/1.1",
                        "sourceIp": "192.0.2.7",
                        "userAgent": "t/1",
                    },
                    "requestId": "r",
                    "routeKey": "$default",
                    "stage": "$default",
                    "time": "04/Mar/2020:19:03:58 +0000",
                    "timeEpoch": 1_583_348_638_000_i64,
                },
                "body": "{}",
                "isBase64Encoded": false,
            })
        );
    }

    #[test]
    fn a_domain_is_the_host_without_its_port() {
        for (host, domain) in [
            ("h.example", "h.example"),
            ("h.example:9070", "h.example"),
            ("192.0.2.7:80", "192.0.2.7"),
            ("[2001:db8::1]:9070", "[2001:db8::1]"),
            ("[2001:db8::1]", "[2001:db8::1]"),
        ] {
            let event = made("/", &[("host", host)], b"");
            assert_eq!(event["requestContext"]["domainName"], domain, "{host}");
        }
    }

    /// An adapter that sent the event on to a web server announced a body in chunks that was not.
    #[test]
    fn headers_of_the_connection_stay_behind() {
        let event = made(
            "/",
            &[
                ("host", "h"),
                ("connection", "close, X-Hop"),
                ("x-hop", "1"),
                ("keep-alive", "timeout=5"),
                ("te", "trailers"),
                ("trailer", "x"),
                ("upgrade", "h2c"),
                ("proxy-authorization", "Basic x"),
                ("transfer-encoding", "chunked"),
                ("expect", "100-continue"),
                ("x-amzn-trace-id", "Root=1-a-b;Parent=c"),
                ("x-end", "to end"),
            ],
            b"abc",
        );
        assert_eq!(
            event["headers"],
            json!({
                "host": "h",
                "content-length": "3",
                "x-amzn-trace-id": "Root=1-2-3",
                "x-end": "to end",
                "x-forwarded-for": "192.0.2.7",
                "x-forwarded-port": "80",
                "x-forwarded-proto": "http",
            })
        );
    }

    #[test]
    fn the_port_is_the_one_that_the_client_reached() {
        for (headers, port) in [
            (&[("host", "h:9070")][..], "9070"),
            (&[("host", "[::1]:9070")], "9070"),
            (&[("host", "[::1]")], "80"),
            (&[("host", "h"), ("x-forwarded-proto", "https")], "443"),
            (&[("host", "h:1"), ("x-forwarded-port", "2")], "2"),
        ] {
            let event = made("/", headers, b"");
            assert_eq!(event["headers"]["x-forwarded-port"], port, "{headers:?}");
        }
    }

    #[test]
    fn members_without_a_value_are_left_out() {
        let event = made("/", &[], b"");
        for name in ["cookies", "queryStringParameters", "body"] {
            assert!(event.get(name).is_none(), "{name}");
        }
        assert_eq!(event["isBase64Encoded"], false);
        assert!(event["requestContext"].get("authorizer").is_none());
    }

    #[test]
    fn a_body_is_text_if_its_type_says_so_and_its_bytes_do_too() {
        for (kind, body, encoded) in [
            ("text/plain", &b"a"[..], false),
            ("TEXT/HTML; charset=x", b"a", false),
            ("application/vnd.api+json", b"{}", false),
            ("image/svg+xml", b"<svg/>", false),
            ("application/octet-stream", b"a", true),
            ("application/x-www-form-urlencoded", b"a=1", true),
            ("multipart/form-data; boundary=x", b"a", true),
            ("application/json", b"\xff", true),
        ] {
            let event = made("/", &[("content-type", kind)], body);
            assert_eq!(event["isBase64Encoded"], encoded, "{kind}");
            let text = String::from_utf8_lossy(body);
            let expected = if encoded {
                STANDARD.encode(body)
            } else {
                text.into_owned()
            };
            assert_eq!(event["body"], expected, "{kind}");
        }
        let zipped = [("content-type", "text/plain"), ("content-encoding", "gzip")];
        assert_eq!(made("/", &zipped, b"a")["isBase64Encoded"], true);
        assert_eq!(made("/", &[], b"a")["isBase64Encoded"], true);
    }
}
