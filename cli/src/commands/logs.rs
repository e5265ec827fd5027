//! `hearth logs`: what a function wrote, oldest first, and with `-f` whatever comes.

use std::thread::sleep;
use std::time::Duration;

use crate::args::Logs;
use crate::client::log::{LogNews, LogQuery, LogRecord};
use crate::client::{Client, ClientError};
use crate::failure::Failure;
use crate::output::{Output, Stream, Tone};

/// From the end of a stream to the next.
const AGAIN: Duration = Duration::from_secs(1);
/// Tries in a row without any answer after which it is given up.
const TRIES: u32 = 10;

/// Runs the command.
pub(crate) fn run(client: &Client, logs: &Logs, output: Output) -> Result<(), Failure> {
    let query = LogQuery {
        function: &logs.function,
        since: logs.since.as_deref(),
        until: logs.until.as_deref(),
        request_id: logs.request_id.as_deref(),
        contains: logs.contains.as_deref(),
    };
    // From a given time on everything, else what is newest.
    let mut last = query.since.map(|_| 0);
    loop {
        let page = client.log_page(query, last)?;
        for record in &page.records {
            show(record, output)?;
        }
        last = page.records.last().map(|record| record.seq).or(last);
        if query.since.is_none() && page.more {
            output.note("(there are older records: --since shows them)");
        }
        if query.since.is_none() || !page.more {
            break;
        }
    }
    if logs.follow {
        follow(client, query, last.unwrap_or(0), output)?;
    }
    Ok(())
}

/// Shows what comes, over as many streams as it takes.
fn follow(
    client: &Client,
    query: LogQuery<'_>,
    mut last: u64,
    output: Output,
) -> Result<(), Failure> {
    let mut tries = 0;
    loop {
        match client.follow_log(query, last) {
            Ok(mut stream) => {
                tries = 0;
                while let Some(news) = stream.next() {
                    match news {
                        LogNews::Record(record) => {
                            show(&record, output)?;
                            last = record.seq;
                        }
                        LogNews::Gap => output.note("(some records came too fast to be kept)"),
                    }
                }
            }
            // A controller that is started again goes on where it was.
            Err(ClientError::Unreachable { .. } | ClientError::Transport { .. })
                if tries < TRIES =>
            {
                tries += 1;
            }
            Err(error) => return Err(error.into()),
        }
        sleep(AGAIN);
    }
}

fn show(record: &LogRecord, output: Output) -> Result<(), Failure> {
    if output.json {
        output.value_line(record)?;
    } else {
        output.line(&line(record, output))?;
    }
    Ok(())
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
            version: "$LATEST".into(),
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
}
