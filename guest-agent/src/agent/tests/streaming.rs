//! Streamed results, seen from the runtime and from the host.

use hearth_protocol::agent::ResponseEnd;
use hearth_protocol::guest::{MAX_CHUNK, MAX_STREAMED};

use super::*;

impl Runtime {
    /// Begins to stream a result.
    fn begin(&mut self, request_id: &str) {
        let head = format!(
            "POST /2018-06-01/runtime/invocation/{request_id}/response HTTP/1.1\r\nHost: x\r\n\
             Transfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\
             Lambda-Runtime-Function-Response-Mode: streaming\r\n\r\n"
        );
        self.0.write_all(head.as_bytes()).unwrap();
    }

    fn chunk(&mut self, bytes: &[u8]) {
        let head = format!("{:x}\r\n", bytes.len());
        self.0.write_all(head.as_bytes()).unwrap();
        self.0.write_all(bytes).unwrap();
        self.0.write_all(b"\r\n").unwrap();
    }

    fn end(&mut self, trailer: &str) -> String {
        let end = format!("0\r\n{trailer}\r\n");
        self.0.write_all(end.as_bytes()).unwrap();
        self.reply()
    }
}

impl Guest {
    fn hear_start(&mut self) -> Option<String> {
        match self.hear() {
            AgentMessage::ResponseStart(start) => {
                assert_eq!(start.request_id, "1");
                start.content_type
            }
            other => panic!("{other:?}"),
        }
    }

    fn hear_chunk(&mut self) -> Bytes {
        match self.hear() {
            AgentMessage::ResponseChunk(bytes) => bytes,
            other => panic!("{other:?}"),
        }
    }

