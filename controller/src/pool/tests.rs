//! Tests of the pool with test doubles that speak the real protocol.

mod admission;
mod init;
mod log;
mod streaming;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::double::{Doubles, SLOW, Stage};
use super::state::tests::version;
use super::{
    Completed, ERROR_KINDS, Invocation, Limits, NotRun, Pool, PoolSettings, Shells, Start,
};
use crate::function::Version;
use crate::limits::HostCpus;
use crate::logs::{Kept, LogStore};
use crate::metrics::{Census, Metrics};

const SETTINGS: PoolSettings = PoolSettings {
    account_concurrency: 1000,
    max_instances: 100,
    max_per_function: 100,
    memory_budget_mib: 100_000,
    memory_per_function_mib: 100_000,
    idle_timeout: Duration::from_secs(600),
    throttle_wait: Duration::from_millis(50),
    max_starts: 4,
    max_waiting: 100,
    start_wait: SOON,
    start_tail: Duration::from_millis(20),
    finish_grace: Duration::from_millis(100),
};
/// For what should come at once on a host that may be busy.
const SOON: Duration = Duration::from_secs(20);

/// A pool whose sandboxes are doubles.
pub(crate) fn pool(metrics: Arc<Metrics>, logs: LogStore) -> Pool {
    let stage = Stage::new();
    let shells = Arc::new(Shells::new(Arc::new(Doubles(stage.clone())), 0));
    Pool::new(SETTINGS, shells, stage, metrics, logs, HostCpus::idle())
}

struct Fixture {
    stage: Arc<Stage>,
    pool: Pool,
    _logs: tempfile::TempDir,
}

impl Fixture {
    fn new(settings: PoolSettings) -> Self {
        let stage = Stage::new();
        let logs = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::new(&ERROR_KINDS).unwrap());
        let kept = Kept {
            max_bytes: 1 << 20,
            max_age: Duration::from_secs(3600),
        };
        let store = LogStore::open(logs.path().into(), kept, metrics.logs_lost.clone()).unwrap();
        let shells = Arc::new(Shells::new(Arc::new(Doubles(stage.clone())), 0));
        let pool = Pool::new(
            settings,
            shells,
            stage.clone(),
            metrics,
            store,
            HostCpus::idle(),
        );
        Self {
            stage,
            pool,
            _logs: logs,
        }
    }

    fn version(&self, name: &str) -> Arc<Version> {
        let version = version(name, 128);
        version.set_artefacts(self.stage.artefacts());
        version
    }

    async fn run(&self, version: &Arc<Version>, event: &str) -> Result<Completed, NotRun> {
        run(self.pool.clone(), version.clone(), event.to_owned()).await
    }

    /// Waits until the pool is in the expected state.
    async fn until(&self, what: &str, there: impl Fn(Census) -> bool) {
        let deadline = Instant::now() + SOON;
        while !there(self.pool.census()) {
            assert!(
                Instant::now() < deadline,
                "{what}: {:?}",
                self.pool.census()
            );
            tokio::task::yield_now().await;
        }
    }
}

async fn run(pool: Pool, version: Arc<Version>, event: String) -> Result<Completed, NotRun> {
    tokio::time::timeout(2 * SOON, pool.submit(invocation(version, event)))
        .await
        .expect("an answer")
}

fn invocation(version: Arc<Version>, event: String) -> Invocation {
    let hurried = ["hang", "flood", "frozen", "partial", "late", "stream-flood"];
    let timeout = if hurried.contains(&event.as_str()) {
        Duration::from_millis(200)
    } else {
        SOON
    };
    let request_id = uuid::Uuid::new_v4().to_string();
    let limits = Limits {
        timeout,
        ..Limits::of(&version)
    };
    Invocation {
        limits,
        tail: true,
        ..Invocation::new(request_id, version, "arn".into(), Bytes::from(event))
    }
}

