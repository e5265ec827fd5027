//! Controller and sandbox process: commands, replies and events over a Unix socket.
//!
//! Each message is a little-endian `u32` length, at most [`MAX_MESSAGE`], and that many bytes of
//! JSON. A [`Request`] is answered by the [`Reply`] with its `id`, in order; [`Event`]s come when
//! they happen. When the socket closes, the sandbox ends at once: no microVM outlives its owner.
//!
//! A sandbox opens no file: its owner does, and passes the descriptors with the command's bytes
//! (`SCM_RIGHTS`, all with the first byte). How many, and in which order, is said at each command;
//! [`Command::descriptors`] counts them. Any other number is refused.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::jail::Jail;

/// Longest message in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Most descriptors that one message may carry: more than any command wants, so that one too many
/// is answered with a refusal.
pub const MAX_DESCRIPTORS: usize = 16;

/// Smallest guest memory in MiB.
pub const MIN_MEMORY_MIB: u32 = 128;
/// Largest guest memory in MiB.
pub const MAX_MEMORY_MIB: u32 = 10_240;

/// A command and the number that its reply will carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the sender.
    pub id: u64,
    /// What to do.
    #[serde(flatten)]
    pub command: Command,
}

/// What a controller asks of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Start a kernel. Once, and not with `Restore`.
    ///
    /// Descriptors, for reading only: the kernel (an uncompressed ELF `vmlinux`), then each disk's
    /// image.
    Boot(Boot),
    /// Continue from a snapshot. Once, and not with `Boot`.
    ///
    /// Descriptors, for reading only: the state file, the memory file, then each disk's image.
    Restore(Restore),
    /// Let the vCPU run.
    Resume(Resume),
    /// Stop the vCPU. The reply comes when it has stopped.
    Pause,
    /// Stop the vCPU once the guest has come to rest, or its time is up. The reply comes when it
    /// has stopped, or when a `Resume` came before that.
    Freeze(Freeze),
    /// Write a snapshot of a paused and quiet microVM.
    ///
    /// Descriptors, for writing: the state file, the memory file. What was in them is replaced;
    /// both are flushed to disk when the reply comes. The memory file that the microVM was restored
    /// from is refused.
    Snapshot(Snapshot),
    /// Counters and state.
    Status,
    /// End the microVM and the process. The reply is [`Event::Exited`].
    Kill,
}

impl Command {
    /// Descriptors that come with it.
    pub fn descriptors(&self) -> usize {
        let images = |disks: &[bool]| disks.iter().filter(|image| **image).count();
        match self {
            Self::Boot(boot) => 1 + images(&boot.disks),
            Self::Restore(restore) => 2 + images(&restore.disks),
            Self::Snapshot(_) => 2,
            Self::Resume(_) | Self::Pause | Self::Freeze(_) | Self::Status | Self::Kill => 0,
        }
    }
}

/// A new microVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// 128 to 10,240.
    pub memory_mib: u32,
    /// As many as the sandbox was started for.
    pub vcpus: u8,
    /// In device order: whether there is an image, or just a drive without a medium.
    pub disks: Vec<bool>,
    /// Added to the kernel's command line after the sandbox's own arguments.
    #[serde(default)]
    pub kernel_args: String,
    /// Anything that binds a snapshot to what it was made of, such as hashes of kernel and image.
    /// Stored in the state file; a restore must present the same text.
    #[serde(default)]
    pub fingerprint: String,
}

/// A microVM from a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// In device order: whether there is an image, or just a drive without a medium. An image that
    /// differs from the snapshot's is announced to the guest as a change of medium.
    pub disks: Vec<bool>,
    /// Must equal the snapshot's.
    #[serde(default)]
    pub fingerprint: String,
    /// Run at once, with this budget; `None` leaves the microVM paused.
    pub resume: Option<Resume>,
}

/// What is different in each microVM that is restored from a snapshot.
///
/// The sandbox expires the generators of OpenSSL that it finds in guest memory by itself. It can't
/// find these: the agent names them. A snapshot with an address outside of guest memory, or with more
/// than the limits allow, is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Guest-physical addresses of pages that are written as zeros, at most [`MAX_ZERO_PAGES`]:
    /// those that processes have marked with `MADV_WIPEONFORK`.
    #[serde(default)]
    pub zero_pages: Vec<u64>,
    /// Ranges that each restore fills with random bytes, at most [`MAX_RANDOM_RANGES`].
    #[serde(default)]
    pub random_ranges: Vec<RandomRange>,
}

