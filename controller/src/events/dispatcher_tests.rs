//! Tests of the dispatcher with its queue, with scripted functions and a clock that the test sets.

use std::collections::VecDeque;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus::Registry;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clock::Clock;
use super::config::{Configs, Destination, EventInvokeConfig};
use super::dispatcher::Dispatcher;
use super::event::Event;
use super::metrics::EventMetrics;
use super::queue::Queue;
use super::queue::tests::{BOUNDS, request, schedule};
use super::retry::RetrySettings;
use super::target::{Attempt, Functions, Ran};
use crate::function::FunctionName;
use crate::limits::HostCpus;
use crate::process_log::{LogFormat, capture};

/// Maximum time to wait for something that must happen.
const SOON: Duration = Duration::from_secs(20);
const SETTINGS: RetrySettings = RetrySettings {
    base: Duration::from_secs(60),
    max_age: Duration::from_secs(21_600),
};

/// Functions whose attempts have the results of a list, and succeed after its end.
#[derive(Debug, Default)]
struct Scripted {
    script: Mutex<VecDeque<Attempt>>,
    seen: Mutex<Vec<(String, u32)>>,
    /// Each event's function and payload.
    records: Mutex<Vec<(String, serde_json::Value)>>,
    /// If set, attempts wait for it.
    gate: Option<Notify>,
}

impl Functions for Scripted {
    fn run<'a>(&'a self, event: &'a Event) -> Pin<Box<dyn Future<Output = Attempt> + Send + 'a>> {
        Box::pin(async move {
            self.seen
                .lock()
                .unwrap()
                .push((event.request.request_id.clone(), event.runs));
            self.records.lock().unwrap().push((
                event.request.function.to_string(),
                serde_json::from_slice(&event.request.payload).unwrap(),
            ));
            if let Some(gate) = &self.gate {
                gate.notified().await;
            }
            let next = self.script.lock().unwrap().pop_front();
            next.unwrap_or_else(|| ran(false))
        })
    }

    fn exists(&self, function: &FunctionName) -> bool {
        function.as_str() != "nobody"
    }

    fn arn(&self, function: &FunctionName, qualifier: &str) -> String {
        format!("arn:{function}:{qualifier}")
    }
}

fn ran(failed: bool) -> Attempt {
    Attempt::Ran(Ran {
        payload: Bytes::from_static(b"1"),
        failed,
        executed_version: "$LATEST".into(),
    })
}

struct Fixture {
    functions: Arc<Scripted>,
    queue: Arc<Queue>,
    configs: Arc<Configs>,
    now: Arc<AtomicI64>,
    closing: CancellationToken,
    abandoned: CancellationToken,
    runs: TaskTracker,
}

impl Fixture {
    fn new(path: &Path, functions: Scripted) -> Self {
        let queue = Arc::new(Queue::open(path, schedule(BOUNDS)).unwrap());
        let this = Self {
            functions: Arc::new(functions),
            configs: Arc::new(Configs::new(queue.commits(), Vec::new())),
            queue,
            now: Arc::default(),
            closing: CancellationToken::new(),
            abandoned: CancellationToken::new(),
            runs: TaskTracker::new(),
        };
        let dispatcher = Arc::new(Dispatcher {
            queue: this.queue.clone(),
            configs: this.configs.clone(),
            functions: this.functions.clone(),
            retry: SETTINGS,
            metrics: Arc::new(EventMetrics::new(&Registry::new()).unwrap()),
            cpus: HostCpus::new(Duration::from_millis(250)),
            clock: Clock::Test(this.now.clone()),
            closing: this.closing.clone(),
            abandoned: this.abandoned.clone(),
            runs: this.runs.clone(),
        });
        this.runs.spawn(dispatcher.dispatch());
        this
    }

    fn scripted(path: &Path, script: impl IntoIterator<Item = Attempt>) -> Self {
        Self::new(
            path,
            Scripted {
                script: Mutex::new(script.into_iter().collect()),
                ..Scripted::default()
            },
        )
    }

    async fn accept(&self, id: &str) {
        let now = self.now.load(Ordering::SeqCst);
        self.queue.accept(request("f", id), now).await.unwrap();
    }

    /// Advances the clock, and wakes the dispatcher so that it looks at it.
    fn pass(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
        self.queue.nudge();
    }

    async fn until(&self, what: &str, there: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + SOON;
        while !there(self) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.seen());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until that many attempts have ended.
    async fn attempts(&self, count: usize) {
        self.until("attempts", |this| {
            this.seen().len() == count && this.queue.schedule().running() == 0
        })
        .await;
    }

