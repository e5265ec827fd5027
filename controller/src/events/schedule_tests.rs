use super::*;

const BOUNDS: Bounds = Bounds {
    running: 100,
    per_function: 50,
    first_window: 2,
    events: 1000,
    bytes: 1_000_000,
};

fn name(name: &str) -> FunctionName {
    FunctionName::parse(name).unwrap()
}

fn schedule(bounds: Bounds) -> Schedule {
    Schedule::new(bounds)
}

/// Stores events and makes them ready.
fn add(schedule: &mut Schedule, function: &str, ids: impl IntoIterator<Item = i64>) {
    for id in ids {
        schedule.reserve(10).unwrap();
        schedule.add(&name(function), id, 10, None);
    }
}

/// Everything that may run now.
fn turns(schedule: &mut Schedule, now_ms: i64) -> Vec<Turn> {
    std::iter::from_fn(|| schedule.next(now_ms)).collect()
}

fn ids(turns: &[Turn]) -> Vec<i64> {
    turns.iter().map(|turn| turn.id).collect()
}

fn succeed(schedule: &mut Schedule, turn: &Turn) {
    schedule.ran(&turn.function, true);
    schedule.finish(turn, 10);
}

#[test]
fn events_run_in_the_order_of_their_acceptance_and_functions_take_turns() {
    let mut schedule = schedule(BOUNDS);
    add(&mut schedule, "a", 1..=10);
    add(&mut schedule, "b", 11..=12);
    let first = turns(&mut schedule, 0);
    // Two of each, the width of a new lane's window, by turns.
    assert_eq!(ids(&first), [1, 11, 2, 12]);
    succeed(&mut schedule, &first[0]);
    assert_eq!(ids(&turns(&mut schedule, 0)), [3, 4]);
}

#[test]
fn a_window_grows_with_success_up_to_the_limit_and_everything_runs_once() {
    let mut schedule = schedule(Bounds {
        per_function: 8,
        ..BOUNDS
    });
    add(&mut schedule, "a", 1..=100);
    let mut seen = Vec::new();
    let mut most = 0;
    loop {
        let running = turns(&mut schedule, 0);
        if running.is_empty() {
            break;
        }
        most = most.max(schedule.running());
        for turn in &running {
            succeed(&mut schedule, turn);
        }
        seen.extend(ids(&running));
    }
    assert_eq!(seen, (1..=100).collect::<Vec<i64>>());
    assert_eq!(most, 8);
    assert_eq!((schedule.events(), schedule.bytes()), (0, 0));
}

#[test]
fn a_window_does_not_grow_while_the_cpus_are_busy() {
    let mut schedule = schedule(BOUNDS);
    add(&mut schedule, "a", 1..=100);
    for _ in 0..10 {
        let running = turns(&mut schedule, 0);
        assert_eq!(running.len(), BOUNDS.first_window);
        for turn in &running {
            schedule.ran(&turn.function, false);
            schedule.finish(turn, 10);
        }
    }
}

#[test]
fn no_more_than_the_bound_of_all_run_at_a_time() {
    let mut schedule = schedule(Bounds {
        running: 3,
        ..BOUNDS
    });
    for (function, ids) in [("a", 1..=2), ("b", 3..=4), ("c", 5..=6)] {
        add(&mut schedule, function, ids);
    }
    let first = turns(&mut schedule, 0);
    assert_eq!(ids(&first), [1, 3, 5]);
    succeed(&mut schedule, &first[1]);
    assert_eq!(ids(&turns(&mut schedule, 0)), [2]);
}

#[test]
fn a_retry_waits_for_its_time_and_holds_up_nothing() {
    let mut schedule = schedule(BOUNDS);
    add(&mut schedule, "a", 1..=3);
    let first = turns(&mut schedule, 0);
    schedule.retry(&first[0], 60_000);
    assert_eq!(ids(&turns(&mut schedule, 0)), [3]);
    assert_eq!(schedule.wake_at_ms(), Some(60_000));
    assert_eq!(turns(&mut schedule, 59_999), []);
    succeed(&mut schedule, &first[1]);
    assert_eq!(ids(&turns(&mut schedule, 60_000)), [1]);
    assert_eq!(schedule.wake_at_ms(), None);
}

