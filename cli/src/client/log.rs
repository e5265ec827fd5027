//! Hearth's own API: the logs of functions, page by page or as a stream.

use std::io::{BufRead, BufReader, Read};

use serde::{Deserialize, Serialize};
use ureq::http::{Method, Request};
use ureq::{Body, BodyReader};

use super::function::percent_encode;
use super::{Client, ClientError};
use crate::function_name::{FunctionName, FunctionRef};

/// Longest line of a stream of events, in bytes: a record has at most six times 256 KiB.
const MAX_LINE: u64 = 4 << 20;

/// One record of a function's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogRecord {
    /// Grows from record to record of the function.
    pub(crate) seq: u64,
    /// RFC 3339, UTC.
    pub(crate) time: String,
    /// `$LATEST` or a number.
    pub(crate) version: String,
    /// The invocation that wrote it, if one did.
    pub(crate) request_id: Option<String>,
    /// `function`, or `platform` for START, END and REPORT.
    pub(crate) kind: String,
    /// Without the newline at its end.
    pub(crate) message: String,
}

/// Which records.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogQuery<'a> {
    pub(crate) function: &'a FunctionRef,
    pub(crate) since: Option<&'a str>,
    pub(crate) until: Option<&'a str>,
    pub(crate) request_id: Option<&'a str>,
    pub(crate) contains: Option<&'a str>,
}

impl<'a> LogQuery<'a> {
    /// Everything that a function wrote.
    pub(crate) fn all(function: &'a FunctionRef) -> Self {
        Self {
            function,
            since: None,
            until: None,
            request_id: None,
            contains: None,
        }
    }

    fn path(&self, which: &str, more: &[(&str, String)]) -> String {
        let name = &self.function.name;
        let mut path = format!("/hearth/v1/functions/{name}/logs{which}?");
        let qualifier = self.function.qualifier.as_deref();
        let own = [
            ("Qualifier", qualifier),
            ("since", self.since),
            ("until", self.until),
            ("request_id", self.request_id),
            ("contains", self.contains),
        ];
        let own = own
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)));
        let more = more.iter().map(|(key, value)| (*key, value.as_str()));
        for (key, value) in own.chain(more) {
            path.push_str(&format!("{key}={}&", percent_encode(value)));
        }
        path.pop();
        path
    }
}

/// Some records, oldest first.
#[derive(Debug)]
pub(crate) struct LogPage {
    pub(crate) records: Vec<LogRecord>,
    /// Whether there are more of them.
    pub(crate) more: bool,
}

impl Client {
    /// The first page after record `after`, or the newest page.
    pub(crate) fn log_page(
        &self,
        query: LogQuery<'_>,
        after: Option<u64>,
    ) -> Result<LogPage, ClientError> {
        let mut more = vec![("limit", "10000".to_owned())];
        more.extend(after.map(|after| ("after", after.to_string())));
        let path = query.path("", &more);
        let response = self.call(Request::builder().method(Method::GET), &path)?;
        let header = response.headers().get("x-hearth-more");
        let more = header.is_some_and(|more| more == "true");
        let body = self.read(&path, response)?;
        let records = body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| self.parse(&path, line))
            .collect::<Result<_, _>>()?;
        Ok(LogPage { records, more })
    }

    /// The number of a function's newest record, if it has any.
    pub(crate) fn newest_record(&self, name: &FunctionName) -> Option<u64> {
        let function = FunctionRef {
            name: name.clone(),
            qualifier: None,
            arn: None,
        };
        let path = LogQuery::all(&function).path("", &[("limit", "1".to_owned())]);
        let body = self.bytes(Method::GET, &path, b"").ok()?;
        let record: LogRecord = self.parse(&path, body.trim_ascii()).ok()?;
        Some(record.seq)
    }

    /// Follows a log from behind record `after` on.
    pub(crate) fn follow_log(
        &self,
        query: LogQuery<'_>,
        after: u64,
    ) -> Result<LogStream, ClientError> {
        let path = query.path("/follow", &[]);
        let request = Request::builder()
            .method(Method::GET)
            .header("accept", "text/event-stream")
            .header("last-event-id", after);
        let body = self.stream(request, &path)?.into_body();
        Ok(LogStream::new(body))
    }
}

/// What comes while a log is followed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LogNews {
    Record(LogRecord),
    /// Records may be missing here.
    Gap,
}

/// Events as they come.
#[derive(Debug)]
pub(crate) struct LogStream<R = BodyReader<'static>> {
    lines: BufReader<R>,
}

impl LogStream {
    fn new(body: Body) -> Self {
        Self {
            lines: BufReader::new(body.into_with_config().limit(u64::MAX).reader()),
        }
    }
}

impl<R: Read> LogStream<R> {
    /// The next event; `None` when the stream has ended, well or not.
    pub(crate) fn next(&mut self) -> Option<LogNews> {
        let mut gap = false;
        loop {
            let mut line = Vec::new();
            let read = (&mut self.lines)
                .take(MAX_LINE)
                .read_until(b'\n', &mut line);
            if !read.is_ok_and(|_| line.pop() == Some(b'\n')) {
                return None;
            }
            if let Some(data) = line.strip_prefix(b"data: ") {
                if gap {
                    return Some(LogNews::Gap);
                }
                // Other events are of a newer version: they are skipped.
                if let Ok(record) = serde_json::from_slice(data) {
                    return Some(LogNews::Record(record));
                }
            }
            gap = line == b"event: gap";
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_a_path_that_nothing_in_it_can_break_out_of() {
        let function = "f:live".parse().unwrap();
        let query = LogQuery {
            function: &function,
            since: Some("2h"),
            until: None,
            request_id: None,
            contains: Some("a&b=c d"),
        };
        assert_eq!(
            query.path("", &[("after", "7".into())]),
            "/hearth/v1/functions/f/logs?Qualifier=live&since=2h&contains=a%26b%3Dc%20d&after=7"
        );
    }

    #[test]
    fn events_are_read_until_the_stream_ends() {
        let record = r#"{"seq":7,"time":"t","version":"1","request_id":null,"kind":"function","message":"m"}"#;
        let text = format!(
            ": following\n\nevent: gap\ndata: {{}}\n\nid: 7\ndata: {record}\n\nid: 8\ndata: {{"
        );
        let mut stream = LogStream {
            lines: BufReader::new(text.as_bytes()),
        };
        assert_eq!(stream.next(), Some(LogNews::Gap));
        let Some(LogNews::Record(record)) = stream.next() else {
            panic!("no record");
        };
        assert_eq!((record.seq, record.message.as_str()), (7, "m"));
        assert_eq!(stream.next(), None);
    }
}
