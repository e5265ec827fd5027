//! The controller's end of a microVM's mailbox; see [`hearth_protocol::mailbox`].

use std::io;
use std::os::unix::net::UnixStream;

use bytes::{Buf, Bytes};
use clap::ValueEnum;
use hearth_protocol::mailbox::{AnswerMeta, HEAD, Head, HeadError, MAX_META, MetaError, What};
use hearth_protocol::output::{Lines, LogBuffer};

use super::stream::Stream;

/// Whether runtimes may use the mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MailboxUse {
    /// Runtimes that support the mailbox use it.
    On,
    /// All events and answers go through the agent.
    Off,
}

/// The guest has sent an invalid message, or the socket has failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MailboxError {
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error(transparent)]
    Meta(#[from] MetaError),
    #[error("mailbox: {0}")]
    Io(#[from] io::Error),
}

/// A message of a runtime, or of its agent, through the mailbox.
#[derive(Debug)]
pub(crate) enum MailboxWord {
    /// Output of the function.
    Output(Lines),
    /// The answer to the event.
    Answer(MailboxAnswer),
    /// The sender waits at the mailbox for an event.
    Waits,
}

/// An answer to an event.
#[derive(Debug)]
pub(crate) struct MailboxAnswer {
    /// Whether the body is an error's.
    pub(crate) failed: bool,
    pub(crate) meta: AnswerMeta,
    pub(crate) body: Bytes,
    /// The function's peak memory that the agent has measured last, in bytes.
    pub(crate) peak_bytes: u64,
    /// Whether the sender already waits for the next event. If not, [`MailboxWord::Waits`] will follow.
    pub(crate) waits: bool,
}

/// The controller's end of a mailbox.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(super) stream: Stream,
    output: LogBuffer,
    /// An answer that is returned after its output.
    answer: Option<MailboxAnswer>,
}

impl Mailbox {
    /// The mailbox of the sandbox at the other end of `socket`. Must be called within a tokio runtime.
    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
        Ok(Self {
            stream: Stream::new(socket)?,
            output: LogBuffer::default(),
            answer: None,
        })
    }

    /// Sends an event to a runtime that waits. `headers` may have at most [`MAX_META`] bytes.
    pub(crate) fn send_event(&mut self, headers: &str, event: Bytes) -> io::Result<()> {
        let (true, Ok(meta), Ok(body)) = (
            headers.len() <= MAX_META,
            u32::try_from(headers.len()),
            u32::try_from(event.len()),
        ) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let head = Head {
            meta,
            body,
            ..Head::bare(What::Payload)
        };
        let head = [&head.encode()[..], headers.as_bytes()].concat();
        self.stream.queue(head.into());
        self.stream.queue(event);
        self.stream.flush()
    }

    /// Makes a runtime that waits at the mailbox ask its agent for the next event.
    pub(crate) fn release(&mut self) -> io::Result<()> {
        let head = Head::bare(What::Agent).encode();
        self.stream.queue(Bytes::copy_from_slice(&head));
        self.stream.flush()
    }

    /// The next message that has arrived completely.
    pub(crate) fn next(&mut self) -> Result<Option<MailboxWord>, MailboxError> {
        if let Some(answer) = self.answer.take() {
            return Ok(Some(MailboxWord::Answer(answer)));
        }
        let (head, meta, body) = loop {
            let inbox = &mut self.stream.inbox;
            let Some(head) = inbox.first_chunk::<HEAD>() else {
                return Ok(None);
            };
            let head = Head::decode(head)?;
            if inbox.len() < HEAD + head.rest() {
                inbox.reserve(HEAD + head.rest() - inbox.len());
                return Ok(None);
            }
            inbox.advance(HEAD);
            let mut part = |len: u32| inbox.split_to(len as usize).freeze();
            let (log, meta, body) = (part(head.log), part(head.meta), part(head.body));
            self.output.push(&log);
            match head.what {
                What::Payload | What::Error => break (head, meta, body),
                // Part of a line is kept until the rest arrives. That, or the answer, may be in the
                // inbox already; then no further byte would wake the task, so go on.
                What::Output => {
                    if let Some(lines) = self.output.take_lines() {
                        return Ok(Some(MailboxWord::Output(lines)));
                    }
                }
                What::Waits => return Ok(Some(MailboxWord::Waits)),
                What::Agent => return Err(HeadError::What(0).into()),
            }
        };
        let answer = MailboxAnswer {
            failed: head.what == What::Error,
            meta: AnswerMeta::parse(&meta)?,
            body,
            peak_bytes: u64::from(head.peak_kib) * 1024,
            waits: !head.goes_on,
        };
        Ok(Some(match self.output.take_all() {
            Some(lines) => {
                self.answer = Some(answer);
                MailboxWord::Output(lines)
            }
            None => MailboxWord::Answer(answer),
        }))
    }
}

#[cfg(test)]
mod tests {
    use hearth_protocol::guest::MAX_PAYLOAD;
    use hearth_protocol::mailbox::LOG_SIZE;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::stream::socket_pair;
    use super::*;

    const META: &[u8] = b"Lambda-Runtime-Aws-Request-Id: 7\r\nContent-Type: text/plain\r\n";

