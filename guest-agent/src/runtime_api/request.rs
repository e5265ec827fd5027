//! Parses the bytes of a Runtime API connection into requests: HTTP/1.1 with `Content-Length` or
//! chunked bodies, keep-alive and pipelining.
//!
//! The client is the function's own process, hence hostile. What is kept of a request is bounded by
//! [`MAX_HEAD`] and the payload limit. A longer body is read to its end and discarded, so that a client
//! which sends everything before it reads still gets its reply.

use bytes::{Buf, Bytes, BytesMut};
use hearth_protocol::guest::{MAX_PAYLOAD, error_type};

use super::chunked::{Chunked, StreamError};

/// Maximum length of the request line with headers, in bytes. Runtimes may send an X-Ray error cause of
/// up to 1 MB as a header.
pub(crate) const MAX_HEAD: usize = 1024 * 1024 + 64 * 1024;
const MAX_HEADERS: usize = 96;
/// Maximum length of the value of an extension's header: longer than any valid one.
const MAX_EXTENSION_HEADER: usize = 256;

/// Why the bytes are not a request. The connection cannot be used after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("not an HTTP/1.1 request: {0}")]
    Malformed(httparse::Error),
    #[error("request line and headers are longer than {MAX_HEAD} bytes")]
    HeadTooLong,
    #[error("more than {MAX_HEADERS} headers")]
    TooManyHeaders,
    #[error("Content-Length is not one number")]
    ContentLength,
    #[error("Transfer-Encoding other than chunked, or beside a Content-Length")]
    TransferEncoding,
    #[error("malformed chunk")]
    Chunk,
}

/// A request's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Whole(Bytes),
    /// Longer than a payload may be. It was discarded.
    TooLong,
    /// It arrives in pieces, as [`Parsed::Piece`], and ends with [`Parsed::StreamEnd`].
    Streamed {
        /// `Content-Type`.
        content_type: Option<String>,
    },
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) keep_alive: bool,
    /// `Lambda-Runtime-Function-Error-Type`.
    pub(crate) error_type: Option<String>,
    /// The headers by which an extension identifies itself.
    pub(crate) extension: ExtensionHeaders,
    /// Set if a streamed body ended in an error: the body is then only the beginning of a result.
    pub(crate) stream_error: Option<StreamError>,
    pub(crate) body: Body,
}

/// Headers of extensions; none has more than [`MAX_EXTENSION_HEADER`] bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ExtensionHeaders {
    /// `Lambda-Extension-Name`.
    pub(crate) name: Option<String>,
    /// `Lambda-Extension-Identifier`.
    pub(crate) identifier: Option<String>,
}

/// What the bytes so far contain.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// More bytes are needed.
    Incomplete,
    /// The client waits for `100 Continue` before it sends the body.
    ExpectsContinue,
    Request(Request),
    /// A part of the body of the last request.
    Piece(Bytes),
    /// That body is complete, or its runtime reports that it will not be.
    StreamEnd(Option<StreamError>),
}

#[derive(Debug)]
struct Head {
    method: String,
    target: String,
    keep_alive: bool,
    error_type: Option<String>,
    extension: ExtensionHeaders,
    stream_error: Option<StreamError>,
    expects_continue: bool,
    /// `Lambda-Runtime-Function-Response-Mode: streaming`.
    streaming: bool,
    content_type: Option<String>,
}

impl Head {
    /// Whether this is a result that is passed on while it arrives.
    fn streams(&self) -> bool {
        self.streaming && self.method == "POST" && self.target.ends_with("/response")
    }

    fn request(self, body: Body) -> Request {
        Request {
            method: self.method,
            target: self.target,
            keep_alive: self.keep_alive,
            error_type: self.error_type,
            extension: self.extension,
            stream_error: self.stream_error,
            body,
        }
    }
}

#[derive(Debug)]
enum Stage {
    Head,
    /// `left` bytes of a body of known length are missing; the others are in the buffer.
    Length(Head, usize),
    /// `left` bytes of a body that is too long are to be discarded.
    Discard(Head, usize),
    Chunked(Head, Chunked),
    /// The request has been returned already.
    Streaming {
        chunked: Chunked,
        expects_continue: bool,
    },
}

/// One connection's parser.
#[derive(Debug)]
pub(crate) struct Parser {
    buffer: BytesMut,
    stage: Stage,
}

