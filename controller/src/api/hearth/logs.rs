//! Logs over HTTP: in pages, or followed as server-sent events.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::body::{Body, HttpBody};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::Frame;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::Instrument;

use crate::api::app::App;
use crate::api::http::error::ApiError;
use crate::api::http::parameters::{Parameters, number};
use crate::api::target::extract::Function;
use crate::api::target::names::Named;
use crate::function::VersionId;
use crate::logs::{Filter, Follower, MAX_PAGE, News, PAGE, Query, Record};
use crate::registry::Target;

/// Longest text of a filter, in bytes.
const MAX_TEXT: usize = 1024;
/// Maximum interval between two pieces that are sent, so that each side notices when the other is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A follower whose client reads nothing for this long is closed. The client can resume it.
const STALLED: Duration = Duration::from_secs(60);
/// Maximum size of what is sent to a follower's connection at once, in bytes.
const PIECE: usize = 64 << 10;

/// The query's filters. Unknown parameters are refused, because a misspelt filter would match far more
/// than was meant.
const FILTERS: [&str; 6] = [
    "Qualifier",
    "since",
    "until",
    "request_id",
    "contains",
    "after",
];
/// The query's parameters of a page.
const PAGES: [&str; 2] = ["before", "limit"];

/// `GET /hearth/v1/functions/{name}/logs`
pub(crate) async fn read(
    State(app): State<Arc<App>>,
    Function(named): Function,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    parameters.only(&[&FILTERS[..], &PAGES].concat())?;
    let query = Query {
        filter: filter(&app, &named, &parameters)?,
        after: seq(&parameters, "after")?,
        before: seq(&parameters, "before")?,
        limit: match parameters.get("limit") {
            None => PAGE,
            Some(text) => {
                usize::try_from(number(text, "limit", 1, MAX_PAGE as u64)?).unwrap_or(PAGE)
            }
        },
    };
    let page = app
        .logs
        .read(&named.name, query)
        .await
        .map_err(unreadable)?;
    let mut lines = Vec::new();
    for record in &page.records {
        json(record, &mut lines)?;
        lines.push(b'\n');
    }
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (
            header::HeaderName::from_static("x-hearth-more"),
            if page.more { "true" } else { "false" },
        ),
    ];
    Ok((headers, lines).into_response())
}

/// `GET /hearth/v1/functions/{name}/logs/follow`
pub(crate) async fn follow(
    State(app): State<Arc<App>>,
    Function(named): Function,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    parameters.only(&FILTERS)?;
    let filter = filter(&app, &named, &parameters)?;
    let after = match headers.get("last-event-id") {
        // A client that has received no event yet sends an empty one, or none.
        Some(id) if !id.is_empty() => {
            let id = id.to_str().unwrap_or_default();
            Some(number(id, "Last-Event-ID", 0, u64::MAX)?)
        }
        _ => seq(&parameters, "after")?,
    };
    let follower = app
        .logs
        .follow(&named.name, after, filter)
        .await
        .map_err(unreadable)?
        .ok_or_else(|| ApiError::queue_full("Too many logs are being followed"))?;
    let (pieces, body) = mpsc::channel(1);
    let draining = app.draining.clone();
    let send = async move {
        tokio::select! {
            () = send_records(follower, &pieces) => {}
            () = draining.cancelled() => {}
        }
    };
    tokio::spawn(send.in_current_span());
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    Ok((headers, Body::new(Pieces(body))).into_response())
}

/// Sends records to the client until the log or the connection ends.
async fn send_records(mut follower: Follower, pieces: &mpsc::Sender<Bytes>) {
    // Sent first, so that the client has a response before the first record.
    let mut piece = b": following\n\n".to_vec();
    loop {
        let sent = timeout(STALLED, pieces.send(Bytes::from(piece))).await;
        if !matches!(sent, Ok(Ok(()))) {
            return;
        }
        piece = match timeout(KEEP_ALIVE, follower.next()).await {
            Err(_) => b": nothing new\n\n".to_vec(),
            Ok(Ok(Some(news))) => match send_full_pieces(&news, pieces).await {
                Some(rest) => rest,
                None => return,
            },
            Ok(Ok(None)) => return,
            Ok(Err(error)) => {
                return tracing::warn!(%error, "the controller could not follow a log");
            }
        };
    }
}

