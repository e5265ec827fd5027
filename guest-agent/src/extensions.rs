//! Lambda's extensions: which there are, what each is doing, and which events each receives.
//!
//! ```text
//!            register             next            event
//! Started ────────────▶ Registered ───▶ Ready ──────────▶ Running
//!  (external ones)                        ▲                  │ next
//!                                         └──────────────────┘
//! ```
//!
//! External extensions are programs of `/opt/extensions`, started before the runtime; internal ones
//! register from within the runtime's process. This module does no I/O: the caller carries out what
//! is returned. Extensions belong to the function and are as hostile as it is.

use bytes::Bytes;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::lifecycle::ConnectionId;
use crate::telemetry::Api;

/// Lambda's limit.
pub(crate) const MAX_EXTENSIONS: usize = 10;
/// Longest name, in bytes; Lambda's limit.
const MAX_NAME: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The program was started and has not registered.
    Started,
    /// It has registered and not asked for an event yet.
    Registered,
    /// It waits for an event.
    Ready,
    /// It works on an event.
    Running,
    /// It has reported an error of its init.
    InitError,
    /// It has reported an error and exits.
    ExitError,
    /// Its process has ended.
    Exited,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Started => "Started",
            Self::Registered => "Registered",
            Self::Ready => "Ready",
            Self::Running => "Running",
            Self::InitError => "InitError",
            Self::ExitError => "ExitError",
            Self::Exited => "Exited",
        }
    }
}

#[derive(Debug)]
struct Extension {
    name: String,
    /// Empty until it registers.
    id: String,
    /// The process of an external extension, while it runs.
    pid: Option<Pid>,
    /// Whether it receives `INVOKE`, and `SHUTDOWN`.
    invoke: bool,
    shutdown: bool,
    state: State,
    waiter: Option<ConnectionId>,
    /// An event that arrived while it did not wait: it gets it with its next request.
    pending: Option<Bytes>,
}

impl Extension {
    fn new(name: String, pid: Option<Pid>) -> Self {
        Self {
            name,
            id: String::new(),
            pid,
            invoke: false,
            shutdown: false,
            state: State::Started,
            waiter: None,
            pending: None,
        }
    }
}

/// Why an extension's request is refused: type and message are Lambda's, the status is 403.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) kind: &'static str,
    pub(crate) message: String,
}

impl Refusal {
    /// The refusal of a subscription after init.
    pub(crate) fn subscription_closed(api: Api) -> Self {
        match api {
            Api::Telemetry => refuse(
                "Telemetry.SubscriptionClosed",
                "Telemetry API subscription is closed already",
            ),
            Api::Logs => refuse(
                "Logs.SubscriptionClosed",
                "Logs API subscription is closed already",
            ),
        }
    }
}

fn refuse(kind: &'static str, message: impl Into<String>) -> Refusal {
    Refusal {
        kind,
        message: message.into(),
    }
}

/// Which of its two errors an extension reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorPhase {
    Init,
    Exit,
}

#[derive(Deserialize)]
struct Register {
    #[serde(default)]
    events: Vec<String>,
}

/// What all extensions are doing.
#[derive(Debug, Default)]
pub(crate) struct Extensions {
    list: Vec<Extension>,
    /// The runtime has asked for its first event: no further extension may register.
    closed: bool,
}

/// Events to send, each on a connection that waits for one.
pub(crate) type Deliveries = Vec<(ConnectionId, Bytes)>;

impl Extensions {
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// A program of this name was started.
    pub(crate) fn launched(&mut self, name: String, pid: Pid) {
        self.list.push(Extension::new(name, Some(pid)));
    }

