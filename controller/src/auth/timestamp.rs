//! The date of a signature: `20261122T080000Z`, or a `Date` header of HTTP.

use time::format_description::well_known::Rfc2822;
use time::macros::format_description;
use time::{Duration, OffsetDateTime, PrimitiveDateTime, UtcOffset};

/// A time, exact to the second, and its text as it is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Timestamp {
    pub(super) time: OffsetDateTime,
    pub(super) text: String,
}

impl Timestamp {
    pub(super) fn of(time: OffsetDateTime) -> Self {
        let time = time.to_offset(UtcOffset::UTC);
        let text = format!(
            "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
            time.year(),
            u8::from(time.month()),
            time.day(),
            time.hour(),
            time.minute(),
            time.second()
        );
        Self { time, text }
    }

    /// ISO 8601's basic form, in UTC.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let form = format_description!("[year][month][day]T[hour][minute][second]Z");
        // The parser would accept a sign and more digits in the year.
        if text.len() != 16 || !text.as_bytes()[0].is_ascii_digit() {
            return None;
        }
        let time = PrimitiveDateTime::parse(text, form).ok()?.assume_utc();
        Some(Self {
            time,
            text: text.into(),
        })
    }

    /// The same, or the format of HTTP's `Date` header.
    pub(super) fn parse_http(text: &str) -> Option<Self> {
        Self::parse(text).or_else(|| OffsetDateTime::parse(text, &Rfc2822).ok().map(Self::of))
    }

    /// `20261122`.
    pub(super) fn day(&self) -> &str {
        &self.text[..8]
    }

    /// The text of the time `by` later.
    pub(super) fn shifted(&self, by: Duration) -> String {
        self.time
            .checked_add(by)
            .map_or_else(|| self.text.clone(), |time| Self::of(time).text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_of_a_time_are_equal() {
        let basic = Timestamp::parse("20150830T123600Z").unwrap();
        for text in [
            "Sun, 30 Aug 2015 12:36:00 GMT",
            "Sun, 30 Aug 2015 12:36:00 -0000",
            "Sun, 30 Aug 2015 14:36:00 +0200",
            "20150830T123600Z",
        ] {
            assert_eq!(Timestamp::parse_http(text), Some(basic.clone()), "{text}");
        }
        assert_eq!(basic.day(), "20150830");
        assert_eq!(basic.shifted(Duration::minutes(-5)), "20150830T123100Z");
    }

    #[test]
    fn invalid_dates_are_refused() {
        for text in [
            "",
            "20150830T123600",
            "20150830T123600z",
            "2015-08-30T12:36:00Z",
            "20151330T123600Z",
            "20150830T246000Z",
            "+2015083T123600Z",
            "-0150830T123600Z",
            "2015083éT12360Z",
            "20150830T123600Z ",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text:?}");
        }
    }
}
