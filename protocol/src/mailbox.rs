//! The mailbox: pages of guest memory by which a runtime and the host exchange an invocation without
//! the guest's kernel.
//!
//! # In the guest
//!
//! [`PAGES`] pages of ordinary memory, which need not lie beside each other: the first is the header,
//! [`LOG_PAGES`] for output and [`DATA_PAGES`] for payloads follow. The agent makes them, writes their
//! frame numbers into the header ([`FRAMES`]) and tells the sandbox the header's at
//! [`REGISTER_PORT`]. It holds a reference to each, so that the kernel can neither move them nor give
//! them to anybody else, and their place is part of every snapshot. The runtime maps the same pages.
//!
//! At any time they belong to one side. The guest has them while its vCPU runs; with a value at
//! [`DOORBELL_PORT`] the vCPU stops and the host has them, until it lets the vCPU run on behind the
//! `out`. A microVM with a mailbox has one vCPU, so nothing more is needed to keep the order, and
//! nobody ever waits for memory to change. A runtime that is let run with nothing to do gives up the
//! CPU to whoever else wants it and then says so ([`DOORBELL_IDLE`]).
//!
//! An answer and the wait for the next event are one: [`DOORBELL_ANSWER`]. The runtime sets
//! [`COMMAND`] to [`COMMAND_UNHEARD`] before; what it finds there afterwards says what to do.
//!
//! The agent uses the same pages for runtimes that don't. It gives an answer when it has one, and
//! goes on ([`ANSWER_GOES_ON`]); once the runtime has asked for the next event, which may be much
//! later, it waits for it here ([`DOORBELL_WAIT`]). Of the two only one has an event at a time.
//!
//! A payload that is longer than the data pages goes in chunks, each of them full but the last:
//! the runtime rings [`DOORBELL_MORE`] with each further chunk of its answer, and [`DOORBELL_TAKEN`]
//! when it has copied one of an event that has more.
//!
//! All numbers are little-endian.
//!
//! # On the host
//!
//! A byte stream between the owner and the vCPU's thread carries a [`Head`] and what it speaks of,
//! without regard to chunks. What comes from the sandbox is the guest's word, and hostile.

use crate::guest::{MAX_PAYLOAD, error_type};

/// I/O port where the agent registers the mailbox: the number of its first page's frame.
pub const REGISTER_PORT: u16 = 0x610;

/// I/O port that the runtime rings.
pub const DOORBELL_PORT: u16 = 0x614;

/// Ports from there on that the doorbell takes up.
pub const DOORBELL_PORTS: u64 = 4;

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Pages for what the runtime has written to its output.
pub const LOG_PAGES: usize = 2;
/// Pages for events and answers.
pub const DATA_PAGES: usize = 16;
/// All pages: the header, output, data.
pub const PAGES: usize = 1 + LOG_PAGES + DATA_PAGES;
/// Bytes of output that go with one ring.
pub const LOG_SIZE: usize = LOG_PAGES * PAGE;
/// Bytes of a chunk.
pub const DATA_SIZE: usize = DATA_PAGES * PAGE;
/// Bytes of the meta part, which is in the first chunk, before the body.
pub const MAX_META: usize = 32 * 1024;

/// Does nothing: brings the doorbell's code into memory.
pub const DOORBELL_NOTHING: u32 = 0;
/// The first chunk of an answer is there; the runtime waits for what comes next.
pub const DOORBELL_ANSWER: u32 = 1;
/// The next chunk of the answer is there.
pub const DOORBELL_MORE: u32 = 2;
/// The chunk of the event was copied; the next one may come.
pub const DOORBELL_TAKEN: u32 = 3;
/// Output is there, and more will come before the answer.
pub const DOORBELL_LOG: u32 = 4;

/// The whole of an answer is there, if nothing was written to the function's output since the last
/// one. Where the host knows that, this is [`DOORBELL_ANSWER`] and saves the look; where it does not,
/// it says [`COMMAND_LOOK`] and has taken nothing.
pub const DOORBELL_OFFER: u32 = 5;

/// The runtime was let run and has found nothing to do; nor has anybody else in the guest who was
/// given the CPU.
pub const DOORBELL_IDLE: u32 = 6;
/// Whoever rings waits for the next event; the answer to the last was given before.
pub const DOORBELL_WAIT: u32 = 7;

