//! What host and agent say to each other. How it becomes frames: [`super::encoding`].

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::sandbox::RandomRange;

/// What the host tells the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostMessage {
    /// Answer with these bytes.
    Ping(Bytes),
    /// Mount the code and start the runtime. Once per microVM.
    Configure(Configure),
    /// The microVM was restored: step the clock, reseed. `entropy` is host entropy, at least 32
    /// bytes, never used twice.
    Thaw(Thaw, Bytes),
    /// Run the function on this event.
    Invoke(Invoke, Bytes),
    /// Say what the clones of this guest would share if it were snapshotted now. Only while the
    /// runtime waits.
    Inspect,
    /// Kill the runtime and everything it started, then end the microVM.
    Shutdown,
    /// End the microVM in order: extensions get the time to do what they have to do at the end.
    Leave(Leave),
}

/// What the agent tells the host. Hostile until proven otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentMessage {
    /// First frame of the conversation.
    Hello(Hello),
    /// A ping's bytes.
    Pong(Bytes),
    /// Clock stepped and generator reseeded; nothing was served before that. A runtime that waited in
    /// `/runtime/restore/next` has run its hooks.
    Thawed,
    /// In place of `Thawed`: what the runtime had to do after its restore failed. The payload is the
    /// error's JSON body.
    RestoreFailed(InitFailed, Bytes),
    /// The runtime waits for an invocation.
    Ready(Ready),
    /// The answer to [`HostMessage::Inspect`].
    Inspected(Inspected),
    /// The runtime could not be started, failed in init, or reported an init error. The payload
    /// is the error's JSON body.
    InitFailed(InitFailed, Bytes),
    /// The function's result.
    Response(Response, Bytes),
    /// The function begins to stream its result.
    ResponseStart(ResponseStart),
    /// The next bytes of a streamed result, at most [`crate::guest::MAX_CHUNK`].
    ResponseChunk(Bytes),
    /// The streamed result is complete, or will never be. The payload is the error's body.
    ResponseEnd(ResponseEnd, Bytes),
    /// The runtime reported that the function failed. The payload is the body it posted.
    FunctionError(FunctionError, Bytes),
    /// Whole lines that the function wrote, each with its newline.
    Log(Log, Bytes),
    /// The runtime's process ended without an answer.
    RuntimeExited(RuntimeExited),
    /// Everything has ended that was to be given time, and all of its output was sent.
    Left,
    /// The agent can't go on; the payload is the reason as text. The microVM is of no more use.
    Fatal(Bytes),
}

/// How to start a function. Sizes in MiB, times in milliseconds where the name says so.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configure {
    /// `AWS_LAMBDA_FUNCTION_NAME`.
    pub function_name: String,
    /// `AWS_LAMBDA_FUNCTION_VERSION`: `$LATEST` or a number.
    pub function_version: String,
    /// Lambda's identifier of the runtime, such as `python3.11`; `AWS_EXECUTION_ENV` is made of it.
    pub runtime: String,
    /// `_HANDLER`.
    pub handler: String,
    /// `AWS_LAMBDA_FUNCTION_MEMORY_SIZE`, 128 to 10,240.
    pub memory_mib: u32,
    /// Size of `/tmp`, 512 to 10,240.
    pub ephemeral_storage_mib: u32,
    /// `AWS_REGION` and `AWS_DEFAULT_REGION`.
    pub region: String,
    /// `AWS_LAMBDA_LOG_GROUP_NAME`.
    pub log_group: String,
    /// `AWS_LAMBDA_LOG_STREAM_NAME`.
    pub log_stream: String,
    /// `AWS_LAMBDA_INITIALIZATION_TYPE`: `on-demand`, `provisioned-concurrency` or `snap-start`.
    pub initialization_type: String,
    /// The function's own variables. They never replace a reserved one.
    pub environment: BTreeMap<String, String>,
    /// Candidates for the program to start; the first that exists and is executable is taken.
    pub bootstrap: Vec<String>,
    /// Whether a layers image is attached as the third disk.
    pub layers: bool,
    /// Whether the runtime is given the mailbox; see [`crate::mailbox`].
    #[serde(default)]
    pub mailbox: bool,
}

impl std::fmt::Debug for Configure {
    /// What identifies it; values of variables are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Configure")
            .field("function_name", &self.function_name)
            .field("function_version", &self.function_version)
            .field("runtime", &self.runtime)
            .field("environment", &self.environment.keys())
            .finish_non_exhaustive()
    }
}

/// The clock to set after a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thaw {
    /// Wall-clock time at the host when the frame was sent, nanoseconds since the epoch.
    pub realtime_ns: u64,
}

/// One invocation; the event is the frame's payload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoke {
    /// `Lambda-Runtime-Aws-Request-Id`.
    pub request_id: String,
    /// `Lambda-Runtime-Deadline-Ms`: milliseconds since the epoch.
    pub deadline_ms: u64,
    /// `Lambda-Runtime-Invoked-Function-Arn`.
    pub function_arn: String,
    /// `Lambda-Runtime-Trace-Id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// `Lambda-Runtime-Client-Context`: JSON, already decoded from base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_context: Option<String>,
    /// A memory limit for this invocation alone, below the function's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_mib: Option<u32>,
    /// Wall-clock time at the host when the frame was sent, nanoseconds since the epoch. The agent
    /// steps the guest's clock when it is more than a few milliseconds away from it.
    pub realtime_ns: u64,
}

