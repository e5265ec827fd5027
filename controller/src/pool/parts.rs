//! The parts of a streamed result, on their way from an instance to its caller.

use bytes::{Bytes, BytesMut};
use hearth_protocol::guest::{MAX_CHUNK, MAX_PAYLOAD, MAX_STREAMED};
use serde_json::json;
use tokio::sync::mpsc::Sender;

use super::answer::Answer;

/// A part of a streamed result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// The result begins. Holds the runtime's `Content-Type`.
    Start(Option<String>),
    Chunk(Bytes),
}

/// The instance's end of the channel to the caller.
pub(super) type Sink = Sender<Part>;

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
