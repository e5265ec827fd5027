//! A record as JSON, in each of the forms in which subscribers may want it.

use std::time::SystemTime;

use bytes::Bytes;
use hearth_protocol::output::Lines;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// Where a record comes from: the streams that can be subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Platform,
    Function,
    Extension,
}

impl Source {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Function => "function",
            Self::Extension => "extension",
        }
    }
}

/// The form of a subscriber's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// The Logs API's.
    Logs,
    /// The Telemetry API's, with lines as text.
    Text,
    /// The Telemetry API's. Lines that are JSON objects are objects, if the function logs in JSON.
    Structured,
}

/// A record in its forms. `None`: it does not exist in that form.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) source: Source,
    logs: Option<Bytes>,
    text: Option<Bytes>,
    structured: Option<Bytes>,
}

/// The API that reports an event of the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reporter {
    Both,
    Telemetry,
    Logs,
}

impl Record {
    /// An event of the platform.
    pub(super) fn platform(at: SystemTime, kind: &str, reporter: Reporter, record: &Value) -> Self {
        let event = json!({
            "time": timestamp(at),
            "type": format!("platform.{kind}"),
            "record": record,
        });
        let event = Bytes::from(event.to_string());
        let telemetry = (reporter != Reporter::Logs).then(|| event.clone());
        Self {
            source: Source::Platform,
            text: telemetry.clone(),
            structured: telemetry,
            logs: (reporter != Reporter::Telemetry).then_some(event),
        }
    }

    pub(super) fn of(&self, dialect: Dialect) -> Option<&Bytes> {
        match dialect {
            Dialect::Logs => self.logs.as_ref(),
            Dialect::Text => self.text.as_ref(),
            Dialect::Structured => self.structured.as_ref(),
        }
    }

    /// Length of the longest form.
    pub(super) fn len(&self) -> usize {
        let forms = [&self.logs, &self.text, &self.structured];
        forms
            .into_iter()
            .flatten()
            .map(Bytes::len)
            .max()
            .unwrap_or(0)
    }
}

/// Makes a record of each of the lines that were read together.
#[derive(Debug)]
pub(super) struct Writer {
    source: Source,
    /// Everything before the line.
    head: String,
    /// Whether a line may be a JSON object.
    json_lines: bool,
}

impl Writer {
    pub(super) fn new(source: Source, at: SystemTime, json_lines: bool) -> Self {
        Self {
            source,
            head: format!(
                "{{\"time\":\"{}\",\"type\":\"{}\",\"record\":",
                timestamp(at),
                source.name()
            ),
            json_lines: json_lines && source == Source::Function,
        }
    }

    pub(super) fn line(&self, line: &[u8]) -> Record {
        let line = String::from_utf8_lossy(line);
        let quoted = Value::from(line.as_ref()).to_string();
        let text = Bytes::from(format!("{}{quoted}}}", self.head));
        let object = self.json_lines
            && line.starts_with('{')
            && serde_json::from_str::<IgnoredAny>(&line).is_ok();
        let structured = if object {
            Bytes::from(format!("{}{line}}}", self.head))
        } else {
            text.clone()
        };
        Record {
            source: self.source,
            logs: Some(text.clone()),
            text: Some(text),
            structured: Some(structured),
        }
    }
}

/// Splits output into records: those of several lines, and every other line by itself.
pub(super) fn split(lines: &Lines) -> impl Iterator<Item = &[u8]> {
    let mut multiline = lines.multiline.iter().peekable();
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = lines.bytes.get(at..).filter(|rest| !rest.is_empty())?;
        let whole = multiline.next_if(|(offset, _)| usize::try_from(*offset) == Ok(at));
        let len = match whole {
            Some((_, len)) => usize::try_from(*len).unwrap_or(rest.len()),
            None => rest
                .iter()
                .position(|byte| *byte == b'\n')
                .unwrap_or(rest.len()),
        };
        at += len + 1;
        rest.get(..len)
    })
}

/// A time in Lambda's format: UTC, with milliseconds.
pub(super) fn timestamp(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lines(bytes: &'static [u8], multiline: Vec<(u32, u32)>) -> Lines {
        Lines {
            bytes: Bytes::from_static(bytes),
            multiline,
            dropped: 0,
        }
    }

    #[test]
    fn a_record_is_a_line_or_a_whole_frame() {
        let all = lines(b"one\n\nTraceback\n  line\nlast\n", vec![(5, 16)]);
        let found: Vec<&[u8]> = split(&all).collect();
        assert_eq!(found, [&b"one"[..], b"", b"Traceback\n  line", b"last"]);
        assert_eq!(split(&lines(b"", vec![])).count(), 0);
    }

    #[test]
    fn a_line_is_sent_as_text_whatever_bytes_it_has() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_665_532_815_064);
        let record = Writer::new(Source::Extension, at, true).line(b"{\"a\":1}\xff\x07");
        let told = record.of(Dialect::Structured).unwrap();
        let told: Value = serde_json::from_slice(told).unwrap();
        assert_eq!(
            told,
            json!({
                "time": "2022-10-12T00:00:15.064Z",
                "type": "extension",
                "record": "{\"a\":1}\u{fffd}\u{7}",
            })
        );
    }

    #[test]
    fn a_line_that_is_an_object_is_sent_as_one_where_the_schema_has_objects() {
        let writer = Writer::new(Source::Function, SystemTime::now(), true);
        let record = writer.line(b"{\"level\":\"INFO\"}");
        let of =
            |dialect| -> Value { serde_json::from_slice(record.of(dialect).unwrap()).unwrap() };
        assert_eq!(of(Dialect::Structured)["record"]["level"], "INFO");
        assert_eq!(of(Dialect::Text)["record"], "{\"level\":\"INFO\"}");
        assert_eq!(of(Dialect::Logs)["record"], "{\"level\":\"INFO\"}");
        let text = Writer::new(Source::Function, SystemTime::now(), false);
        for (writer, line) in [(&text, "{}"), (&writer, "{\"cut"), (&writer, "[]")] {
            let record = writer.line(line.as_bytes());
            let told: Value =
                serde_json::from_slice(record.of(Dialect::Structured).unwrap()).unwrap();
            assert_eq!(told["record"], line);
        }
    }

    #[test]
    fn an_event_of_one_api_does_not_reach_subscribers_of_the_other() {
        let record = |reporter| Record::platform(SystemTime::now(), "x", reporter, &json!({}));
        let heard = |reporter| {
            [Dialect::Logs, Dialect::Text, Dialect::Structured]
                .map(|dialect| record(reporter).of(dialect).is_some())
        };
        assert_eq!(heard(Reporter::Both), [true, true, true]);
        assert_eq!(heard(Reporter::Telemetry), [false, true, true]);
        assert_eq!(heard(Reporter::Logs), [true, false, false]);
    }
}
