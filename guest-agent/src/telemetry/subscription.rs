//! What a subscriber asks for: the body of `PUT /telemetry` and of `PUT /logs`, checked.

use std::time::Duration;

use hearth_protocol::guest::RUNTIME_API_ADDRESS;
use serde::Deserialize;

use super::record::{Dialect, Source};

/// Maximum length of a body, in bytes: many times what a subscription needs.
const MAX_BODY: usize = 64 * 1024;
/// Maximum length of a listener's path, in bytes.
const MAX_PATH: usize = 1024;
/// Host names of this guest in a listener's URI, as on Lambda.
const HOSTS: [&str; 2] = ["sandbox.localdomain", "sandbox"];
/// Maximum characters of a received value that an error message shows.
const MAX_SHOWN: usize = 64;

/// Which of the two APIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    Telemetry,
    Logs,
}

impl Api {
    /// Versions of its event schema.
    fn schemas(self) -> &'static [&'static str] {
        match self {
            Self::Telemetry => &["2022-07-01", "2022-12-13", "2025-01-29"],
            Self::Logs => &["2020-08-15", "2021-03-18"],
        }
    }
}

/// Why a subscription is refused. Type and status are Lambda's: `ValidationError`, 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("the body is longer than {MAX_BODY} bytes")]
    TooLong,
    #[error("the body is not a subscription: {0}")]
    Json(String),
    #[error("schemaVersion {seen:?} is not one of {valid:?}")]
    Schema {
        seen: String,
        valid: &'static [&'static str],
    },
    #[error("types must have at least one of platform, function, extension")]
    NoTypes,
    #[error("type {0:?} is not one of platform, function, extension")]
    Type(String),
    #[error("buffering.{name} is {seen}, not {least} to {most}")]
    Buffering {
        name: &'static str,
        seen: u64,
        least: u64,
        most: u64,
    },
    #[error("destination.protocol {0:?} is not HTTP")]
    Protocol(String),
    #[error("destination.URI {0:?} is not http://sandbox.localdomain:PORT")]
    Uri(String),
    #[error("the extension has subscribed with the other API already")]
    OtherApi,
}

/// The streams that a subscriber wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Types {
    platform: bool,
    function: bool,
    extension: bool,
}

impl Types {
    pub(super) fn has(self, source: Source) -> bool {
        match source {
            Source::Platform => self.platform,
            Source::Function => self.function,
            Source::Extension => self.extension,
        }
    }

    pub(super) fn names(self) -> Vec<&'static str> {
        [Source::Platform, Source::Function, Source::Extension]
            .into_iter()
            .filter(|source| self.has(*source))
            .map(Source::name)
            .collect()
    }
}

/// A valid subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(super) api: Api,
    pub(super) dialect: Dialect,
    pub(super) types: Types,
    pub(super) max_items: usize,
    pub(super) max_bytes: usize,
    pub(super) timeout: Duration,
    pub(super) listener: Listener,
}

