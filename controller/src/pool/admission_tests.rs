//! Tests of the decisions about starts.

use tokio::sync::oneshot::error::TryRecvError;

use super::super::entry::{Capacity, GiveUp, Placed, Taken};
use super::super::state::tests::{Book, ROOMY, ids, orders, version, warm};
use super::*;

const ONE: Capacity = Capacity {
    max_starts: 1,
    ..ROOMY
};

impl Book {
    /// Takes an instance to the end of its start; returns the names of the functions that start then.
    fn run(&mut self, id: u64) -> Vec<String> {
        self.take(id);
        names(&self.state.admit(self.now))
    }

    fn event(&mut self, version: &Arc<Version>) -> Vec<StartOrder> {
        let mut job = self.job(version);
        job.invocation.background = true;
        orders(self.state.submit(job, self.now))
    }
}

fn names(orders: &[StartOrder]) -> Vec<String> {
    orders
        .iter()
        .map(|order| order.version.name.to_string())
        .collect()
}

#[test]
fn no_more_starts_are_under_way_than_there_are_slots_until_one_is_over() {
    let mut book = Book::new(Capacity {
        max_starts: 2,
        ..ROOMY
    });
    let f = version("f", 128);
    let started: Vec<u64> = (0..5).flat_map(|_| book.submit(&f)).collect();
    assert_eq!(started.len(), 2);
    book.begin(started[0]);
    assert!(book.state.admit(book.now).is_empty(), "its guest starts");
    assert!(book.state.started(started[0]));
    assert_eq!(book.state.admit(book.now).len(), 1);
    assert!(!book.state.started(started[0]), "it has no slot any more");
    assert_eq!(book.state.census().starts, 2);
}

#[test]
fn functions_get_slots_in_turn_however_many_invocations_of_one_came_first() {
    let mut book = Book::new(ONE);
    let (f, g, h) = (version("f", 128), version("g", 128), version("h", 128));
    let mut next = book.submit(&f);
    for version in [&f, &f, &f, &g, &g, &h] {
        assert!(book.submit(version).is_empty());
    }
    let mut order = Vec::new();
    while let [id] = next[..] {
        book.take(id);
        let started = book.state.admit(book.now);
        order.extend(names(&started));
        next = ids(started);
    }
    assert_eq!(order, ["f", "g", "h", "f", "g", "f"]);
}

#[test]
fn versions_of_a_function_share_its_turn_and_the_longest_wait_goes_first() {
    let mut book = Book::new(ONE);
    let (old, new, g) = (version("f", 128), version("f", 256), version("g", 128));
    let first = book.submit(&g)[0];
    for version in [&new, &old, &new, &old, &g] {
        assert!(book.submit(version).is_empty());
    }
    book.take(first);
    let mut next = book.state.admit(book.now);
    let mut order = Vec::new();
    while let [started] = &next[..] {
        order.push((
            started.version.name.to_string(),
            started.version.config.memory_mib,
        ));
        let id = started.id;
        book.take(id);
        next = book.state.admit(book.now);
    }
    let of = |name: &str, memory| (name.to_owned(), memory);
    assert_eq!(
        order,
        [
            of("g", 128),
            of("f", 256),
            of("f", 128),
            of("f", 256),
            of("f", 128)
        ]
    );
}

#[test]
fn a_function_that_does_not_fit_keeps_its_turn_and_holds_up_nobody() {
    let mut book = Book::new(Capacity {
        memory_mib: 600,
        ..ONE
    });
    let (f, large, g) = (version("f", 256), version("l", 512), version("g", 128));
    let busy = book.submit(&f)[0];
    for version in [&large, &g, &g] {
        assert!(book.submit(version).is_empty());
    }
    assert_eq!(book.run(busy), ["g"]);
    let started = book.state.gone(busy, book.now);
    assert!(started.is_empty(), "the slot is in use");
    let g1 = 2;
    assert_eq!(book.take(g1), 3);
    let started = book.state.gone(g1, book.now);
    assert_eq!(names(&started), ["l"]);
}

