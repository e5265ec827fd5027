//! Streamed results: the caller gets each part as the function writes it.
//!
//! Between an instance and its caller there are at most [`DEPTH`] parts: a slow caller makes the
//! instance's task wait, and with it the sandbox and the guest. If the caller is dropped, the other parts
//! are discarded, so that the function runs to its end and the instance becomes free.

use std::future::Future;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use hearth_protocol::guest::{MAX_CHUNK, MAX_PAYLOAD, MAX_STREAMED};
use serde_json::json;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::answer::Answer;
use super::dispatch::Pool;
use super::job::{Completed, Invocation, NotRun};

/// Maximum number of parts that wait for the caller.
const DEPTH: usize = 4;

/// A part of a streamed result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// The result begins. Holds the runtime's `Content-Type`.
    Start(Option<String>),
    Chunk(Bytes),
}

pub(super) type Sink = Sender<Part>;

/// The beginning of a result.
#[derive(Debug)]
pub(crate) enum Opened {
    /// The whole result, or an error before the result has begun.
    Whole(Completed),
    /// A streamed result.
    Stream {
        content_type: Option<String>,
        rest: Streamed,
    },
}

/// The rest of a streamed result. If it is dropped, the rest is discarded.
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

/// The next item of a streamed result.
#[derive(Debug)]
pub(crate) enum Next {
    Chunk(Bytes),
    /// The end of the result, and how the invocation ended.
    End(Result<Completed, NotRun>),
}

impl Pool {
    /// Runs an invocation, and returns as soon as its result begins.
    pub(crate) async fn open(&self, invocation: Invocation) -> Result<Opened, NotRun> {
        let (sink, mut parts) = mpsc::channel(DEPTH);
        let pool = self.clone();
        let mut done: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(async move { pool.submit_to(invocation, Some(sink)).await });
        let (first, finished) = tokio::select! {
            biased;
            first = parts.recv() => (first, None),
            // The start may have arrived after `parts` was polled.
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
    /// Waits for the next item. Must not be called after the end.
    pub(crate) async fn next(&mut self) -> Next {
        loop {
            match self.parts.recv().await {
                Some(Part::Chunk(bytes)) => return Next::Chunk(bytes),
                // The conversation passes on only one start.
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

/// Checks the chunks of a streamed result, and collects them for a caller that wants the whole result.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    received: u64,
    kept: BytesMut,
    too_long: bool,
}

impl Incoming {
    /// Counts a chunk. An error names the limit that it exceeds.
    pub(super) fn count(&mut self, chunk: &Bytes) -> Result<(), &'static str> {
        self.received += chunk.len() as u64;
        if chunk.len() > MAX_CHUNK {
            return Err("a chunk above the limit");
        }
        if self.received > MAX_STREAMED {
            return Err("more bytes than a result may have");
        }
        Ok(())
    }

    /// Collects a chunk, unless all chunks together are larger than a payload may be.
    pub(super) fn keep(&mut self, chunk: &Bytes) {
        if self.too_long || self.kept.len() + chunk.len() > MAX_PAYLOAD {
            self.too_long = true;
            self.kept = BytesMut::new();
        } else {
            self.kept.extend_from_slice(chunk);
        }
    }

    /// The whole result.
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
    fn a_result_is_collected_up_to_the_limit_of_a_payload() {
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
    fn chunks_beyond_the_limit_of_a_result_are_errors() {
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