/// A listener in this guest, at 127.0.0.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listener {
    /// Name and port as the subscriber gave them, for the `Host` header.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    /// Optional in the Logs API.
    schema_version: Option<String>,
    types: Vec<String>,
    #[serde(default)]
    buffering: Buffering,
    destination: Destination,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Buffering {
    max_items: Option<u64>,
    max_bytes: Option<u64>,
    timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Destination {
    protocol: String,
    #[serde(rename = "URI", default)]
    uri: String,
}

impl Subscription {
    pub(crate) fn parse(api: Api, body: &[u8]) -> Result<Self, Invalid> {
        if body.len() > MAX_BODY {
            return Err(Invalid::TooLong);
        }
        let body: Body =
            serde_json::from_slice(body).map_err(|error| Invalid::Json(error.to_string()))?;
        let valid = api.schemas();
        let schema = match (&body.schema_version, api) {
            (Some(schema), _) => schema.as_str(),
            (None, Api::Logs) => valid[0],
            (None, Api::Telemetry) => "",
        };
        if !valid.contains(&schema) {
            return Err(Invalid::Schema {
                seen: shown(schema),
                valid,
            });
        }
        let dialect = match (api, schema) {
            (Api::Logs, _) => Dialect::Logs,
            (Api::Telemetry, "2022-07-01") => Dialect::Text,
            (Api::Telemetry, _) => Dialect::Structured,
        };
        let buffering = body.buffering;
        Ok(Self {
            api,
            dialect,
            types: types(&body.types)?,
            max_items: within("maxItems", buffering.max_items, 1_000, 10_000, 10_000)?,
            max_bytes: within("maxBytes", buffering.max_bytes, 262_144, 1_048_576, 262_144)?,
            timeout: Duration::from_millis(within(
                "timeoutMs",
                buffering.timeout_ms,
                25,
                30_000,
                1_000,
            )? as u64),
            listener: listener(&body.destination)?,
        })
    }
}

fn types(names: &[String]) -> Result<Types, Invalid> {
    let mut types = Types::default();
    for name in names {
        match name.as_str() {
            "platform" => types.platform = true,
            "function" => types.function = true,
            "extension" => types.extension = true,
            other => return Err(Invalid::Type(shown(other))),
        }
    }
    if types == Types::default() {
        return Err(Invalid::NoTypes);
    }
    Ok(types)
}

fn within(
    name: &'static str,
    seen: Option<u64>,
    least: u64,
    most: u64,
    default: usize,
) -> Result<usize, Invalid> {
    let Some(seen) = seen else {
        return Ok(default);
    };
    usize::try_from(seen)
        .ok()
        .filter(|_| (least..=most).contains(&seen))
        .ok_or(Invalid::Buffering {
            name,
            seen,
            least,
            most,
        })
}

/// Batches are posted to this guest only, and not to the Runtime API: the agent would wait for itself.
fn listener(destination: &Destination) -> Result<Listener, Invalid> {
    if destination.protocol != "HTTP" {
        return Err(Invalid::Protocol(shown(&destination.protocol)));
    }
    let uri = destination.uri.as_str();
    let parse = || {
        let rest = uri.strip_prefix("http://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        let (name, port) = host.split_once(':').unwrap_or((host, "80"));
        if !HOSTS.contains(&name) || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
        if RUNTIME_API_ADDRESS.ends_with(&format!(":{port}")) {
            return None;
        }
        let visible = path.bytes().all(|byte| byte.is_ascii_graphic());
        if !visible || path.len() > MAX_PATH || path.contains('#') {
            return None;
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        Some(Listener {
            host: host.to_owned(),
            port,
            path: format!("{slash}{path}"),
        })
    };
    parse().ok_or_else(|| Invalid::Uri(shown(uri)))
}

fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn body() -> Value {
        json!({
            "schemaVersion": "2022-12-13",
            "types": ["platform", "function", "platform"],
            "destination": { "protocol": "HTTP", "URI": "http://sandbox.localdomain:8080" },
        })
    }

    fn parse(api: Api, body: &Value) -> Result<Subscription, Invalid> {
        Subscription::parse(api, body.to_string().as_bytes())
    }

    #[test]
    fn a_subscription_without_buffering_gets_lambdas() {
        let subscription = parse(Api::Telemetry, &body()).unwrap();
        assert_eq!(subscription.max_items, 10_000);
        assert_eq!(subscription.max_bytes, 262_144);
        assert_eq!(subscription.timeout, Duration::from_secs(1));
        assert_eq!(subscription.types.names(), ["platform", "function"]);
        assert_eq!(subscription.dialect, Dialect::Structured);
    }

    #[test]
    fn each_api_knows_its_schemas() {
        let mut body = body();
        for (api, schema, dialect) in [
            (Api::Telemetry, Some("2022-07-01"), Some(Dialect::Text)),
            (
                Api::Telemetry,
                Some("2025-01-29"),
                Some(Dialect::Structured),
            ),
            (Api::Telemetry, Some("2021-03-18"), None),
            (Api::Telemetry, None, None),
            (Api::Logs, Some("2021-03-18"), Some(Dialect::Logs)),
            (Api::Logs, None, Some(Dialect::Logs)),
            (Api::Logs, Some("2022-07-01"), None),
        ] {
            body["schemaVersion"] = schema.into();
            let parsed = parse(api, &body).ok().map(|s| s.dialect);
            assert_eq!(parsed, dialect, "{api:?} {schema:?}");
        }
    }

    #[test]
    fn buffering_is_held_to_lambdas_limits() {
        for (name, least, most) in [
            ("maxItems", 1_000, 10_000),
            ("maxBytes", 262_144, 1_048_576),
            ("timeoutMs", 25, 30_000),
        ] {
            let with = |value: u64| {
                let mut body = body();
                body["buffering"] = json!({ name: value });
                parse(Api::Telemetry, &body)
            };
            assert!(with(least).is_ok() && with(most).is_ok(), "{name}");
            for seen in [0, least - 1, most + 1, u64::MAX] {
                let expected = Invalid::Buffering {
                    name,
                    seen,
                    least,
                    most,
                };
                assert_eq!(with(seen), Err(expected));
            }
        }
    }

    #[test]
    fn only_a_listener_in_this_guest_is_posted_to() {
        let at = |uri: &str| {
            let mut body = body();
            body["destination"]["URI"] = uri.into();
            parse(Api::Telemetry, &body).map(|s| s.listener)
        };
        let found = at("http://sandbox:1/a?b=c").unwrap();
        assert_eq!(
            (found.host.as_str(), found.port, found.path.as_str()),
            ("sandbox:1", 1, "/a?b=c")
        );
        assert_eq!(at("http://sandbox.localdomain").unwrap().port, 80);
        for uri in [
            "",
            "https://sandbox:8080",
            "http://localhost:8080",
            "http://127.0.0.1:8080",
            "http://169.254.169.254:80/latest",
            "http://sandbox.localdomain.example:8080",
            "http://user@sandbox:8080",
            "http://sandbox:8080@example:80",
            "http://sandbox:0",
            "http://sandbox:65536",
            "http://sandbox:+80",
            "http://sandbox:9001",
            "http://sandbox:8080/a b",
            "http://sandbox:8080/\r\nX: y",
            "http://sandbox:8080/#part",
            &format!("http://sandbox:8080/{}", "x".repeat(MAX_PATH)),
        ] {
            assert!(matches!(at(uri), Err(Invalid::Uri(_))), "{uri}");
        }
        let mut body = body();
        body["destination"] = json!({ "protocol": "TCP", "port": 8080 });
        let refused = parse(Api::Telemetry, &body);
        assert_eq!(refused, Err(Invalid::Protocol("TCP".into())));
    }

    #[test]
    fn what_is_no_subscription_is_refused() {
        let mut none = body();
        none["types"] = json!([]);
        assert_eq!(parse(Api::Telemetry, &none), Err(Invalid::NoTypes));
        none["types"] = json!(["platform", "metrics"]);
        let refused = parse(Api::Telemetry, &none);
        assert_eq!(refused, Err(Invalid::Type("metrics".into())));
        for text in ["", "[]", "{}", "{\"types\":7}"] {
            let refused = Subscription::parse(Api::Telemetry, text.as_bytes());
            assert!(matches!(refused, Err(Invalid::Json(_))), "{text}");
        }
        let long = vec![b' '; MAX_BODY + 1];
        assert_eq!(
            Subscription::parse(Api::Telemetry, &long),
            Err(Invalid::TooLong)
        );
    }
}
