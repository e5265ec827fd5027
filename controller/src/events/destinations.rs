//! The invocation record that a destination function gets when an event is over.
//!
//! It has Lambda's members in Lambda's order. The two payloads are copied byte for byte.
//!
//! A function can be its own destination, or that of its destination. So each record counts the records
//! before it in the trace header that it carries on, and after sixteen the chain ends.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::macros::format_description;
use uuid::Uuid;

use super::config::{Destination, EventInvokeConfig};
use super::event::{Event, EventLimits, EventRequest};
use super::retry::Condition;
use super::target::Ran;
use crate::function::FunctionName;
use crate::hex::hex;

/// Largest record, in bytes: the same as for every other event.
const MAX_RECORD: usize = 1 << 20;
/// Maximum number of records in a chain, as on Lambda.
const MAX_CHAIN: u32 = 16;
/// The field of a trace header that counts them; the count is behind the last colon.
const LINEAGE: &str = "Lineage=";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext<'a> {
    request_id: &'a str,
    function_arn: &'a str,
    condition: &'a str,
    approximate_invoke_count: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResponseContext<'a> {
    status_code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    executed_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_error: Option<&'a str>,
}

/// An event that is over, and why.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending<'a> {
    pub(crate) event: &'a Event,
    /// The function's ARN, with the qualifier that the event was sent to.
    pub(crate) function_arn: &'a str,
    pub(crate) condition: Condition,
    /// The last run; `None` if the function did not run in the last attempt.
    pub(crate) ran: Option<&'a Ran>,
    pub(crate) now_ms: i64,
}

/// A record that can't be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Undeliverable {
    #[error("the record has {0} bytes, it may have {MAX_RECORD}")]
    TooLarge(usize),
    #[error("the record could not be serialized: {0}")]
    Unwritable(String),
    #[error(
        "{MAX_CHAIN} destinations one after the other were invoked for one event: it is a loop"
    )]
    Loop,
}

impl Ending<'_> {
    /// The configured destination for this condition.
    pub(crate) fn destination(self, config: &EventInvokeConfig) -> Option<&Destination> {
        match self.condition {
            Condition::Success => config.on_success.as_ref(),
            _ => config.on_failure.as_ref(),
        }
    }

    /// The event that carries the record to a destination.
    pub(crate) fn event_for(self, to: &Destination) -> Result<EventRequest, Undeliverable> {
        let trace_id = next_in_chain(self.event.request.trace_id.as_deref(), &to.function)?;
        let payload = self
            .record()
            .map_err(|error| Undeliverable::Unwritable(error.to_string()))?;
        if payload.len() > MAX_RECORD {
            return Err(Undeliverable::TooLarge(payload.len()));
        }
        Ok(EventRequest {
            request_id: Uuid::new_v4().to_string(),
            function: to.function.clone(),
            qualifier: to.qualifier.clone(),
            payload,
            trace_id: Some(trace_id),
            tenant: None,
            limits: EventLimits::default(),
        })
    }

    fn record(self) -> Result<Bytes, serde_json::Error> {
        let event = self.event;
        let request = RequestContext {
            request_id: &event.request.request_id,
            function_arn: self.function_arn,
            condition: self.condition.name(),
            approximate_invoke_count: event.runs,
        };
        let response = match (self.ran, self.condition) {
            (Some(ran), _) => Some(ResponseContext {
                status_code: 200,
                executed_version: Some(&ran.executed_version),
                function_error: ran.failed.then_some("Unhandled"),
            }),
            // There was no attempt.
            (None, Condition::ZeroReservedConcurrency) => None,
            // All attempts were throttled until the event was too old.
            (None, _) => Some(ResponseContext {
                status_code: 429,
                executed_version: None,
                function_error: None,
            }),
        };
        let mut record = BytesMut::new().writer();
        let mut put = |name: &str, value: &[u8]| {
            let out = record.get_mut();
            out.put_u8(if out.is_empty() { b'{' } else { b',' });
            out.put_slice(format!("\"{name}\":").as_bytes());
            out.put_slice(value);
        };
        put("version", b"\"1.0\"");
        put("timestamp", &serde_json::to_vec(&timestamp(self.now_ms))?);
        put("requestContext", &serde_json::to_vec(&request)?);
        put("requestPayload", &event.request.payload);
        if let Some(response) = response {
            put("responseContext", &serde_json::to_vec(&response)?);
        }
        if let Some(ran) = self.ran {
            put("responsePayload", &as_json(&ran.payload)?);
        }
        let mut record = record.into_inner();
        record.put_u8(b'}');
        Ok(record.freeze())
    }
}