#[test]
fn an_invocation_takes_what_comes_first_an_instance_or_a_slot() {
    let mut book = Book::new(ONE);
    let f = version("f", 128);
    let first = book.submit(&f)[0];
    assert!(book.submit(&f).is_empty());
    book.take(first);
    let second = ids(book.state.admit(book.now))[0];
    book.state.finishing(first, book.now);
    assert_eq!(book.state.next(first).unwrap().ticket, 2);
    assert!(matches!(book.state.take(second), Taken::Nothing));
    assert_eq!(book.state.census().starts, 0);
}

#[test]
fn callers_beyond_the_bound_are_refused_at_once_and_those_who_left_do_not_count() {
    let mut book = Book::new(Capacity {
        max_waiting: 2,
        ..ONE
    });
    let (f, g) = (version("f", 128), version("g", 128));
    let first = book.submit(&g)[0];
    book.event(&f);
    book.event(&f);
    for _ in 0..2 {
        assert!(book.submit(&f).is_empty());
    }
    let job = book.job(&version("f", 256));
    assert!(
        matches!(book.state.submit(job, book.now), Placed::Full),
        "all versions of a function count, and events do not"
    );
    assert!(matches!(
        book.answers.last_mut().unwrap().try_recv(),
        Err(TryRecvError::Closed)
    ));
    let job = book.job(&g);
    assert!(matches!(book.state.submit(job, book.now), Placed::Waits(_)));
    book.answers.drain(3..5);
    let job = book.job(&f);
    assert!(matches!(book.state.submit(job, book.now), Placed::Waits(_)));
    book.take(first);
}

#[test]
fn events_start_after_all_callers_and_provisioned_instances_after_events() {
    let mut book = Book::new(ONE);
    let (f, g, h) = (version("f", 128), version("g", 128), version("h", 128));
    let first = book.submit(&f)[0];
    assert!(book.state.set_provisioned(&h, 1, book.now).is_empty());
    assert!(book.event(&g).is_empty());
    assert!(book.submit(&f).is_empty());
    book.take(first);
    let mut next = book.state.admit(book.now);
    let mut order = Vec::new();
    while let [started] = &next[..] {
        order.extend(names(&next));
        let id = started.id;
        if matches!(book.state.take(id), Taken::Ready) {
            break;
        }
        book.state.started(id);
        next = book.state.admit(book.now);
    }
    assert_eq!(order, ["f", "g", "h"]);
}

#[test]
fn a_slot_comes_back_however_a_start_ends() {
    let mut book = Book::new(ONE);
    let f = version("f", 128);
    // It fails before it has an invocation.
    let id = book.submit(&f)[0];
    let job = book.state.start_failed(id, "no").unwrap();
    let id = ids(book.state.resubmit(job, book.now))[0];
    // It ends in its first invocation.
    book.begin(id);
    assert!(book.state.gone(id, book.now).is_empty());
    // The caller leaves.
    let id = book.submit(&f)[0];
    book.answers.clear();
    assert!(matches!(book.state.take(id), Taken::Nothing));
    // It is not provisioned any more.
    let id = ids(book.state.set_provisioned(&f, 1, book.now))[0];
    book.state.set_provisioned(&f, 0, book.now);
    assert!(matches!(book.state.take(id), Taken::Nothing));
    // It was provisioned, and fails.
    let id = ids(book.state.set_provisioned(&f, 1, book.now))[0];
    assert!(matches!(book.state.take(id), Taken::Ready));
    assert!(book.state.start_failed(id, "no").is_none());
    // It becomes ready.
    let id = ids(book.state.gone(id, book.now))[0];
    let _orders = warm(&mut book, id);
    assert_eq!(book.state.census().starts, 0);
}

#[test]
fn nothing_starts_for_callers_that_have_left_and_nothing_is_left_of_their_version() {
    let mut book = Book::new(ONE);
    let (f, g) = (version("f", 128), version("g", 128));
    let first = book.submit(&f)[0];
    book.submit(&g);
    book.answers.truncate(1);
    assert!(book.run(first).is_empty());
    assert!(
        !book
            .state
            .groups
            .contains_key(&GroupKey::without_tenant(g.serial))
    );
    assert_eq!(book.state.waiting(), 0);
}