#[tokio::test]
async fn the_first_invocation_is_cold_and_the_next_is_warm_on_the_same_instance() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    let first = fixture.run(&f, "one").await.unwrap();
    assert_eq!(
        (first.start, &first.payload[..], first.failed),
        (Start::Cold, &b"one"[..], false)
    );
    fixture.until("idle", |census| census.idle == 1).await;
    let second = fixture.run(&f, "two").await.unwrap();
    assert_eq!(
        (second.start, &second.payload[..]),
        (Start::Warm, &b"two"[..])
    );
    assert_eq!(second.phases.restore, Duration::ZERO);
    assert_eq!(fixture.stage.launched.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_cold_invocations_duration_is_complete_even_if_thawed_comes_with_the_answer() {
    let fixture = Fixture::new(SETTINGS);
    let done = fixture.run(&fixture.version("f"), "slow").await.unwrap();
    assert_eq!(done.start, Start::Cold);
    assert!(done.duration >= SLOW, "{:?}", done.duration);
    assert!(done.phases.run >= SLOW, "{:?}", done.phases);
}

#[tokio::test]
async fn the_log_tail_has_lambdas_lines_around_the_functions() {
    let fixture = Fixture::new(SETTINGS);
    let done = fixture.run(&fixture.version("f"), "one").await.unwrap();
    let tail = String::from_utf8(done.tail.unwrap()).unwrap();
    let lines: Vec<&str> = tail
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(lines, ["START", "hello", "END", "REPORT"], "{tail}");
}

#[tokio::test]
async fn back_to_back_invocations_stay_on_one_instance_even_before_it_is_paused() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    for _ in 0..50 {
        fixture.run(&f, "x").await.unwrap();
    }
    assert_eq!(fixture.stage.launched.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_burst_beyond_the_limit_is_throttled_and_what_fits_is_served() {
    let fixture = Fixture::new(PoolSettings {
        max_instances: 3,
        ..SETTINGS
    });
    let f = fixture.version("f");
    let running: Vec<_> = (0..3)
        .map(|_| tokio::spawn(run(fixture.pool.clone(), f.clone(), "gate".into())))
        .collect();
    fixture.until("three busy", |census| census.busy == 3).await;
    assert_eq!(fixture.run(&f, "x").await.unwrap_err(), NotRun::Throttled);
    fixture.stage.gate.add_permits(3);
    for task in running {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn waiting_invocations_are_served_in_order_when_an_instance_becomes_free() {
    let fixture = Fixture::new(PoolSettings {
        max_instances: 1,
        throttle_wait: SOON,
        ..SETTINGS
    });
    let f = fixture.version("f");
    let mut running = Vec::new();
    for n in 0..4 {
        let event = format!("gate{n}");
        running.push(tokio::spawn(run(fixture.pool.clone(), f.clone(), event)));
        fixture
            .until("it is there", |census| census.busy == 1)
            .await;
        tokio::task::yield_now().await;
    }
    fixture.stage.gate.add_permits(4);
    for task in running {
        task.await.unwrap().unwrap();
    }
    assert_eq!(
        *fixture.stage.seen.lock().unwrap(),
        ["gate0", "gate1", "gate2", "gate3"]
    );
}

#[tokio::test]
async fn every_way_of_going_wrong_ends_the_instance_and_the_next_invocation_works() {
    for (event, kind) in [
        ("hang", "Sandbox.Timedout"),
        ("flood", "Sandbox.Timedout"),
        ("frozen", "Sandbox.Timedout"),
        ("exit", "Runtime.ExitError"),
        ("foreign", "Sandbox.Failure"),
        ("nonsense", "Sandbox.Failure"),
        ("oversize", "Sandbox.Failure"),
        ("unknown", "Sandbox.Failure"),
        ("malformed", "Sandbox.Failure"),
        ("reordered", "Sandbox.Failure"),
        ("again", "Sandbox.Failure"),
        ("fatal", "Sandbox.Failure"),
        ("partial", "Sandbox.Timedout"),
        ("late", "Sandbox.Timedout"),
        ("die", "Sandbox.Failure"),
    ] {
        let fixture = Fixture::new(SETTINGS);
        let f = fixture.version("f");
        let done = fixture.run(&f, event).await.unwrap();
        assert!(done.failed, "{event}");
        let body: serde_json::Value = serde_json::from_slice(&done.payload).unwrap();
        assert_eq!(body["errorType"], kind, "{event}: {body}");
        let next = fixture.run(&f, "x").await.unwrap();
        assert_eq!((next.start, next.failed), (Start::Cold, false), "{event}");
    }
}

#[tokio::test]
async fn a_second_answer_ends_the_instance_and_is_dropped() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    let first = fixture.run(&f, "twice").await.unwrap();
    assert!(!first.failed);
    let next = fixture.run(&f, "x").await.unwrap();
    assert_eq!((next.start, &next.payload[..]), (Start::Cold, &b"x"[..]));
}

#[tokio::test]
async fn an_answer_that_comes_byte_by_byte_is_whole() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    let done = fixture.run(&f, "trickle").await.unwrap();
    assert_eq!((done.failed, &done.payload[..]), (false, &b"trickle"[..]));
}

#[tokio::test]
async fn an_instance_that_is_slow_after_its_answer_does_not_hold_up_the_next_invocation() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    fixture.run(&f, "linger").await.unwrap();
    let next = fixture.run(&f, "x").await.unwrap();
    assert_eq!(next.start, Start::Cold);
}

#[tokio::test]
async fn an_unusable_snapshot_is_rebuilt_and_the_invocation_does_not_fail() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    fixture.stage.stale.store(true, Ordering::SeqCst);
    let done = fixture.run(&f, "x").await.unwrap();
    assert!(!done.failed);
    assert_eq!(fixture.stage.rebuilt.load(Ordering::SeqCst), 1);
}

