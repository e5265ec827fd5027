//! Sends one request and reads its answer, and names what can fail.

use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use hearth_controller::auth::{Credentials, signed_headers};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::http::{Method, Request, Response, Uri};
use ureq::{Agent, Body};

use super::signing;

/// Maximum time to connect: a controller is on this machine or this network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a controller on this machine that is only just being started.
const START_WAIT: Duration = Duration::from_secs(2);
/// How often it is looked for.
const START_POLL: Duration = Duration::from_millis(50);
/// Maximum time of any request but an invocation.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum time of an invocation: Lambda's longest timeout, and time to queue and restore.
const INVOCATION_TIMEOUT: Duration = Duration::from_secs(900 + 120);
/// Maximum time of a stream; the caller opens another one then. Without it a stream whose other end has
/// vanished would never end.
const STREAM_TIMEOUT: Duration = Duration::from_secs(600);
/// Maximum size of an answer in bytes: a listing of ten thousand functions fits.
const MAX_ANSWER: u64 = 64 << 20;

/// Lambda's reason of a throttle at the function's reserved concurrency.
pub(crate) const RESERVED: &str = "ReservedFunctionConcurrentInvocationLimitExceeded";

/// A connection to one controller.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    credentials: Option<Credentials>,
    /// Whether the controller is on this machine.
    local: bool,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// `--endpoint-url` is no URL.
    #[error("endpoint {0:?}: expected a URL such as http://127.0.0.1:9070")]
    Endpoint(String),
    /// Nothing listens there, or the host can't be reached.
    #[error("no controller at {endpoint}: {source}")]
    Unreachable {
        /// Where it was looked for.
        endpoint: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection broke or took too long.
    #[error("{method} {path} at {endpoint}: {message}")]
    Transport {
        /// The controller.
        endpoint: String,
        /// Of the request.
        method: Method,
        /// Of the request.
        path: String,
        /// What happened.
        message: String,
    },
    /// The controller said no.
    #[error(
        "{kind}: {message} ({}HTTP {status}, request {request_id})",
        reason.as_ref().map_or_else(String::new, |reason| format!("{reason}, "))
    )]
    Refused {
        /// HTTP status.
        status: u16,
        /// Lambda's name of the error.
        kind: String,
        /// Which limit a throttled request met.
        reason: Option<String>,
        /// The controller's words.
        message: String,
        /// To be found in the controller's log.
        request_id: String,
    },
    /// The answer is not what the API promises.
    #[error("the answer to {path} is not {expected}: {message}")]
    Answer {
        /// Where it came from.
        endpoint: String,
        /// Of the request.
        path: String,
        /// What should have come.
        expected: &'static str,
        /// What the parser said.
        message: String,
    },
}

impl ClientError {
    /// Whether the caller can mend it: a request that the controller understood and refused.
    pub(crate) fn is_callers(&self) -> bool {
        match self {
            Self::Endpoint(_) => true,
            // What the owner of the function has reserved for it, the owner can change.
            Self::Refused { reason, .. } if reason.as_deref() == Some(RESERVED) => true,
            Self::Refused { status, .. } => (400..500).contains(status) && *status != 429,
            _ => false,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { .. } => Some(
                "is `hearth serve` (or hearthd) running there? --endpoint-url or HEARTH_ENDPOINT says \
                 where to look"
                    .to_owned(),
            ),
            Self::Endpoint(endpoint) if endpoint.starts_with("https:") => Some(
                "hearth speaks no TLS: forward a port of this machine to the controller's, for example \
                 with ssh -L 9070:127.0.0.1:9070 HOST"
                    .to_owned(),
            ),
            Self::Answer { endpoint, .. } => Some(format!("is {endpoint} a Hearth controller?")),
            Self::Refused { kind, .. } if kind == "MissingAuthenticationTokenException" => {
                Some(signing::UNSIGNED.to_owned())
            }
            Self::Refused { message, .. } if message.contains("scoped to a valid region") => {
                Some(signing::OTHER_REGION.to_owned())
            }
            _ => None,
        }
    }