#[test]
fn a_throttled_event_is_the_next_again_after_a_pause_that_grows_until_something_runs() {
    let mut schedule = schedule(BOUNDS);
    add(&mut schedule, "a", [1]);
    let mut now = 0;
    for pause in [1000, 2000, 4000] {
        let turn = schedule.next(now).unwrap();
        schedule.put_back(&turn, Obstacle::Throttle, i64::MAX, now);
        assert_eq!(schedule.wake_at_ms(), Some(now + pause));
        assert_eq!(schedule.next(now + pause - 1), None);
        now += pause;
    }
    let turn = schedule.next(now).unwrap();
    succeed(&mut schedule, &turn);
    add(&mut schedule, "a", [2]);
    let turn = schedule.next(now).unwrap();
    schedule.put_back(&turn, Obstacle::Throttle, i64::MAX, now);
    assert_eq!(schedule.wake_at_ms(), Some(now + 1000));
}

#[test]
fn a_pause_ends_when_the_event_would_be_too_old() {
    let mut schedule = schedule(BOUNDS);
    add(&mut schedule, "a", [1]);
    let turn = schedule.next(0).unwrap();
    schedule.put_back(&turn, Obstacle::Failure, 300, 0);
    assert_eq!(schedule.wake_at_ms(), Some(300));
    assert_eq!(ids(&turns(&mut schedule, 300)), [1]);
}

#[test]
fn a_throttle_beside_running_events_shrinks_the_window_to_their_number_and_waits_for_one() {
    let mut schedule = schedule(Bounds {
        first_window: 4,
        ..BOUNDS
    });
    add(&mut schedule, "a", 1..=10);
    let running = turns(&mut schedule, 0);
    assert_eq!(ids(&running), [1, 2, 3, 4]);
    schedule.put_back(&running[3], Obstacle::Throttle, i64::MAX, 0);
    schedule.put_back(&running[2], Obstacle::Throttle, i64::MAX, 0);
    assert_eq!(turns(&mut schedule, 0), []);
    assert_eq!(schedule.wake_at_ms(), None, "no pause");
    succeed(&mut schedule, &running[0]);
    succeed(&mut schedule, &running[1]);
    let next = turns(&mut schedule, 0);
    assert_eq!(ids(&next)[..2], [3, 4]);
}

#[test]
fn the_queue_is_bounded_in_events_and_in_bytes() {
    let mut schedule = schedule(Bounds {
        events: 2,
        bytes: 100,
        ..BOUNDS
    });
    schedule.reserve(60).unwrap();
    let full = schedule.reserve(41).unwrap_err();
    assert_eq!((full.events, full.bytes), (1, 60));
    schedule.reserve(40).unwrap();
    assert!(schedule.reserve(0).is_err());
    schedule.release(40);
    schedule.reserve(0).unwrap();
}

#[test]
fn a_forgotten_function_has_no_events_and_the_end_of_its_runs_changes_nothing() {
    let mut schedule = schedule(BOUNDS);
    add(&mut schedule, "a", 1..=4);
    add(&mut schedule, "b", [5]);
    let running = turns(&mut schedule, 0);
    assert_eq!(ids(&running), [1, 5, 2]);
    assert_eq!(schedule.forget(&name("a")), 4);
    assert!(!schedule.holds(&running[0]) && schedule.holds(&running[1]));
    assert_eq!((schedule.events(), schedule.bytes()), (1, 10));
    // Another function of the same name.
    add(&mut schedule, "a", [6]);
    succeed(&mut schedule, &running[0]);
    schedule.retry(&running[2], 10);
    assert_eq!(ids(&turns(&mut schedule, 20)), [6]);
    assert_eq!(schedule.running(), 2);
    assert_eq!((schedule.events(), schedule.bytes()), (2, 20));
}

#[test]
fn a_hundred_thousand_events_that_wait_for_their_retry_cost_a_ready_one_nothing() {
    let mut schedule = schedule(Bounds {
        events: u64::MAX,
        bytes: u64::MAX,
        ..BOUNDS
    });
    for id in 0..100_000 {
        schedule.hold(10);
        schedule.add(&name("a"), id, 10, Some(60_000 + id));
    }
    add(&mut schedule, "b", [100_000]);
    assert_eq!(ids(&turns(&mut schedule, 0)), [100_000]);
    assert_eq!(schedule.wake_at_ms(), Some(60_000));
}
