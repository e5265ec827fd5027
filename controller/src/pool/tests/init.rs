//! Functions whose init runs in each instance.

use super::super::dispatch::REBUILD_PAUSE;
use super::super::double::SLOW_INIT;
use super::*;
use crate::function::StartsFrom;

impl Fixture {
    fn version_with_init(&self, name: &str, handler: &str) -> Arc<Version> {
        let version = version(name, 128);
        version.set_artefacts(self.stage.artefacts_with_init(handler));
        *self.stage.rebuilt_with.lock().unwrap() = Some(handler.into());
        version
    }

    fn inits(&self) -> usize {
        self.stage.inits.lock().unwrap().len()
    }
}

fn tail(completed: &Completed) -> String {
    String::from_utf8(completed.tail.clone().unwrap()).unwrap()
}

#[tokio::test]
async fn an_instance_that_starts_by_init_serves_and_is_warm_after_that() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version_with_init("f", "ok");
    let first = fixture.run(&f, "one").await.unwrap();
    assert_eq!(
        (first.start, &first.payload[..], first.failed),
        (Start::Cold, &b"one"[..], false)
    );
    let said = tail(&first);
    assert!(said.contains("\tInit Duration: 0.01 ms\t"), "{said}");
    assert!(!said.contains("Restore Duration"), "{said}");
    assert!(first.phases.restore >= Duration::from_micros(10));
    fixture.until("idle", |census| census.idle == 1).await;
    let second = fixture.run(&f, "two").await.unwrap();
    assert_eq!(
        (second.start, &second.payload[..]),
        (Start::Warm, &b"two"[..])
    );
    assert!(!tail(&second).contains("Init Duration"));
    assert_eq!(
        (fixture.inits(), second.phases.restore),
        (1, Duration::ZERO)
    );
}

/// It was lost for good: a function whose init had failed once, on a slow host, failed until it was deployed
/// again.
#[tokio::test]
async fn after_an_init_that_failed_at_the_deploy_one_that_works_makes_the_snapshot() {
    for (ago, rebuilt) in [(REBUILD_PAUSE, 1), (Duration::ZERO, 0)] {
        let fixture = Fixture::new(SETTINGS);
        let f = version("f", 128);
        f.set_artefacts(fixture.stage.artefacts_after_failed_init("ok", ago));
        let first = fixture.run(&f, "one").await.unwrap();
        assert_eq!((&first.payload[..], first.failed), (&b"one"[..], false));
        fixture.until("idle", |census| census.idle == 1).await;
        // A rebuild would have been begun before the instance was idle, and holds the lock until it is done.
        tokio::task::yield_now().await;
        drop(f.rebuilding.lock().await);
        assert_eq!(fixture.stage.rebuilt.load(Ordering::SeqCst), rebuilt);
        let starts_from = &f.artefacts().unwrap().starts_from;
        let has_snapshot = matches!(starts_from, StartsFrom::FunctionSnapshot);
        assert_eq!(has_snapshot, rebuilt == 1);
        assert_eq!(fixture.run(&f, "two").await.unwrap().start, Start::Warm);
    }
}

#[tokio::test]
async fn each_instance_runs_init_of_its_own_with_a_log_stream_of_its_own() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version_with_init("f", "ok");
    let running: Vec<_> = (0..2)
        .map(|_| tokio::spawn(run(fixture.pool.clone(), f.clone(), "gate".into())))
        .collect();
    fixture.until("two busy", |census| census.busy == 2).await;
    fixture.stage.gate.add_permits(2);
    for task in running {
        assert_eq!(task.await.unwrap().unwrap().start, Start::Cold);
    }
    let inits = fixture.stage.inits.lock().unwrap();
    assert_eq!(inits.len(), 2);
    assert!(inits[0] != inits[1] && inits[0].contains("[$LATEST]"));
}

#[tokio::test]
async fn an_init_that_fails_in_an_instance_is_a_function_error_and_the_next_call_tries_again() {
    for (handler, kind, message, status) in [
        (
            "raise",
            "Runtime.ImportModuleError",
            "no module x",
            "Error Type: Runtime.ImportModuleError",
        ),
        (
            "exit",
            "Runtime.ExitError",
            "Runtime exited with error: exit status 1",
            "Error Type: Runtime.ExitError",
        ),
        (
            "hang",
            "Sandbox.Timedout",
            "Task timed out after 0.20 seconds",
            "Status: timeout",
        ),
    ] {
        let fixture = Fixture::new(SETTINGS);
        let f = fixture.version_with_init("f", handler);
        for tries in 1..=2 {
            let done = fixture.run(&f, "x").await.unwrap();
            assert!(done.failed && done.start == Start::Cold, "{handler}");
            let body: serde_json::Value = serde_json::from_slice(&done.payload).unwrap();
            assert_eq!(body["errorType"], kind, "{body}");
            let said = body["errorMessage"].as_str().unwrap();
            assert!(said.contains(message), "{said}");
            let tail = tail(&done);
            assert!(tail.starts_with("START RequestId: "), "{tail}");
            let report = tail.lines().last().unwrap();
            assert!(report.contains("\tInit Duration: "), "{tail}");
            assert!(report.ends_with(status), "{tail}");
            assert_eq!(fixture.inits(), tries, "{handler}");
            fixture
                .until("nothing", |census| census == Census::default())
                .await;
        }
        let seen = fixture.stage.seen.lock().unwrap();
        assert!(seen.is_empty(), "{handler}: {seen:?}");
    }
}