/// Sends all pieces except the last, which it returns.
async fn send_full_pieces(news: &News, pieces: &mpsc::Sender<Bytes>) -> Option<Vec<u8>> {
    let mut piece = Vec::new();
    if news.gap {
        piece.extend_from_slice(b"event: gap\ndata: {}\n\n");
    }
    for record in &news.records {
        piece.extend_from_slice(format!("id: {}\ndata: ", record.seq).as_bytes());
        // JSON in one line, as an event's data must be.
        json(record, &mut piece).ok()?;
        piece.extend_from_slice(b"\n\n");
        if piece.len() >= PIECE {
            let full = Bytes::from(std::mem::take(&mut piece));
            timeout(STALLED, pieces.send(full)).await.ok()?.ok()?;
        }
    }
    Some(piece)
}

/// A response body of pieces that arrive on a channel.
struct Pieces(mpsc::Receiver<Bytes>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let piece = self.0.poll_recv(context);
        piece.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// The filter of the name's qualifier and the query.
fn filter(app: &App, named: &Named, parameters: &Parameters) -> Result<Filter, ApiError> {
    let function = app.function(named)?;
    let version = match named.qualifier {
        None => None,
        Some(_) => Some(match app.target(&function, named)? {
            Target::Latest => VersionId::Latest.to_string(),
            Target::Published(published) => published.record.number.to_string(),
            Target::Alias(alias) => alias.version.to_string(),
        }),
    };
    let now = SystemTime::now();
    let text = |name: &str| match parameters.get(name) {
        Some(text) if text.len() > MAX_TEXT => Err(ApiError::invalid(format!(
            "{name} must have at most {MAX_TEXT} bytes"
        ))),
        text => Ok(text.map(str::to_owned)),
    };
    Ok(Filter {
        since: time(parameters, "since", now)?,
        until: time(parameters, "until", now)?,
        version,
        request_id: text("request_id")?,
        contains: text("contains")?,
    })
}

fn seq(parameters: &Parameters, name: &str) -> Result<Option<u64>, ApiError> {
    let text = parameters.get(name);
    text.map(|text| number(text, name, 0, u64::MAX)).transpose()
}

fn time(
    parameters: &Parameters,
    name: &str,
    now: SystemTime,
) -> Result<Option<SystemTime>, ApiError> {
    let Some(text) = parameters.get(name) else {
        return Ok(None);
    };
    parse_time(text, now).map(Some).ok_or_else(|| {
        ApiError::invalid(format!(
            "{name} must be a time like 2026-11-22T08:00:00Z or a span like 90s, 15m, 2h, 1d; \
             it was {text:?}"
        ))
    })
}

fn parse_time(text: &str, now: SystemTime) -> Option<SystemTime> {
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return Some(time.into());
    }
    let unit = text.chars().last()?;
    let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    now.checked_sub(Duration::from_secs(count.checked_mul(seconds)?))
}

fn json(record: &Record, out: &mut Vec<u8>) -> Result<(), ApiError> {
    serde_json::to_writer(out, record).map_err(|error| ApiError::service(error.to_string()))
}

fn unreadable(error: std::io::Error) -> ApiError {
    ApiError::service(format!("The log could not be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_timestamp_or_a_span_before_now() {
        let now = SystemTime::now();
        assert_eq!(
            parse_time("90s", now),
            now.checked_sub(Duration::from_secs(90))
        );
        assert_eq!(
            parse_time("2h", now),
            now.checked_sub(Duration::from_secs(7200))
        );
        let time = parse_time("1970-01-01T00:00:01Z", now).unwrap();
        assert_eq!(time, SystemTime::UNIX_EPOCH + Duration::from_secs(1));
        for bad in [
            "",
            "s",
            "1",
            "1w",
            "-1s",
            "99999999999999999999s",
            "yesterday",
            "1é",
        ] {
            assert_eq!(parse_time(bad, now), None, "{bad:?}");
        }
    }
}
