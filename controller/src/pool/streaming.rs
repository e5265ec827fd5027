//! Results that come in pieces, on their way to a caller that takes them as they come.
//!
//! Between an instance and its caller there are never more than [`DEPTH`] pieces: a caller that is
//! slow makes the instance wait, and with it the sandbox and the guest. When the caller is gone,
//! what still comes is thrown away, so that the function gets to its end and the instance is free.

use std::future::Future;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use hearth_protocol::guest::{MAX_CHUNK, MAX_PAYLOAD, MAX_STREAMED};
use serde_json::json;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::answer::Answer;
use super::dispatch::Pool;
use super::job::{Completed, Invocation, NotRun};

/// Pieces that may wait for the caller.
const DEPTH: usize = 4;

/// A piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// The function has begun to answer. The runtime's `Content-Type` of it.
    Start(Option<String>),
    Chunk(Bytes),
}

pub(super) type Sink = Sender<Part>;

/// How a result comes.
#[derive(Debug)]
pub(crate) enum Opened {
    /// All at once, or it failed before there was any of it.
    Whole(Completed),
    /// In pieces.
    Stream {
        content_type: Option<String>,
        rest: Streamed,
    },
}

/// What is still to come of a result. Dropping it gives it up.
pub(crate) struct Streamed {
    parts: Receiver<Part>,
    done: Pin<Box<dyn Future<Output = Result<Completed, NotRun>> + Send>>,
    finished: Option<Result<Completed, NotRun>>,
}

impl std::fmt::Debug for Streamed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streamed").finish_non_exhaustive()
    }
}

/// The next of a streamed result.
#[derive(Debug)]
pub(crate) enum Next {
    Chunk(Bytes),
    /// There is no more; how it ended.
    End(Result<Completed, NotRun>),
}

impl Pool {
    /// Runs an invocation and answers as soon as its result has begun to come.
    pub(crate) async fn open(&self, invocation: Invocation) -> Result<Opened, NotRun> {
        let (sink, mut parts) = mpsc::channel(DEPTH);
        let pool = self.clone();
        let mut done: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(async move { pool.submit_to(invocation, Some(sink)).await });
        let (first, finished) = tokio::select! {
            biased;
            first = parts.recv() => (first, None),
            // The start may have come between the two looks.
            finished = &mut done => (parts.try_recv().ok(), Some(finished)),
        };
        let completed = match (first, finished) {
            (Some(Part::Start(content_type)), finished) => {
                let rest = Streamed {
                    parts,
                    done,
                    finished,
                };
                return Ok(Opened::Stream { content_type, rest });
            }
            (Some(Part::Chunk(_)) | None, Some(finished)) => finished,
            (Some(Part::Chunk(_)) | None, None) => done.await,
        };
        completed.map(Opened::Whole)
    }
}

impl Streamed {
    /// Waits for more. Not to be called after the end.
    pub(crate) async fn next(&mut self) -> Next {
        loop {
            match self.parts.recv().await {
                Some(Part::Chunk(bytes)) => return Next::Chunk(bytes),
                // A conversation lets only one through.
                Some(Part::Start(_)) => {}
                None => break,
            }
        }
        match self.finished.take() {
            Some(finished) => Next::End(finished),
            None => Next::End(self.done.as_mut().await),
        }
    }
}

/// What a guest has said of a result that it streams, and what of it is kept for a caller that wants
/// it whole.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    received: u64,
    kept: BytesMut,
    too_long: bool,
}

impl Incoming {
    /// Counts a chunk; an error says which rule it breaks.
    pub(super) fn count(&mut self, chunk: &Bytes) -> Result<(), &'static str> {
        self.received += chunk.len() as u64;
        if chunk.len() > MAX_CHUNK {
            return Err("a chunk above the limit");
        }
        if self.received > MAX_STREAMED {
            return Err("more than a result may have");
        }
        Ok(())
    }

    /// Keeps a chunk, unless all of them together are more than a payload may be.
    pub(super) fn keep(&mut self, chunk: &Bytes) {
        if self.too_long || self.kept.len() + chunk.len() > MAX_PAYLOAD {
            self.too_long = true;
            self.kept = BytesMut::new();
        } else {
            self.kept.extend_from_slice(chunk);
        }
    }

    /// The result as one.
    pub(super) fn whole(&mut self) -> Answer {
        if !self.too_long {
            return Answer::Response(std::mem::take(&mut self.kept).freeze());
        }
        let kind = "Function.ResponseSizeTooLarge";
        let message = format!(
            "Response payload size exceeded maximum allowed payload size ({MAX_PAYLOAD} bytes)."
        );
        Answer::FunctionError {
            body: json!({ "errorType": kind, "errorMessage": message })
                .to_string()
                .into(),
            kind: Some(kind.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_is_to_be_whole_is_kept_up_to_a_payloads_limit() {
        let mut incoming = Incoming::default();
        let chunk = Bytes::from(vec![b'x'; MAX_CHUNK]);
        let fit = MAX_PAYLOAD / MAX_CHUNK;
        for _ in 0..fit {
            incoming.keep(&chunk);
        }
        incoming.keep(&chunk.slice(..MAX_PAYLOAD - fit * MAX_CHUNK));
        assert!(matches!(incoming.whole(), Answer::Response(body) if body.len() == MAX_PAYLOAD));
        for _ in 0..=fit {
            incoming.keep(&chunk);
        }
        incoming.keep(&chunk.slice(..1));
        assert_eq!(incoming.kept.len(), 0);
        assert!(
            matches!(incoming.whole(), Answer::FunctionError { kind: Some(kind), .. }
                if kind == "Function.ResponseSizeTooLarge")
        );
    }

    #[test]
    fn a_guest_may_not_send_more_than_a_result_may_have() {
        let mut incoming = Incoming::default();
        let chunk = Bytes::from(vec![0; MAX_CHUNK]);
        for _ in 0..MAX_STREAMED / MAX_CHUNK as u64 {
            incoming.count(&chunk).unwrap();
        }
        assert!(incoming.count(&chunk.slice(..1)).is_err());
        let large = Bytes::from(vec![0; MAX_CHUNK + 1]);
        assert!(Incoming::default().count(&large).is_err());
    }
}