    fn message(what: What, log: &[u8], meta: &[u8], body: &[u8]) -> Vec<u8> {
        let len = |part: &[u8]| u32::try_from(part.len()).unwrap();
        let head = Head {
            what,
            log: len(log),
            meta: len(meta),
            body: len(body),
            peak_kib: 3,
            goes_on: what == What::Error,
        };
        [&head.encode()[..], log, meta, body].concat()
    }

    async fn receive(mailbox: &mut Mailbox) -> Result<MailboxWord, MailboxError> {
        loop {
            if let Some(word) = mailbox.next()? {
                return Ok(word);
            }
            mailbox.stream.read_or_write().await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_answer_is_complete_however_its_bytes_arrive_and_its_output_comes_first() {
        let bytes = [
            message(What::Output, b"one\ntw", b"", b""),
            message(What::Error, b"o\nunfinished", META, b"body"),
            message(What::Waits, b"", b"", b""),
        ]
        .concat();
        for step in [1, 7, 40, bytes.len()] {
            let (ours, mut theirs) = socket_pair();
            let mut mailbox = Mailbox::new(ours).unwrap();
            let sent = bytes.clone();
            let sandbox = tokio::spawn(async move {
                for piece in sent.chunks(step) {
                    theirs.write_all(piece).await.unwrap();
                }
                theirs
            });
            let mut output = Vec::new();
            let answer = loop {
                match receive(&mut mailbox).await.unwrap() {
                    MailboxWord::Output(lines) => output.extend_from_slice(&lines.bytes),
                    MailboxWord::Answer(answer) => break answer,
                    MailboxWord::Waits => panic!("it waits before it has answered"),
                }
            };
            assert_eq!(output, b"one\ntwo\nunfinished\n");
            assert!(answer.failed);
            assert_eq!(answer.meta.request_id, "7");
            assert_eq!(answer.meta.content_type.as_deref(), Some("text/plain"));
            assert_eq!((&answer.body[..], answer.peak_bytes), (&b"body"[..], 3072));
            assert!(!answer.waits);
            let after = receive(&mut mailbox).await.unwrap();
            assert!(matches!(after, MailboxWord::Waits), "{after:?}");
            sandbox.await.unwrap();
        }
    }

    /// The answer was not read until the function's timeout.
    #[tokio::test]
    async fn an_answer_that_arrives_together_with_part_of_a_line_is_read() {
        let bytes = [
            message(What::Output, b"one", b"", b""),
            message(What::Output, b"two", b"", b""),
            message(What::Payload, b"", META, b"body"),
        ]
        .concat();
        let (ours, mut theirs) = socket_pair();
        let mut mailbox = Mailbox::new(ours).unwrap();
        theirs.write_all(&bytes).await.unwrap();
        mailbox.stream.read_or_write().await.unwrap();
        let Some(MailboxWord::Output(lines)) = mailbox.next().unwrap() else {
            panic!("no output");
        };
        assert_eq!(&lines.bytes[..], b"onetwo\n");
        let answer = mailbox.next().unwrap();
        assert!(matches!(answer, Some(MailboxWord::Answer(_))), "{answer:?}");
    }

    #[tokio::test]
    async fn lengths_out_of_bounds_and_messages_that_a_guest_may_not_send_are_errors() {
        let oversize = |log: usize, body: usize| Head {
            what: What::Payload,
            log: u32::try_from(log).unwrap(),
            meta: 0,
            body: u32::try_from(body).unwrap(),
            peak_kib: 0,
            goes_on: false,
        };
        for bytes in [
            oversize(LOG_SIZE + 1, 0).encode().to_vec(),
            oversize(0, MAX_PAYLOAD + 1).encode().to_vec(),
            Head::bare(What::Agent).encode().to_vec(),
            message(What::Payload, b"", b"no header", b""),
            vec![0xff; HEAD],
        ] {
            let (ours, mut theirs) = socket_pair();
            let mut mailbox = Mailbox::new(ours).unwrap();
            theirs.write_all(&bytes).await.unwrap();
            assert!(receive(&mut mailbox).await.is_err());
        }
    }

    #[tokio::test]
    async fn an_event_is_written_completely_however_large_and_however_slow_its_reader() {
        for size in [0, 10, 5_000, MAX_PAYLOAD] {
            let (ours, mut theirs) = socket_pair();
            let mut mailbox = Mailbox::new(ours).unwrap();
            let event = Bytes::from(vec![b'x'; size]);
            mailbox.send_event("headers", event.clone()).unwrap();
            let reader = tokio::spawn(async move {
                let mut all = vec![0; HEAD + 7 + size];
                theirs.read_exact(&mut all).await.unwrap();
                all
            });
            while !mailbox.stream.is_flushed() {
                mailbox.stream.read_or_write().await.unwrap();
            }
            let all = reader.await.unwrap();
            let head = Head::decode(all.first_chunk().unwrap()).unwrap();
            assert_eq!((head.what, head.rest()), (What::Payload, 7 + size));
            assert_eq!(&all[HEAD..HEAD + 7], b"headers");
            assert_eq!(all[HEAD + 7..], event[..]);
        }
    }

    #[tokio::test]
    async fn headers_that_are_too_long_are_refused() {
        let (ours, _theirs) = socket_pair();
        let mut mailbox = Mailbox::new(ours).unwrap();
        let long = "x".repeat(MAX_META + 1);
        assert!(mailbox.send_event(&long, Bytes::new()).is_err());
    }
}
