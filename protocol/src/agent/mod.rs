//! The protocol between host and guest agent: frames, and the typed messages in them.
//!
//! Each microVM has one connection, on which these messages follow each other:
//!
//! 1. The agent connects and sends [`Hello`](AgentMessage::Hello). At this point the host takes a
//!    runtime snapshot.
//! 2. After every restore the host first sends [`Thaw`](HostMessage::Thaw); the agent answers
//!    [`Thawed`](AgentMessage::Thawed). The host need not wait for that answer, because the agent
//!    handles messages strictly in order.
//! 3. The host sends [`Configure`](HostMessage::Configure). The agent mounts the code, starts the
//!    runtime and answers [`Ready`](AgentMessage::Ready) once the runtime waits in
//!    `/runtime/invocation/next`, or [`InitFailed`](AgentMessage::InitFailed). At `Ready` the host takes
//!    a function snapshot. With the initialization type `snap-start` the runtime may wait in
//!    `/runtime/restore/next` instead. It then runs its hooks after each restore, before `Thawed`; if
//!    they fail, [`RestoreFailed`](AgentMessage::RestoreFailed) is sent instead.
//! 4. The host sends [`Invoke`](HostMessage::Invoke). The agent answers with exactly one of
//!    [`Response`](AgentMessage::Response), [`FunctionError`](AgentMessage::FunctionError) and
//!    [`RuntimeExited`](AgentMessage::RuntimeExited). After the first two, `Ready` follows as soon as
//!    the runtime asks for the next invocation; then the instance may be frozen. A streamed result
//!    replaces `Response` by [`ResponseStart`](AgentMessage::ResponseStart), any number of
//!    [`ResponseChunk`](AgentMessage::ResponseChunk)s as the function writes them, and
//!    [`ResponseEnd`](AgentMessage::ResponseEnd), or `RuntimeExited` if the runtime ends before. The
//!    agent waits for a host that reads slowly: it buffers little and stops reading from the runtime.
//! 5. If a function has extensions, `Ready` waits for all of them too. The host ends such an instance by
//!    [`Leave`](HostMessage::Leave): the agent notifies the extensions, gives them their time to shut
//!    down, and sends [`Left`](AgentMessage::Left).
//!
//! [`Log`](AgentMessage::Log) frames may come between all of these. What a function wrote before its
//! answer is sent before the answer. [`Ping`](HostMessage::Ping) is answered in any state.

mod encoding;
mod frame;
mod message;

pub use encoding::MessageError;
pub use frame::{Frame, FrameDecoder, FrameError, HEADER_LEN, MAX_META, VERSION};
pub use message::{
    AgentMessage, Configure, Exit, FunctionError, Hello, HostMessage, InitFailed, Inspected,
    Invoke, Leave, Log, Ready, Response, ResponseEnd, ResponseStart, RuntimeExited,
    SharedGenerator, Thaw, Usage,
};
