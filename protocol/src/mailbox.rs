//! The mailbox: pages of guest memory through which a runtime and the host exchange invocations without
//! the guest's kernel.
//!
//! # In the guest
//!
//! The mailbox is [`PAGES`] pages of ordinary memory, which need not be contiguous: a header page, then
//! [`LOG_PAGES`] pages for output and [`DATA_PAGES`] for payloads. The agent makes them, writes their
//! frame numbers into the header ([`FRAMES`]), and registers the header's frame number at
//! [`REGISTER_PORT`]. It holds a reference to each page, so that the kernel can neither move the pages
//! nor give them to another user. The frame numbers are part of every snapshot. The runtime maps the
//! same pages.
//!
//! At any time one side owns the pages. The guest owns them while its vCPU runs. An `out` to
//! [`DOORBELL_PORT`] stops the vCPU and passes the pages to the host, until the host lets the vCPU run
//! on after the `out`. A microVM with a mailbox has one vCPU, so this alone keeps the order, and neither
//! side ever polls memory. The host may also let a waiting guest run without an event, so that the
//! guest's kernel and other threads get the CPU. The runtime then yields the CPU and rings
//! [`DOORBELL_IDLE`] when it is scheduled again.
//!
//! A runtime sends its answer and waits for the next event in one step, [`DOORBELL_ANSWER`]. Before it
//! rings, it sets [`COMMAND`] to [`COMMAND_UNHEARD`]; afterwards [`COMMAND`] says what to do next.
//!
//! Between its answer and its call for the next event, a runtime may run code of the function, which may
//! take long or end the process. The answer must not suffer from that. So such a runtime writes its
//! answer into the pages as soon as it has it ([`HELD`]), where the agent finds it too. An answer that
//! does not fit is sent at once ([`ANSWER_GOES_ON`]), and the runtime waits with [`DOORBELL_WAIT`].
//!
//! For runtimes that don't use the mailbox, the agent uses the same pages. It sends an answer as soon as
//! it has one and runs on ([`ANSWER_GOES_ON`]). Once the runtime has asked for the next event, which may
//! be much later, the agent waits for it here ([`DOORBELL_WAIT`]). At any time at most one of agent and
//! runtime works on an event.
//!
//! A payload that is longer than the data pages is sent in chunks, all of them full except the last. The
//! runtime rings [`DOORBELL_MORE`] for each chunk of its answer except the last, for which it rings
//! [`DOORBELL_ANSWER`]. It rings [`DOORBELL_TAKEN`] when it has copied a chunk of an event that has more.
//!
//! All numbers are little-endian.
//!
//! # On the host
//!
//! A byte stream connects the controller to the vCPU's thread in the sandbox. It carries [`Head`]s, each
//! followed by the bytes that it announces, without regard to chunks. Everything that comes from the
//! sandbox may be the guest's and is hostile.

use crate::guest::{MAX_PAYLOAD, error_type};

/// I/O port at which the agent registers the mailbox, by the frame number of the header page.
pub const REGISTER_PORT: u16 = 0x610;

/// I/O port of the doorbell.
pub const DOORBELL_PORT: u16 = 0x614;

/// Number of ports of the doorbell, from [`DOORBELL_PORT`] on.
pub const DOORBELL_PORTS: u64 = 4;

/// Size of a page in bytes.
pub const PAGE: usize = 4096;
/// Pages for the function's output.
pub const LOG_PAGES: usize = 2;
/// Pages for events and answers.
pub const DATA_PAGES: usize = 16;
/// All pages: the header, output, data.
pub const PAGES: usize = 1 + LOG_PAGES + DATA_PAGES;
/// Maximum number of bytes of output with one ring.
pub const LOG_SIZE: usize = LOG_PAGES * PAGE;
/// Maximum number of bytes of a chunk.
pub const DATA_SIZE: usize = DATA_PAGES * PAGE;
/// Maximum number of bytes of the meta part. It is in the first chunk, before the body.
pub const MAX_META: usize = 32 * 1024;

/// Does nothing. Ringing it once brings the doorbell's code into memory.
pub const DOORBELL_NOTHING: u32 = 0;
/// The answer's only or last chunk is in the data pages; the runtime waits for an event.
pub const DOORBELL_ANSWER: u32 = 1;
/// A chunk of the answer is in the data pages, and more will follow.
pub const DOORBELL_MORE: u32 = 2;
/// The runtime has copied the chunk of the event; the host may write the next one.
pub const DOORBELL_TAKEN: u32 = 3;
/// Output is in the log pages, and more output or the answer will follow.
pub const DOORBELL_LOG: u32 = 4;

