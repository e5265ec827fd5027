//! Starts beyond what the host can do at once.

use super::*;

const ONE: PoolSettings = PoolSettings {
    max_starts: 1,
    ..SETTINGS
};

fn spawn(
    fixture: &Fixture,
    version: &Arc<Version>,
    event: &str,
) -> tokio::task::JoinHandle<Result<Completed, NotRun>> {
    tokio::spawn(run(fixture.pool.clone(), version.clone(), event.into()))
}

#[tokio::test]
async fn all_of_many_invocations_at_once_are_answered_and_so_is_another_functions() {
    let fixture = Fixture::new(PoolSettings {
        max_starts: 2,
        ..SETTINGS
    });
    let (f, g) = (fixture.version("f"), fixture.version("g"));
    let burst: Vec<_> = (0..48).map(|_| spawn(&fixture, &f, "x")).collect();
    let beside = spawn(&fixture, &g, "y");
    let watched = async {
        while !burst.iter().all(tokio::task::JoinHandle::is_finished) {
            assert!(fixture.pool.census().starts <= 2);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(2 * SOON, watched).await.unwrap();
    for task in burst {
        assert!(!task.await.unwrap().unwrap().failed);
    }
    assert!(!beside.await.unwrap().unwrap().failed);
    fixture
        .until("no start is left", |census| {
            census.starts == 0 && census.waiting == 0
        })
        .await;
}

#[tokio::test]
async fn a_long_handler_holds_no_start_slot() {
    let fixture = Fixture::new(ONE);
    let f = fixture.version("f");
    let running: Vec<_> = (0..5).map(|_| spawn(&fixture, &f, "gate")).collect();
    fixture.until("five busy", |census| census.busy == 5).await;
    fixture.stage.gate.add_permits(5);
    for task in running {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_start_that_fails_gives_its_slot_back_and_a_rebuild_holds_none() {
    let fixture = Fixture::new(ONE);
    let (f, g) = (fixture.version("f"), fixture.version("g"));
    fixture.stage.stale.store(true, Ordering::SeqCst);
    let unusable = spawn(&fixture, &f, "x");
    let beside = spawn(&fixture, &g, "x");
    assert!(!unusable.await.unwrap().unwrap().failed);
    assert!(!beside.await.unwrap().unwrap().failed);
    fixture
        .until("no start is left", |census| census.starts == 0)
        .await;
}

#[tokio::test]
async fn callers_beyond_the_bound_are_throttled_at_once() {
    let fixture = Fixture::new(PoolSettings {
        max_instances: 1,
        max_waiting: 2,
        throttle_wait: 4 * SOON,
        ..SETTINGS
    });
    let f = fixture.version("f");
    let running = spawn(&fixture, &f, "gate");
    fixture.until("one busy", |census| census.busy == 1).await;
    let waiting: Vec<_> = (0..2).map(|_| spawn(&fixture, &f, "x")).collect();
    fixture
        .until("two wait", |census| census.waiting == 2)
        .await;
    assert_eq!(fixture.run(&f, "x").await.unwrap_err(), NotRun::Throttled);
    fixture.stage.gate.add_permits(1);
    running.await.unwrap().unwrap();
    for task in waiting {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_invocation_whose_turn_does_not_come_in_time_is_throttled() {
    let fixture = Fixture::new(PoolSettings {
        start_wait: Duration::from_millis(60),
        start_tail: 4 * SOON,
        ..ONE
    });
    let f = fixture.version("f");
    let running = spawn(&fixture, &f, "gate");
    fixture.until("one busy", |census| census.busy == 1).await;
    assert_eq!(fixture.run(&f, "x").await.unwrap_err(), NotRun::Throttled);
    fixture.stage.gate.add_permits(1);
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn callers_that_leave_while_they_wait_leave_nothing_behind() {
    let fixture = Fixture::new(PoolSettings {
        start_tail: 4 * SOON,
        ..ONE
    });
    let (f, g) = (fixture.version("f"), fixture.version("g"));
    let running = spawn(&fixture, &f, "gate");
    fixture.until("one busy", |census| census.busy == 1).await;
    let leaving: Vec<_> = (0..3).map(|_| spawn(&fixture, &g, "x")).collect();
    fixture
        .until("they wait", |census| census.waiting == 3)
        .await;
    for task in leaving {
        task.abort();
    }
    fixture.stage.gate.add_permits(1);
    running.await.unwrap().unwrap();
    fixture
        .until("nothing waits", |census| {
            census.waiting == 0 && census.starts == 0
        })
        .await;
    assert_eq!(*fixture.stage.seen.lock().unwrap(), ["gate"]);
    assert_eq!(fixture.stage.launched.load(Ordering::SeqCst), 1);
}