/// Most pages that a snapshot writes as zeros because it was told to.
pub const MAX_ZERO_PAGES: usize = 1024;
/// Most ranges that a restore fills with random bytes.
pub const MAX_RANDOM_RANGES: usize = 64;
/// Longest such range in bytes: a page.
pub const MAX_RANDOM_RANGE: u32 = 4096;

/// Guest memory that each restore fills with random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RandomRange {
    /// Guest-physical.
    pub address: u64,
    /// In bytes, 1 to [`MAX_RANDOM_RANGE`].
    pub len: u32,
}

/// How to run on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// Pause and send [`Event::CpuBudgetExhausted`] after this much vCPU time, in microseconds.
    #[serde(default)]
    pub cpu_budget_us: Option<u64>,
}

/// How long a guest may take to come to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Microseconds until it is stopped whatever it does.
    pub within_us: u64,
}

impl Freeze {
    /// A freeze that waits this long at most.
    pub fn within(limit: Duration) -> Self {
        Self {
            within_us: u64::try_from(limit.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

/// What a sandbox sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// To a request.
    Reply(Reply),
    /// On its own.
    Event(Event),
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's.
    pub id: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was done, and here is the state.
    Status(Status),
    /// It was not done, and nothing changed.
    Refused(Refusal),
}

/// Why a command was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people.
    pub message: String,
}

/// Kinds of refusal that a controller treats differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The command makes no sense in this state, or a value is out of range.
    InvalidRequest,
    /// The guest is not quiet; try again.
    NotQuiet,
    /// The snapshot can't be used here: truncated, corrupt, or made by another version, kernel,
    /// image, CPU or kind of KVM. Rebuild it.
    SnapshotUnusable,
    /// The host said no: a file, memory, KVM.
    Host,
}

/// Where a microVM is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A process with an empty VM, waiting for `Boot` or `Restore`.
    Shell,
    /// vCPUs run.
    Running,
    /// vCPUs are stopped.
    Paused,
}

/// State and counters since the process started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Where the microVM is.
    pub state: State,
    /// `hardware` or `software`; see the sandbox's `host` module.
    pub host_kind: String,
    /// vCPU time used, microseconds.
    pub vcpu_cpu_us: u64,
    /// `KVM_RUN` returns by reason.
    pub exits: Exits,
    /// Instructions completed by the ring-0 assist.
    pub assists: u64,
    /// What the process is locked up in.
    pub jail: Jail,
}

/// `KVM_RUN` returns by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exits {
    /// Port I/O.
    pub io: u64,
    /// Memory-mapped I/O.
    pub mmio: u64,
    /// Interpreter could not go on: the ring-0 assist's work.
    pub emulation: u64,
    /// Signals and immediate exits: pauses and kills.
    pub interrupted: u64,
    /// Everything else.
    pub other: u64,
}

/// What a sandbox says on its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// [`Resume::cpu_budget_us`] is used up; the microVM is paused.
    CpuBudgetExhausted,
    /// The process is about to end. The same goes to standard output as a JSON line.
    Exited(Exited),
}

/// The last words of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// Why.
    pub reason: ExitReason,
    /// For people: registers and bytes for a fatal guest error, else one sentence.
    pub detail: String,
}

/// The ways a microVM ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// The guest powered itself off.
    GuestShutdown,
    /// The guest asked for a reset through the keyboard controller.
    GuestReset,
    /// The guest's CPU shut down.
    TripleFault,
    /// KVM, the host or the sandbox itself failed, or the guest did what no device allows.
    InternalError,
    /// [`Command::Kill`].
    Killed,
    /// The control socket was closed.
    OwnerGone,
    /// The command line or the first command could not be used.
    Usage,
}

impl ExitReason {
    /// The process's exit status, one for each way of ending.
    pub fn code(self) -> u8 {
        match self {
            Self::GuestShutdown => 0,
            Self::Usage => 2,
            Self::GuestReset => 10,
            Self::TripleFault => 11,
            Self::InternalError => 12,
            Self::Killed => 13,
            Self::OwnerGone => 14,
        }
    }
}

/// A control message that can't be one.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Longer than [`MAX_MESSAGE`].
    #[error("control message of {0} bytes, the limit is {MAX_MESSAGE}")]
    TooLong(usize),
    /// Not this JSON.
    #[error("control message: {0}")]
    Json(#[from] serde_json::Error),
}

