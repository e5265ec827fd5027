//! Streamed results: the caller gets each part as the function writes it.
//!
//! Between an instance and its caller there are at most [`DEPTH`] parts: a slow caller makes the
//! instance's task wait, and with it the sandbox and the guest. If the caller is dropped, the other parts
//! are discarded, so that the function runs to its end and the instance becomes free.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use tokio::sync::mpsc::{self, Receiver};

use super::dispatch::Pool;
use super::job::{Completed, Invocation, NotRun};
use super::parts::Part;

/// Maximum number of parts that wait for the caller.
const DEPTH: usize = 4;

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
