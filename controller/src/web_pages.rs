//! Requests that a browser sends because a web page told it to.
//!
//! A listener that checks no signatures trusts every program that can reach it. A browser on the same
//! machine or network can reach it too, and sends what any page asks for. [`PageCheck`] refuses that:
//!
//! * **`Host`** must be an IP address, `localhost`, a name below `localhost`, or a name that the operator
//!   allows. A page of `evil.example` whose name is made to resolve to this machine (DNS rebinding) has
//!   the origin `evil.example`, so without this check it could read every answer.
//! * **`Origin`** and **`Sec-Fetch-Site`**, which only browsers send, must not be those of another origin.
//!   Without this check a page could run functions and deploy code by requests that need no preflight.
//!
//! A request for a function URL is not checked for its origin here: a URL that is public is so for pages
//! too. `api::function_urls` refuses foreign pages where a URL is not public.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{HeaderMap, HeaderValue, Request, Version};

use crate::function_url::{Address, address_of};

/// Longest host name in DNS, in bytes.
const MAX_NAME: usize = 253;

/// What a listener demands of `Host`, and of the headers that browsers send.
#[derive(Debug, Clone)]
pub struct PageCheck {
    /// `None`: the listener checks signatures.
    open: Option<Open>,
}

/// A listener without signatures.
#[derive(Debug, Clone)]
struct Open {
    /// Allowed host names, in lower case.
    names: Vec<String>,
    /// Whether the listener serves function URLs. If it does not, a host name such as
    /// `<id>.lambda-url.<anything>` is like any other: a page could have chosen it.
    serves_function_urls: bool,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The request has no valid host (RFC 9112, section 3.2).
    #[error("{0}")]
    Malformed(&'static str),
    /// The host name is not an allowed one.
    #[error(
        "{0:?} is not a host name of this controller, which serves requests without signatures for IP \
         addresses, localhost and the names that --allowed-host gives"
    )]
    Host(String),
    /// The request comes from a page of another origin.
    #[error(
        "The request comes from a web page of another origin, and the controller checks no signatures"
    )]
    Page,
}

impl PageCheck {
    /// For a listener that checks signatures: only the form of `Host` is checked. A page has no key to
    /// sign with.
    pub fn signed() -> Self {
        Self { open: None }
    }

    /// For a listener without signatures at `address`. The names in `allowed` are allowed, and on an
    /// address that other machines reach also the host name of this machine.
    pub fn open(address: SocketAddr, allowed: &[String], serves_function_urls: bool) -> Self {
        let mut names: Vec<String> = allowed.iter().map(|name| name.to_lowercase()).collect();
        if !address.ip().is_loopback() {
            names.extend(own_name());
        }
        Self {
            open: Some(Open {
                names,
                serves_function_urls,
            }),
        }
    }

    /// Checks a request. If its target is a whole URL, that URL's host replaces the header `Host`, as
    /// RFC 9112, section 3.2.2, demands it: what comes after this looks at the header alone.
    pub fn check<B>(&self, request: &mut Request<B>) -> Result<(), Refused> {
        take_host_of_target(request)?;
        let host = host(request.version(), request.headers())?;
        let Some(open) = &self.open else {
            return Ok(());
        };
        let Some(host) = host else {
            // HTTP/1.0, which browsers do not speak.
            return refuse_foreign_page(request.headers());
        };
        let address = open
            .serves_function_urls
            .then(|| address_of(Some(host), request.uri().path()))
            .flatten();
        let named = matches!(address, Some(Address::Host { .. }));
        let (name, _) = split(host).ok_or(MALFORMED)?;
        if !named && !open.allows(name) {
            return Err(Refused::Host(name.to_owned()));
        }
        match address {
            Some(_) => Ok(()),
            None => refuse_foreign_page(request.headers()),
        }
    }
}

impl Open {
    fn allows(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        literal(&name).is_some() || is_localhost(&name) || self.names.contains(&name)
    }
}

const MALFORMED: Refused = Refused::Malformed("The header Host is not a host and a port");

/// The host name of this machine, in lower case.
fn own_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    host_name(name.trim()).ok()
}

/// A request whose target is a whole URL becomes one with a path and the header `Host`.
fn take_host_of_target<B>(request: &mut Request<B>) -> Result<(), Refused> {
    let Some(authority) = request.uri().authority() else {
        return Ok(());
    };
    let host = HeaderValue::try_from(authority.as_str()).map_err(|_| MALFORMED)?;
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    request.headers_mut().insert(HOST, host);
    *request.uri_mut() = Uri::from(path);
    Ok(())
}

/// The one `Host` header. Requests before HTTP/1.1 need none.
fn host(version: Version, headers: &HeaderMap) -> Result<Option<&str>, Refused> {
    let mut all = headers.get_all(HOST).iter();
    let Some(host) = all.next() else {
        return match version {
            Version::HTTP_09 | Version::HTTP_10 => Ok(None),
            _ => Err(Refused::Malformed("The header Host is missing")),
        };
    };
    if all.next().is_some() {
        return Err(Refused::Malformed(
            "There is more than one header Host in the request",
        ));
    }
    let host = host.to_str().map_err(|_| MALFORMED)?;
    split(host).ok_or(MALFORMED)?;
    Ok(Some(host))
}