/// It was rebuilt three times for each invocation, without a pause.
#[tokio::test]
async fn a_snapshot_that_never_restores_is_not_rebuilt_for_every_invocation() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    fixture.stage.stale.store(true, Ordering::SeqCst);
    fixture.stage.hopeless.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let refused = fixture.run(&f, "x").await.unwrap_err();
        assert!(matches!(refused, NotRun::Unavailable(_)), "{refused:?}");
    }
    assert_eq!(fixture.stage.rebuilt.load(Ordering::SeqCst), 1);
    let refused = fixture.run(&f, "x").await.unwrap_err();
    assert!(
        refused.to_string().contains("makes another one in"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_function_runs_to_its_end_when_its_caller_is_dropped() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    let caller = tokio::spawn(run(fixture.pool.clone(), f.clone(), "gate".into()));
    fixture.until("busy", |census| census.busy == 1).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    fixture.stage.gate.add_permits(1);
    fixture.until("idle", |census| census.idle == 1).await;
    assert_eq!(fixture.run(&f, "x").await.unwrap().start, Start::Warm);
}

#[tokio::test]
async fn one_functions_instance_never_serves_another() {
    let fixture = Fixture::new(PoolSettings {
        max_instances: 1,
        ..SETTINGS
    });
    let (f, g) = (fixture.version("f"), fixture.version("g"));
    for version in [&f, &g, &f] {
        let done = fixture.run(version, "x").await.unwrap();
        assert_eq!(done.start, Start::Cold);
        fixture.until("idle", |census| census.idle == 1).await;
    }
}

#[tokio::test]
async fn idle_instances_end_after_the_idle_timeout() {
    let fixture = Fixture::new(PoolSettings {
        idle_timeout: Duration::from_millis(20),
        ..SETTINGS
    });
    fixture.run(&fixture.version("f"), "x").await.unwrap();
    fixture
        .until("nothing", |census| census == Census::default())
        .await;
}

#[tokio::test]
async fn each_idle_instance_ends_however_many_became_idle_after_it() {
    let fixture = Fixture::new(PoolSettings {
        idle_timeout: Duration::from_millis(200),
        ..SETTINGS
    });
    for name in ["f", "g", "h"] {
        fixture.run(&fixture.version(name), "x").await.unwrap();
    }
    fixture
        .until("nothing", |census| census == Census::default())
        .await;
}

#[tokio::test]
async fn instances_are_listed_all_together_or_of_one_function() {
    let fixture = Fixture::new(SETTINGS);
    for name in ["f", "g"] {
        fixture.run(&fixture.version(name), "x").await.unwrap();
    }
    let listed = |name| fixture.pool.instances(Some(&version(name, 128).name)).len();
    assert_eq!((listed("f"), listed("g"), listed("h")), (1, 1, 0));
    assert_eq!(fixture.pool.instances(None).len(), 2);
}

#[tokio::test]
async fn pings_are_answered_by_an_idle_instance_that_serves_again_afterwards() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    assert!(fixture.pool.ping(&f, 3).await.is_err());
    fixture.run(&f, "x").await.unwrap();
    fixture.until("idle", |census| census.idle == 1).await;
    assert_eq!(fixture.pool.ping(&f, 3).await.unwrap().len(), 3);
    fixture.until("idle", |census| census.idle == 1).await;
    assert_eq!(fixture.run(&f, "x").await.unwrap().start, Start::Warm);
}