/// The whole answer is in the data pages, on the condition that nothing was written to the
/// function's output since the last answer. If the host knows that, it treats this as
/// [`DOORBELL_ANSWER`], which saves the runtime a system call to look. If not, the host takes
/// nothing and sets [`COMMAND_LOOK`].
pub const DOORBELL_OFFER: u32 = 5;

/// The host let the guest run without an event. The runtime has yielded the CPU, and nothing else
/// in the guest wants it either.
pub const DOORBELL_IDLE: u32 = 6;
/// The agent waits for the next event; it has sent its last answer before.
pub const DOORBELL_WAIT: u32 = 7;

/// Header field: what the host wants the runtime to do.
pub const COMMAND: usize = 0x00;
/// Header field: length of the event's meta part in bytes.
pub const EVENT_META: usize = 0x04;
/// Header field: length of the event's body in bytes, over all chunks.
pub const EVENT_BODY: usize = 0x08;
/// Header field: the host's wall clock when it wrote the event, in nanoseconds since the epoch, 8
/// bytes. If the guest's clock is wrong, the runtime asks the agent to set it before it works on
/// the event.
pub const EVENT_TIME: usize = 0x10;
/// Header field: the kind of the answer, [`KIND_RESPONSE`] or [`KIND_ERROR`].
pub const ANSWER_KIND: usize = 0x40;
/// Header field: length of the answer's meta part in bytes.
pub const ANSWER_META: usize = 0x44;
/// Header field: length of the answer's body in bytes, over all chunks.
pub const ANSWER_BODY: usize = 0x48;
/// Header field: bytes of output in the log pages.
pub const LOG_LEN: usize = 0x4c;
/// Header field: 0 if the guest waits for an event after its answer, 1 if it runs on. The host
/// reads it with the first chunk.
pub const ANSWER_GOES_ON: usize = 0x50;
/// Header field between agent and runtime: whether the runtime may answer at the mailbox at all.
pub const OPEN: usize = 0x80;
/// Header field between agent and runtime: how many answers the runtime has sent at the mailbox.
pub const ANSWERS: usize = 0x84;
/// Header field between agent and runtime: whether the runtime works on an event that it got at the
/// mailbox. It writes the event's [`REQUEST_ID`] first. The field stays set when the runtime posts
/// its answer to the agent, which reads here which invocation is answered; the agent clears it when
/// it gives the runtime the next event.
pub const WORKING: usize = 0x88;
/// Header field: whether this answer must go to the agent, because the agent has read some of the
/// output or has to undo something. The agent sets it, and the host clears it with each event.
pub const VIA_AGENT: usize = 0x8c;
/// Header field: the function's peak memory in KiB, as far as the agent has measured it.
pub const PEAK_KIB: usize = 0x90;
/// Header field between agent and runtime: whether the runtime is reading the function's output.
/// Each of the two first announces that it will read (the agent in [`VIA_AGENT`], the runtime here)
/// and then looks at the other's announcement. So output is never split between agent and runtime:
/// exactly one of them reads it.
pub const READING: usize = 0x94;
/// Header field between agent and runtime: whether the runtime reads its output with each answer.
/// If so, the agent need not wake up for each line.
pub const READS_OUTPUT: usize = 0x98;
/// Header field between agent and runtime: 1 while the pages hold a whole answer that the runtime has
/// given and not sent. The runtime sends it when it asks for its next event. If the runtime ends first,
/// or takes long, the agent sends it. Whoever swaps the 1 for a 0 owns the answer, so it is sent once.
pub const HELD: usize = 0x9c;
/// Header field: the request id of the event, [`REQUEST_ID_LEN`] bytes.
pub const REQUEST_ID: usize = 0xc0;
/// Bytes of a request id, a UUID as text.
pub const REQUEST_ID_LEN: usize = 36;
/// The header of an answer's meta part with the type of the function's error.
const ERROR_TYPE: &str = "Lambda-Runtime-Function-Error-Type";
/// The beginning of an event's or answer's meta part; the request id and a line break follow.
pub const REQUEST_ID_HEADER: &str = "Lambda-Runtime-Aws-Request-Id: ";
/// Header field: frame numbers of all pages, 8 bytes each.
pub const FRAMES: usize = 0x200;

