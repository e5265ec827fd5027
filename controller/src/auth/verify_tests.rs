//! Requests that botocore has signed are accepted; every change of them is noticed; and requests without
//! a signature are refused with AWS's messages.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use time::{Duration, OffsetDateTime};

use super::error::AuthError;
use super::key_file::KeyFile;
use super::key_ring::KeyRing;
use super::signature::BodyHash;
use super::timestamp::Timestamp;
use super::verify::Verifier;
use super::{Credentials, signed_headers};

#[derive(Deserialize)]
struct Recorded {
    id: String,
    secret: String,
    region: String,
    now: String,
    cases: Vec<Case>,
}

#[derive(Clone, Deserialize)]
struct Case {
    name: String,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: String,
    expires: Option<i64>,
}

/// A request as it arrives.
#[derive(Clone, Debug)]
struct Arrived {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Case {
    fn arrive(&self) -> Arrived {
        let mut request = Request::builder()
            .method(self.method.as_str())
            .uri(&self.target);
        for (name, value) in &self.headers {
            // hyper removes blanks around a value before a handler sees it.
            request = request.header(name, value.trim());
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        Arrived {
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
            body: STANDARD.decode(&self.body).unwrap(),
        }
    }
}

struct Setting {
    recorded: Recorded,
    verifier: Verifier,
    now: OffsetDateTime,
    _dir: tempfile::TempDir,
}

fn setting() -> Setting {
    let recorded: Recorded = serde_json::from_str(include_str!("botocore.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = KeyFile::of(dir.path());
    // In the file, the key that botocore has signed with takes the place of a new one.
    file.create("k", super::Permissions::admin())
        .map(|made| {
            let text = std::fs::read_to_string(file.path()).unwrap();
            let text = text.replace(&made.key.id, &recorded.id);
            std::fs::write(file.path(), text.replace(made.secret(), &recorded.secret)).unwrap();
        })
        .unwrap();
    let verifier = Verifier::new(KeyRing::open(file).unwrap(), recorded.region.clone());
    let now = Timestamp::parse(&recorded.now).unwrap().time;
    Setting {
        recorded,
        verifier,
        now,
        _dir: dir,
    }
}

impl Setting {
    fn case(&self, name: &str) -> Arrived {
        let case = self.recorded.cases.iter().find(|case| case.name == name);
        case.unwrap().arrive()
    }

    fn check(&self, arrived: &Arrived) -> Result<String, AuthError> {
        self.check_at(arrived, self.now)
    }

    fn check_at(&self, arrived: &Arrived, now: OffsetDateTime) -> Result<String, AuthError> {
        let Arrived {
            method,
            uri,
            headers,
            body,
        } = arrived;
        let claim = self.verifier.examine(method, uri, headers, now)?;
        claim
            .settle(&BodyHash::of(body))
            .map(|key| key.name.clone())
    }

    /// The refusal's type and text.
    fn refused(&self, arrived: &Arrived) -> (&'static str, String) {
        let error = self.check(arrived).unwrap_err();
        (error.kind(), error.to_string())
    }
}

fn with_target(arrived: &Arrived, target: &str) -> Arrived {
    Arrived {
        uri: target.parse().unwrap(),
        ..arrived.clone()
    }
}

fn with_header(arrived: &Arrived, name: &'static str, value: &str) -> Arrived {
    let mut arrived = arrived.clone();
    arrived
        .headers
        .insert(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    arrived
}

fn authorization(arrived: &Arrived) -> String {
    arrived.headers["authorization"].to_str().unwrap().into()
}

#[test]
fn requests_that_botocore_signed_are_accepted() {
    let setting = setting();
    assert!(setting.recorded.cases.len() >= 17);
    for case in &setting.recorded.cases {
        let checked = setting.check(&case.arrive());
        assert_eq!(checked.unwrap(), "k", "{}", case.name);
    }
}

#[test]
fn requests_that_our_own_command_signs_are_accepted() {
    let setting = setting();
    let credentials = Credentials::new(
        setting.recorded.id.clone(),
        setting.recorded.secret.clone(),
        setting.recorded.region.clone(),
    );
    for (method, target, body) in [
        (Method::GET, "/2015-03-31/functions?Marker=a%20b", &b""[..]),
        (
            Method::POST,
            "/2015-03-31/functions/f%3Ag/invocations",
            b"{}",
        ),
    ] {
        let uri: Uri = format!("http://h:9070{target}").parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-log-type", "Tail".parse().unwrap());
        let added = signed_headers(
            &credentials,
            &method,
            &uri,
            &headers,
            body,
            setting.now.into(),
        )
        .unwrap();
        headers.extend(added);
        let arrived = Arrived {
            method,
            uri: target.parse().unwrap(),
            headers,
            body: body.into(),
        };
        setting.check(&arrived).unwrap();
    }
}

#[test]
fn a_changed_request_is_refused() {
    let setting = setting();
    for case in &setting.recorded.cases {
        let arrived = case.arrive();
        let name = &case.name;
        let refused = |changed: Arrived| {
            let (kind, _) = setting.refused(&changed);
            assert_eq!(kind, "InvalidSignatureException", "{name}: {changed:?}");
        };
        refused(Arrived {
            method: Method::DELETE,
            ..arrived.clone()
        });
        let (path, query) = case.target.split_once('?').unwrap_or((&case.target, ""));
        refused(with_target(&arrived, &format!("{path}x?{query}")));
        refused(with_target(&arrived, &format!("{path}?{query}&x=y")));
        let mut longer = arrived.clone();
        longer.body.push(b' ');
        refused(longer);
        for header in arrived.headers.keys() {
            let value = arrived.headers[header].to_str().unwrap();
            let is_signed = header == "host" || header.as_str().starts_with("x-amz-");
            if !is_signed || header == "x-amz-date" || header == "x-amz-content-sha256" {
                continue;
            }
            let mut changed = arrived.clone();
            let other = HeaderValue::try_from(format!("{value}x")).unwrap();
            changed.headers.insert(header, other);
            refused(changed);
            let mut twice = arrived.clone();
            twice.headers.append(header, value.parse().unwrap());
            refused(twice);
            let mut without = arrived.clone();
            without.headers.remove(header);
            refused(without);
        }
        let mut more = arrived.clone();
        more.headers
            .insert("x-amz-invocation-type-2", "Event".parse().unwrap());
        refused(more);
    }
}

#[test]
fn another_spelling_of_the_same_request_is_accepted() {
    let setting = setting();
    let arrived = setting.case("a query with escapes");
    setting
        .check(&with_target(
            &arrived,
            "/2015-03-31/functions?A=%7e&Marker=%61%20b%2fc%3d%c3%bc",
        ))
        .unwrap();
    let spaced = authorization(&arrived).replace(", ", " ,  ");
    setting
        .check(&with_header(&arrived, "authorization", &spaced))
        .unwrap();
    let tight = authorization(&arrived).replace(", ", ",");
    setting
        .check(&with_header(&arrived, "authorization", &tight))
        .unwrap();
}

#[test]
fn every_digit_of_a_signature_counts() {
    let setting = setting();
    let arrived = setting.case("an invocation");
    let given = authorization(&arrived);
    let start = given.find("Signature=").unwrap() + "Signature=".len();
    for at in start..given.len() {
        let mut other = given.clone();
        let digit = if &given[at..=at] == "0" { "1" } else { "0" };
        other.replace_range(at..=at, digit);
        let (kind, text) = setting.refused(&with_header(&arrived, "authorization", &other));
        assert_eq!(kind, "InvalidSignatureException");
        assert!(text.starts_with("The request signature we calculated does not match"));
    }
    for other in ["0", "00", "zz", &given[start..given.len() - 1]] {
        let other = format!("{}{other}", &given[..start]);
        let (kind, _) = setting.refused(&with_header(&arrived, "authorization", &other));
        assert_eq!(kind, "InvalidSignatureException");
    }
}

#[test]
fn a_signature_is_good_for_five_minutes_around_its_date_and_no_second_more() {
    let setting = setting();
    let arrived = setting.case("an invocation");
    let at = |seconds| setting.check_at(&arrived, setting.now + Duration::seconds(seconds));
    for seconds in [-300, -1, 1, 300] {
        at(seconds).unwrap();
    }
    assert_eq!(
        at(301).unwrap_err().to_string(),
        "Signature expired: 20261122T080000Z is now earlier than 20261122T080001Z \
         (20261122T080501Z - 5 min.)"
    );
    let early = at(-301).unwrap_err();
    assert_eq!(early.kind(), "InvalidSignatureException");
    assert_eq!(
        early.to_string(),
        "Signature not yet current: 20261122T080000Z is still later than 20261122T075959Z \
         (20261122T075459Z + 5 min.)"
    );
}

#[test]
fn a_presigned_url_is_good_until_it_expires() {
    let setting = setting();
    let presigned = setting.recorded.cases.iter().filter_map(|case| {
        let expires = case.expires?;
        Some((case.arrive(), expires))
    });
    for (arrived, expires) in presigned {
        let at = |seconds| setting.check_at(&arrived, setting.now + Duration::seconds(seconds));
        at(expires).unwrap();
        at(-300).unwrap();
        let late = at(expires + 1).unwrap_err();
        assert!(late.to_string().starts_with("Signature expired: "));
        assert!(at(-301).is_err());
    }
    let hour = setting.case("a presigned URL");
    let late = setting.now + Duration::seconds(3601);
    assert_eq!(
        setting.check_at(&hour, late).unwrap_err().to_string(),
        "Signature expired: 20261122T080000Z is now earlier than 20261122T080001Z \
         (20261122T090001Z - 60 min.)"
    );
}

#[test]
fn a_request_without_a_signature_is_refused() {
    let setting = setting();
    let mut arrived = setting.case("a list");
    arrived.headers.remove("authorization");
    assert_eq!(
        setting.refused(&arrived),
        (
            "MissingAuthenticationTokenException",
            "Missing Authentication Token".into()
        )
    );
}

#[test]
fn the_message_about_an_incomplete_header_names_what_is_missing() {
    let setting = setting();
    let arrived = setting.case("a list");
    let given = authorization(&arrived);
    let refused = |header: &str| setting.refused(&with_header(&arrived, "authorization", header));
    for (header, said) in [
        ("", "Authorization header requires 'Credential' parameter. "),
        (
            "AWS4-HMAC-SHA256",
            "Authorization header requires 'Credential' parameter. Authorization header requires \
             'Signature' parameter. Authorization header requires 'SignedHeaders' parameter. \
             (Hashed with",
        ),
        ("Bearer abc", "Invalid key=value pair (missing equal-sign)"),
        ("Basic YTpi", "Invalid key=value pair (missing equal-sign)"),
        (
            &given.replace("Credential=", "Credential= a b,"),
            "Authorization header has more than one",
        ),
        (
            &given.replace("Signature=", "Signature=,Signature="),
            "Authorization header has more than one 'Signature'",
        ),
        (
            &given.replace("SignedHeaders", "Signed"),
            "Authorization header requires 'SignedHeaders' parameter. (Hashed",
        ),
        (
            &given.replace("SHA256 ", "SHA512 "),
            "Unsupported AWS 'algorithm': 'AWS4-HMAC-SHA512'",
        ),
        (
            &given.replace("/lambda/", "/"),
            "Credential must have exactly 5 slash-delimited elements",
        ),
        (
            &given.replace("/lambda/", "/lambda/x/"),
            "Credential must have exactly 5 slash-delimited elements",
        ),
    ] {
        let (kind, text) = refused(&header.replace("= a b,", "=a/b,Credential="));
        assert_eq!(kind, "IncompleteSignatureException", "{header}: {text}");
        assert!(
            text.starts_with(said) || text.contains(said),
            "{header}: {text}"
        );
        assert!(!text.contains("YTpi"), "a password comes back: {text}");
    }
    let (kind, text) = setting.refused(&with_header(&arrived, "x-amz-date", "yesterday"));
    assert_eq!(kind, "IncompleteSignatureException");
    assert!(text.starts_with("Date must be in ISO-8601 'basic format'. Got 'yesterday'."));
    let mut dateless = arrived.clone();
    dateless.headers.remove("x-amz-date");
    let (_, text) = setting.refused(&dateless);
    assert!(text.contains("existence of either a 'X-Amz-Date' or a 'Date' header."));
    let mut twice = arrived.clone();
    twice
        .headers
        .append("authorization", given.parse().unwrap());
    assert_eq!(setting.refused(&twice).0, "IncompleteSignatureException");
}

#[test]
fn a_scope_is_of_this_service_this_region_and_the_signatures_day() {
    let setting = setting();
    let arrived = setting.case("a list");
    let given = authorization(&arrived);
    for (from, to, said) in [
        (
            "/eu-central-1/",
            "/us-east-1/",
            "Credential should be scoped to a valid region, not 'us-east-1'. ",
        ),
        (
            "/lambda/",
            "/s3/",
            "Credential should be scoped to correct service: 'lambda'. ",
        ),
        (
            "/aws4_request",
            "/aws4",
            "Credential should be scoped with a valid terminator: 'aws4_request', not 'aws4'. ",
        ),
        (
            "/20261122/",
            "/20261121/",
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from \
             HTTP: '20261121' != '20261122', from '20261122T080000Z'. ",
        ),
    ] {
        let changed = with_header(&arrived, "authorization", &given.replace(from, to));
        assert_eq!(
            setting.refused(&changed),
            ("InvalidSignatureException", said.into())
        );
    }
}

#[test]
fn an_unknown_key_and_a_session_token_are_not_recognized() {
    let setting = setting();
    let arrived = setting.case("a list");
    let unknown = authorization(&arrived).replace("HRTHEXAMPLE", "HRTHXEAMPLE");
    let unknown = setting.refused(&with_header(&arrived, "authorization", &unknown));
    assert_eq!(
        unknown,
        (
            "UnrecognizedClientException",
            "The security token included in the request is invalid.".into()
        )
    );
    let mut token = with_header(&arrived, "x-amz-security-token", "t");
    let named = authorization(&arrived).replace("x-amz-date", "x-amz-date;x-amz-security-token");
    token = with_header(&token, "authorization", &named);
    assert_eq!(setting.refused(&token).0, "UnrecognizedClientException");
}

#[test]
fn the_host_and_every_amz_header_must_be_signed() {
    let setting = setting();
    let arrived = setting.case("an invocation");
    let given = authorization(&arrived);
    for (name, said) in [
        ("host;", "'Host' or ':authority'"),
        ("x-amz-date;", "'x-amz-date'"),
        ("x-amz-client-context;", "'x-amz-client-context'"),
    ] {
        let changed = with_header(&arrived, "authorization", &given.replace(name, ""));
        assert_eq!(
            setting.refused(&changed),
            (
                "InvalidSignatureException",
                format!("{said} must be a 'SignedHeader' in the AWS Authorization.")
            )
        );
    }
    let twice = given.replace("host;", "host;host;");
    let twice = setting.refused(&with_header(&arrived, "authorization", &twice));
    assert_eq!(twice.0, "IncompleteSignatureException");
    let absent = given.replace("host;", "absent;host;");
    let absent = setting.refused(&with_header(&arrived, "authorization", &absent));
    assert_eq!(absent.0, "InvalidSignatureException");
}

#[test]
fn unsigned_bodies_and_other_hashes_are_refused() {
    let setting = setting();
    let arrived = setting.case("the body's hash in a header");
    for hash in [
        "UNSIGNED-PAYLOAD",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "",
        &"0".repeat(64),
    ] {
        let (kind, _) = setting.refused(&with_header(&arrived, "x-amz-content-sha256", hash));
        assert_eq!(kind, "InvalidSignatureException", "{hash}");
    }
    let mut other = arrived.clone();
    other.body = b"{ }".into();
    let (kind, text) = setting.refused(&other);
    assert_eq!(kind, "InvalidSignatureException");
    assert!(text.contains("x-amz-content-sha256"), "{text}");
}

#[test]
fn a_declared_hash_lets_the_signature_be_checked_before_the_body_is_read() {
    let setting = setting();
    let arrived = setting.case("the body's hash in a header");
    let examine = |arrived: &Arrived| {
        setting
            .verifier
            .examine(&arrived.method, &arrived.uri, &arrived.headers, setting.now)
    };
    assert!(examine(&arrived).unwrap().is_signed());
    let forged = with_header(
        &arrived,
        "authorization",
        &authorization(&arrived)
            .replace("Signature=", "Signature=0")
            .replace("Signature=00", "Signature=0"),
    );
    assert!(examine(&forged).is_err());
    assert!(!examine(&setting.case("an invocation")).unwrap().is_signed());
}

#[test]
fn the_message_about_a_query_that_is_no_presigned_url_says_why() {
    let setting = setting();
    let arrived = setting.case("a presigned URL");
    let target = arrived.uri.to_string();
    for (from, to, said) in [
        (
            "X-Amz-Credential",
            "X-Amz-Other",
            "AWS query-string parameters must include 'X-Amz-Credential'. Re-examine the \
             query-string parameters.",
        ),
        (
            "X-Amz-Signature=",
            "X-Amz-Signature=&Y=",
            "'X-Amz-Signature'",
        ),
        ("X-Amz-Date", "X-Amz-Day", "'X-Amz-Date'"),
        ("Expires=3600", "Expires=0", "from 1 to 604800"),
        ("Expires=3600", "Expires=604801", "from 1 to 604800"),
        ("Expires=3600", "Expires=-1", "from 1 to 604800"),
        ("Expires=3600", "Expires=%2B60", "from 1 to 604800"),
        (
            "Expires=3600",
            "Expires=99999999999999999999",
            "from 1 to 604800",
        ),
        (
            "Expires=3600",
            "Expires=3600&X-Amz-Expires=604800",
            "'X-Amz-Expires' once",
        ),
        (
            "Expires=3600",
            "Expires=3600&X-Amz%2dExpires=604800",
            "'X-Amz-Expires' once",
        ),
        (
            "AWS4-HMAC-SHA256",
            "AWS4-ECDSA-P256-SHA256",
            "Unsupported AWS 'algorithm': 'AWS4-ECDSA-P256-SHA256'",
        ),
        ("20261122T080000Z", "2026-11-22", "Date must be in ISO-8601"),
    ] {
        let changed = target.replacen(from, to, 1);
        assert_ne!(changed, target);
        let (kind, text) = setting.refused(&with_target(&arrived, &changed));
        assert_eq!(kind, "IncompleteSignatureException", "{changed}: {text}");
        assert!(text.contains(said), "{changed}: {text}");
    }
    let longer = target.replace("Expires=3600", "Expires=7200");
    let (kind, _) = setting.refused(&with_target(&arrived, &longer));
    assert_eq!(
        kind, "InvalidSignatureException",
        "it may not be made to last"
    );
    let both = with_header(&arrived, "authorization", "AWS4-HMAC-SHA256 x=y");
    let (kind, text) = setting.refused(&both);
    assert_eq!(kind, "InvalidSignatureException");
    assert!(text.starts_with("Found both 'X-Amz-Algorithm'"), "{text}");
}

#[test]
fn headers_that_are_not_text_are_refused_without_a_panic() {
    let setting = setting();
    let arrived = setting.case("a list");
    let garbage: Vec<Vec<u8>> = vec![
        vec![0xff; 100],
        b"AWS4-HMAC-SHA256 \xff=\xfe".to_vec(),
        b"AWS4-HMAC-SHA256 ====,,,,".to_vec(),
        [
            b"AWS4-HMAC-SHA256 SignedHeaders=".to_vec(),
            b"a;".repeat(30_000),
        ]
        .concat(),
        [
            b"AWS4-HMAC-SHA256 Credential=".to_vec(),
            b"/".repeat(60_000),
        ]
        .concat(),
    ];
    for bytes in garbage {
        let mut changed = arrived.clone();
        let value = HeaderValue::from_bytes(&bytes).unwrap();
        changed.headers.insert("authorization", value);
        assert!(setting.check(&changed).is_err());
    }
    for query in [
        "?%",
        "?%ff=%fe&=&&",
        "?X-Amz-Algorithm=%ff",
        "?X-Amz-Algorithm",
    ] {
        let mut changed = with_target(&arrived, &format!("/{query}"));
        changed.headers.remove("authorization");
        assert!(setting.check(&changed).is_err());
    }
    let name: HeaderName = "x-amz-odd".parse().unwrap();
    let mut changed = arrived.clone();
    changed
        .headers
        .insert(name, HeaderValue::from_bytes(b"\xff\xfe").unwrap());
    assert!(setting.check(&changed).is_err());
}