impl Parser {
    pub(crate) fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            stage: Stage::Head,
        }
    }

    /// Adds received bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes received and not yet part of a request.
    pub(crate) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Takes the next request from the bytes received so far.
    pub(crate) fn advance(&mut self) -> Result<Parsed, RequestError> {
        if let Stage::Head = self.stage {
            let Some(stage) = self.head()? else {
                return Ok(Parsed::Incomplete);
            };
            self.stage = stage;
            if let Some(request) = self.begin_stream() {
                return Ok(Parsed::Request(request));
            }
        }
        if let Stage::Streaming {
            chunked,
            expects_continue,
        } = &mut self.stage
        {
            let finished = chunked.advance(&mut self.buffer)?;
            let piece = chunked.take_piece();
            return Ok(if !piece.is_empty() {
                Parsed::Piece(piece)
            } else if finished {
                let error = chunked.take_error();
                self.stage = Stage::Head;
                Parsed::StreamEnd(error)
            } else if std::mem::take(expects_continue) {
                Parsed::ExpectsContinue
            } else {
                Parsed::Incomplete
            });
        }
        let finished = match &mut self.stage {
            Stage::Head | Stage::Streaming { .. } => return Ok(Parsed::Incomplete),
            Stage::Length(_, len) => (self.buffer.len() >= *len)
                .then(|| Body::Whole(self.buffer.split_to(*len).freeze())),
            Stage::Discard(_, left) => {
                let step = self.buffer.len().min(*left);
                self.buffer.advance(step);
                *left -= step;
                (*left == 0).then_some(Body::TooLong)
            }
            Stage::Chunked(head, chunked) => chunked.advance(&mut self.buffer)?.then(|| {
                head.stream_error = chunked.take_error();
                chunked.take_body()
            }),
        };
        match (finished, &mut self.stage) {
            (None, Stage::Length(head, _) | Stage::Discard(head, _) | Stage::Chunked(head, _))
                if head.expects_continue =>
            {
                head.expects_continue = false;
                Ok(Parsed::ExpectsContinue)
            }
            (None, _) => Ok(Parsed::Incomplete),
            (Some(body), _) => match std::mem::replace(&mut self.stage, Stage::Head) {
                Stage::Head | Stage::Streaming { .. } => Ok(Parsed::Incomplete),
                Stage::Length(head, _) | Stage::Discard(head, _) | Stage::Chunked(head, _) => {
                    if self.buffer.is_empty() {
                        // The body is a slice of this buffer. Kept, the buffer would keep the body's
                        // memory allocated.
                        self.buffer = BytesMut::new();
                    }
                    Ok(Parsed::Request(head.request(body)))
                }
            },
        }
    }

    /// The request whose body is about to arrive in pieces, if it is one.
    fn begin_stream(&mut self) -> Option<Request> {
        match std::mem::replace(&mut self.stage, Stage::Head) {
            Stage::Chunked(mut head, chunked) if head.streams() => {
                self.stage = Stage::Streaming {
                    chunked,
                    expects_continue: head.expects_continue,
                };
                let content_type = head.content_type.take();
                Some(head.request(Body::Streamed { content_type }))
            }
            other => {
                self.stage = other;
                None
            }
        }
    }

    fn head(&mut self) -> Result<Option<Stage>, RequestError> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        let len = match parsed.parse(&self.buffer) {
            Ok(httparse::Status::Complete(len)) if len <= MAX_HEAD => len,
            Ok(httparse::Status::Partial) if self.buffer.len() <= MAX_HEAD => return Ok(None),
            Ok(_) => return Err(RequestError::HeadTooLong),
            Err(httparse::Error::TooManyHeaders) => return Err(RequestError::TooManyHeaders),
            Err(e) => return Err(RequestError::Malformed(e)),
        };
        let mut head = Head {
            method: parsed.method.unwrap_or_default().to_owned(),
            target: parsed.path.unwrap_or_default().to_owned(),
            keep_alive: parsed.version == Some(1),
            error_type: None,
            extension: ExtensionHeaders::default(),
            stream_error: None,
            expects_continue: false,
            streaming: false,
            content_type: None,
        };
        let mut content_length = None;
        let mut chunked = false;
        for header in parsed.headers.iter() {
            let name = header.name;
            let value = header.value;
            if name.eq_ignore_ascii_case("content-length") {
                let len = content_length_of(value).ok_or(RequestError::ContentLength)?;
                if content_length
                    .replace(len)
                    .is_some_and(|other| other != len)
                {
                    return Err(RequestError::ContentLength);
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                if chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(RequestError::TransferEncoding);
                }
                chunked = true;
            } else if name.eq_ignore_ascii_case("connection") {
                if value.trim_ascii().eq_ignore_ascii_case(b"close") {
                    head.keep_alive = false;
                }
            } else if name.eq_ignore_ascii_case("expect") {
                head.expects_continue = value.trim_ascii().eq_ignore_ascii_case(b"100-continue");
            } else if name.eq_ignore_ascii_case("lambda-runtime-function-error-type") {
                head.error_type = error_type(value);
            } else if name.eq_ignore_ascii_case("lambda-runtime-function-response-mode") {
                head.streaming = value.trim_ascii().eq_ignore_ascii_case(b"streaming");
            } else if name.eq_ignore_ascii_case("content-type") {
                head.content_type = content_type(value);
            } else if name.eq_ignore_ascii_case("lambda-extension-name") {
                head.extension.name = extension_header(value);
            } else if name.eq_ignore_ascii_case("lambda-extension-identifier") {
                head.extension.identifier = extension_header(value);
            }
        }
        if chunked && content_length.is_some() {
            return Err(RequestError::TransferEncoding);
        }
        self.buffer.advance(len);
        Ok(Some(match content_length {
            _ if chunked => Stage::Chunked(head, Chunked::new()),
            Some(len) if len > MAX_PAYLOAD => Stage::Discard(head, len),
            len => {
                let len = len.unwrap_or(0);
                self.buffer.reserve(len.saturating_sub(self.buffer.len()));
                Stage::Length(head, len)
            }
        }))
    }
}