impl Invoke {
    /// The Runtime API's headers for this invocation, each with its line break.
    pub fn headers(&self) -> String {
        let mut head = String::with_capacity(512);
        header(&mut head, "Lambda-Runtime-Aws-Request-Id", &self.request_id);
        let deadline = self.deadline_ms.to_string();
        header(&mut head, "Lambda-Runtime-Deadline-Ms", &deadline);
        header(
            &mut head,
            "Lambda-Runtime-Invoked-Function-Arn",
            &self.function_arn,
        );
        if let Some(trace_id) = &self.trace_id {
            header(&mut head, "Lambda-Runtime-Trace-Id", trace_id);
        }
        if let Some(context) = &self.client_context {
            header(&mut head, "Lambda-Runtime-Client-Context", context);
        }
        head
    }
}

/// Writes a header. A client context is JSON of the caller's own making and may hold line breaks,
/// which would end the header: control characters become spaces, as JSON's whitespace may.
fn header(head: &mut String, name: &str, value: &str) {
    head.push_str(name);
    head.push_str(": ");
    head.extend(value.chars().map(|c| if c.is_control() { ' ' } else { c }));
    head.push_str("\r\n");
}

/// Why a microVM ends, and what time it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leave {
    /// Lambda's word: `spindown`, `timeout` or `failure`.
    pub reason: String,
    /// As in [`Invoke`].
    pub realtime_ns: u64,
}

/// First words of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The agent's version.
    pub version: String,
    /// The guest kernel's release, as `uname -r` says it.
    pub kernel: String,
}

/// The runtime waits in `/runtime/invocation/next`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// How long init took, in microseconds; only in the first `Ready` after `Configure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_us: Option<u64>,
    /// Microseconds from the runtime's answer until the last extension waited again; only where
    /// there are extensions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions_us: Option<u64>,
}

/// What the clones of a guest would share, found by its agent. Addresses are guest-physical.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspected {
    /// Libraries in the function's processes whose random generators can't be reseeded from
    /// outside, sorted. With one of them, the function must not be started from a snapshot that was
    /// taken after its init.
    #[serde(default)]
    pub shared_generators: Vec<SharedGenerator>,
    /// Pages that processes have marked with `MADV_WIPEONFORK`: a snapshot has them as zeros.
    #[serde(default)]
    pub zero_pages: Vec<u64>,
    /// State of generators that each restore fills with random bytes.
    #[serde(default)]
    pub random_ranges: Vec<RandomRange>,
}

/// A random generator that all clones of a process would share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SharedGenerator {
    /// What it is, such as `GnuTLS` or `Rust's rand`.
    pub library: String,
    /// The file that it was mapped from, as the process knows it.
    pub file: String,
}

/// Why a function did not come up, from its start or from its snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitFailed {
    /// Such as `Runtime.ExitError`, `Runtime.InvalidEntrypoint`, `Runtime.ImportModuleError`.
    pub error_type: String,
}

/// What an invocation used, measured in the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// From handing the event to the runtime to its answer, microseconds.
    pub duration_us: u64,
    /// CPU time of the runtime's process in that span, all its threads included, microseconds. Of
    /// its children it has what they used when they, and then it, have ended.
    pub cpu_us: u64,
    /// Peak memory of the runtime's cgroup since it was started, bytes.
    pub max_memory_bytes: u64,
}

/// The function answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Which invocation this answers.
    pub request_id: String,
    /// What it used.
    pub usage: Usage,
}

/// The function begins to stream its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseStart {
    /// Which invocation this answers.
    pub request_id: String,
    /// `Content-Type` that the runtime gave the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
}

/// A streamed result has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseEnd {
    /// Which invocation this answers.
    pub request_id: String,
    /// Set if the result broke off; such as `Runtime.TruncatedResponse`, or what the runtime's
    /// trailer said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// What it used.
    pub usage: Usage,
}

/// The function failed and its runtime lives on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionError {
    /// Which invocation this answers.
    pub request_id: String,
    /// `Lambda-Runtime-Function-Error-Type`, as the runtime sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// What it used.
    pub usage: Usage,
}

/// Which invocation a function's output belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// `None` during init and between invocations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Records of more than one line, as offset and length in the payload, in order. Everything
    /// else is one record for each line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub multiline: Vec<(u32, u32)>,
    /// Bytes thrown away before these lines because the function wrote faster than they could be
    /// carried off.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped_bytes: u64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It returned this status.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// The kernel killed it because its memory ran out.
    OutOfMemory,
}

/// The runtime's process is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeExited {
    /// The invocation that it left unanswered, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// How it ended.
    pub exit: Exit,
    /// What it used.
    pub usage: Usage,
    /// Set if an extension is to blame: `Extension.Crash`, `Extension.ExitError`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}
