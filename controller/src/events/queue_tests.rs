use bytes::Bytes;

use super::super::event::EventLimits;
use super::super::schedule::Bounds;
use super::*;
use crate::function::TenantId;

pub(crate) const BOUNDS: Bounds = Bounds {
    running: 100,
    per_function: 50,
    first_window: 4,
    events: 1000,
    bytes: 1 << 20,
};

/// A queue that is never full.
const ENDLESS: Bounds = Bounds {
    events: u64::MAX,
    bytes: u64::MAX,
    ..BOUNDS
};

const OVER: Outcome = Outcome::Over { record: None };

pub(crate) fn schedule(bounds: Bounds) -> Schedule {
    Schedule::new(bounds)
}

pub(crate) fn request(function: &str, id: &str) -> EventRequest {
    EventRequest {
        request_id: id.into(),
        function: FunctionName::parse(function).unwrap(),
        qualifier: Some("live".into()),
        payload: Bytes::from_static(b" {\"a\": 1.0}"),
        trace_id: Some("Root=1".into()),
        tenant: TenantId::parse("blue"),
        limits: EventLimits {
            timeout_ms: Some(5),
            memory_mib: None,
            cpu_ms: Some(7),
        },
    }
}

fn open(path: &Path) -> Queue {
    Queue::open(path, schedule(BOUNDS)).unwrap()
}

fn next(queue: &Queue, now_ms: i64) -> Option<Turn> {
    queue.schedule().next(now_ms)
}

/// The next event, as it is on disk.
async fn take(queue: &Queue, now_ms: i64) -> Event {
    let turn = next(queue, now_ms).expect("an event");
    queue.read(turn.id).await.unwrap().expect("it is on disk")
}

#[tokio::test]
async fn accepted_events_come_back_byte_for_byte_in_order_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.db");
    let queue = open(&path);
    for (n, id) in ["r1", "r2", "r3"].iter().enumerate() {
        let now = 1000 + i64::try_from(n).unwrap();
        queue.accept(request("f", id), now).await.unwrap();
    }
    // Running when the process ends.
    next(&queue, 2000).unwrap();
    drop(queue);
    let queue = open(&path);
    for (n, id) in ["r1", "r2", "r3"].iter().enumerate() {
        let event = take(&queue, 2000).await;
        assert_eq!(event.request, request("f", id));
        assert_eq!(event.accepted_ms, 1000 + i64::try_from(n).unwrap());
        assert_eq!(event.runs, 0);
    }
    assert_eq!(next(&queue, 2000), None);
    assert_eq!(queue.oldest_ms().await.unwrap(), Some(1000));
}

#[tokio::test]
async fn events_that_are_over_are_gone_after_reopening_and_a_retry_keeps_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.db");
    let queue = open(&path);
    for id in ["r1", "r2"] {
        queue.accept(request("f", id), 0).await.unwrap();
    }
    let (first, second) = (take(&queue, 0).await, take(&queue, 0).await);
    queue.record(&first, &OVER, 0).await.unwrap();
    let again = Outcome::Again {
        runs: 1,
        due_ms: 60_000,
    };
    queue.record(&second, &again, 0).await.unwrap();
    drop(queue);
    let queue = open(&path);
    assert_eq!(queue.schedule().events(), 1);
    assert_eq!(next(&queue, 59_999), None);
    let event = take(&queue, 60_000).await;
    assert_eq!((event.request.request_id.as_str(), event.runs), ("r2", 1));
    queue.record(&event, &OVER, 0).await.unwrap();
    assert_eq!(queue.schedule().events(), 0);
    assert_eq!(queue.schedule().bytes(), 0);
    assert_eq!(queue.oldest_ms().await.unwrap(), None);
}

#[tokio::test]
async fn an_outcome_and_its_record_are_stored_together_and_a_full_queue_accepts_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.db");
    let bounds = Bounds {
        events: 1,
        ..BOUNDS
    };
    let queue = Queue::open(&path, schedule(bounds)).unwrap();
    queue.accept(request("f", "r1"), 0).await.unwrap();
    let event = take(&queue, 0).await;
    let told = Outcome::Over {
        record: Some(request("g", "told")),
    };
    assert!(queue.record(&event, &told, 77).await.unwrap());
    drop(queue);
    let queue = Queue::open(&path, schedule(BOUNDS)).unwrap();
    assert_eq!(queue.schedule().events(), 1);
    let record = take(&queue, 77).await;
    assert_eq!(record.request, request("g", "told"));
    assert_eq!(record.accepted_ms, 77);
}

