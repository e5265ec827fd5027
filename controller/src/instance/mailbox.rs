//! The owner's end of a microVM's mailbox; see [`hearth_protocol::mailbox`].

use std::collections::VecDeque;
use std::io;

use bytes::{Buf, Bytes, BytesMut};
use hearth_protocol::mailbox::{AnswerMeta, HEAD, Head, HeadError, MAX_META, MetaError, What};
use hearth_protocol::output::{Lines, LogBuffer};
use tokio::io::{Interest, Ready};
use tokio::net::UnixStream;

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

/// What a runtime says at its mailbox.
#[derive(Debug)]
pub(crate) enum MailboxWord {
    /// What the function has written.
    Output(Lines),
    /// Its answer; it waits for the next event.
    Answer(MailboxAnswer),
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
}

/// The socket, and what waits on both sides of it.
#[derive(Debug)]
pub(crate) struct Mailbox {
    socket: UnixStream,
    inbox: BytesMut,
    /// Whether the sandbox may still say something.
    open: bool,
    outbound: VecDeque<Bytes>,
    output: LogBuffer,
    /// An answer whose output is told first.
    answer: Option<MailboxAnswer>,
}

impl Mailbox {
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            inbox: BytesMut::new(),
            open: true,
            outbound: VecDeque::new(),
            output: LogBuffer::default(),
            answer: None,
        }
    }

    /// Gives an event to a runtime that waits. `Ok(false)`: its headers are too long for that.
    pub(crate) fn give(&mut self, headers: &str, event: Bytes) -> io::Result<bool> {
        let (Ok(meta), Ok(body)) = (u32::try_from(headers.len()), u32::try_from(event.len()))
        else {
            return Ok(false);
        };
        if headers.len() > MAX_META {
            return Ok(false);
        }
        let head = Head {
            meta,
            body,
            ..Head::bare(What::Payload)
        };
        let mut first = BytesMut::with_capacity(HEAD + headers.len() + event.len().min(4096));
        first.extend_from_slice(&head.encode());
        first.extend_from_slice(headers.as_bytes());
        if event.len() <= 4096 {
            first.extend_from_slice(&event);
            self.outbound.push_back(first.freeze());
        } else {
            self.outbound.extend([first.freeze(), event]);
        }
        self.flush()?;
        Ok(true)
    }

    /// Sends a runtime that waits to its agent.
    pub(crate) fn release(&mut self) -> io::Result<()> {
        let head = Head::bare(What::Agent).encode();
        self.outbound.push_back(Bytes::copy_from_slice(&head));
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        while let Some(front) = self.outbound.front_mut() {
            match self.socket.try_write(front) {
                Ok(written) if written == front.len() => drop(self.outbound.pop_front()),
                Ok(written) => front.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What has come whole.
    pub(crate) fn next(&mut self) -> Result<Option<MailboxWord>, MailboxError> {
        if let Some(answer) = self.answer.take() {
            return Ok(Some(MailboxWord::Answer(answer)));
        }
        let Some(head) = self.inbox.first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let head = Head::decode(head)?;
        if self.inbox.len() < HEAD + head.rest() {
            self.inbox.reserve(HEAD + head.rest() - self.inbox.len());
            return Ok(None);
        }
        self.inbox.advance(HEAD);
        let mut part = |len: u32| self.inbox.split_to(len as usize).freeze();
        let (log, meta, body) = (part(head.log), part(head.meta), part(head.body));
        self.output.push(&log);
        let failed = match head.what {
            What::Payload => false,
            What::Error => true,
            What::Output => return Ok(self.output.take_lines().map(MailboxWord::Output)),
            What::Agent => return Err(HeadError::What(0).into()),
        };
        let answer = MailboxAnswer {
            failed,
            meta: AnswerMeta::parse(&meta)?,
            body,
            peak_bytes: u64::from(head.peak_kib) * 1024,
        };
        Ok(Some(match self.output.take_all() {
            Some(lines) => {
                self.answer = Some(answer);
                MailboxWord::Output(lines)
            }
            None => MailboxWord::Answer(answer),
        }))
    }

    /// Whether there is anything to wait for.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Waits until there is something to read, or room for what has to be written.
    pub(crate) async fn ready(&self) -> io::Result<Ready> {
        let interest = if self.outbound.is_empty() {
            Interest::READABLE
        } else {
            Interest::READABLE | Interest::WRITABLE
        };
        self.socket.ready(interest).await
    }

    /// Reads and writes as far as it goes.
    pub(crate) fn go_on(&mut self, ready: Ready) -> io::Result<()> {
        if ready.is_writable() {
            self.flush()?;
        }
        if !ready.is_readable() {
            return Ok(());
        }
        match self.socket.try_read_buf(&mut self.inbox) {
            // The process is ending; the control channel will say how.
            Ok(0) => self.open = false,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.open = false,
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hearth_protocol::guest::MAX_PAYLOAD;
    use hearth_protocol::mailbox::LOG_SIZE;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
        };
        [&head.encode()[..], log, meta, body].concat()
    }

    async fn hear(mailbox: &mut Mailbox) -> Result<MailboxWord, MailboxError> {
        loop {
            if let Some(word) = mailbox.next()? {
                return Ok(word);
            }
            let ready = mailbox.ready().await.unwrap();
            mailbox.go_on(ready).unwrap();
        }
    }

    #[tokio::test]
    async fn an_answer_comes_out_whole_however_it_was_cut_and_its_output_first() {
        let bytes = [
            message(What::Output, b"one\ntw", b"", b""),
            message(What::Error, b"o\nunfinished", META, b"body"),
        ]
        .concat();
        for step in [1, 7, 40, bytes.len()] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut mailbox = Mailbox::new(ours);
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
                }
            };
            assert_eq!(output, b"one\ntwo\nunfinished\n");
            assert!(answer.failed);
            assert_eq!(answer.meta.request_id, "7");
            assert_eq!(answer.meta.content_type.as_deref(), Some("text/plain"));
            assert_eq!((&answer.body[..], answer.peak_bytes), (&b"body"[..], 3072));
            sandbox.await.unwrap();
        }
    }

    #[tokio::test]
    async fn lengths_out_of_bounds_and_words_that_are_not_the_guests_are_errors() {
        let oversize = |log: usize, body: usize| Head {
            what: What::Payload,
            log: u32::try_from(log).unwrap(),
            meta: 0,
            body: u32::try_from(body).unwrap(),
            peak_kib: 0,
        };
        for bytes in [
            oversize(LOG_SIZE + 1, 0).encode().to_vec(),
            oversize(0, MAX_PAYLOAD + 1).encode().to_vec(),
            Head::bare(What::Agent).encode().to_vec(),
            message(What::Payload, b"", b"no header", b""),
            vec![0xff; HEAD],
        ] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut mailbox = Mailbox::new(ours);
            theirs.write_all(&bytes).await.unwrap();
            assert!(hear(&mut mailbox).await.is_err());
        }
    }

    #[tokio::test]
    async fn an_event_is_written_whole_however_large_and_however_slow_its_reader() {
        for size in [0, 10, 5_000, MAX_PAYLOAD] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut mailbox = Mailbox::new(ours);
            let event = Bytes::from(vec![b'x'; size]);
            assert!(mailbox.give("headers", event.clone()).unwrap());
            let reader = tokio::spawn(async move {
                let mut all = vec![0; HEAD + 7 + size];
                theirs.read_exact(&mut all).await.unwrap();
                all
            });
            while !mailbox.outbound.is_empty() {
                let ready = mailbox.ready().await.unwrap();
                mailbox.go_on(ready).unwrap();
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
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut mailbox = Mailbox::new(ours);
        let long = "x".repeat(MAX_META + 1);
        assert!(!mailbox.give(&long, Bytes::new()).unwrap());
    }
}