#[tokio::test]
async fn a_microvm_that_dies_in_init_is_no_answer_and_attempts_are_limited() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version_with_init("f", "die");
    let refused = fixture.run(&f, "x").await.unwrap_err();
    assert!(matches!(refused, NotRun::Unavailable(_)), "{refused:?}");
    assert_eq!(fixture.inits(), 3);
}

#[tokio::test]
async fn a_functions_time_does_not_begin_in_its_init() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version_with_init("f", "slow");
    let mut hurried = invocation(f.clone(), "x".into());
    hurried.limits.timeout = SLOW_INIT * 5 / 6;
    let done = fixture.pool.submit(hurried).await.unwrap();
    assert!(!done.failed && done.start == Start::Cold);
    assert!(done.duration < SLOW_INIT, "{:?}", done.duration);
}

#[tokio::test]
async fn a_budget_of_cpu_time_is_armed_after_init() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version_with_init("f", "ok");
    let mut limited = invocation(f.clone(), "x".into());
    limited.limits.cpu = Some(Duration::from_secs(1));
    let done = fixture.pool.submit(limited).await.unwrap();
    assert_eq!((done.failed, done.start), (false, Start::Cold));
}

#[tokio::test]
async fn a_runtime_snapshot_that_is_refused_is_made_again_and_the_request_does_not_fail() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version_with_init("f", "ok");
    fixture.stage.stale.store(true, Ordering::SeqCst);
    let done = fixture.run(&f, "x").await.unwrap();
    assert!(!done.failed);
    assert_eq!(fixture.stage.rebuilt.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_runtime_snapshot_outlives_the_versions_that_start_from_it() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version_with_init("f", "ok");
    fixture.run(&f, "x").await.unwrap();
    let code = f.artefacts().unwrap().files.code_image.clone();
    fixture.pool.retire(&f);
    drop(f);
    let deadline = Instant::now() + SOON;
    while code.exists() {
        assert!(Instant::now() < deadline, "its code is removed");
        tokio::task::yield_now().await;
    }
    assert!(fixture.stage.runtime_snapshot().join("memory").exists());
}

#[tokio::test]
async fn a_provisioned_instance_is_ready_after_its_init() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version_with_init("f", "ok");
    fixture.pool.set_provisioned(&f, 2);
    fixture.until("two idle", |census| census.idle == 2).await;
    assert_eq!(fixture.inits(), 2);
    let first = fixture.run(&f, "x").await.unwrap();
    assert_eq!(first.start, Start::Warm);
    assert!(!tail(&first).contains("Init Duration"));
}

#[tokio::test]
async fn provisioning_stops_with_the_reason_after_init_has_failed() {
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version_with_init("f", "raise");
    fixture.pool.set_provisioned(&f, 1);
    let deadline = Instant::now() + SOON;
    let why = loop {
        if let Some(why) = fixture.pool.provisioned(&f).failed {
            break why;
        }
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    };
    assert!(why.contains("Runtime.ImportModuleError"), "{why}");
    assert_eq!(fixture.inits(), 3);
    // An invocation still gets the function error.
    assert!(fixture.run(&f, "x").await.unwrap().failed);
}

#[tokio::test]
async fn a_slow_init_holds_no_start_slot() {
    let fixture = Fixture::new(PoolSettings {
        max_starts: 1,
        ..SETTINGS
    });
    let f = fixture.version_with_init("f", "gate");
    let running: Vec<_> = (0..3)
        .map(|_| tokio::spawn(run(fixture.pool.clone(), f.clone(), "x".into())))
        .collect();
    fixture
        .until("all three are in their init", |census| census.busy == 3)
        .await;
    let g = fixture.version("g");
    fixture.run(&g, "x").await.unwrap();
    fixture.stage.gate.add_permits(3);
    for task in running {
        task.await.unwrap().unwrap();
    }
}