#[tokio::test]
async fn a_pool_that_was_closed_and_killed_leaves_no_process() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    fixture.run(&fixture.version("g"), "x").await.unwrap();
    let running = tokio::spawn(run(fixture.pool.clone(), f.clone(), "gate".into()));
    fixture.until("busy", |census| census.busy == 1).await;
    fixture.pool.close();
    assert_eq!(fixture.run(&f, "x").await.unwrap_err(), NotRun::Ending);
    fixture.pool.kill();
    assert!(running.await.unwrap().unwrap().failed);
    tokio::time::timeout(SOON, fixture.pool.drained())
        .await
        .unwrap();
    assert_eq!(fixture.stage.alive.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn reserved_concurrency_refuses_at_once_what_is_beyond_it_and_nothing_after() {
    let fixture = Fixture::new(PoolSettings {
        throttle_wait: SOON,
        ..SETTINGS
    });
    let f = fixture.version("f");
    let claim = super::Claim {
        reserved: Some(1),
        provisioned: 0,
    };
    fixture.pool.concurrency().set_claim(&f.name, claim);
    let running = tokio::spawn(run(fixture.pool.clone(), f.clone(), "gate".into()));
    fixture.until("one busy", |census| census.busy == 1).await;
    let refused = fixture.run(&f, "x").await.unwrap_err();
    assert_eq!(refused, NotRun::ReservedConcurrency);
    fixture.stage.gate.add_permits(1);
    running.await.unwrap().unwrap();
    // Invocations one after another never count as two at once, however soon the next one comes.
    for _ in 0..20 {
        fixture.run(&f, "x").await.unwrap();
    }
}

#[tokio::test]
async fn an_invocation_whose_caller_was_dropped_counts_until_it_has_ended() {
    let fixture = Fixture::new(PoolSettings {
        account_concurrency: 1,
        ..SETTINGS
    });
    let f = fixture.version("f");
    let running = tokio::spawn(run(fixture.pool.clone(), f.clone(), "gate".into()));
    fixture.until("one busy", |census| census.busy == 1).await;
    running.abort();
    assert!(running.await.is_err());
    assert_eq!(fixture.run(&f, "x").await.unwrap_err(), NotRun::Throttled);
    fixture.stage.gate.add_permits(1);
    fixture.until("idle", |census| census.idle == 1).await;
    fixture.run(&f, "x").await.unwrap();
}

#[tokio::test]
async fn a_provisioned_instance_is_ready_before_the_first_invocation_and_replaced_after_its_death()
{
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    fixture.pool.set_provisioned(&f, 2);
    fixture.until("two idle", |census| census.idle == 2).await;
    let ready = super::provision::Provisioned {
        ready: 2,
        failed: None,
    };
    assert_eq!(fixture.pool.provisioned(&f), ready);
    let first = fixture.run(&f, "x").await.unwrap();
    assert_eq!(first.start, Start::Warm);
    fixture.run(&f, "die").await.unwrap();
    fixture
        .until("two idle again", |census| census.idle == 2)
        .await;
    assert_eq!(fixture.stage.launched.load(Ordering::SeqCst), 3);
    fixture.pool.retire(&f);
    fixture
        .until("none", |census| census == Census::default())
        .await;
}

#[tokio::test]
async fn an_unusable_snapshot_is_rebuilt_for_provisioned_instances() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    fixture.stage.stale.store(true, Ordering::SeqCst);
    fixture.pool.set_provisioned(&f, 1);
    fixture.until("idle", |census| census.idle == 1).await;
    assert_eq!(fixture.stage.rebuilt.load(Ordering::SeqCst), 1);
}
