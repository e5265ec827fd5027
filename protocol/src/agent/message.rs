//! The messages between host and agent. [`super::encoding`] turns them into frames.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::sandbox::RandomRange;

/// What the host sends to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostMessage {
    /// Answer with the same bytes.
    Ping(Bytes),
    /// Mount the code and start the runtime. Sent once for each microVM.
    Configure(Configure),
    /// The microVM was restored: set the clock and reseed the random generator. The bytes are
    /// entropy from the host, at least 32 bytes that are never used twice.
    Thaw(Thaw, Bytes),
    /// Run the function on this event.
    Invoke(Invoke, Bytes),
    /// Say what the clones of this guest would share if it were snapshotted now. Only while the
    /// runtime waits.
    Inspect,
    /// Kill the runtime and everything it started, then end the microVM.
    Shutdown,
    /// End the microVM in an orderly way: extensions get their time to shut down.
    Leave(Leave),
}

/// What the agent sends to the host. The host must treat it as hostile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentMessage {
    /// The first message of a connection.
    Hello(Hello),
    /// The answer to a ping, with its bytes.
    Pong(Bytes),
    /// The clock is set and the random generator is reseeded; no invocation was served before that.
    /// A runtime that waited in `/runtime/restore/next` has run its hooks.
    Thawed,
    /// Sent instead of `Thawed`: the runtime's hooks after a restore have failed. The payload is
    /// the error's JSON body.
    RestoreFailed(InitFailed, Bytes),
    /// The runtime waits for an invocation.
    Ready(Ready),
    /// The answer to [`HostMessage::Inspect`].
    Inspected(Inspected),
    /// The runtime could not be started, failed during init, or reported an init error. The payload
    /// is the error's JSON body.
    InitFailed(InitFailed, Bytes),
    /// The function's result.
    Response(Response, Bytes),
    /// The function begins to stream its result.
    ResponseStart(ResponseStart),
    /// The next bytes of a streamed result, at most [`crate::guest::MAX_CHUNK`].
    ResponseChunk(Bytes),
    /// The streamed result is complete or has been cut off. The payload is the error's body.
    ResponseEnd(ResponseEnd, Bytes),
    /// The runtime reported that the function failed. The payload is the body it posted.
    FunctionError(FunctionError, Bytes),
    /// Complete lines of the function's output, each with its newline.
    Log(Log, Bytes),
    /// The runtime's process ended without an answer.
    RuntimeExited(RuntimeExited),
    /// The runtime and the extensions have ended, and all of their output was sent.
    Left,
    /// The agent can't go on; the payload is the reason as text. The microVM can't be used any
    /// more.
    Fatal(Bytes),
}

/// How to start a function. Sizes are in MiB, as the fields' names say.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configure {
    /// `AWS_LAMBDA_FUNCTION_NAME`.
    pub function_name: String,
    /// `AWS_LAMBDA_FUNCTION_VERSION`: `$LATEST` or a number.
    pub function_version: String,
    /// Lambda's identifier of the runtime, such as `python3.11`; part of `AWS_EXECUTION_ENV`.
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
    /// The function's own environment variables. They never replace a reserved one.
    pub environment: BTreeMap<String, String>,
    /// Candidates for the program to start; the agent takes the first that exists and is
    /// executable.
    pub bootstrap: Vec<String>,
    /// Whether a layers image is attached as the third disk.
    pub layers: bool,
    /// Whether the runtime may use the mailbox; see [`crate::mailbox`].
    #[serde(default)]
    pub mailbox: bool,
}

impl std::fmt::Debug for Configure {
    /// Without the values of environment variables, which may be secrets.
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
    /// The host's wall clock when the frame was sent, in nanoseconds since the epoch.
    pub realtime_ns: u64,
}

/// One invocation. Its event is the frame's payload.
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
    /// `Lambda-Runtime-Aws-Tenant-Id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// A memory limit for this invocation only, below the function's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_mib: Option<u32>,
    /// The host's wall clock when the frame was sent, in nanoseconds since the epoch. The agent
    /// sets the guest's clock if it differs by more than a few milliseconds.
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
        if let Some(tenant) = &self.tenant_id {
            header(&mut head, "Lambda-Runtime-Aws-Tenant-Id", tenant);
        }
        head
    }
}

/// Writes a header. A client context is JSON from the caller and may contain line breaks, which
/// would end the header. So control characters become spaces; in JSON they can only be whitespace.
fn header(head: &mut String, name: &str, value: &str) {
    head.push_str(name);
    head.push_str(": ");
    head.extend(value.chars().map(|c| if c.is_control() { ' ' } else { c }));
    head.push_str("\r\n");
}

/// Why a microVM is shut down, and the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leave {
    /// Lambda's shutdown reason: `spindown`, `timeout` or `failure`.
    pub reason: String,
    /// As in [`Invoke`].
    pub realtime_ns: u64,
}

/// The first message of an agent.
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
    /// Microseconds from the runtime's answer until the last extension was ready again; only if
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
    /// Whether nothing of this can change before a snapshot: the function is one process of one
    /// thread, and it waits for its event.
    #[serde(default)]
    pub settled: bool,
}

/// A random generator that all clones of a process would share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SharedGenerator {
    /// What it is, such as `GnuTLS` or `Rust's rand`.
    pub library: String,
    /// The file that it was mapped from, as the process knows it.
    pub file: String,
}

/// Why a function's init, or its restore from a snapshot, has failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitFailed {
    /// Such as `Runtime.ExitError`, `Runtime.InvalidEntrypoint`, `Runtime.ImportModuleError`.
    pub error_type: String,
}

/// What an invocation has used, measured in the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Microseconds from passing the event to the runtime to its answer.
    pub duration_us: u64,
    /// CPU time of the runtime's process in that span, with all its threads, in microseconds. A
    /// child process counts once it has ended and been waited for.
    pub cpu_us: u64,
    /// Peak memory of the runtime's cgroup since the runtime was started, in bytes.
    pub max_memory_bytes: u64,
}

/// The function answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The invocation that is answered.
    pub request_id: String,
    /// What it used.
    pub usage: Usage,
}

/// The function begins to stream its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseStart {
    /// The invocation that is answered.
    pub request_id: String,
    /// The result's `Content-Type` from the runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
}

/// A streamed result has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseEnd {
    /// The invocation that is answered.
    pub request_id: String,
    /// Set if the result was cut off: `Runtime.TruncatedResponse`, or the type in the runtime's
    /// trailer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// What it used.
    pub usage: Usage,
}

/// The function has failed. Its runtime still runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionError {
    /// The invocation that is answered.
    pub request_id: String,
    /// `Lambda-Runtime-Function-Error-Type`, as the runtime sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// What it used.
    pub usage: Usage,
}

/// What a function's output belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// `None` during init and between invocations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Records of more than one line, as offset and length in the payload, in order. In the rest of
    /// the payload each line is one record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub multiline: Vec<(u32, u32)>,
    /// Bytes that were dropped before these lines, because the function wrote faster than they
    /// could be sent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped_bytes: u64,
}

/// How a process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// With this exit status.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// The kernel killed it because its cgroup ran out of memory.
    OutOfMemory,
}

/// The runtime's process has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeExited {
    /// The invocation that it has not answered, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// How it ended.
    pub exit: Exit,
    /// What it used.
    pub usage: Usage,
    /// Set if an extension has caused it: `Extension.Crash`, `Extension.ExitError`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}
