//! The owner's end of a microVM's mailbox; see [`hearth_protocol::mailbox`].

use std::io;
use std::os::unix::net::UnixStream;

use bytes::{Buf, Bytes};
use clap::ValueEnum;
use hearth_protocol::mailbox::{AnswerMeta, HEAD, Head, HeadError, MAX_META, MetaError, What};
use hearth_protocol::output::{Lines, LogBuffer};

use super::stream::Stream;

/// Whether runtimes are given the mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MailboxUse {
    /// Those that can use it do.
    On,
    /// Everything goes through the agent.
    Off,
}

/// What comes from the mailbox, and could be anything.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MailboxError {
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error(transparent)]
    Meta(#[from] MetaError),
    #[error("mailbox: {0}")]
    Io(#[from] io::Error),
}

/// What a runtime, or its agent, says at the mailbox.
#[derive(Debug)]
pub(crate) enum MailboxWord {
    /// What the function has written.
    Output(Lines),
    /// Its answer.
    Answer(MailboxAnswer),
    /// It waits for an event.
    Waits,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct MailboxAnswer {
    /// Whether the body is an error's.
    pub(crate) failed: bool,
    pub(crate) meta: AnswerMeta,
    pub(crate) body: Bytes,
    /// The most memory that the agent has seen the function have, in bytes.
    pub(crate) peak_bytes: u64,
    /// Whether whoever gave it waits for the next event; if not, it will say so.
    pub(crate) waits: bool,
}

/// The stream, and what has come of it and was not told.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(super) stream: Stream,
    output: LogBuffer,
    /// An answer whose output is told first.
    answer: Option<MailboxAnswer>,
}

impl Mailbox {
    /// The mailbox behind `socket`. Must be called within a runtime, which watches it from then on.
    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
        Ok(Self {
            stream: Stream::new(socket)?,
            output: LogBuffer::default(),
            answer: None,
        })
    }

    /// Gives an event to a runtime that waits. Headers have [`MAX_META`] bytes at most.
    pub(crate) fn give(&mut self, headers: &str, event: Bytes) -> io::Result<()> {
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

    /// Sends a runtime that waits to its agent.
    pub(crate) fn release(&mut self) -> io::Result<()> {
        let head = Head::bare(What::Agent).encode();
        self.stream.queue(Bytes::copy_from_slice(&head));
        self.stream.flush()
    }

    /// What has come whole.
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
                // Part of a line alone is nothing to hand out. What ends it, or the answer, may be there
                // already, and then nothing more comes that would have anybody look.
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

    async fn hear(mailbox: &mut Mailbox) -> Result<MailboxWord, MailboxError> {
        loop {
            if let Some(word) = mailbox.next()? {
                return Ok(word);
            }
            mailbox.stream.go_on().await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_answer_comes_out_whole_however_it_was_cut_and_its_output_first() {
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
                match hear(&mut mailbox).await.unwrap() {
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
            let after = hear(&mut mailbox).await.unwrap();
            assert!(matches!(after, MailboxWord::Waits), "{after:?}");
            sandbox.await.unwrap();
        }
    }

    /// The answer was left lying, until the function's time was over.
    #[tokio::test]
    async fn an_answer_that_came_together_with_part_of_a_line_is_not_left_lying() {
        let bytes = [
            message(What::Output, b"one", b"", b""),
            message(What::Output, b"two", b"", b""),
            message(What::Payload, b"", META, b"body"),
        ]
        .concat();
        let (ours, mut theirs) = socket_pair();
        let mut mailbox = Mailbox::new(ours).unwrap();
        theirs.write_all(&bytes).await.unwrap();
        mailbox.stream.go_on().await.unwrap();
        let Some(MailboxWord::Output(lines)) = mailbox.next().unwrap() else {
            panic!("no output");
        };
        assert_eq!(&lines.bytes[..], b"onetwo\n");
        let answer = mailbox.next().unwrap();
        assert!(matches!(answer, Some(MailboxWord::Answer(_))), "{answer:?}");
    }

    #[tokio::test]
    async fn lengths_out_of_bounds_and_words_that_are_not_the_guests_are_errors() {
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
            assert!(hear(&mut mailbox).await.is_err());
        }
    }

    #[tokio::test]
    async fn an_event_is_written_whole_however_large_and_however_slow_its_reader() {
        for size in [0, 10, 5_000, MAX_PAYLOAD] {
            let (ours, mut theirs) = socket_pair();
            let mut mailbox = Mailbox::new(ours).unwrap();
            let event = Bytes::from(vec![b'x'; size]);
            mailbox.give("headers", event.clone()).unwrap();
            let reader = tokio::spawn(async move {
                let mut all = vec![0; HEAD + 7 + size];
                theirs.read_exact(&mut all).await.unwrap();
                all
            });
            while !mailbox.stream.is_flushed() {
                mailbox.stream.go_on().await.unwrap();
            }
            let all = reader.await.unwrap();
            let head = Head::decode(all.first_chunk().unwrap()).unwrap();
            assert_eq!((head.what, head.rest()), (What::Payload, 7 + size));
            assert_eq!(&all[HEAD..HEAD + 7], b"headers");
            assert_eq!(all[HEAD + 7..], event[..]);
        }
    }

    #[tokio::test]
    async fn headers_that_are_too_long_are_for_the_agent() {
        let (ours, _theirs) = socket_pair();
        let mut mailbox = Mailbox::new(ours).unwrap();
        let long = "x".repeat(MAX_META + 1);
        assert!(mailbox.give(&long, Bytes::new()).is_err());
    }
}