#[test]
fn a_start_that_waits_for_artefacts_holds_no_slot_and_is_the_only_one_of_its_version() {
    let mut book = Book::new(ONE);
    let (f, g) = (version("f", 128), version("g", 128));
    let preparing = book.submit(&f)[0];
    for version in [&f, &g] {
        assert!(book.submit(version).is_empty());
    }
    book.state.prepares(preparing);
    let started = book.state.admit(book.now);
    assert_eq!(names(&started), ["g"]);
    book.take(started[0].id);
    assert!(book.state.admit(book.now).is_empty());
    for ticket in [1, 2] {
        let much_later = book.now + Duration::from_secs(60);
        let given_up = book
            .state
            .give_up(&GroupKey::without_tenant(f.serial), ticket, much_later);
        assert!(matches!(given_up, GiveUp::Coming), "{ticket}");
    }
    assert!(
        !book.state.callers_wait(),
        "a rebuild must not wait for them"
    );
    let started = book.state.gone(preparing, book.now);
    assert_eq!(names(&started), ["f"]);
    assert_eq!(book.take(started[0].id), 1);
    assert_eq!(book.state.admit(book.now).len(), 1);
}

#[test]
fn on_a_busy_host_a_version_gets_its_first_instance_at_once_and_others_after_a_wait() {
    let mut book = Book::new(ROOMY);
    book.state.set_spare_cpus(false);
    let (f, g) = (version("f", 128), version("g", 128));
    assert_eq!(book.submit(&f).len(), 1);
    assert!(book.submit(&f).is_empty());
    assert_eq!(book.submit(&g).len(), 1);
    assert!(book.state.admit(book.now).is_empty());
    book.take(1);
    book.now += PATIENCE;
    assert_eq!(names(&book.state.admit(book.now)), ["f"]);
    book.state.set_spare_cpus(true);
    assert_eq!(book.submit(&g).len(), 1);
}

#[test]
fn an_invocation_waits_longer_for_its_turn_than_at_a_limit_but_not_for_ever() {
    let mut book = Book::new(Capacity {
        memory_mib: 300,
        ..ONE
    });
    let (f, large) = (version("f", 128), version("l", 256));
    book.submit(&f);
    book.submit(&f);
    book.submit(&large);
    let soon = book.now + Duration::from_millis(100);
    let gives_up = |book: &mut Book, version: &Version, ticket, now| {
        let decided = book
            .state
            .give_up(&GroupKey::without_tenant(version.serial), ticket, now);
        matches!(decided, GiveUp::Removed)
    };
    assert!(!gives_up(&mut book, &f, 2, soon));
    assert!(gives_up(&mut book, &large, 3, soon), "it does not fit");
    let later = book.now + ROOMY.start_wait;
    assert!(gives_up(&mut book, &f, 2, later));
    assert!(
        !gives_up(&mut book, &f, 1, later),
        "an instance starts for it"
    );
}

#[test]
fn an_order_says_how_long_its_caller_has_waited() {
    let mut book = Book::new(ONE);
    let (f, g) = (version("f", 128), version("g", 128));
    let job = book.job(&f);
    let started = orders(book.state.submit(job, book.now));
    assert_eq!(started[0].waited, Some(Duration::ZERO));
    book.event(&g);
    book.submit(&f);
    book.now += Duration::from_millis(7);
    book.take(started[0].id);
    let started = book.state.admit(book.now);
    assert_eq!(started[0].waited, Some(Duration::from_millis(7)));
    book.take(started[0].id);
    assert_eq!(book.state.admit(book.now)[0].waited, None, "an event");
}

#[test]
fn a_function_that_comes_back_takes_the_last_turn() {
    let mut book = Book::new(ONE);
    let (f, g) = (version("f", 128), version("g", 128));
    let first = book.submit(&f)[0];
    book.take(first);
    let second = book.submit(&g)[0];
    assert!(book.submit(&g).is_empty());
    assert!(book.submit(&f).is_empty());
    book.take(second);
    assert_eq!(names(&book.state.admit(book.now)), ["g"]);
}