    /// Registers the extension `name`, under the identifier `id`.
    pub(crate) fn register(
        &mut self,
        name: Option<&str>,
        body: &[u8],
        id: String,
    ) -> Result<String, Refusal> {
        let name = name.filter(|name| (1..=MAX_NAME).contains(&name.len()));
        let Some(name) = name else {
            return Err(refuse(
                "Extension.InvalidExtensionName",
                "Empty extension name",
            ));
        };
        let wanted: Register = serde_json::from_slice(body)
            .map_err(|error| refuse("InvalidRequestFormat", error.to_string()))?;
        let known = self
            .list
            .iter()
            .position(|extension| extension.name == name);
        let external = known.is_some_and(|at| self.list[at].pid.is_some());
        for event in &wanted.events {
            let why = match event.as_str() {
                "INVOKE" => continue,
                "SHUTDOWN" if external => continue,
                "SHUTDOWN" => "event not supported for internal extension",
                _ => "unknown event",
            };
            let shown: String = event.chars().take(MAX_NAME).collect();
            return Err(refuse(
                "Extension.InvalidEventType",
                format!("{shown}: {why}"),
            ));
        }
        let wants = |name: &str| wanted.events.iter().any(|event| event == name);
        let extension = match known {
            Some(at) => {
                let extension = &mut self.list[at];
                if extension.state != State::Started {
                    return Err(not_allowed(extension, "Registered"));
                }
                extension
            }
            None if self.closed => {
                return Err(refuse(
                    "Extension.RegistrationClosed",
                    "Extension registration closed already",
                ));
            }
            None if self.list.len() >= MAX_EXTENSIONS => {
                return Err(refuse(
                    "Extension.TooManyExtensions",
                    format!("Extension limit ({MAX_EXTENSIONS}) reached"),
                ));
            }
            None => {
                self.list.push(Extension::new(name.to_owned(), None));
                self.list.last_mut().expect("pushed above")
            }
        };
        extension.id = id;
        extension.invoke = wants("INVOKE");
        extension.shutdown = wants("SHUTDOWN");
        extension.state = State::Registered;
        Ok(extension.id.clone())
    }

    /// Whether every program that was started has registered.
    pub(crate) fn all_registered(&self) -> bool {
        self.list
            .iter()
            .all(|extension| extension.state != State::Started)
    }

    /// Whether every extension waits for an event.
    pub(crate) fn all_ready(&self) -> bool {
        self.list
            .iter()
            .all(|extension| extension.state == State::Ready && extension.pending.is_none())
    }

    pub(crate) fn close_registration(&mut self) {
        self.closed = true;
    }

    /// An extension asks for the next event. Returns the event if there is one already.
    pub(crate) fn next(
        &mut self,
        identifier: Option<&str>,
        connection: ConnectionId,
    ) -> Result<Option<Bytes>, Refusal> {
        let extension = self.find(identifier)?;
        let waits = extension.state == State::Ready && extension.waiter.is_none();
        if !waits && !matches!(extension.state, State::Registered | State::Running) {
            return Err(not_allowed(extension, "Ready"));
        }
        if let Some(event) = extension.pending.take() {
            extension.state = State::Running;
            return Ok(Some(event));
        }
        extension.state = State::Ready;
        extension.waiter = Some(connection);
        Ok(None)
    }

    /// An extension reports that it cannot continue. Its name.
    pub(crate) fn error(
        &mut self,
        identifier: Option<&str>,
        phase: ErrorPhase,
    ) -> Result<String, Refusal> {
        let extension = self.find(identifier)?;
        let (state, fits) = match phase {
            ErrorPhase::Init => (State::InitError, extension.state == State::Registered),
            ErrorPhase::Exit => (
                State::ExitError,
                matches!(
                    extension.state,
                    State::Registered | State::Ready | State::Running
                ),
            ),
        };
        if !fits {
            return Err(not_allowed(extension, state.name()));
        }
        extension.state = state;
        Ok(extension.name.clone())
    }

    /// The name of the extension with this identifier.
    pub(crate) fn identify(&mut self, identifier: Option<&str>) -> Result<String, Refusal> {
        self.find(identifier)
            .map(|extension| extension.name.clone())
    }

    /// Name, state and events of each extension.
    pub(crate) fn states(&self) -> impl Iterator<Item = (&str, &'static str, Vec<&'static str>)> {
        self.list.iter().map(|extension| {
            let wanted = [
                ("INVOKE", extension.invoke),
                ("SHUTDOWN", extension.shutdown),
            ];
            let events = wanted.iter().filter(|(_, wants)| *wants);
            (
                extension.name.as_str(),
                extension.state.name(),
                events.map(|(name, _)| *name).collect(),
            )
        })
    }

    /// An invocation begins: sends `event` to the extensions that receive `INVOKE`.
    pub(crate) fn invoke(&mut self, event: &Bytes) -> Deliveries {
        self.notify(event, |extension| extension.invoke)
    }