/// The host has taken the answer; wait for an event.
pub const COMMAND_WAIT: u32 = 0;
/// An event is in the data pages.
pub const COMMAND_EVENT: u32 = 1;
/// Ask the agent for the next event.
pub const COMMAND_AGENT: u32 = 2;
/// Look for output, and ring again.
pub const COMMAND_LOOK: u32 = 3;
/// The value that the runtime writes before it rings. If it is still there afterwards, no host has
/// heard the doorbell.
pub const COMMAND_UNHEARD: u32 = u32::MAX;

/// The function's result.
pub const KIND_RESPONSE: u32 = 1;
/// The function's error.
pub const KIND_ERROR: u32 = 2;

/// Bytes of a [`Head`].
pub const HEAD: usize = 24;

/// The kind of a message between controller and sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// To the sandbox: an event. From the sandbox: a result.
    Payload,
    /// From the sandbox: the function's error.
    Error,
    /// From the sandbox: output only; more output or the answer will follow.
    Output,
    /// To the sandbox: let the guest run and ask its agent for the next event.
    Agent,
    /// From the sandbox: the guest waits for an event. An answer implies the same unless it [goes
    /// on](Head::goes_on).
    Waits,
}

/// The head of a message. Output, meta part and body follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The kind of the message.
    pub what: What,
    /// Length of the output in bytes.
    pub log: u32,
    /// Length of the meta part in bytes.
    pub meta: u32,
    /// Length of the body in bytes.
    pub body: u32,
    /// In an answer: [`PEAK_KIB`].
    pub peak_kib: u32,
    /// In an answer: [`ANSWER_GOES_ON`].
    pub goes_on: bool,
}

/// Bytes that are no valid head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// The kind is unknown.
    #[error("message of unknown kind {0} at the mailbox")]
    What(u32),
    /// A length is over its limit.
    #[error("message of {log} + {meta} + {body} bytes at the mailbox")]
    TooLong {
        /// Bytes of output.
        log: u32,
        /// Bytes of the meta part.
        meta: u32,
        /// Bytes of the body.
        body: u32,
    },
}

impl Head {
    /// A message that consists of its head only.
    pub fn bare(what: What) -> Self {
        Self {
            what,
            log: 0,
            meta: 0,
            body: 0,
            peak_kib: 0,
            goes_on: false,
        }
    }

    /// As bytes.
    pub fn encode(self) -> [u8; HEAD] {
        let what: u32 = match self.what {
            What::Payload => 1,
            What::Error => 2,
            What::Output => 3,
            What::Agent => 4,
            What::Waits => 5,
        };
        let goes_on = u32::from(self.goes_on);
        let words = [what, self.log, self.meta, self.body, self.peak_kib, goes_on];
        let mut bytes = [0; HEAD];
        for (to, number) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Decodes a head and checks its lengths.
    pub fn decode(bytes: &[u8; HEAD]) -> Result<Self, HeadError> {
        let word = |n: usize| {
            u32::from_le_bytes([
                bytes[4 * n],
                bytes[4 * n + 1],
                bytes[4 * n + 2],
                bytes[4 * n + 3],
            ])
        };
        let what = match word(0) {
            1 => What::Payload,
            2 => What::Error,
            3 => What::Output,
            4 => What::Agent,
            5 => What::Waits,
            other => return Err(HeadError::What(other)),
        };
        let (log, meta, body) = (word(1), word(2), word(3));
        if log as usize > LOG_SIZE || meta as usize > MAX_META || body as usize > MAX_PAYLOAD {
            return Err(HeadError::TooLong { log, meta, body });
        }
        Ok(Self {
            what,
            log,
            meta,
            body,
            peak_kib: word(4),
            goes_on: word(5) != 0,
        })
    }

    /// Number of bytes that follow the head.
    pub fn rest(&self) -> usize {
        self.log as usize + self.meta as usize + self.body as usize
    }
}

/// The meta part of an answer: header lines, as in the Runtime API.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnswerMeta {
    /// `Lambda-Runtime-Aws-Request-Id`: the invocation that is answered.
    pub request_id: String,
    /// `Content-Type` of the result.
    pub content_type: Option<String>,
    /// `Lambda-Runtime-Function-Error-Type`, [as Lambda reports it](error_type).
    pub error_type: Option<String>,
}

/// Bytes that are no valid meta part of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// Not UTF-8.
    #[error("the headers of an answer at the mailbox are not UTF-8")]
    Text,
    /// A line that is no header.
    #[error("an answer at the mailbox has a line that is no header")]
    Line,
}