    fn seen(&self) -> Vec<(String, u32)> {
        self.functions.seen.lock().unwrap().clone()
    }

    fn queued(&self) -> u64 {
        self.queue.schedule().events()
    }

    async fn end(self) {
        self.closing.cancel();
        self.runs.close();
        tokio::time::timeout(SOON, self.runs.wait()).await.unwrap();
    }
}

fn new_path() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.db");
    (dir, path)
}

#[tokio::test]
async fn an_event_runs_once_and_leaves_the_queue() {
    let (_dir, path) = new_path();
    let fixture = Fixture::scripted(&path, []);
    fixture.accept("r").await;
    fixture.attempts(1).await;
    assert_eq!(fixture.queued(), 0);
    fixture.end().await;
    let again = Fixture::scripted(&path, []);
    assert_eq!(again.queued(), 0);
    again.end().await;
}

#[tokio::test]
async fn a_function_error_is_retried_twice_at_its_times_with_the_same_request_id() {
    let (_dir, path) = new_path();
    let fixture = Fixture::scripted(&path, [ran(true), ran(true), ran(true)]);
    fixture.accept("r").await;
    fixture.attempts(1).await;
    fixture.pass(59_999);
    assert_eq!(fixture.queue.schedule().wake_at_ms(), Some(60_000));
    fixture.pass(1);
    fixture.attempts(2).await;
    assert_eq!(fixture.queue.schedule().wake_at_ms(), Some(180_000));
    fixture.pass(120_000);
    fixture.attempts(3).await;
    let seen = fixture.seen();
    assert_eq!(seen, [0, 1, 2].map(|runs| ("r".to_owned(), runs)));
    assert_eq!(fixture.queued(), 0);
    fixture.end().await;
}

#[tokio::test]
async fn a_retry_is_still_due_after_a_restart() {
    let (_dir, path) = new_path();
    let fixture = Fixture::scripted(&path, [ran(true)]);
    fixture.accept("r").await;
    fixture.attempts(1).await;
    fixture.end().await;
    let fixture = Fixture::scripted(&path, []);
    assert_eq!(fixture.queue.schedule().wake_at_ms(), Some(60_000));
    fixture.pass(60_000);
    fixture.attempts(1).await;
    assert_eq!(fixture.seen(), [("r".to_owned(), 1)]);
    fixture.end().await;
}

#[tokio::test]
async fn an_event_that_could_not_run_loses_no_retry_and_is_tried_until_it_is_too_old() {
    let (_dir, path) = new_path();
    let failed = || Attempt::Failed("no snapshot".into());
    let fixture = Fixture::scripted(&path, [Attempt::Throttled, failed(), Attempt::Throttled]);
    fixture.accept("r").await;
    for attempts in 1..=3 {
        fixture.attempts(attempts).await;
        fixture.pass(300_000);
    }
    fixture.attempts(4).await;
    assert!(fixture.seen().iter().all(|(_, runs)| *runs == 0));
    assert_eq!(fixture.queued(), 0);

    fixture
        .functions
        .script
        .lock()
        .unwrap()
        .push_back(Attempt::Throttled);
    fixture.accept("old").await;
    fixture.attempts(5).await;
    fixture.pass(21_600_000);
    fixture
        .until("it is dropped", |fixture| fixture.queued() == 0)
        .await;
    assert_eq!(fixture.seen().len(), 5, "and not run");
    fixture.end().await;
}

/// A configuration of the function that [`request`] asks for.
async fn configure(fixture: &Fixture, retries: u32, success: &str, failure: &str) {
    let destination = |name: &str| {
        Some(Destination {
            arn: name.into(),
            function: FunctionName::parse(name).unwrap(),
            qualifier: None,
        })
    };
    let config = EventInvokeConfig {
        maximum_retry_attempts: Some(retries),
        maximum_event_age_seconds: Some(60),
        on_success: destination(success),
        on_failure: destination(failure),
        last_modified_ms: 0,
    };
    let function = FunctionName::parse("f").unwrap();
    let writer = fixture.configs.write().await;
    writer.put(&function, Some("live"), config).await.unwrap();
}