/// Header field: what the host wants of the runtime.
pub const COMMAND: usize = 0x00;
/// Header field: bytes of the event's meta part.
pub const EVENT_META: usize = 0x04;
/// Header field: bytes of the event, all chunks.
pub const EVENT_BODY: usize = 0x08;
/// Header field: the host's wall clock when it gave the event, nanoseconds since the epoch, 8 bytes.
/// A runtime whose own is off has the agent set it before it goes on.
pub const EVENT_TIME: usize = 0x10;
/// Header field: what an answer is, [`KIND_RESPONSE`] or [`KIND_ERROR`].
pub const ANSWER_KIND: usize = 0x40;
/// Header field: bytes of the answer's meta part.
pub const ANSWER_META: usize = 0x44;
/// Header field: bytes of the answer, all chunks.
pub const ANSWER_BODY: usize = 0x48;
/// Header field: bytes of output in the log pages.
pub const LOG_LEN: usize = 0x4c;
/// Header field: 0 if whoever gives the answer waits for what comes next, 1 if it goes on. Read with
/// the first chunk.
pub const ANSWER_GOES_ON: usize = 0x50;
/// Header field between agent and runtime: whether the runtime may answer here at all.
pub const OPEN: usize = 0x80;
/// Header field between agent and runtime: how many answers the runtime has given here.
pub const ANSWERS: usize = 0x84;
/// Header field between agent and runtime: whether the runtime works on an event from here, whose
/// [`REQUEST_ID`] it has written before. It stays so when it answers that event to the agent, who
/// learns from it what is answered; the agent ends it when it gives the next.
pub const WORKING: usize = 0x88;
/// Header field: whether this answer has to go to the agent, which has read some of the output or
/// has to undo something. The agent sets it, and the host clears it with each event.
pub const VIA_AGENT: usize = 0x8c;
/// Header field: most memory that the function had at one time, as far as the agent has looked, in
/// KiB.
pub const PEAK_KIB: usize = 0x90;
/// Header field between agent and runtime: whether the runtime reads the output at this moment. Each
/// of the two says that it will read ([`VIA_AGENT`] is the agent's word for it) and then looks at the
/// other's word: of what was written, nobody has one half while the other has the other.
pub const READING: usize = 0x94;
/// Header field between agent and runtime: whether the runtime reads its output with each answer. The
/// agent need not be woken for each line then.
pub const READS_OUTPUT: usize = 0x98;
/// Header field: the id of the event's invocation, [`REQUEST_ID_LEN`] bytes.
pub const REQUEST_ID: usize = 0xc0;
/// Bytes of a request id, a UUID in text.
pub const REQUEST_ID_LEN: usize = 36;
/// The header of an answer that says of what type the function's error is.
const ERROR_TYPE: &str = "Lambda-Runtime-Function-Error-Type";
/// What the meta part of an event or an answer begins with; the id of its invocation and a line break follow.
pub const REQUEST_ID_HEADER: &str = "Lambda-Runtime-Aws-Request-Id: ";
/// Header field: frame numbers of all pages, 8 bytes each.
pub const FRAMES: usize = 0x200;

/// Nothing yet: the answer was taken, and the runtime waits.
pub const COMMAND_WAIT: u32 = 0;
/// An event is in the data pages.
pub const COMMAND_EVENT: u32 = 1;
/// The next event is the agent's to give.
pub const COMMAND_AGENT: u32 = 2;
/// See for output, and ring again.
pub const COMMAND_LOOK: u32 = 3;
/// What the runtime leaves there: if it stays, there is no host to hear the doorbell.
pub const COMMAND_UNHEARD: u32 = u32::MAX;

/// The function's result.
pub const KIND_RESPONSE: u32 = 1;
/// The function failed.
pub const KIND_ERROR: u32 = 2;

/// Bytes of a [`Head`].
pub const HEAD: usize = 24;

/// What a message between owner and sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// To the sandbox: an event. From it: a result.
    Payload,
    /// From the sandbox: the function's error.
    Error,
    /// From the sandbox: output alone, more will come.
    Output,
    /// To the sandbox: the next event is the agent's to give; let the guest run.
    Agent,
    /// From the sandbox: the guest waits for an event. An answer says the same unless it
    /// [goes on](Head::goes_on).
    Waits,
}

/// The head of a message; output, meta part and body follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What it is.
    pub what: What,
    /// Bytes of output.
    pub log: u32,
    /// Bytes of the meta part.
    pub meta: u32,
    /// Bytes of the body.
    pub body: u32,
    /// With an answer: [`PEAK_KIB`].
    pub peak_kib: u32,
    /// With an answer: [`ANSWER_GOES_ON`].
    pub goes_on: bool,
}

/// Bytes that are no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// No such message.
    #[error("message of unknown kind {0} at the mailbox")]
    What(u32),
    /// Too long.
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
    /// A message without anything behind its head.
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

    /// From bytes, with every length within bounds.
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

    /// Bytes that follow.
    pub fn rest(&self) -> usize {
        self.log as usize + self.meta as usize + self.body as usize
    }
}

/// The meta part of an answer: header lines, as the Runtime API has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnswerMeta {
    /// `Lambda-Runtime-Aws-Request-Id`: whose answer it is.
    pub request_id: String,
    /// `Content-Type` of the result.
    pub content_type: Option<String>,
    /// `Lambda-Runtime-Function-Error-Type`, [as Lambda keeps it](error_type).
    pub error_type: Option<String>,
}

/// An answer's meta part that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// Not text.
    #[error("an answer's headers at the mailbox are no text")]
    Text,
    /// Not a header.
    #[error("a line among an answer's headers at the mailbox is none")]
    Line,
}

impl AnswerMeta {
    /// The meta part of the answer to `request_id`; a function's error may have a type.
    pub fn write(request_id: &str, error_type: Option<&str>) -> String {
        let mut meta = format!("{REQUEST_ID_HEADER}{request_id}\r\n");
        if let Some(kind) = error_type {
            meta.extend([ERROR_TYPE, ": ", kind, "\r\n"]);
        }
        meta
    }

    /// Reads it. Headers that mean nothing are passed over.
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
