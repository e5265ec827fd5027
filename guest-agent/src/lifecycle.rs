//! What the runtime is doing, and what each request, message and exit means at that moment.
//!
//! ```text
//!            next              invoke             answer
//! Starting ────────▶ Ready ──────────▶ Running ──────────▶ Answered
//!     │ init error     ▲                                      │ next
//!     ▼                └──────────────────────────────────────┘
//! InitError            (an invoke that comes early is held until `next`)
//! ```
//!
//! A runtime whose initialization type is `snap-start` may reach `Ready` by another way, so that it can
//! act before its snapshot and after each restore:
//!
//! ```text
//!          restore/next               thaw               next
//! Starting ────────────▶ Restorable ────────▶ Restoring ──────▶ Ready
//!                                                 │ restore/error
//!                                                 ▼
//!                                             InitError
//! ```
//!
//! From every state the end of the runtime's process leads to `Exited`. This module does no I/O: the
//! caller carries out what a transition returns. The invariant is the protocol's: each invocation gets
//! exactly one answer, whatever a hostile runtime sends.

use bytes::Bytes;
use hearth_protocol::agent::{Exit, Invoke};

/// A connection of the Runtime API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionId(pub(crate) usize);

/// An event and its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invocation {
    pub(crate) meta: Invoke,
    pub(crate) event: Bytes,
}

/// The connection that an event will be handed out on.
#[derive(Debug, Clone, Copy)]
struct Waiter {
    connection: ConnectionId,
    /// The client has shut down its sending side: it waits for the answer, or it is gone. The agent
    /// cannot see which, so this connection gets the next event unless another one asks for it.
    half_closed: bool,
}

/// Where a result is streamed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    /// No part of a result has arrived.
    None,
    On(ConnectionId),
    /// The connection ended before the result did.
    Broken,
}

#[derive(Debug)]
enum State {
    /// No function yet.
    Unconfigured,
    /// The runtime was started and has not asked for work.
    Starting,
    /// The runtime reported that it cannot start. Its exit is not reported as well.
    InitError,
    /// The runtime waits for its microVM to be restored, unless its connection broke.
    Restorable { waiter: Option<ConnectionId> },
    /// The runtime runs its hooks after a restore.
    Restoring,
    /// The runtime waits for an event, unless its connection broke.
    Ready { waiter: Option<Waiter> },
    /// The runtime works on an event, and may have begun to answer.
    Running { request_id: String, stream: Stream },
    /// The runtime has answered and has not asked for the next event.
    Answered { request_id: String },
    /// The runtime's process has ended.
    Exited(Exit),
}

/// The runtime asked for something that its state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "State transition from {from} to {to} failed for runtime. Error: State transition is not allowed"
)]
pub(crate) struct InvalidTransition {
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
}

/// Why an answer is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnswerError {
    /// The runtime works on no such invocation.
    #[error("Invalid request ID")]
    UnknownRequestId,
    /// The invocation has been answered already.
    #[error(transparent)]
    Transition(#[from] InvalidTransition),
}

/// What follows from a call of `next`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The runtime waits, and the host is to be told that it is ready.
    Announce {
        /// Whether this ends init.
        first: bool,
    },
    /// The runtime has run its hooks after a restore; an invocation may have been waiting.
    Restored { invocation: Option<Invocation> },
    /// The runtime waits again, after its connection broke; the host knows that it is ready.
    Wait {
        /// The connection that it waited on before, if that is still open on this side.
        instead_of: Option<ConnectionId>,
    },
    /// An invocation was waiting for the runtime: hand it out on this connection.
    Deliver {
        invocation: Invocation,
        /// Whether this ends init.
        first: bool,
    },
}

/// What follows from a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterRestore {
    /// The guest serves.
    Serve,
    /// The guest serves, and the host is to be told when the runtime's time begins.
    Report,
    /// The runtime gets its reply on this connection, runs its hooks, and asks for the next event.
    RunHooks(Option<ConnectionId>),
}

