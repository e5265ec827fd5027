//! Encodes messages as [`Frame`]s and decodes them. Each message has a kind of its own. Some of its
//! fields are the JSON part, others the payload. A kind below 0x80 goes from the host to the agent.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::frame::Frame;
use super::message::{AgentMessage, HostMessage};

// From the host.
const PING: u8 = 0x01;
const CONFIGURE: u8 = 0x02;
const THAW: u8 = 0x03;
const INVOKE: u8 = 0x04;
const SHUTDOWN: u8 = 0x05;
const LEAVE: u8 = 0x0e;
const INSPECT: u8 = 0x06;
// From the agent.
const HELLO: u8 = 0x81;
const PONG: u8 = 0x82;
const THAWED: u8 = 0x83;
const READY: u8 = 0x84;
const INIT_FAILED: u8 = 0x85;
const RESPONSE: u8 = 0x86;
const FUNCTION_ERROR: u8 = 0x87;
const LOG: u8 = 0x88;
const RUNTIME_EXITED: u8 = 0x89;
const FATAL: u8 = 0x8a;
const RESPONSE_START: u8 = 0x8b;
const RESPONSE_CHUNK: u8 = 0x8c;
const RESPONSE_END: u8 = 0x8d;
const LEFT: u8 = 0x8e;
const RESTORE_FAILED: u8 = 0x8f;
const INSPECTED: u8 = 0x90;

/// A frame that is no valid message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// No message in this direction has this kind.
    #[error("unknown frame kind {0:#04x}")]
    UnknownKind(u8),
    /// The meta part is not the JSON of this kind.
    #[error("frame of kind {kind:#04x}: {source}")]
    Meta {
        /// Kind of the frame.
        kind: u8,
        /// The parser's error.
        source: serde_json::Error,
    },
}

fn parse<T: DeserializeOwned>(frame: &Frame) -> Result<T, MessageError> {
    serde_json::from_slice(&frame.meta).map_err(|source| MessageError::Meta {
        kind: frame.kind,
        source,
    })
}

fn frame<T: Serialize>(kind: u8, meta: &T, payload: Bytes) -> Frame {
    let meta = serde_json::to_vec(meta).expect("messages have string keys and finite numbers");
    Frame {
        kind,
        meta: meta.into(),
        payload,
    }
}

fn bare(kind: u8, payload: Bytes) -> Frame {
    Frame {
        kind,
        meta: Bytes::new(),
        payload,
    }
}

impl From<HostMessage> for Frame {
    fn from(message: HostMessage) -> Self {
        match message {
            HostMessage::Ping(bytes) => bare(PING, bytes),
            HostMessage::Configure(meta) => frame(CONFIGURE, &meta, Bytes::new()),
            HostMessage::Thaw(meta, entropy) => frame(THAW, &meta, entropy),
            HostMessage::Invoke(meta, event) => frame(INVOKE, &meta, event),
            HostMessage::Inspect => bare(INSPECT, Bytes::new()),
            HostMessage::Shutdown => bare(SHUTDOWN, Bytes::new()),
            HostMessage::Leave(meta) => frame(LEAVE, &meta, Bytes::new()),
        }
    }
}

impl TryFrom<Frame> for HostMessage {
    type Error = MessageError;

    fn try_from(frame: Frame) -> Result<Self, MessageError> {
        Ok(match frame.kind {
            PING => Self::Ping(frame.payload),
            CONFIGURE => Self::Configure(parse(&frame)?),
            THAW => Self::Thaw(parse(&frame)?, frame.payload),
            INVOKE => Self::Invoke(parse(&frame)?, frame.payload),
            INSPECT => Self::Inspect,
            SHUTDOWN => Self::Shutdown,
            LEAVE => Self::Leave(parse(&frame)?),
            kind => return Err(MessageError::UnknownKind(kind)),
        })
    }
}