/// Length and JSON of `message`, ready for the socket.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, ControlError> {
    let mut out = vec![0; 4];
    serde_json::to_writer(&mut out, message)?;
    let len = out.len() - 4;
    let prefix = u32::try_from(len).map_err(|_| ControlError::TooLong(len))?;
    if len > MAX_MESSAGE {
        return Err(ControlError::TooLong(len));
    }
    out[..4].copy_from_slice(&prefix.to_le_bytes());
    Ok(out)
}

/// Takes one message off the front of `buf`; `None` when it is not complete yet.
pub fn decode<T: for<'de> Deserialize<'de>>(
    buf: &mut bytes::BytesMut,
) -> Result<Option<T>, ControlError> {
    use bytes::Buf;
    let Some(prefix) = buf.first_chunk::<4>() else {
        return Ok(None);
    };
    let len = u32::from_le_bytes(*prefix) as usize;
    if len > MAX_MESSAGE {
        return Err(ControlError::TooLong(len));
    }
    if buf.len() < 4 + len {
        return Ok(None);
    }
    buf.advance(4);
    let message = serde_json::from_slice(&buf.split_to(len))?;
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_wire_byte_by_byte() {
        let request = Request {
            id: 7,
            command: Command::Restore(Restore {
                disks: vec![true, false],
                fingerprint: "k+i".into(),
                resume: Some(Resume {
                    cpu_budget_us: Some(5),
                }),
            }),
        };
        let wire = encode(&request).unwrap();
        let mut buf = bytes::BytesMut::new();
        for (i, byte) in wire.iter().enumerate() {
            buf.extend_from_slice(&[*byte]);
            let decoded: Option<Request> = decode(&mut buf).unwrap();
            assert_eq!(decoded.is_some(), i + 1 == wire.len());
            if let Some(decoded) = decoded {
                assert_eq!(decoded, request);
            }
        }
    }

    #[test]
    fn a_command_knows_how_many_descriptors_come_with_it() {
        let boot = Boot {
            memory_mib: 128,
            vcpus: 1,
            disks: vec![true, true, false],
            kernel_args: String::new(),
            fingerprint: String::new(),
        };
        assert_eq!(Command::Boot(boot).descriptors(), 3);
        assert_eq!(Command::Snapshot(Snapshot::default()).descriptors(), 2);
        assert_eq!(Command::Status.descriptors(), 0);
    }

    #[test]
    fn commands_without_fields_and_events_survive() {
        for command in [
            Command::Pause,
            Command::Snapshot(Snapshot {
                zero_pages: vec![4096],
                random_ranges: vec![RandomRange {
                    address: 20,
                    len: 2496,
                }],
            }),
            Command::Freeze(Freeze { within_us: 7 }),
            Command::Status,
            Command::Kill,
        ] {
            let wire = encode(&Request {
                id: 1,
                command: command.clone(),
            })
            .unwrap();
            let mut buf = bytes::BytesMut::from(&wire[..]);
            let decoded: Request = decode(&mut buf).unwrap().unwrap();
            assert_eq!(decoded.command, command);
        }
        let event = Message::Event(Event::Exited(Exited {
            reason: ExitReason::TripleFault,
            detail: String::new(),
        }));
        let mut buf = bytes::BytesMut::from(&encode(&event).unwrap()[..]);
        assert_eq!(decode::<Message>(&mut buf).unwrap().unwrap(), event);
    }

    #[test]
    fn an_oversized_message_is_refused_by_its_length_alone() {
        let mut buf = bytes::BytesMut::from(&u32::MAX.to_le_bytes()[..]);
        assert!(matches!(
            decode::<Request>(&mut buf),
            Err(ControlError::TooLong(_))
        ));
    }

    #[test]
    fn every_way_of_ending_has_its_own_exit_status() {
        let reasons = [
            ExitReason::GuestShutdown,
            ExitReason::GuestReset,
            ExitReason::TripleFault,
            ExitReason::InternalError,
            ExitReason::Killed,
            ExitReason::OwnerGone,
            ExitReason::Usage,
        ];
        let codes: std::collections::BTreeSet<u8> = reasons.iter().map(|r| r.code()).collect();
        assert_eq!(codes.len(), reasons.len());
    }
}