/// What follows from an invocation that the host sends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// Hand it to the runtime that waits on this connection.
    Deliver(ConnectionId, Invocation),
    /// It waits until the runtime asks for the next event.
    Held,
    /// The runtime's process has ended, like this.
    Exited { request_id: String, exit: Exit },
}

/// What follows from a call of `restore/next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestoreNext {
    /// The runtime waits, and that is the end of its init.
    Announce,
    /// It waits again.
    Wait,
    /// The microVM has been restored already.
    Answer,
}

/// The host broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    #[error("invocation for a microVM without a function")]
    NoFunction,
    #[error("second invocation before the first was answered")]
    Busy,
    #[error("invocation after init failed")]
    InitFailed,
    #[error("second function for one microVM")]
    ConfiguredTwice,
}

/// What the end of the runtime's process means to the host.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Init failed.
    InInit,
    /// A hook after a restore failed.
    InRestore,
    /// The runtime ended after init, with this invocation unanswered.
    InService { request_id: Option<String> },
    /// The runtime or the agent has reported the failure already.
    AfterInitError,
}

/// The state of the runtime, and an event that waits for it.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    state: State,
    held: Option<Invocation>,
    /// Whether the runtime's initialization type is `snap-start`.
    snap_start: bool,
}

impl Lifecycle {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Unconfigured,
            held: None,
            snap_start: false,
        }
    }

    /// The runtime is about to be started.
    pub(crate) fn configure(&mut self, snap_start: bool) -> Result<(), HostError> {
        match self.state {
            State::Unconfigured => {
                self.snap_start = snap_start;
                self.state = State::Starting;
                Ok(())
            }
            _ => Err(HostError::ConfiguredTwice),
        }
    }

    /// The runtime could not be started; the caller tells the host.
    pub(crate) fn start_failed(&mut self) {
        self.state = State::InitError;
    }

    /// The runtime asks for the next event.
    pub(crate) fn next(&mut self, connection: ConnectionId) -> Result<Next, InvalidTransition> {
        let first = match &self.state {
            State::Starting => true,
            State::Restoring => {
                let invocation = self.held.take();
                match &invocation {
                    Some(invocation) => self.run(invocation),
                    None => self.wait(connection),
                }
                return Ok(Next::Restored { invocation });
            }
            State::Answered { .. } => false,
            State::Ready { waiter } if waiter.is_none_or(|waiter| waiter.half_closed) => {
                let instead_of = waiter.map(|waiter| waiter.connection);
                self.wait(connection);
                return Ok(Next::Wait { instead_of });
            }
            _ => return Err(self.refuse("Ready")),
        };
        if let Some(invocation) = self.held.take() {
            self.run(&invocation);
            return Ok(Next::Deliver { invocation, first });
        }
        self.wait(connection);
        Ok(Next::Announce { first })
    }

    /// The runtime waits to be restored.
    pub(crate) fn restore_next(
        &mut self,
        connection: ConnectionId,
    ) -> Result<RestoreNext, InvalidTransition> {
        let next = match self.state {
            State::Starting if self.snap_start => RestoreNext::Announce,
            State::Restorable { waiter: None } => RestoreNext::Wait,
            State::Restoring => return Ok(RestoreNext::Answer),
            _ => return Err(self.refuse("RestoreReady")),
        };
        let waiter = Some(connection);
        self.state = State::Restorable { waiter };
        Ok(next)
    }

    /// The microVM was restored.
    pub(crate) fn restored(&mut self) -> AfterRestore {
        match self.state {
            State::Restorable { waiter } => {
                self.state = State::Restoring;
                AfterRestore::RunHooks(waiter)
            }
            _ if self.snap_start => AfterRestore::Report,
            _ => AfterRestore::Serve,
        }
    }

    /// The runtime reports that it failed after a restore.
    pub(crate) fn restore_error(&mut self) -> Result<(), InvalidTransition> {
        match self.state {
            State::Restoring => {
                self.state = State::InitError;
                self.held = None;
                Ok(())
            }
            _ => Err(self.refuse("RestoreError")),
        }
    }

    /// The host sends an event.
    pub(crate) fn invoke(&mut self, invocation: Invocation) -> Result<Accepted, HostError> {
        if self.held.is_some() {
            return Err(HostError::Busy);
        }
        match &self.state {
            State::Unconfigured => Err(HostError::NoFunction),
            State::InitError => Err(HostError::InitFailed),
            State::Running { .. } => Err(HostError::Busy),
            State::Exited(exit) => Ok(Accepted::Exited {
                request_id: invocation.meta.request_id,
                exit: *exit,
            }),
            State::Ready {
                waiter: Some(waiter),
            } => {
                let connection = waiter.connection;
                self.run(&invocation);
                Ok(Accepted::Deliver(connection, invocation))
            }
            State::Starting
            | State::Restorable { .. }
            | State::Restoring
            | State::Answered { .. }
            | State::Ready { waiter: None } => {
                // The host was told that this runtime is ready, then its connection broke. It becomes
                // `Answered`, so that its next `next` takes the held event.
                if let State::Ready { .. } = self.state {
                    self.state = State::Answered {
                        request_id: String::new(),
                    };
                }
                self.held = Some(invocation);
                Ok(Accepted::Held)
            }
        }
    }

    /// The runtime posts a result (`to` is `InvocationResponse`) or an error
    /// (`InvocationErrorResponse`) for `request_id`.
    pub(crate) fn answer(&mut self, request_id: &str, to: &'static str) -> Result<(), AnswerError> {
        match &self.state {
            State::Running {
                request_id: running,
                stream,
            } if running == request_id => {
                if *stream != Stream::None {
                    return Err(self.refuse(to).into());
                }
                self.state = State::Answered {
                    request_id: request_id.to_owned(),
                };
                Ok(())
            }
            State::Answered {
                request_id: answered,
            } if answered == request_id && !request_id.is_empty() => Err(self.refuse(to).into()),
            _ => Err(AnswerError::UnknownRequestId),
        }
    }

    /// The runtime has answered at the mailbox.
    pub(crate) fn answered_at_mailbox(&mut self) {
        if let State::Running {
            request_id,
            stream: Stream::None,
        } = &mut self.state
        {
            let request_id = std::mem::take(request_id);
            self.state = State::Answered { request_id };
        }
    }

    /// The runtime works on an event that it took from the mailbox.
    pub(crate) fn works_at_mailbox(&mut self, request_id: String) {
        // After an answer that went through the agent, the mailbox's header still names that event
        // until the runtime takes the next.
        if let State::Answered {
            request_id: answered,
        } = &self.state
            && *answered != request_id
        {
            self.state = State::Running {
                request_id,
                stream: Stream::None,
            };
        }
    }

    /// Whether the runtime waits for an event on an open connection.
    pub(crate) fn waits(&self) -> bool {
        matches!(self.state, State::Ready { waiter: Some(_) })
    }

    /// The agent took an event from the mailbox for the runtime, which waits on the returned connection.
    pub(crate) fn deliver_from_mailbox(&mut self, request_id: String) -> Option<ConnectionId> {
        let State::Ready {
            waiter: Some(waiter),
        } = self.state
        else {
            return None;
        };
        self.state = State::Running {
            request_id,
            stream: Stream::None,
        };
        Some(waiter.connection)
    }

    /// The runtime begins to stream the result of `request_id` on a connection.
    pub(crate) fn begin_stream(
        &mut self,
        request_id: &str,
        connection: ConnectionId,
    ) -> Result<(), AnswerError> {
        self.answer(request_id, "InvocationResponse")?;
        self.state = State::Running {
            request_id: request_id.to_owned(),
            stream: Stream::On(connection),
        };
        Ok(())
    }

    /// Whether a result is being streamed on this connection.
    pub(crate) fn streams_on(&self, connection: ConnectionId) -> bool {
        matches!(self.state, State::Running { stream: Stream::On(on), .. } if on == connection)
    }

    /// Whether the connection of a streamed result has ended before the result did.
    pub(crate) fn stream_is_broken(&self) -> bool {
        let broken = Stream::Broken;
        matches!(self.state, State::Running { stream, .. } if stream == broken)
    }

    /// A streamed result ends, complete or not. The request id of its invocation, if there is one.
    pub(crate) fn end_stream(&mut self) -> Option<String> {
        match &mut self.state {
            State::Running { request_id, stream } if *stream != Stream::None => {
                let request_id = std::mem::take(request_id);
                self.state = State::Answered {
                    request_id: request_id.clone(),
                };
                Some(request_id)
            }
            _ => None,
        }
    }

    /// The runtime reports that init failed.
    pub(crate) fn init_error(&mut self) -> Result<(), InvalidTransition> {
        match self.state {
            State::Starting => {
                self.state = State::InitError;
                Ok(())
            }
            _ => Err(self.refuse("InitError")),
        }
    }

    /// A connection of the Runtime API is closed.
    pub(crate) fn connection_closed(&mut self, connection: ConnectionId) {
        if let State::Ready { waiter } = &mut self.state
            && waiter.is_some_and(|waiter| waiter.connection == connection)
        {
            *waiter = None;
        }
        if let State::Restorable { waiter } = &mut self.state
            && *waiter == Some(connection)
        {
            *waiter = None;
        }
        if let State::Running { stream, .. } = &mut self.state
            && *stream == Stream::On(connection)
        {
            *stream = Stream::Broken;
        }
    }

    /// The client of a connection has shut down its sending side, and may be gone.
    pub(crate) fn connection_half_closed(&mut self, connection: ConnectionId) {
        if let State::Ready {
            waiter: Some(waiter),
        } = &mut self.state
            && waiter.connection == connection
        {
            waiter.half_closed = true;
        }
    }

    /// The runtime's process has ended.
    pub(crate) fn exited(&mut self, exit: Exit) -> Ended {
        let held = self
            .held
            .take()
            .map(|invocation| invocation.meta.request_id);
        match std::mem::replace(&mut self.state, State::Exited(exit)) {
            State::Unconfigured | State::Starting if held.is_none() => Ended::InInit,
            State::Restorable { .. } if held.is_none() => Ended::InInit,
            State::Restoring => {
                self.state = State::InitError;
                Ended::InRestore
            }
            State::InitError => {
                self.state = State::InitError;
                Ended::AfterInitError
            }
            State::Running { request_id, .. } => Ended::InService {
                request_id: Some(request_id),
            },
            _ => Ended::InService { request_id: held },
        }
    }

    /// Whether the runtime has ended or is about to end.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Exited(_) | State::InitError)
    }

    /// The request id of the invocation that the runtime works on.
    pub(crate) fn running(&self) -> Option<&str> {
        match &self.state {
            State::Running { request_id, .. } => Some(request_id),
            _ => None,
        }
    }

    fn wait(&mut self, connection: ConnectionId) {
        self.state = State::Ready {
            waiter: Some(Waiter {
                connection,
                half_closed: false,
            }),
        };
    }

    fn run(&mut self, invocation: &Invocation) {
        self.state = State::Running {
            request_id: invocation.meta.request_id.clone(),
            stream: Stream::None,
        };
    }

    fn refuse(&self, to: &'static str) -> InvalidTransition {
        let from = match self.state {
            State::Unconfigured | State::Starting => "Started",
            State::InitError => "InitError",
            State::Restorable { .. } => "RestoreReady",
            State::Restoring => "Restoring",
            State::Ready { .. } => "Ready",
            State::Running {
                stream: Stream::None,
                ..
            } => "Running",
            State::Running { .. } => "InvocationResponse",
            State::Answered { .. } => "RuntimeResponseSentState",
            State::Exited(_) => "Exited",
        };
        InvalidTransition { from, to }
    }
}

#[cfg(test)]
mod tests;