impl AnswerMeta {
    /// The meta part of the answer to `request_id`. `error_type` is for a function's error.
    pub fn write(request_id: &str, error_type: Option<&str>) -> String {
        let mut meta = format!("{REQUEST_ID_HEADER}{request_id}\r\n");
        if let Some(kind) = error_type {
            meta.extend([ERROR_TYPE, ": ", kind, "\r\n"]);
        }
        meta
    }

    /// Parses a meta part. Unknown headers are ignored.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetaError> {
        let text = std::str::from_utf8(bytes).map_err(|_| MetaError::Text)?;
        let mut meta = Self::default();
        for line in text.split("\r\n").filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").ok_or(MetaError::Line)?;
            if name.eq_ignore_ascii_case("Lambda-Runtime-Aws-Request-Id") {
                value.clone_into(&mut meta.request_id);
            } else if name.eq_ignore_ascii_case("Content-Type") {
                meta.content_type = Some(value.to_owned());
            } else if name.eq_ignore_ascii_case(ERROR_TYPE) {
                meta.error_type = error_type(value.as_bytes());
            }
        }
        Ok(meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_overlap_and_lie_in_the_header() {
        let mut fields: Vec<(usize, usize)> = [
            COMMAND,
            EVENT_META,
            EVENT_BODY,
            ANSWER_KIND,
            ANSWER_META,
            ANSWER_BODY,
            LOG_LEN,
            ANSWER_GOES_ON,
            OPEN,
            ANSWERS,
            WORKING,
            VIA_AGENT,
            PEAK_KIB,
            READING,
            READS_OUTPUT,
            HELD,
        ]
        .map(|at| (at, 4))
        .to_vec();
        fields.push((EVENT_TIME, 8));
        fields.push((REQUEST_ID, REQUEST_ID_LEN));
        fields.push((FRAMES, PAGES * 8));
        fields.sort_unstable();
        for pair in fields.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?}");
        }
        let (at, len) = fields[fields.len() - 1];
        assert!(at + len <= PAGE);
        const { assert!(MAX_META < DATA_SIZE) };
    }

    #[test]
    fn a_head_comes_back_as_it_was() {
        for (what, goes_on) in [
            (What::Payload, true),
            (What::Error, false),
            (What::Output, false),
            (What::Agent, false),
            (What::Waits, false),
        ] {
            let head = Head {
                what,
                log: 1,
                meta: 2,
                body: 3,
                peak_kib: 4,
                goes_on,
            };
            assert_eq!(Head::decode(&head.encode()), Ok(head));
            assert_eq!(head.rest(), 6);
        }
    }

    #[test]
    fn lengths_out_of_bounds_and_unknown_kinds_are_no_head() {
        let good = Head {
            what: What::Payload,
            log: u32::try_from(LOG_SIZE).unwrap(),
            meta: u32::try_from(MAX_META).unwrap(),
            body: u32::try_from(MAX_PAYLOAD).unwrap(),
            peak_kib: 0,
            goes_on: false,
        };
        assert_eq!(Head::decode(&good.encode()), Ok(good));
        let spoilt = [
            Head {
                log: good.log + 1,
                ..good
            },
            Head {
                meta: good.meta + 1,
                ..good
            },
            Head {
                body: good.body + 1,
                ..good
            },
        ];
        for head in spoilt {
            assert!(matches!(
                Head::decode(&head.encode()),
                Err(HeadError::TooLong { .. })
            ));
        }
        assert_eq!(Head::decode(&[9; HEAD]), Err(HeadError::What(0x0909_0909)));
    }

    #[test]
    fn an_answers_headers_are_read_and_others_passed_over() {
        let meta = AnswerMeta::parse(
            b"Lambda-Runtime-Aws-Request-Id: 7\r\ncontent-type: text/plain\r\nX-Other: 1\r\n\
              Lambda-Runtime-Function-Error-Type: Mine\r\n",
        );
        let expected = AnswerMeta {
            request_id: "7".into(),
            content_type: Some("text/plain".into()),
            error_type: Some("Function.Unknown".into()),
        };
        assert_eq!(meta, Ok(expected));
        let written = AnswerMeta::write("7", Some("Function.Own"));
        let meta = AnswerMeta::parse(written.as_bytes()).unwrap();
        assert_eq!(
            (&*meta.request_id, meta.error_type.as_deref()),
            ("7", Some("Function.Own"))
        );
        assert_eq!(AnswerMeta::parse(b""), Ok(AnswerMeta::default()));
        assert_eq!(AnswerMeta::parse(&[0xff]), Err(MetaError::Text));
        assert_eq!(AnswerMeta::parse(b"nonsense\r\n"), Err(MetaError::Line));
    }
}
