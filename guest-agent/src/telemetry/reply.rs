//! A listener's reply to a batch. Only its head matters.

/// Maximum length of a head, in bytes.
pub(super) const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 32;

/// A reply whose head is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reply {
    /// Whether the listener has accepted the batch.
    pub(super) accepted: bool,
    /// Whether the reply has arrived completely and the connection may be used again.
    pub(super) reusable: bool,
}

/// The bytes are not an HTTP reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads a reply; `None` if its head is incomplete. Interim replies are skipped.
pub(super) fn parse(mut input: &[u8]) -> Result<Option<Reply>, Malformed> {
    loop {
        if input.len() > MAX_HEAD {
            return Err(Malformed);
        }
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Response::new(&mut headers);
        let head = match parsed.parse(input) {
            Ok(httparse::Status::Complete(head)) => head,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Malformed),
        };
        let code = parsed.code.ok_or(Malformed)?;
        let body = &input[head..];
        if (100..200).contains(&code) {
            input = body;
            continue;
        }
        let value_of = |name: &str| {
            let found = parsed
                .headers
                .iter()
                .find(|h| h.name.eq_ignore_ascii_case(name));
            found.map(|header| header.value.trim_ascii())
        };
        let len = match (code, value_of("content-length")) {
            (204 | 304, _) => Some(0),
            (_, Some(len)) => std::str::from_utf8(len)
                .ok()
                .and_then(|len| len.parse().ok()),
            (_, None) => None,
        };
        let closes = value_of("connection").is_some_and(|v| v.eq_ignore_ascii_case(b"close"));
        return Ok(Some(Reply {
            accepted: (200..300).contains(&code),
            reusable: parsed.version == Some(1) && !closes && len == Some(body.len()),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Option<(bool, bool)>, Malformed> {
        let reply = parse(text.as_bytes())?;
        Ok(reply.map(|reply| (reply.accepted, reply.reusable)))
    }

    #[test]
    fn a_connection_is_used_again_only_behind_a_whole_reply() {
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", (true, true)),
            ("HTTP/1.1 204 No Content\r\n\r\n", (true, true)),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nOK",
                (true, true),
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nO",
                (true, false),
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
                (true, false),
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", (true, false)),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
                (true, false),
            ),
            (
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                (true, false),
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n",
                (false, true),
            ),
            (
                "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
                (false, true),
            ),
        ] {
            assert_eq!(parsed(text), Ok(Some(expected)), "{text}");
        }
    }

    #[test]
    fn what_is_no_reply_is_not_waited_for_without_end() {
        assert_eq!(parsed(""), Ok(None));
        assert_eq!(parsed("HTTP/1.1 200 OK\r\nA: b"), Ok(None));
        assert_eq!(parsed("HTTP/1.1 100 Continue\r\n\r\n"), Ok(None));
        assert_eq!(parsed("hello\r\n\r\n"), Err(Malformed));
        assert_eq!(
            parsed(&"HTTP/1.1 100 C\r\n\r\n".repeat(2000)),
            Err(Malformed)
        );
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(MAX_HEAD));
        assert_eq!(parsed(&long), Err(Malformed));
    }
}
