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

/// `headers` of the event: names in lower case, several values of one name joined by commas. Cookies are
/// left out, because the event has them in `cookies`.
fn headers(incoming: &Incoming<'_>) -> Map<String, Value> {
    let mut joined: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in incoming.headers {
        if name == header::COOKIE {
            continue;
        }
        add(&mut joined, name.as_str(), &text(value.as_bytes()));
    }
    if let Some(peer) = incoming.peer {
        add(&mut joined, "x-forwarded-for", &peer.ip().to_string());
    }
    joined
        .entry("x-forwarded-proto")
        .or_insert_with(|| "http".into());
    joined
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect()
}

fn add<'a>(joined: &mut BTreeMap<&'a str, String>, name: &'a str, value: &str) {
    joined
        .entry(name)
        .and_modify(|all| {
            all.push(',');
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

fn context(incoming: &Incoming<'_>) -> Value {
    let header = |name: HeaderName| {
        let value = incoming.headers.get(name)?;
        Some(text(value.as_bytes()))
    };
    let domain = header(header::HOST).unwrap_or_default();
    // An IPv6 address has colons of its own, in brackets.
    let domain = match domain.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => &domain,
    };
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
                    "x-forwarded-for": "192.0.2.7",
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