/// The trace header of a record for `function` that follows an event with this one.
fn next_in_chain(trace: Option<&str>, function: &FunctionName) -> Result<String, Undeliverable> {
    let fields = trace.unwrap_or_default().split(';');
    let (lineage, mut kept): (Vec<&str>, Vec<&str>) = fields
        .filter(|field| !field.is_empty())
        .partition(|field| field.starts_with(LINEAGE));
    let before = lineage
        .iter()
        .filter_map(|field| field.rsplit(':').next()?.parse::<u32>().ok())
        .max()
        .unwrap_or(0);
    if before >= MAX_CHAIN {
        return Err(Undeliverable::Loop);
    }
    let hash = hex(&Sha256::digest(function.as_str())[..4]);
    let lineage = format!("{LINEAGE}1:{hash}:{}", before + 1);
    kept.push(&lineage);
    Ok(kept.join(";"))
}

/// A function's result as a JSON value: unchanged if it is JSON, or else as a string.
fn as_json(payload: &Bytes) -> Result<Bytes, serde_json::Error> {
    if payload.is_empty() {
        return Ok(Bytes::from_static(b"null"));
    }
    let is_json = std::str::from_utf8(payload)
        .is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    if is_json {
        return Ok(payload.clone());
    }
    serde_json::to_vec(&String::from_utf8_lossy(payload)).map(Bytes::from)
}