    /// What a program can tell the refusal by.
    pub(crate) fn refusal(&self) -> Option<(u16, &str, &str)> {
        match self {
            Self::Refused {
                status,
                kind,
                request_id,
                ..
            } => Some((*status, kind, request_id)),
            _ => None,
        }
    }

    /// Whether the thing asked for does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether another change is at work on the same thing.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }
}

impl Client {
    /// A client of the controller at `endpoint`.
    pub(crate) fn new(endpoint: &str) -> Result<Self, ClientError> {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let uri: Option<Uri> = endpoint.parse().ok();
        let Some(uri) = uri.filter(|uri| uri.scheme_str() == Some("http")) else {
            return Err(ClientError::Endpoint(endpoint));
        };
        let Some(host) = uri.host() else {
            return Err(ClientError::Endpoint(endpoint));
        };
        let local = is_loopback(host);
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            // A controller is on this machine or this network; a proxy from the environment is
            // for the world outside.
            .proxy(None)
            .user_agent(concat!("hearth/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Self {
            agent,
            endpoint,
            credentials: None,
            local,
        })
    }

    /// The same, signing its requests if there is something to sign with.
    pub(crate) fn signing(self, credentials: Option<Credentials>) -> Self {
        Self {
            credentials,
            ..self
        }
    }

    /// The controller's URL, without a slash at the end.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether a controller answers at all.
    pub(crate) fn is_there(&self) -> Result<(), ClientError> {
        self.bytes(Method::GET, "/healthz", b"")?;
        Ok(())
    }

