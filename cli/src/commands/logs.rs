//! `hearth logs`: what a function wrote, oldest first, and with `-f` whatever comes.

use std::thread::sleep;
use std::time::Duration;

use crate::args::Logs;
use crate::client::Client;
use crate::client::observe::LogRecord;
use crate::failure::Failure;
use crate::output::{Output, Stream, Tone};

/// How often new lines are asked for.
const POLL: Duration = Duration::from_millis(500);

/// Runs the command.
pub(crate) fn run(client: &Client, logs: &Logs, output: Output) -> Result<(), Failure> {
    let mut last = None;
    loop {
        let records = client.logs(&logs.function, last)?;
        if let Some(missed) = missed(last, &records) {
            output.note(&format!("({missed} records came too fast to be shown)"));
        }
        for record in &records {
            if output.json {
                output.value_line(record)?;
            } else {
                output.line(&line(record, output))?;
            }
        }
        last = records.last().map(|record| record.seq).or(last);
        if !logs.follow {
            return Ok(());
        }
        sleep(POLL);
    }
}

/// How many records lie between `last` and the first of `records`.
fn missed(last: Option<u64>, records: &[LogRecord]) -> Option<u64> {
    let gap = records.first()?.seq.checked_sub(last?)?.checked_sub(1)?;
    (gap > 0).then_some(gap)
}

fn line(record: &LogRecord, output: Output) -> String {
    // Seconds to thousandths are enough to read; the date and the fraction are ASCII.
    let time = record.time.get(..23).unwrap_or(&record.time);
    let time = output.paint(Stream::Stdout, Tone::Quiet, time);
    let message = output.foreign(Stream::Stdout, &record.message);
    if record.kind == "platform" {
        format!(
            "{time}  {}",
            output.paint(Stream::Stdout, Tone::Quiet, &message)
        )
    } else {
        format!("{time}  {message}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seq: u64) -> LogRecord {
        LogRecord {
            seq,
            time: "2026-11-22T08:00:00.123456Z".into(),
            request_id: None,
            kind: "function".into(),
            message: "hello".into(),
        }
    }

    #[test]
    fn a_line_has_its_time_to_the_millisecond() {
        let text = line(&record(1), Output::new(false));
        assert!(
            text.contains("2026-11-22T08:00:00.123") && text.ends_with("hello"),
            "{text}"
        );
        assert!(!text.contains("123456"));
    }

    #[test]
    fn a_gap_is_noticed_and_a_first_page_has_none() {
        assert_eq!(missed(None, &[record(5)]), None);
        assert_eq!(missed(Some(4), &[record(5)]), None);
        assert_eq!(missed(Some(4), &[record(8)]), Some(3));
        assert_eq!(missed(Some(4), &[]), None);
    }
}