#[tokio::test]
async fn a_full_queue_refuses_events_until_one_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds {
        events: 1,
        ..BOUNDS
    };
    let queue = Queue::open(&dir.path().join("events.db"), schedule(bounds)).unwrap();
    queue.accept(request("f", "r1"), 0).await.unwrap();
    let refused = queue.accept(request("f", "r2"), 0).await.unwrap_err();
    assert!(matches!(refused, NotAccepted::Full(_)), "{refused}");
    let event = take(&queue, 0).await;
    queue.record(&event, &OVER, 0).await.unwrap();
    queue.accept(request("f", "r3"), 0).await.unwrap();
}

#[tokio::test]
async fn a_deleted_functions_events_are_gone_from_the_disk_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.db");
    let queue = Queue::open(&path, schedule(ENDLESS)).unwrap();
    let many = i64::from(REMOVED_AT_ONCE) * 2 + 1;
    for n in 0..many {
        queue.accept(request("f", &n.to_string()), 0).await.unwrap();
    }
    queue.accept(request("g", "kept"), 0).await.unwrap();
    let running = take(&queue, 0).await;
    let name = FunctionName::parse("f").unwrap();
    assert_eq!(queue.forget(&name).await.unwrap(), many.unsigned_abs());
    // The outcome of an event that ran meanwhile is ignored.
    let again = Outcome::Again { runs: 1, due_ms: 0 };
    queue.record(&running, &again, 0).await.unwrap();
    queue.accept(request("f", "new"), 0).await.unwrap();
    drop(queue);
    let queue = Queue::open(&path, schedule(ENDLESS)).unwrap();
    let mut left = Vec::new();
    while let Some(turn) = next(&queue, 0) {
        let event = queue.read(turn.id).await.unwrap().unwrap();
        left.push(event.request.request_id);
    }
    left.sort();
    assert_eq!(left, ["kept", "new"]);
}

/// A function is deleted, created again and gets an event, while the events of the old one are being
/// removed. The new event was acknowledged with 202, but left the schedule until the next start.
#[tokio::test]
async fn an_event_of_a_new_function_stays_while_those_of_a_deleted_one_of_that_name_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.db");
    let queue = Queue::open(&path, schedule(ENDLESS)).unwrap();
    let many = i64::from(REMOVED_AT_ONCE) + 1;
    for n in 0..many {
        queue.accept(request("f", &n.to_string()), 0).await.unwrap();
    }
    let name = FunctionName::parse("f").unwrap();
    // The writer gets them in this order; the second round of removals comes after both.
    let (forgotten, accepted) =
        tokio::join!(biased; queue.forget(&name), queue.accept(request("f", "new"), 0));
    assert_eq!(forgotten.unwrap(), many.unsigned_abs());
    accepted.unwrap();
    assert_eq!(queue.schedule().events(), 1);
    assert_eq!(take(&queue, 0).await.request.request_id, "new");
}

/// Both changes go into one transaction. After its commit, the event enters the schedule first.
#[tokio::test]
async fn an_event_that_is_removed_by_the_commit_that_stores_it_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.db");
    let queue = open(&path);
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let held = queue.commits.commit(
        0,
        move |_| {
            wait.recv().unwrap();
            Ok(())
        },
        |_| {},
    );
    let name = FunctionName::parse("f").unwrap();
    let release = async { go.send(()).unwrap() };
    let (held, accepted, forgotten, ()) = tokio::join!(
        biased;
        held,
        queue.accept(request("f", "r"), 0),
        queue.forget(&name),
        release,
    );
    held.unwrap();
    accepted.unwrap();
    assert_eq!(forgotten.unwrap(), 1);
    assert_eq!(queue.schedule().events(), 0);
    assert_eq!(queue.schedule().bytes(), 0);
    assert_eq!(next(&queue, 0), None);
}

#[test]
fn a_file_of_a_newer_version_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.db");
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let refused = Queue::open(&path, schedule(BOUNDS)).unwrap_err();
    assert!(
        matches!(refused, EventsError::TooNew { found: 99, .. }),
        "{refused}"
    );
}

#[test]
fn commits_wait_for_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let connection = rows::open(&dir.path().join("events.db")).unwrap();
    let pragma = |name: &str| -> String {
        connection
            .pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))
            .map(|value| format!("{value:?}"))
            .unwrap()
    };
    assert_eq!(pragma("journal_mode"), "Text(\"wal\")");
    // 2 is FULL: in WAL mode a sync after each transaction.
    assert_eq!(pragma("synchronous"), "Integer(2)");
}