impl From<AgentMessage> for Frame {
    fn from(message: AgentMessage) -> Self {
        match message {
            AgentMessage::Hello(meta) => frame(HELLO, &meta, Bytes::new()),
            AgentMessage::Pong(bytes) => bare(PONG, bytes),
            AgentMessage::Thawed => bare(THAWED, Bytes::new()),
            AgentMessage::Ready(meta) => frame(READY, &meta, Bytes::new()),
            AgentMessage::Inspected(meta) => frame(INSPECTED, &meta, Bytes::new()),
            AgentMessage::InitFailed(meta, body) => frame(INIT_FAILED, &meta, body),
            AgentMessage::RestoreFailed(meta, body) => frame(RESTORE_FAILED, &meta, body),
            AgentMessage::Response(meta, body) => frame(RESPONSE, &meta, body),
            AgentMessage::ResponseStart(meta) => frame(RESPONSE_START, &meta, Bytes::new()),
            AgentMessage::ResponseChunk(bytes) => bare(RESPONSE_CHUNK, bytes),
            AgentMessage::ResponseEnd(meta, body) => frame(RESPONSE_END, &meta, body),
            AgentMessage::FunctionError(meta, body) => frame(FUNCTION_ERROR, &meta, body),
            AgentMessage::Log(meta, lines) => frame(LOG, &meta, lines),
            AgentMessage::RuntimeExited(meta) => frame(RUNTIME_EXITED, &meta, Bytes::new()),
            AgentMessage::Fatal(reason) => bare(FATAL, reason),
            AgentMessage::Left => bare(LEFT, Bytes::new()),
        }
    }
}

impl TryFrom<Frame> for AgentMessage {
    type Error = MessageError;