fn extension_header(value: &[u8]) -> Option<String> {
    let value = value.trim_ascii();
    let value = &value[..value.len().min(MAX_EXTENSION_HEADER)];
    Some(String::from_utf8_lossy(value).into_owned())
}

fn content_length_of(value: &[u8]) -> Option<usize> {
    let value = value.trim_ascii();
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// A content type, if it is one line of printable text and not too long.
fn content_type(value: &[u8]) -> Option<String> {
    const MAX_CONTENT_TYPE: usize = 256;
    let value = std::str::from_utf8(value.trim_ascii()).ok()?;
    let printable = value.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    (printable && !value.is_empty() && value.len() <= MAX_CONTENT_TYPE).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(parsed: Parsed) -> Request {
        match parsed {
            Parsed::Request(request) => request,
            other => panic!("{other:?}"),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Parsed, RequestError> {
        let mut parser = Parser::new();
        parser.feed(bytes);
        parser.advance()
    }

    #[test]
    fn requests_come_out_whole_however_the_bytes_arrive() {
        let wire = b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\n\r\n\
            POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nde\r\n1\r\nf\r\n0\r\n\r\n";
        let mut parser = Parser::new();
        let mut seen = vec![];
        for byte in wire {
            parser.feed(&[*byte]);
            if let Parsed::Request(r) = parser.advance().unwrap() {
                seen.push((r.target, r.body));
            }
        }
        let body = |b: &'static [u8]| Body::Whole(Bytes::from_static(b));
        assert_eq!(
            seen,
            [
                ("/a".into(), body(b"abc")),
                ("/b".into(), body(b"")),
                ("/c".into(), body(b"def"))
            ]
        );
        assert_eq!(parser.buffered(), 0);
    }

    #[test]
    fn pipelined_requests_wait_their_turn() {
        let mut parser = Parser::new();
        parser.feed(b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n");
        assert_eq!(request(parser.advance().unwrap()).target, "/a");
        assert_eq!(request(parser.advance().unwrap()).target, "/b");
        assert_eq!(parser.advance().unwrap(), Parsed::Incomplete);
    }

    #[test]
    fn a_client_that_expects_it_gets_100_continue_once() {
        let mut parser = Parser::new();
        parser.feed(b"POST / HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!(parser.advance().unwrap(), Parsed::ExpectsContinue);
        assert_eq!(parser.advance().unwrap(), Parsed::Incomplete);
        parser.feed(b"x");
        assert!(matches!(parser.advance().unwrap(), Parsed::Request(_)));
    }

    #[test]
    fn a_body_at_the_limit_is_kept_and_one_over_it_is_discarded() {
        for (len, kept) in [(MAX_PAYLOAD, true), (MAX_PAYLOAD + 1, false)] {
            let mut parser = Parser::new();
            parser.feed(format!("POST / HTTP/1.1\r\nContent-Length: {len}\r\n\r\n").as_bytes());
            let piece = vec![b'x'; 1 << 20];
            let mut left = len;
            let found = loop {
                match parser.advance().unwrap() {
                    Parsed::Request(request) => break request,
                    other => assert_eq!(other, Parsed::Incomplete),
                }
                let step = left.min(piece.len());
                parser.feed(&piece[..step]);
                left -= step;
            };
            match found.body {
                Body::Whole(body) => assert!(kept && body.len() == len),
                Body::TooLong => assert!(!kept),
                Body::Streamed { .. } => panic!("nobody asked for it"),
            }
        }
    }

    #[test]
    fn a_chunked_body_over_the_limit_holds_no_memory() {
        let mut parser = Parser::new();
        parser.feed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..8 {
            parser.feed(b"100000\r\n");
            parser.feed(&piece);
            parser.feed(b"\r\n");
            assert_eq!(parser.advance().unwrap(), Parsed::Incomplete);
            assert_eq!(parser.buffered(), 0);
        }
        parser.feed(b"0\r\n\r\n");
        assert_eq!(request(parser.advance().unwrap()).body, Body::TooLong);
    }

    #[test]
    fn an_error_in_the_trailer_replaces_the_body() {
        let request = request(
            parse(
                b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\
                Lambda-Runtime-Function-Error-Type: Runtime.Broken\r\n\
                Lambda-Runtime-Function-Error-Body: eyJhIjoxfQ==\r\n\r\n",
            )
            .unwrap(),
        );
        assert_eq!(
            request.stream_error,
            Some(StreamError {
                error_type: Some("Runtime.Broken".into()),
                body: Bytes::from_static(b"{\"a\":1}"),
            })
        );
    }

    #[test]
    fn a_streamed_body_is_handed_on_as_it_comes_and_not_held() {
        let mut parser = Parser::new();
        parser.feed(
            b"POST /2018-06-01/runtime/invocation/1/response HTTP/1.1\r\n\
            Transfer-Encoding: chunked\r\nContent-Type: text/x\r\n\
            Lambda-Runtime-Function-Response-Mode: Streaming\r\n\r\n2\r\nab\r\n3\r\nc",
        );
        let content_type = Some("text/x".to_owned());
        assert_eq!(
            request(parser.advance().unwrap()).body,
            Body::Streamed { content_type }
        );
        let piece = |bytes: &'static [u8]| Parsed::Piece(Bytes::from_static(bytes));
        assert_eq!(parser.advance().unwrap(), piece(b"abc"));
        assert_eq!(parser.advance().unwrap(), Parsed::Incomplete);
        assert_eq!(parser.buffered(), 0);
        parser.feed(b"de\r\n0\r\nLambda-Runtime-Function-Error-Type: Runtime.Broken\r\n\r\nGET ");
        assert_eq!(parser.advance().unwrap(), piece(b"de"));
        assert!(
            matches!(parser.advance().unwrap(), Parsed::StreamEnd(Some(error))
                if error.error_type.as_deref() == Some("Runtime.Broken"))
        );
        parser.feed(b"/next HTTP/1.1\r\n\r\n");
        assert_eq!(request(parser.advance().unwrap()).target, "/next");
    }

    #[test]
    fn only_results_are_streamed() {
        let mut parser = Parser::new();
        parser.feed(
            b"POST /2018-06-01/runtime/init/error HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\
            Lambda-Runtime-Function-Response-Mode: streaming\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        );
        let body = Body::Whole(Bytes::from_static(b"x"));
        assert_eq!(request(parser.advance().unwrap()).body, body);
    }

    #[test]
    fn lengths_that_two_readers_could_read_differently_are_refused() {
        for (head, error) in [
            (
                "Content-Length: 1\r\nContent-Length: 2",
                RequestError::ContentLength,
            ),
            ("Content-Length: +1", RequestError::ContentLength),
            ("Content-Length: 1, 1", RequestError::ContentLength),
            (
                "Content-Length: 99999999999999999999",
                RequestError::ContentLength,
            ),
            (
                "Content-Length: 1\r\nTransfer-Encoding: chunked",
                RequestError::TransferEncoding,
            ),
            (
                "Transfer-Encoding: gzip, chunked",
                RequestError::TransferEncoding,
            ),
        ] {
            let wire = format!("POST / HTTP/1.1\r\n{head}\r\n\r\n");
            assert_eq!(parse(wire.as_bytes()), Err(error), "{head}");
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for chunks in ["x\r\n", "\r\n", "-1\r\n", "123456789\r\n", "1\r\nab\r\n"] {
            let wire = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
            assert_eq!(
                parse(wire.as_bytes()),
                Err(RequestError::Chunk),
                "{chunks:?}"
            );
        }
    }

    #[test]
    fn heads_are_bounded() {
        let mut parser = Parser::new();
        parser.feed(b"GET / HTTP/1.1\r\nX: ");
        parser.feed(&vec![b'x'; MAX_HEAD]);
        assert_eq!(parser.advance(), Err(RequestError::HeadTooLong));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(97));
        assert_eq!(parse(many.as_bytes()), Err(RequestError::TooManyHeaders));
        assert!(matches!(
            parse(b"\x16\x03\x01 hello\r\n\r\n"),
            Err(RequestError::Malformed(_))
        ));
    }

    #[test]
    fn connections_close_when_the_client_says_so_or_speaks_http_1_0() {
        for (wire, keep) in [
            ("GET / HTTP/1.1\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
        ] {
            assert_eq!(request(parse(wire.as_bytes()).unwrap()).keep_alive, keep);
        }
    }
}