/// `2019-11-14T18:16:05.568Z`.
fn timestamp(ms: i64) -> String {
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .ok()
        .and_then(|at| at.format(format).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST";
    const NOW: i64 = 1_573_755_365_568;

    fn event(payload: &'static str, runs: u32) -> Event {
        Event {
            id: 1,
            accepted_ms: 0,
            runs,
            request: EventRequest {
                request_id: "r".into(),
                function: FunctionName::parse("f").unwrap(),
                qualifier: None,
                payload: payload.into(),
                trace_id: Some("Root=1".into()),
                tenant: None,
                limits: EventLimits::default(),
            },
        }
    }

    fn ran(payload: &[u8], failed: bool) -> Ran {
        Ran {
            payload: Bytes::copy_from_slice(payload),
            failed,
            executed_version: "$LATEST".into(),
        }
    }

    fn ending<'a>(event: &'a Event, condition: Condition, ran: Option<&'a Ran>) -> Ending<'a> {
        Ending {
            event,
            function_arn: ARN,
            condition,
            ran,
            now_ms: NOW,
        }
    }

    #[test]
    fn the_record_of_a_success_is_lambdas_to_the_byte() {
        let (event, ran) = (event(r#"{"b":1.0,"a":2}"#, 1), ran(b"[ 3 ]", false));
        let record = ending(&event, Condition::Success, Some(&ran))
            .record()
            .unwrap();
        assert_eq!(
            record,
            format!(
                r#"{{"version":"1.0","timestamp":"2019-11-14T18:16:05.568Z","requestContext":{{"requestId":"r","functionArn":"{ARN}","condition":"Success","approximateInvokeCount":1}},"requestPayload":{{"b":1.0,"a":2}},"responseContext":{{"statusCode":200,"executedVersion":"$LATEST"}},"responsePayload":[ 3 ]}}"#
            )
        );
    }

    #[test]
    fn a_failure_has_the_functions_error_and_one_that_never_ran_has_none() {
        let record = |condition, ran: Option<&Ran>, runs| -> serde_json::Value {
            let event = event("{}", runs);
            serde_json::from_slice(&ending(&event, condition, ran).record().unwrap()).unwrap()
        };
        let error = ran(br#"{"errorType":"E"}"#, true);
        let exhausted = record(Condition::RetriesExhausted, Some(&error), 3);
        assert_eq!(
            exhausted["requestContext"],
            json!({"requestId": "r", "functionArn": ARN, "condition": "RetriesExhausted",
                   "approximateInvokeCount": 3})
        );
        assert_eq!(
            exhausted["responseContext"],
            json!({"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"})
        );
        assert_eq!(exhausted["responsePayload"], json!({"errorType": "E"}));
        let old = record(Condition::EventAgeExceeded, None, 0);
        assert_eq!(old["requestContext"]["condition"], "EventAgeExceeded");
        assert_eq!(old["requestContext"]["approximateInvokeCount"], 0);
        assert_eq!(old["responseContext"], json!({"statusCode": 429}));
        assert_eq!(old.get("responsePayload"), None);
        let unwanted = record(Condition::ZeroReservedConcurrency, None, 0);
        assert_eq!(unwanted.get("responseContext"), None);
        assert_eq!(unwanted["requestPayload"], json!({}));
    }

    #[test]
    fn a_result_that_is_no_json_becomes_a_string_and_an_empty_one_null() {
        for (payload, expected) in [
            (&b"plain"[..], json!("plain")),
            (b"{\"a\":1} x", json!("{\"a\":1} x")),
            (b"\xff", json!("\u{fffd}")),
            (b"", json!(null)),
        ] {
            let (event, ran) = (event("{}", 1), ran(payload, false));
            let record = ending(&event, Condition::Success, Some(&ran))
                .record()
                .unwrap();
            let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
            assert_eq!(record["responsePayload"], expected);
        }
    }

    #[test]
    fn the_record_goes_to_the_configured_destination_if_it_is_not_too_large() {
        let to = |name: &str| Destination {
            arn: name.into(),
            function: FunctionName::parse(name).unwrap(),
            qualifier: Some("live".into()),
        };
        let config = EventInvokeConfig {
            on_success: Some(to("good")),
            on_failure: Some(to("bad")),
            ..EventInvokeConfig::default()
        };
        let (event, answer) = (event("{}", 1), ran(b"1", false));
        for (condition, name) in [
            (Condition::Success, "good"),
            (Condition::RetriesExhausted, "bad"),
            (Condition::EventAgeExceeded, "bad"),
        ] {
            let ending = ending(&event, condition, Some(&answer));
            let to = ending.destination(&config).unwrap();
            let sent = ending.event_for(to).unwrap();
            assert_eq!(sent.function.as_str(), name);
            assert_eq!(sent.qualifier.as_deref(), Some("live"));
            assert_ne!(sent.request_id, event.request.request_id);
            let trace = sent.trace_id.unwrap();
            assert!(
                trace.starts_with("Root=1;Lineage=1:") && trace.ends_with(":1"),
                "{trace}"
            );
        }
        let large = ran(
            &[vec![b'"'], vec![b'a'; MAX_RECORD], vec![b'"']].concat(),
            false,
        );
        let ending = ending(&event, Condition::Success, Some(&large));
        assert!(matches!(
            ending.event_for(&to("good")),
            Err(Undeliverable::TooLarge(_))
        ));
    }

    /// A function that was its own destination ran for ever.
    #[test]
    fn a_loop_of_destinations_ends_after_sixteen() {
        let to = Destination {
            arn: "f".into(),
            function: FunctionName::parse("f").unwrap(),
            qualifier: None,
        };
        let (mut event, answer) = (event("{}", 1), ran(b"1", false));
        let mut sent = 0;
        let ended = loop {
            match ending(&event, Condition::Success, Some(&answer)).event_for(&to) {
                Ok(next) => event.request = next,
                Err(why) => break why,
            }
            sent += 1;
        };
        assert_eq!((sent, ended), (16, Undeliverable::Loop));
        let trace = event.request.trace_id.unwrap();
        assert_eq!(trace.matches("Lineage=").count(), 1, "{trace}");
        assert!(trace.starts_with("Root=1;"), "{trace}");
    }
}