/// A host and its port, if it names one. An IPv6 address stays in its brackets.
fn split(host: &str) -> Option<(&str, Option<u16>)> {
    let (name, port) = match host.rfind(']') {
        Some(end) => host.split_at(end + 1),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~[]:".contains(&b);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(allowed) {
        return None;
    }
    if name.contains(['[', ']', ':']) {
        literal(name)?;
    }
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        Some("") => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
        _ => return None,
    };
    Some((name, port))
}

/// The IP address that a host is; IPv6 in brackets.
fn literal(name: &str) -> Option<IpAddr> {
    match name.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')?
            .parse::<Ipv6Addr>()
            .ok()
            .map(IpAddr::V6),
        None => name.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// `localhost` and every name below it are this machine for every resolver (RFC 6761, section 6.3).
fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

fn refuse_foreign_page(headers: &HeaderMap) -> Result<(), Refused> {
    if is_of_foreign_page(headers) {
        Err(Refused::Page)
    } else {
        Ok(())
    }
}

/// Whether a browser has sent the request for a page that is not of the same origin. A person who types an
/// address sends `Sec-Fetch-Site: none`; other programs send neither header.
pub(crate) fn is_of_foreign_page(headers: &HeaderMap) -> bool {
    let own = headers.get(HOST).map(HeaderValue::as_bytes);
    let is_own = |origin: &HeaderValue| {
        let origin = origin.as_bytes();
        // A proxy may have ended TLS.
        let host = origin
            .strip_prefix(b"http://")
            .or_else(|| origin.strip_prefix(b"https://"));
        host.zip(own)
            .is_some_and(|(host, own)| host.eq_ignore_ascii_case(own))
    };
    let is_near = |site: &HeaderValue| matches!(site.as_bytes(), b"same-origin" | b"none");
    !headers.get_all(ORIGIN).iter().all(is_own)
        || !headers.get_all("sec-fetch-site").iter().all(is_near)
}

/// Whether the request's host name is that of a function URL.
pub fn is_for_function_url(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    matches!(address_of(host, "/"), Some(Address::Host { .. }))
}

/// If a `Host` names this machine by its loopback address or `localhost`: its port, as the end of another
/// host (`:9070`, or nothing).
pub(crate) fn port_on_localhost(host: &str) -> Option<String> {
    let (name, port) = split(host)?;
    let name = name.to_ascii_lowercase();
    let loopback = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    let local = is_localhost(&name) || literal(&name).is_some_and(|ip| loopback.contains(&ip));
    local.then(|| port.map(|port| format!(":{port}")).unwrap_or_default())
}

/// Parses a host name of the command line.
pub(crate) fn host_name(text: &str) -> Result<String, String> {
    match split(text) {
        Some((name, None)) if name == text && !name.starts_with('[') => Ok(name.to_lowercase()),
        _ => Err("expected a host name without a port, such as hearth.example.com".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: &str = "127.0.0.1:9070";

    fn request(target: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn open(allowed: &[&str]) -> PageCheck {
        let allowed: Vec<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
        PageCheck::open(LOOPBACK.parse().unwrap(), &allowed, true)
    }

    fn checked(check: &PageCheck, target: &str, headers: &[(&str, &str)]) -> Result<(), Refused> {
        check.check(&mut request(target, headers))
    }

    /// After DNS rebinding a page could read functions' environment variables.
    #[test]
    fn a_host_is_an_address_or_localhost_or_an_allowed_name() {
        let check = open(&["Hearth.Example"]);
        for host in [
            "127.0.0.1",
            "127.0.0.1:9070",
            "192.0.2.7:80",
            "[::1]:9070",
            "[2001:db8::1]",
            "localhost",
            "LocalHost:9070",
            "a.b.localhost:9070",
            "localhost:",
            "hearth.example",
            "HEARTH.example:9070",
            "abc123.lambda-url.any.example:9070",
        ] {
            assert_eq!(checked(&check, "/", &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9070",
            "127.0.0.1.evil.example",
            "127.1",
            "0x7f.0.0.1",
            "localhost.evil.example",
            "notlocalhost",
            "xlocalhost:9070",
            "localhost.",
            "hearth.example.evil.example",
            "sub.hearth.example",
            "lambda-url.evil.example",
            "a.lambda-urls.evil.example",
            "a-b.lambda-url.evil.example",
        ] {
            let refused = checked(&check, "/", &[("host", host)]);
            assert!(matches!(refused, Err(Refused::Host(_))), "{host}");
        }
    }

    #[test]
    fn a_host_without_its_form_is_refused_on_every_listener() {
        for check in [open(&[]), PageCheck::signed()] {
            for headers in [
                &[][..],
                &[("host", "localhost"), ("host", "localhost")],
                &[("host", "")],
                &[("host", ":9070")],
                &[("host", "a b")],
                &[("host", "a/b")],
                &[("host", "user@localhost")],
                &[("host", "localhost:x")],
                &[("host", "localhost:99999")],
                &[("host", "::1")],
                &[("host", "[::1")],
                &[("host", "[::1]x")],
                &[("host", "[localhost]")],
                &[("host", "\u{e9}")],
            ] {
                let refused = checked(&check, "/", headers);
                assert!(matches!(refused, Err(Refused::Malformed(_))), "{headers:?}");
            }
        }
        let mut old = request("/", &[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(open(&[]).check(&mut old), Ok(()));
    }

    #[test]
    fn a_whole_url_as_target_names_the_host() {
        let mut sent = request("http://evil.example/a?b", &[("host", "localhost")]);
        let refused = open(&[]).check(&mut sent);
        assert_eq!(refused, Err(Refused::Host("evil.example".to_owned())));
        let mut sent = request("http://localhost:9070/a?b", &[("host", "evil.example")]);
        open(&[]).check(&mut sent).unwrap();
        assert_eq!(sent.uri(), "/a?b");
        assert_eq!(sent.headers()["host"], "localhost:9070");
        let refused = checked(&open(&[]), "http://user@localhost/", &[]);
        assert!(matches!(refused, Err(Refused::Malformed(_))));
    }

    /// A page could run functions and deploy code: its POST of plain text needs no preflight.
    #[test]
    fn a_page_of_another_origin_is_refused() {
        let check = open(&[]);
        let host = ("host", "localhost:9070");
        let with = |more: &[(&str, &str)], target: &str| {
            let headers: Vec<(&str, &str)> = [host].iter().chain(more).copied().collect();
            checked(&check, target, &headers)
        };
        let api = "/2015-03-31/functions";
        for foreign in [
            &[("origin", "http://evil.example")][..],
            &[("origin", "null")],
            &[("origin", "http://localhost:3000")],
            &[("origin", "http://localhost")],
            &[("origin", "http://127.0.0.1:9070")],
            &[("origin", "http://abc.lambda-url.localhost:9070")],
            &[("origin", "localhost:9070")],
            &[("origin", "")],
            &[
                ("origin", "http://localhost:9070"),
                ("origin", "http://evil.example"),
            ],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "strange")],
        ] {
            assert_eq!(with(foreign, api), Err(Refused::Page), "{foreign:?}");
            assert_eq!(with(foreign, "/fn/f/"), Ok(()), "a URL may be public");
        }
        for own in [
            &[][..],
            &[("origin", "http://localhost:9070")],
            &[("origin", "https://LOCALHOST:9070")],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")],
        ] {
            assert_eq!(with(own, api), Ok(()), "{own:?}");
        }
        let foreign = [("host", "evil.example"), ("origin", "http://evil.example")];
        assert_eq!(checked(&PageCheck::signed(), api, &foreign), Ok(()));
    }

    #[test]
    fn a_listener_without_function_urls_knows_no_hosts_of_theirs() {
        let check = PageCheck::open(LOOPBACK.parse().unwrap(), &[], false);
        let host = [("host", "abc.lambda-url.evil.example")];
        assert!(matches!(
            checked(&check, "/metrics", &host),
            Err(Refused::Host(_))
        ));
        let foreign = [("host", "localhost"), ("origin", "null")];
        assert_eq!(checked(&check, "/fn/f/", &foreign), Err(Refused::Page));
    }

    #[test]
    fn beyond_loopback_the_machines_own_name_is_allowed() {
        let own = own_name().expect("a machine has a name");
        let host = format!("{}:9071", own.to_uppercase());
        let at = |address: &str| {
            let check = PageCheck::open(address.parse().unwrap(), &[], false);
            checked(&check, "/metrics", &[("host", &host)])
        };
        assert_eq!(at("0.0.0.0:9071"), Ok(()));
        assert_eq!(at("[::]:9071"), Ok(()));
        if own != "localhost" {
            assert!(at(LOOPBACK).is_err());
        }
    }

    #[test]
    fn a_name_of_the_command_line_has_no_port() {
        assert_eq!(host_name("Hearth.Example").as_deref(), Ok("hearth.example"));
        for bad in [
            "",
            "a:1",
            "a:",
            "http://a",
            "*.a",
            "a b",
            "[::1]",
            "a,b",
            "\u{e9}.example",
        ] {
            assert!(host_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_this_machines_loopback_has_names_below_localhost() {
        for (host, port) in [
            ("127.0.0.1:9070", Some(":9070")),
            ("[::1]:1", Some(":1")),
            ("localhost", Some("")),
            ("x.localhost:80", Some(":80")),
            ("127.0.0.2:9070", None),
            ("192.0.2.7:9070", None),
            ("hearth.example:9070", None),
        ] {
            assert_eq!(port_on_localhost(host).as_deref(), port, "{host}");
        }
    }
}
