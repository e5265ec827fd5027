//! `hearth logs`: a function's log, oldest record first; `-f` follows it.

use std::collections::VecDeque;
use std::thread::sleep;
use std::time::Duration;

use crate::args::Logs;
use crate::client::log::{LogNews, LogQuery, LogRecord};
use crate::client::{Client, ClientError};
use crate::failure::Failure;
use crate::output::{Output, Stream, Tone};

/// Interval between two streams.
const AGAIN: Duration = Duration::from_secs(1);
/// Maximum number of attempts in a row without an answer.
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
    // With --since all records from then on, otherwise the newest page.
    let mut last = query.since.map(|_| 0);
    let tail = logs.tail.map(|tail| tail as usize);
    let mut newest = VecDeque::new();
    let mut found = false;
    loop {
        let page = client.log_page(query, last)?;
        found |= !page.records.is_empty();
        for record in &page.records {
            match tail {
                None => show(record, output)?,
                Some(tail) => keep(&mut newest, tail, record.clone()),
            }
        }
        last = page.records.last().map(|record| record.seq).or(last);
        if query.since.is_none() && tail.is_none() && page.more {
            output.note("(there are older records: --since shows them)");
        }
        if query.since.is_none() || !page.more {
            break;
        }
    }
    for record in &newest {
        show(record, output)?;
    }
    if !found && !logs.follow {
        output.note("no records");
    }
    if logs.follow {
        follow(client, query, last.unwrap_or(0), output)?;
    }
    Ok(())
}

/// Keeps the last `most` of what comes.
fn keep<T>(newest: &mut VecDeque<T>, most: usize, next: T) {
    if newest.len() == most {
        newest.pop_front();
    }
    newest.push_back(next);
}

/// Shows new records, from one stream after another.
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
            // A controller that was restarted continues the stream after `last`.
            Err(ClientError::Unreachable { .. } | ClientError::Transport { .. })
                if tries < TRIES =>
            {
                if tries == 0 {
                    output.note("connection lost, trying again");
                }
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
    let time = output.paint(Stream::Stdout, Tone::Quiet, &format!("{time}Z"));
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
    fn only_the_newest_are_kept() {
        let mut newest = VecDeque::new();
        for n in 0..5 {
            keep(&mut newest, 2, n);
        }
        assert_eq!(newest, [3, 4]);
    }

    #[test]
    fn a_line_has_its_time_to_the_millisecond() {
        let text = line(&record(1), Output::new(false));
        assert!(
            text.contains("2026-11-22T08:00:00.123Z") && text.ends_with("hello"),
            "{text}"
        );
        assert!(!text.contains("123456"));
    }
}
