//! A log record, and the filters of readers.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Maximum number of records on a page, and the default.
pub(crate) const MAX_PAGE: usize = 10_000;
pub(crate) const PAGE: usize = 1000;
/// Maximum size of a page, in bytes as stored. A page has at least one record, of any size.
pub(crate) const MAX_PAGE_BYTES: usize = 4 << 20;

/// The source of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// The function's output.
    Function,
    /// Platform events: `START`, `END`, `REPORT` and others.
    Platform,
}

/// One record, as it is stored and as the API returns it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Increases from record to record of a function, also over restarts. At least the record's time in
    /// microseconds since 1970.
    pub(crate) seq: u64,
    /// RFC 3339, UTC.
    pub(crate) time: String,
    /// `$LATEST` or a number.
    #[serde(default)]
    pub(crate) version: String,
    pub(crate) request_id: Option<String>,
    pub(crate) kind: Kind,
    pub(crate) message: String,
}

/// Selects records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Records from this time on.
    pub(crate) since: Option<SystemTime>,
    /// Records before this time.
    pub(crate) until: Option<SystemTime>,
    pub(crate) version: Option<String>,
    pub(crate) request_id: Option<String>,
    /// Records whose message contains this text. Case matters.
    pub(crate) contains: Option<String>,
}

/// Selects a page of records.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) filter: Filter,
    /// The first records with a greater number. Without it, the last records.
    pub(crate) after: Option<u64>,
    /// Only records with a smaller number.
    pub(crate) before: Option<u64>,
    pub(crate) limit: usize,
}

impl Filter {
    pub(crate) fn lets_through(&self, record: &Record) -> bool {
        let is = |wanted: &Option<String>, has: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| has == Some(wanted))
        };
        is(&self.version, Some(&record.version))
            && is(&self.request_id, record.request_id.as_deref())
            && self
                .contains
                .as_ref()
                .is_none_or(|text| record.message.contains(text))
            && self.in_time(record)
    }

    fn in_time(&self, record: &Record) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        let Ok(time) = OffsetDateTime::parse(&record.time, &Rfc3339) else {
            return false;
        };
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }

    /// The smallest number that a record in this time range can have.
    pub(super) fn least_seq(&self) -> u64 {
        self.since.map_or(0, micros)
    }
}

/// Largest number of a record: a time in the year 2255. A greater one was not written by a controller: its
/// file is damaged, and numbers after it would overflow.
pub(super) const MAX_SEQ: u64 = 1 << 53;

/// The record in a line; `None` if the line is damaged.
pub(super) fn parse(line: &[u8]) -> Option<Record> {
    let record: Record = serde_json::from_slice(line).ok()?;
    (record.seq <= MAX_SEQ).then_some(record)
}

/// Microseconds since 1970.
pub(super) fn micros(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_filter_selects_records_that_match_all_its_conditions() {
        let record = Record {
            seq: 1,
            time: "1970-01-01T00:00:10Z".into(),
            version: "3".into(),
            request_id: Some("r".into()),
            kind: Kind::Function,
            message: "all of it".into(),
        };
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let all = Filter {
            since: at(10),
            until: at(11),
            version: Some("3".into()),
            request_id: Some("r".into()),
            contains: Some("of".into()),
        };
        assert!(all.lets_through(&record) && Filter::default().lets_through(&record));
        for other in [
            Filter {
                since: at(11),
                ..all.clone()
            },
            Filter {
                until: at(10),
                ..all.clone()
            },
            Filter {
                version: Some("$LATEST".into()),
                ..all.clone()
            },
            Filter {
                request_id: Some("R".into()),
                ..all.clone()
            },
            Filter {
                contains: Some("OF".into()),
                ..all.clone()
            },
        ] {
            assert!(!other.lets_through(&record), "{other:?}");
        }
    }
}