    /// The microVM is about to end: sends `event` to the extensions that receive `SHUTDOWN`, which only
    /// external ones can.
    pub(crate) fn shutdown(&mut self, event: &Bytes) -> Deliveries {
        self.notify(event, |extension| extension.shutdown)
    }

    fn notify(&mut self, event: &Bytes, wants: impl Fn(&Extension) -> bool) -> Deliveries {
        let mut now = Vec::new();
        for extension in self.list.iter_mut().filter(|extension| wants(extension)) {
            match (extension.state, extension.waiter.take()) {
                (State::Ready, Some(connection)) => {
                    extension.state = State::Running;
                    now.push((connection, event.clone()));
                }
                _ => extension.pending = Some(event.clone()),
            }
        }
        now
    }

    pub(crate) fn connection_closed(&mut self, connection: ConnectionId) {
        for extension in &mut self.list {
            if extension.waiter == Some(connection) {
                extension.waiter = None;
            }
        }
    }

    /// A process has ended. If it was an extension: its name, and whether it had reported an error.
    pub(crate) fn exited(&mut self, pid: Pid) -> Option<(String, bool)> {
        let extension = self
            .list
            .iter_mut()
            .find(|extension| extension.pid == Some(pid))?;
        let reported = matches!(extension.state, State::InitError | State::ExitError);
        extension.state = State::Exited;
        extension.pid = None;
        extension.shutdown = false;
        Some((extension.name.clone(), reported))
    }

    /// The processes of the external extensions that run.
    pub(crate) fn running(&self) -> impl Iterator<Item = Pid> {
        self.list.iter().filter_map(|extension| extension.pid)
    }

    /// Those of them that receive no `SHUTDOWN`.
    pub(crate) fn without_shutdown_event(&self) -> Vec<Pid> {
        let uninterested = self.list.iter().filter(|extension| !extension.shutdown);
        uninterested.filter_map(|extension| extension.pid).collect()
    }

    fn find(&mut self, identifier: Option<&str>) -> Result<&mut Extension, Refusal> {
        let Some(identifier) = identifier.filter(|id| !id.is_empty()) else {
            return Err(refuse(
                "Extension.MissingExtensionIdentifier",
                "Missing Lambda-Extension-Identifier header",
            ));
        };
        let is_uuid = identifier.len() == 36
            && identifier.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            });
        if !is_uuid {
            return Err(refuse(
                "Extension.InvalidExtensionIdentifier",
                "Invalid Lambda-Extension-Identifier",
            ));
        }
        self.list
            .iter_mut()
            .find(|extension| extension.id == identifier)
            .ok_or_else(|| {
                refuse(
                    "Extension.UnknownExtensionIdentifier",
                    format!("Unknown extension {identifier}"),
                )
            })
    }
}

fn not_allowed(extension: &Extension, to: &str) -> Refusal {
    refuse(
        "Extension.InvalidExtensionState",
        format!(
            "State transition from {} to {to} failed for extension {}. Error: State transition is \
             not allowed",
            extension.state.name(),
            extension.name
        ),
    )
}

/// The body of an `INVOKE` event.
pub(crate) fn invoke_event(invoke: &hearth_protocol::agent::Invoke) -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Tracing<'a> {
        r#type: &'static str,
        value: &'a str,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Event<'a> {
        event_type: &'static str,
        deadline_ms: u64,
        request_id: &'a str,
        invoked_function_arn: &'a str,
        tracing: Tracing<'a>,
    }
    json(&Event {
        event_type: "INVOKE",
        deadline_ms: invoke.deadline_ms,
        request_id: &invoke.request_id,
        invoked_function_arn: &invoke.function_arn,
        tracing: Tracing {
            r#type: "X-Amzn-Trace-Id",
            value: invoke.trace_id.as_deref().unwrap_or_default(),
        },
    })
}

/// The body of a `SHUTDOWN` event.
pub(crate) fn shutdown_event(reason: &str, deadline_ms: u64) -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Event<'a> {
        event_type: &'static str,
        shutdown_reason: &'a str,
        deadline_ms: u64,
    }
    json(&Event {
        event_type: "SHUTDOWN",
        shutdown_reason: reason,
        deadline_ms,
    })
}

fn json(event: &impl Serialize) -> Bytes {
    serde_json::to_vec(event)
        .expect("strings and numbers are JSON")
        .into()
}

#[cfg(test)]
mod tests;
