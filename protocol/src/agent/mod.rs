//! Host and guest agent: frames, and the typed messages that they carry.
//!
//! One conversation per microVM. In order:
//!
//! 1. The agent connects and says [`Hello`](AgentMessage::Hello). Here a runtime snapshot is taken.
//! 2. The host sends [`Thaw`](HostMessage::Thaw) after every restore, before anything else; the
//!    agent answers [`Thawed`](AgentMessage::Thawed). The host need not wait for the answer: the
//!    agent handles messages strictly in order.
//! 3. The host sends [`Configure`](HostMessage::Configure); the agent mounts the code, starts the
//!    runtime and answers [`Ready`](AgentMessage::Ready) once the runtime waits in
//!    `/runtime/invocation/next`, or [`InitFailed`](AgentMessage::InitFailed). At `Ready` a
//!    function snapshot is taken. A runtime that was told `snap-start` may wait in
//!    `/runtime/restore/next` instead; then, after each restore, it runs its hooks before `Thawed`,
//!    or [`RestoreFailed`](AgentMessage::RestoreFailed) comes in its place.
//! 4. The host sends [`Invoke`](HostMessage::Invoke). The agent answers with exactly one of
//!    [`Response`](AgentMessage::Response), [`FunctionError`](AgentMessage::FunctionError) and
//!    [`RuntimeExited`](AgentMessage::RuntimeExited); after the first two, `Ready` follows as soon
//!    as the runtime asks for the next invocation, and then the instance may be frozen. In place of
//!    `Response` may come [`ResponseStart`](AgentMessage::ResponseStart), any number of
//!    [`ResponseChunk`](AgentMessage::ResponseChunk)s as the function writes them, and
//!    [`ResponseEnd`](AgentMessage::ResponseEnd), or `RuntimeExited` where it dies half-way. A host
//!    that reads slowly is waited for: the agent keeps little, and stops reading the runtime.
//! 5. Where a function has extensions, `Ready` waits for all of them as well, and an instance is
//!    ended by [`Leave`](HostMessage::Leave): the agent tells them, gives them their time and says
//!    [`Left`](AgentMessage::Left).
//!
//! [`Log`](AgentMessage::Log) frames come in between; what a function wrote before it answered is
//! sent before its answer. [`Ping`](HostMessage::Ping) is answered in any state.

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