    fn try_from(frame: Frame) -> Result<Self, MessageError> {
        Ok(match frame.kind {
            HELLO => Self::Hello(parse(&frame)?),
            PONG => Self::Pong(frame.payload),
            THAWED => Self::Thawed,
            READY => Self::Ready(parse(&frame)?),
            INSPECTED => Self::Inspected(parse(&frame)?),
            INIT_FAILED => Self::InitFailed(parse(&frame)?, frame.payload),
            RESTORE_FAILED => Self::RestoreFailed(parse(&frame)?, frame.payload),
            RESPONSE => Self::Response(parse(&frame)?, frame.payload),
            RESPONSE_START => Self::ResponseStart(parse(&frame)?),
            RESPONSE_CHUNK => Self::ResponseChunk(frame.payload),
            RESPONSE_END => Self::ResponseEnd(parse(&frame)?, frame.payload),
            FUNCTION_ERROR => Self::FunctionError(parse(&frame)?, frame.payload),
            LOG => Self::Log(parse(&frame)?, frame.payload),
            RUNTIME_EXITED => Self::RuntimeExited(parse(&frame)?),
            FATAL => Self::Fatal(frame.payload),
            LEFT => Self::Left,
            kind => return Err(MessageError::UnknownKind(kind)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::message::{
        Configure, Exit, FunctionError, Hello, InitFailed, Inspected, Invoke, Leave, Log, Ready,
        Response, ResponseEnd, ResponseStart, RuntimeExited, SharedGenerator, Thaw, Usage,
    };
    use super::*;
    use crate::sandbox::RandomRange;

    #[test]
    fn every_host_message_survives_its_frame() {
        let configure = Configure {
            function_name: "f".into(),
            function_version: "$LATEST".into(),
            runtime: "provided".into(),
            handler: "bootstrap".into(),
            memory_mib: 128,
            ephemeral_storage_mib: 512,
            region: "us-east-1".into(),
            log_group: "/aws/lambda/f".into(),
            log_stream: "2026/01/01/[$LATEST]0".into(),
            initialization_type: "snap-start".into(),
            environment: BTreeMap::from([("K".into(), "V=\u{1F525}".into())]),
            bootstrap: vec!["/var/task/bootstrap".into()],
            layers: false,
            mailbox: false,
        };
        for message in [
            HostMessage::Ping(Bytes::from_static(b"x")),
            HostMessage::Configure(configure),
            HostMessage::Thaw(
                Thaw {
                    realtime_ns: u64::MAX,
                },
                Bytes::from_static(&[7; 32]),
            ),
            HostMessage::Invoke(Invoke::default(), Bytes::from_static(b"{}")),
            HostMessage::Inspect,
            HostMessage::Shutdown,
            HostMessage::Leave(Leave {
                reason: "spindown".into(),
                realtime_ns: 1,
            }),
        ] {
            let frame = Frame::from(message.clone());
            assert_eq!(HostMessage::try_from(frame).unwrap(), message);
        }
    }

    #[test]
    fn every_agent_message_survives_its_frame() {
        let usage = Usage {
            duration_us: 1,
            cpu_us: 2,
            max_memory_bytes: 3,
        };
        let body = Bytes::from_static(b"{}");
        for message in [
            AgentMessage::Hello(Hello {
                version: "1".into(),
                kernel: "6.12".into(),
            }),
            AgentMessage::Pong(body.clone()),
            AgentMessage::Thawed,
            AgentMessage::Ready(Ready {
                init_us: Some(4),
                extensions_us: Some(5),
            }),
            AgentMessage::Inspected(Inspected {
                shared_generators: vec![SharedGenerator {
                    library: "GnuTLS".into(),
                    file: "/opt/lib/libgnutls.so.30".into(),
                }],
                zero_pages: vec![4096],
                random_ranges: vec![RandomRange { address: 5, len: 6 }],
                settled: true,
            }),
            AgentMessage::Left,
            AgentMessage::Ready(Ready::default()),
            AgentMessage::InitFailed(
                InitFailed {
                    error_type: "T".into(),
                },
                body.clone(),
            ),
            AgentMessage::RestoreFailed(
                InitFailed {
                    error_type: "Runtime.AfterRestoreError".into(),
                },
                body.clone(),
            ),
            AgentMessage::Response(
                Response {
                    request_id: "r".into(),
                    usage,
                },
                body.clone(),
            ),
            AgentMessage::ResponseStart(ResponseStart {
                request_id: "r".into(),
                content_type: Some("text/plain".into()),
            }),
            AgentMessage::ResponseChunk(body.clone()),
            AgentMessage::ResponseEnd(
                ResponseEnd {
                    request_id: "r".into(),
                    error_type: Some("Runtime.TruncatedResponse".into()),
                    usage,
                },
                body.clone(),
            ),
            AgentMessage::FunctionError(
                FunctionError {
                    request_id: "r".into(),
                    error_type: None,
                    usage,
                },
                body.clone(),
            ),
            AgentMessage::Log(
                Log {
                    request_id: None,
                    multiline: vec![(1, 1)],
                    dropped_bytes: 9,
                },
                body.clone(),
            ),
            AgentMessage::RuntimeExited(RuntimeExited {
                request_id: Some("r".into()),
                exit: Exit::Signal(9),
                usage,
                error_type: Some("Extension.Crash".into()),
            }),
            AgentMessage::Fatal(body),
        ] {
            let frame = Frame::from(message.clone());
            assert_eq!(AgentMessage::try_from(frame).unwrap(), message);
        }
    }

    #[test]
    fn a_message_of_the_other_direction_is_unknown() {
        let frame = Frame::from(HostMessage::Shutdown);
        assert!(matches!(
            AgentMessage::try_from(frame),
            Err(MessageError::UnknownKind(SHUTDOWN))
        ));
    }

    #[test]
    fn meta_that_is_not_this_kinds_json_is_an_error() {
        let frame = Frame {
            kind: RESPONSE,
            meta: Bytes::from_static(b"{"),
            payload: Bytes::new(),
        };
        assert!(matches!(
            AgentMessage::try_from(frame),
            Err(MessageError::Meta { kind: RESPONSE, .. })
        ));
    }
}