    /// A call that is answered by JSON.
    pub(crate) fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &[u8],
    ) -> Result<T, ClientError> {
        let bytes = self.bytes(method, path, body)?;
        self.parse(path, &bytes)
    }

    /// A call whose answer's bytes are all that matters.
    pub(crate) fn bytes(
        &self,
        method: Method,
        path: &str,
        body: &[u8],
    ) -> Result<Vec<u8>, ClientError> {
        let request = Request::builder().method(method);
        let response = self.send(request, path, body, CALL_TIMEOUT)?;
        self.read(path, response)
    }

    /// A call whose answer's headers matter too. Its body is still to be read.
    pub(super) fn call(
        &self,
        request: ureq::http::request::Builder,
        path: &str,
    ) -> Result<Response<Body>, ClientError> {
        self.send(request, path, b"", CALL_TIMEOUT)
    }

    /// A call whose answer goes on and on.
    pub(super) fn stream(
        &self,
        request: ureq::http::request::Builder,
        path: &str,
    ) -> Result<Response<Body>, ClientError> {
        self.send(request, path, b"", STREAM_TIMEOUT)
    }

    /// An invocation: waits as long as one may take. The answer's body is still to be read.
    pub(crate) fn invocation(
        &self,
        request: ureq::http::request::Builder,
        path: &str,
        body: &[u8],
    ) -> Result<Response<Body>, ClientError> {
        self.send(request, path, body, INVOCATION_TIMEOUT)
    }

    /// The same for a request that is handed on: a refusal is an answer like any other.
    pub(super) fn any_status(
        &self,
        request: ureq::http::request::Builder,
        path: &str,
        body: &[u8],
    ) -> Result<Response<Body>, ClientError> {
        self.run(request, path, body, INVOCATION_TIMEOUT)
    }

    fn send(
        &self,
        request: ureq::http::request::Builder,
        path: &str,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Response<Body>, ClientError> {
        let response = self.run(request, path, body, timeout)?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refused(path, response))
    }

    fn run(
        &self,
        request: ureq::http::request::Builder,
        path: &str,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Response<Body>, ClientError> {
        let endpoint = || ClientError::Endpoint(self.endpoint.clone());
        let request = request
            .uri(format!("{}{path}", self.endpoint))
            .body(())
            .map_err(|_| endpoint())?;
        let method = request.method().clone();
        let has_body = matches!(method, Method::POST | Method::PUT | Method::PATCH);
        let give_up = Instant::now() + START_WAIT;
        loop {
            match self.try_once(request.clone(), has_body.then_some(body), timeout)? {
                // Nothing of the request was sent: it may be sent again.
                Err(error)
                    if self.local && is_refused_connection(&error) && Instant::now() < give_up =>
                {
                    sleep(START_POLL);
                }
                answer => return answer.map_err(|error| self.failed(method, path, error)),
            }
        }
    }

    fn try_once(
        &self,
        mut request: Request<()>,
        body: Option<&[u8]>,
        timeout: Duration,
    ) -> Result<Result<Response<Body>, ureq::Error>, ClientError> {
        let endpoint = || ClientError::Endpoint(self.endpoint.clone());
        if let Some(credentials) = &self.credentials {
            let (method, uri, headers) = (request.method(), request.uri(), request.headers());
            let sent = body.unwrap_or_default();
            let now = SystemTime::now();
            let signed = signed_headers(credentials, method, uri, headers, sent, now)
                .ok_or_else(endpoint)?;
            request.headers_mut().extend(signed);
        }
        Ok(match body {
            Some(body) => self.run_with(request.map(|()| body), timeout),
            None => self.run_with(request, timeout),
        })
    }

    fn run_with(
        &self,
        request: Request<impl ureq::AsSendBody>,
        timeout: Duration,
    ) -> Result<Response<Body>, ureq::Error> {
        let request = self
            .agent
            .configure_request(request)
            .timeout_global(Some(timeout))
            .build();
        self.agent.run(request)
    }

    /// Reads an answer's whole body.
    pub(crate) fn read(
        &self,
        path: &str,
        response: Response<Body>,
    ) -> Result<Vec<u8>, ClientError> {
        response
            .into_body()
            .into_with_config()
            .limit(MAX_ANSWER)
            .read_to_vec()
            .map_err(|error| self.failed(Method::GET, path, error))
    }

    /// Reads an answer that came with this path as JSON.
    pub(crate) fn parse<T: DeserializeOwned>(
        &self,
        path: &str,
        bytes: &[u8],
    ) -> Result<T, ClientError> {
        serde_json::from_slice(bytes).map_err(|error| ClientError::Answer {
            endpoint: self.endpoint.clone(),
            path: path.to_owned(),
            expected: "the JSON that this call answers",
            message: error.to_string(),
        })
    }

    fn failed(&self, method: Method, path: &str, error: ureq::Error) -> ClientError {
        let unreachable = |source| ClientError::Unreachable {
            endpoint: self.endpoint.clone(),
            source,
        };
        match error {
            ureq::Error::Io(source)
                if matches!(
                    source.kind(),
                    std::io::ErrorKind::ConnectionRefused
                        | std::io::ErrorKind::HostUnreachable
                        | std::io::ErrorKind::NetworkUnreachable
                ) =>
            {
                unreachable(source)
            }
            ureq::Error::Io(source) if source.to_string().contains("lookup") => unreachable(source),
            ureq::Error::HostNotFound => unreachable(std::io::Error::other("host not found")),
            ureq::Error::ConnectionFailed => {
                unreachable(std::io::Error::other("connection failed"))
            }
            error => ClientError::Transport {
                endpoint: self.endpoint.clone(),
                method,
                path: path.to_owned(),
                message: error.to_string(),
            },
        }
    }

    fn refused(&self, path: &str, response: Response<Body>) -> ClientError {
        let status = response.status().as_u16();
        let header = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let kind = header("x-amzn-errortype");
        let request_id = header("x-amzn-requestid").unwrap_or_else(|| "without id".to_owned());
        let body = match self.read(path, response) {
            Ok(body) => body,
            Err(error) => return error,
        };
        /// Lambda's error types disagree about the key's case.
        #[derive(Deserialize)]
        struct Refusal {
            #[serde(alias = "message", rename = "Message")]
            message: String,
            #[serde(rename = "Reason")]
            reason: Option<String>,
        }
        let (message, reason) = match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => (refusal.message, refusal.reason),
            Err(_) => {
                let start = &body[..body.len().min(500)];
                (String::from_utf8_lossy(start).into_owned(), None)
            }
        };
        ClientError::Refused {
            status,
            kind: kind.unwrap_or_else(|| "error".to_owned()),
            reason,
            message,
            request_id,
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

fn is_refused_connection(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Io(source)
        if source.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `hearth serve & hearth ls` failed when the second was faster.
    #[test]
    fn a_controller_on_this_machine_that_is_being_started_is_waited_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let server = std::thread::spawn(move || {
            sleep(START_POLL * 4);
            let listener = std::net::TcpListener::bind(address).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let length = std::io::Read::read(&mut stream, &mut request).unwrap();
            assert!(length > 0);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            std::io::Write::write_all(&mut stream, answer).unwrap();
        });
        let client = Client::new(&format!("http://{address}")).unwrap();
        client.is_there().unwrap();
        server.join().unwrap();
        assert!(is_loopback("localhost") && is_loopback("[::1]") && !is_loopback("10.0.0.1"));
    }

    #[test]
    fn an_endpoint_is_a_url_with_a_host() {
        for good in ["http://127.0.0.1:9070", "http://h:1/"] {
            assert!(Client::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1:9070",
            "ftp://h",
            "http://",
            "not a url",
            "https://h",
        ] {
            assert!(Client::new(bad).is_err(), "{bad}");
        }
        let https = Client::new("https://h").unwrap_err();
        assert!(https.hint().unwrap().contains("ssh -L"));
    }

    #[test]
    fn nobody_listening_says_what_to_start() {
        // Bound and dropped: nothing listens there now.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let client = Client::new(&endpoint).unwrap();
        let error = client.bytes(Method::GET, "/healthz", b"").unwrap_err();
        assert!(error.hint().unwrap().contains("hearth serve"), "{error}");
        assert!(error.to_string().contains(&endpoint), "{error}");
        assert!(!error.is_callers());
    }

    #[test]
    fn a_wrong_region_or_no_signature_is_told_with_what_to_set() {
        let hint = |kind: &str, message: &str| {
            let refused = ClientError::Refused {
                status: 403,
                kind: kind.into(),
                reason: None,
                message: message.into(),
                request_id: "r".into(),
            };
            refused.hint().unwrap_or_default()
        };
        assert!(hint("MissingAuthenticationTokenException", "").contains("hearth keys create"));
        let region = "Credential should be scoped to a valid region, not 'eu-west-1'. ";
        assert!(hint("InvalidSignatureException", region).contains("AWS_REGION"));
        assert_eq!(hint("AccessDeniedException", ""), "");
    }

    #[test]
    fn refusals_are_the_callers_and_throttles_the_platforms() {
        let refused = |status| ClientError::Refused {
            status,
            kind: String::new(),
            reason: None,
            message: String::new(),
            request_id: String::new(),
        };
        assert!(refused(404).is_callers() && refused(404).is_not_found());
        assert!(refused(409).is_callers() && refused(409).is_conflict());
        assert!(!refused(429).is_callers());
        let reserved = ClientError::Refused {
            status: 429,
            kind: "TooManyRequestsException".into(),
            reason: Some(RESERVED.into()),
            message: "Rate Exceeded.".into(),
            request_id: "r".into(),
        };
        assert!(
            reserved.is_callers() && reserved.to_string().contains(RESERVED),
            "{reserved}"
        );
        assert!(!refused(502).is_callers());
    }
}