    fn hear_end(&mut self) -> (ResponseEnd, Bytes) {
        match self.hear() {
            AgentMessage::ResponseEnd(end, body) => (end, body),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_streamed_result_reaches_the_host_as_it_is_written() {
    let (mut guest, mut runtime) = Guest::running();
    runtime.begin("1");
    assert_eq!(guest.hear_start().as_deref(), Some("text/event-stream"));
    // The host receives each piece before the runtime writes the next.
    for piece in [&b"one"[..], b"two"] {
        runtime.chunk(piece);
        assert_eq!(guest.hear_chunk(), piece);
    }
    assert!(runtime.end("").starts_with("HTTP/1.1 202 "));
    let (end, body) = guest.hear_end();
    assert_eq!((end.request_id.as_str(), end.error_type), ("1", None));
    assert_eq!((end.usage.max_memory_bytes, &body[..]), (4096, &b""[..]));
    runtime.get("/2018-06-01/runtime/invocation/next");
    assert!(matches!(guest.hear(), AgentMessage::Ready(_)));
    guest.finish();
}

#[test]
fn a_failure_half_way_is_reported_as_the_runtime_describes_it() {
    let (mut guest, mut runtime) = Guest::running();
    runtime.begin("1");
    guest.hear_start();
    runtime.chunk(b"half");
    assert_eq!(guest.hear_chunk(), &b"half"[..]);
    let reply = runtime.end(
        "Lambda-Runtime-Function-Error-Type: Function.Broken\r\n\
         Lambda-Runtime-Function-Error-Body: eyJhIjoxfQ==\r\n",
    );
    assert!(reply.starts_with("HTTP/1.1 202 "));
    let (end, body) = guest.hear_end();
    assert_eq!(end.error_type.as_deref(), Some("Function.Broken"));
    assert_eq!(body, "{\"a\":1}");
    guest.finish();
}

#[test]
fn a_host_that_does_not_read_makes_the_function_wait() {
    let (mut guest, mut runtime) = Guest::running();
    runtime.begin("1");
    guest.hear_start();
    let piece = vec![b'x'; 1 << 20];
    let total = 64 * piece.len();
    // While the host does not read, the runtime can write what fits into the two sockets' buffers only.
    runtime.0.set_nonblocking(true).unwrap();
    let mut written = 0;
    let mut refused = 0;
    let head = format!("{total:x}\r\n");
    runtime.0.write_all(head.as_bytes()).unwrap();
    while refused < 20 && written < total {
        match runtime.0.write(&piece[..piece.len().min(total - written)]) {
            Ok(count) => (written, refused) = (written + count, 0),
            Err(_) => {
                refused += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    assert!(written < total / 2, "{written} bytes went somewhere");
    // All of it arrives once the host reads.
    runtime.0.set_nonblocking(false).unwrap();
    let writer = std::thread::spawn(move || {
        let rest = vec![b'x'; total - written];
        runtime.0.write_all(&rest).unwrap();
        runtime.0.write_all(b"\r\n").unwrap();
        runtime.end("")
    });
    let mut received = 0;
    let end = loop {
        match guest.hear() {
            AgentMessage::ResponseChunk(bytes) => {
                assert!(bytes.len() <= MAX_CHUNK);
                received += bytes.len();
            }
            AgentMessage::ResponseEnd(end, _) => break end,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((received, end.error_type), (total, None));
    assert!(writer.join().unwrap().starts_with("HTTP/1.1 202 "));
    guest.finish();
}

#[test]
fn a_stream_ends_at_lambdas_limit() {
    let (mut guest, mut runtime) = Guest::running();
    runtime.begin("1");
    guest.hear_start();
    let writer = std::thread::spawn(move || {
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..=MAX_STREAMED >> 20 {
            runtime.chunk(&piece);
        }
        runtime.end("")
    });
    let mut received = 0;
    let (end, body) = loop {
        match guest.hear() {
            AgentMessage::ResponseChunk(bytes) => received += bytes.len() as u64,
            AgentMessage::ResponseEnd(end, body) => break (end, body),
            other => panic!("{other:?}"),
        }
    };
    assert!(received <= MAX_STREAMED, "{received}");
    let kind = "Function.ResponseSizeTooLarge";
    assert_eq!(end.error_type.as_deref(), Some(kind));
    assert!(String::from_utf8_lossy(&body).contains("(209715200 bytes)"));
    assert!(writer.join().unwrap().starts_with("HTTP/1.1 413 "));
    guest.finish();
}

#[test]
fn a_connection_that_ends_half_way_is_a_truncated_response() {
    let (mut guest, mut runtime) = Guest::running();
    runtime.begin("1");
    guest.hear_start();
    runtime.chunk(b"half");
    guest.hear_chunk();
    drop(runtime);
    let (end, _) = guest.hear_end();
    let kind = "Runtime.TruncatedResponse";
    assert_eq!(end.error_type.as_deref(), Some(kind));
    let mut again = guest.connect();
    again.get("/2018-06-01/runtime/invocation/next");
    assert!(matches!(guest.hear(), AgentMessage::Ready(_)));
    guest.finish();
}

#[test]
fn malformed_chunks_are_a_truncated_response() {
    let (mut guest, mut runtime) = Guest::running();
    runtime.begin("1");
    guest.hear_start();
    runtime.0.write_all(b"zz\r\n").unwrap();
    assert!(runtime.reply().starts_with("HTTP/1.1 400 "));
    let (end, _) = guest.hear_end();
    let kind = "Runtime.TruncatedResponse";
    assert_eq!(end.error_type.as_deref(), Some(kind));
    guest.finish();
}

#[test]
fn nothing_else_answers_while_a_result_is_streamed() {
    let (mut guest, mut runtime) = Guest::running();
    runtime.begin("1");
    guest.hear_start();
    let mut other = guest.connect();
    assert!(other.respond("1", b"second").starts_with("HTTP/1.1 403 "));
    other.begin("1");
    other.chunk(b"third");
    assert!(other.end("").starts_with("HTTP/1.1 403 "));
    other.begin("2");
    other.chunk(b"foreign");
    assert!(other.end("").starts_with("HTTP/1.1 400 "));
    runtime.chunk(b"own");
    assert_eq!(guest.hear_chunk(), &b"own"[..]);
    runtime.end("");
    guest.hear_end();
    assert!(runtime.respond("1", b"late").starts_with("HTTP/1.1 403 "));
    guest.finish();
}
