//! The agent's connection, read by the host or by the agent, and the control channel between
//! controller and sandbox.

use bytes::{Bytes, BytesMut};
use hearth_protocol::agent::{AgentMessage, Frame, FrameDecoder, FrameError, HostMessage};
use hearth_protocol::sandbox::{Message, Request, decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::script::Script;

/// Maximum payload for the decoder here; a script is too short for the real limit.
const LIMIT: usize = 4096;

/// The first byte selects the reader, the second how the stream is cut.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let (Some(reader), Some(cut)) = (script.below(4), script.u8()) else {
        return;
    };
    let stream = &data[2..];
    match reader {
        0 => framed::<HostMessage>(stream, cut),
        1 => framed::<AgentMessage>(stream, cut),
        2 => control::<Request>(stream, cut),
        _ => control::<Message>(stream, cut),
    }
}

/// The frames until the stream ends or becomes invalid, read in pieces of `step` bytes.
fn frames(stream: &[u8], step: usize) -> (Vec<Frame>, Option<FrameError>) {
    let decoder = FrameDecoder::new(LIMIT);
    let mut buffer = BytesMut::new();
    let mut found = Vec::new();
    for piece in stream.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => found.push(frame),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
        assert!(
            buffer.capacity() < 4 * (LIMIT + 0x1_0000) + stream.len(),
            "no peer makes this side hold more than a frame"
        );
    }
    (found, None)
}

fn framed<M>(stream: &[u8], cut: u8)
where
    M: TryFrom<Frame> + Into<Frame> + Clone + PartialEq + std::fmt::Debug,
{
    let whole = frames(stream, stream.len().max(1));
    assert_eq!(frames(stream, usize::from(cut).max(1)), whole);
    for frame in whole.0 {
        assert!(frame.payload.len() <= LIMIT);
        let mut wire = BytesMut::new();
        frame.encode(&mut wire).expect("it came in a frame");
        let again = FrameDecoder::new(LIMIT).decode(&mut wire);
        assert_eq!(again, Ok(Some(frame.clone())));
        let Ok(message) = M::try_from(frame) else {
            continue;
        };
        let again: Frame = message.clone().into();
        let Ok(again) = M::try_from(again) else {
            panic!("{message:?} can be read, but not what it is written as");
        };
        assert_eq!(again, message);
    }
}

fn control<M>(stream: &[u8], cut: u8)
where
    M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let whole = messages::<M>(stream, stream.len().max(1));
    assert_eq!(messages::<M>(stream, usize::from(cut).max(1)), whole);
    for message in whole {
        let Ok(wire) = encode(&message) else {
            // The encoded form may be longer than the decoded input, because of an escape or a
            // number's form.
            continue;
        };
        let again = decode::<M>(&mut BytesMut::from(&wire[..]));
        assert_eq!(again.expect("just written"), Some(message));
    }
}

fn messages<M: DeserializeOwned>(stream: &[u8], step: usize) -> Vec<M> {
    let mut buffer = BytesMut::new();
    let mut found = Vec::new();
    for piece in stream.chunks(step) {
        buffer.extend_from_slice(&Bytes::copy_from_slice(piece));
        loop {
            match decode(&mut buffer) {
                Ok(Some(message)) => found.push(message),
                Ok(None) => break,
                Err(_) => return found,
            }
        }
    }
    found
}