#[tokio::test]
async fn the_destination_for_an_events_outcome_gets_one_record() {
    let (_dir, path) = new_path();
    let fixture = Fixture::scripted(&path, [ran(false), ran(false), ran(true)]);
    configure(&fixture, 0, "good", "bad").await;
    fixture.accept("r1").await;
    fixture.attempts(2).await;
    fixture.accept("r2").await;
    fixture.attempts(4).await;
    assert_eq!(fixture.queued(), 0);
    let records = fixture.functions.records.lock().unwrap().clone();
    let summary: Vec<(&str, &str, &str)> = records
        .iter()
        .filter_map(|(function, payload)| {
            let context = &payload["requestContext"];
            Some((
                function.as_str(),
                context["requestId"].as_str()?,
                context["condition"].as_str()?,
            ))
        })
        .collect();
    assert_eq!(
        summary,
        [("good", "r1", "Success"), ("bad", "r2", "RetriesExhausted"),]
    );
    assert_eq!(records[1].1["requestContext"]["functionArn"], "arn:f:live");
    fixture.end().await;
}

#[tokio::test]
async fn an_event_of_a_function_without_concurrency_goes_to_the_failure_destination_at_once() {
    let (_dir, path) = new_path();
    let fixture = Fixture::scripted(&path, [Attempt::NoConcurrency]);
    configure(&fixture, 2, "good", "bad").await;
    fixture.accept("r").await;
    fixture.attempts(2).await;
    let records = fixture.functions.records.lock().unwrap().clone();
    assert_eq!(records[1].0, "bad");
    let context = &records[1].1["requestContext"];
    assert_eq!(context["condition"], "ZeroReservedConcurrency");
    assert_eq!(context["approximateInvokeCount"], 0);
    fixture.end().await;
}

#[tokio::test]
async fn a_functions_own_age_and_retries_count_and_a_deleted_destination_holds_up_nothing() {
    let (_dir, path) = new_path();
    let fixture = Fixture::scripted(&path, [ran(true), ran(true), ran(true)]);
    configure(&fixture, 1, "nobody", "nobody").await;
    fixture.accept("r1").await;
    fixture.attempts(1).await;
    fixture.pass(60_000);
    fixture
        .until("it is too old", |fixture| fixture.queued() == 0)
        .await;
    assert_eq!(fixture.seen().len(), 1);
    fixture.end().await;
}

#[tokio::test]
async fn events_of_a_deleted_function_are_dropped() {
    let (_dir, path) = new_path();
    let fixture = Fixture::scripted(&path, [Attempt::Gone]);
    fixture.accept("r").await;
    fixture.attempts(1).await;
    assert_eq!(fixture.queued(), 0);
    fixture.end().await;
}

#[tokio::test]
async fn an_event_that_the_end_cuts_off_runs_again_at_the_next_start_without_losing_a_retry() {
    let (_dir, path) = new_path();
    let fixture = Fixture::new(
        &path,
        Scripted {
            script: Mutex::new([ran(true), Attempt::Ending].into()),
            gate: Some(Notify::new()),
            ..Scripted::default()
        },
    );
    for id in ["r1", "r2", "r3"] {
        fixture.accept(id).await;
    }
    fixture
        .until("they run", |fixture| fixture.seen().len() == 3)
        .await;
    fixture.closing.cancel();
    fixture.abandoned.cancel();
    for _ in 0..3 {
        fixture.functions.gate.as_ref().unwrap().notify_one();
        tokio::task::yield_now().await;
    }
    fixture.functions.gate.as_ref().unwrap().notify_waiters();
    fixture.end().await;
    let fixture = Fixture::scripted(&path, []);
    fixture.attempts(2).await;
    // The third has succeeded, which counts even during the end.
    assert!(fixture.seen().iter().all(|(_, runs)| *runs == 0));
    assert_eq!(fixture.queued(), 0);
    fixture.end().await;
}

#[tokio::test]
async fn a_line_about_an_event_has_its_request_id_and_function_at_every_level() {
    for (level, spans) in [("info", 0), ("debug", 1)] {
        let captured = capture::log(LogFormat::Json, level);
        let (_dir, path) = new_path();
        let fixture = Fixture::scripted(&path, [Attempt::Failed("no disk".into())]);
        fixture.accept("r").await;
        fixture.attempts(1).await;
        fixture.end().await;
        let line = &captured.lines("an event could not run")[0];
        for (field, value) in [("request_id", "r"), ("function", "f"), ("error", "no disk")] {
            assert_eq!(line["fields"][field], value, "{line}");
        }
        let own = line["spans"].as_array().map_or(&[][..], Vec::as_slice);
        assert_eq!(own.len(), spans, "{line}");
        for span in own {
            assert_eq!(
                (&span["name"], &span["request_id"]),
                (&"event".into(), &"r".into())
            );
        }
    }
}
