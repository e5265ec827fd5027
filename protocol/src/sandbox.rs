//! The protocol between a controller and a sandbox process: commands, replies and events over a
//! Unix socket.
//!
//! Each message is a little-endian `u32` length, at most [`MAX_MESSAGE`], and that many bytes of
//! JSON. Each [`Request`] is answered, in order, by a [`Reply`] with its `id`. [`Event`]s are sent
//! when they happen. When the socket closes, the sandbox ends at once, so no microVM outlives its
//! controller.
//!
//! A sandbox opens no files. The controller opens them and passes the descriptors with the
//! command's bytes (`SCM_RIGHTS`, all with the first byte). Each command's documentation says how
//! many and in which order, and [`Command::descriptors`] counts them. The sandbox refuses any other
//! number.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::jail::Jail;

/// Maximum length of a message in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Maximum number of descriptors with one message. It is more than any command needs, so that the
/// sandbox can answer one descriptor too many with a refusal.
pub const MAX_DESCRIPTORS: usize = 16;

/// Minimum guest memory in MiB.
pub const MIN_MEMORY_MIB: u32 = 128;
/// Maximum guest memory in MiB.
pub const MAX_MEMORY_MIB: u32 = 10_240;

/// A command, and the number that its reply carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the controller.
    pub id: u64,
    /// The command.
    #[serde(flatten)]
    pub command: Command,
}

/// What a controller asks of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Boot a kernel. Only once, and not after `Restore`.
    ///
    /// Descriptors, for reading only: the kernel (an uncompressed ELF `vmlinux`), then each disk's
    /// image.
    Boot(Boot),
    /// Restore a snapshot. Only once, and not after `Boot`.
    ///
    /// Descriptors, for reading only: the state file, the memory file, then each disk's image.
    Restore(Restore),
    /// Let the vCPUs run.
    Resume(Resume),
    /// Stop the vCPUs. The reply comes when they have stopped.
    Pause,
    /// Stop the vCPUs once the guest has come to rest, or when its time is up. The reply comes when
    /// they have stopped, or when a `Resume` comes before that.
    Freeze(Freeze),
    /// Write a snapshot of a paused and quiet microVM.
    ///
    /// Descriptors, for writing only: the state file, the memory file. Their content is replaced,
    /// and both are flushed to disk when the reply comes. The sandbox refuses the memory file that
    /// the microVM was restored from.
    Snapshot(Snapshot),
    /// Ask for the state and the counters.
    Status,
    /// End the microVM and the process. There is no reply but [`Event::Exited`].
    Kill,
}

impl Command {
    /// Number of descriptors that must come with the command.
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

/// How to boot a microVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// [`MIN_MEMORY_MIB`] to [`MAX_MEMORY_MIB`].
    pub memory_mib: u32,
    /// Must equal the number that the sandbox was started with.
    pub vcpus: u8,
    /// In device order: `true` for a disk with an image, `false` for a drive without a medium.
    pub disks: Vec<bool>,
    /// Appended to the kernel's command line, after the sandbox's own arguments.
    #[serde(default)]
    pub kernel_args: String,
    /// Text that identifies what the microVM is made of, such as hashes of kernel and image. The
    /// state file keeps it, and a restore must present the same text.
    #[serde(default)]
    pub fingerprint: String,
}

/// How to restore a microVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// In device order: `true` for a disk with an image, `false` for a drive without a medium. If
    /// an image differs from the snapshot's, the guest is notified of a change of medium.
    pub disks: Vec<bool>,
    /// Must equal the snapshot's.
    #[serde(default)]
    pub fingerprint: String,
    /// Run at once, with this budget; with `None` the microVM stays paused.
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

/// How to let the vCPUs run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// Pause after this much vCPU time, in microseconds, and send [`Event::CpuBudgetExhausted`].
    #[serde(default)]
    pub cpu_budget_us: Option<u64>,
}

/// How long a guest may take to come to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Microseconds until its vCPUs are stopped in any case.
    pub within_us: u64,
}

impl Freeze {
    /// A freeze that waits at most this long.
    pub fn within(limit: Duration) -> Self {
        Self {
            within_us: u64::try_from(limit.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

/// What a sandbox sends to its controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The reply to a request.
    Reply(Reply),
    /// An event.
    Event(Event),
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's id.
    pub id: u64,
    /// The result.
    pub outcome: Outcome,
}

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The command was executed.
    Done,
    /// The command was executed; this is the state.
    Status(Status),
    /// The command was not executed, and nothing has changed.
    Refused(Refusal),
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The kind, for programs.
    pub kind: RefusalKind,
    /// The message, for people.
    pub message: String,
}

/// Kinds of refusal that a controller treats differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The command is not possible in this state, or a value is out of range.
    InvalidRequest,
    /// The guest is not quiet; try again.
    NotQuiet,
    /// The snapshot can't be used on this host: it is truncated, corrupt, or made with another
    /// version, kernel, image, CPU or kind of KVM. Build it again.
    SnapshotUnusable,
    /// The host refused something: a file, memory, KVM.
    Host,
}

/// What a sandbox process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A process with an empty VM, waiting for `Boot` or `Restore`.
    Shell,
    /// The vCPUs run.
    Running,
    /// The vCPUs are stopped.
    Paused,
}

/// State and counters since the process started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The sandbox's state.
    pub state: State,
    /// `hardware` or `software`; see the sandbox's `host` module.
    pub host_kind: String,
    /// vCPU time used, in microseconds.
    pub vcpu_cpu_us: u64,
    /// `KVM_RUN` returns by reason.
    pub exits: Exits,
    /// Instructions completed by the ring-0 assist.
    pub assists: u64,
    /// Missing parts of the process's jail.
    pub jail: Jail,
}

/// `KVM_RUN` returns by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exits {
    /// Port I/O.
    pub io: u64,
    /// Memory-mapped I/O.
    pub mmio: u64,
    /// KVM's interpreter could not execute an instruction; the ring-0 assist completes it.
    pub emulation: u64,
    /// Signals and immediate exits, for pauses, kills and timers.
    pub interrupted: u64,
    /// Everything else.
    pub other: u64,
}

/// What a sandbox sends without a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// [`Resume::cpu_budget_us`] is used up, and the microVM is paused.
    CpuBudgetExhausted,
    /// The process is about to end. It prints the same as a JSON line to standard output.
    Exited(Exited),
}

/// Why a sandbox has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// The kind of end.
    pub reason: ExitReason,
    /// For people: registers and instruction bytes for a fatal error of the guest, else one
    /// sentence.
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
    /// The guest's CPU shut down (triple fault).
    TripleFault,
    /// KVM, the host or the sandbox itself failed, or the guest did something that no device
    /// allows.
    InternalError,
    /// [`Command::Kill`].
    Killed,
    /// The control socket was closed.
    OwnerGone,
    /// The command line or the first command could not be used.
    Usage,
}

impl ExitReason {
    /// The process's exit status. Each way of ending has its own.
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

/// A control message that can't be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Longer than [`MAX_MESSAGE`].
    #[error("control message of {0} bytes, the limit is {MAX_MESSAGE}")]
    TooLong(usize),
    /// It is not the expected JSON.
    #[error("control message: {0}")]
    Json(#[from] serde_json::Error),
}

/// The length prefix and the JSON of `message`, ready to be sent.
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

/// Takes one message off the front of `buf`; `None` if it is not complete yet.
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
