//! Tests of the pool's decisions.

use std::sync::Arc;
use std::time::Duration;

use super::super::job::{Invocation, NotRun};
use super::*;
use crate::function::{
    Code, FunctionConfig, FunctionName, Incarnation, Version, VersionContent, VersionId,
};
use crate::registry::test_record;

pub(crate) const GRACE: Duration = Duration::from_millis(100);
pub(crate) const ROOMY: Capacity = Capacity {
    max_instances: 10,
    max_per_function: 10,
    memory_mib: 10_000,
    memory_per_function_mib: u64::MAX,
    max_starts: 10,
    max_waiting: 100,
    start_wait: Duration::from_secs(1),
    finish_grace: GRACE,
};

pub(crate) fn version(name: &str, memory_mib: u32) -> Arc<Version> {
    let config = FunctionConfig {
        memory_mib,
        ..test_record(name).config
    };
    let code = Code {
        sha256: String::new(),
        size: 0,
        unpacked: 0,
    };
    let content = VersionContent {
        incarnation: Incarnation::default(),
        name: FunctionName::parse(name).unwrap(),
        id: VersionId::Latest,
        config,
        code,
        revision_id: "r".into(),
    };
    Version::new(content, None)
}

pub(crate) struct Book {
    pub(crate) state: State,
    pub(crate) now: Instant,
    tickets: u64,
    pub(crate) answers: Vec<oneshot::Receiver<Result<super::super::Completed, NotRun>>>,
}

impl Book {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self {
            state: State::new(capacity),
            now: Instant::now(),
            tickets: 0,
            answers: Vec::new(),
        }
    }

    pub(crate) fn job(&mut self, version: &Arc<Version>) -> Job {
        let (reply, answer) = oneshot::channel();
        self.answers.push(answer);
        self.tickets += 1;
        self.now += Duration::from_millis(1);
        Job {
            ticket: self.tickets,
            attempts: 0,
            slot: None,
            sink: None,
            reply,
            invocation: Box::new(Invocation {
                accepted: self.now,
                ..Invocation::new(
                    self.tickets.to_string(),
                    version.clone(),
                    String::new(),
                    bytes::Bytes::new(),
                )
            }),
        }
    }

    /// Submits an invocation; returns the ids of the instances to start.
    pub(crate) fn submit(&mut self, version: &Arc<Version>) -> Vec<u64> {
        let job = self.job(version);
        ids(orders(self.state.submit(job, self.now)))
    }

    /// Takes an instance from its start to its first invocation's ticket.
    pub(crate) fn take(&mut self, id: u64) -> u64 {
        let ticket = self.begin(id);
        self.state.started(id);
        ticket
    }

    /// Takes an instance to the begin of its first invocation; its start is still under way.
    pub(crate) fn begin(&mut self, id: u64) -> u64 {
        match self.state.take(id) {
            Taken::Job(job) => job.ticket,
            other => panic!("{other:?}"),
        }
    }

    /// Takes an instance from an answer to idle.
    pub(crate) fn park(&mut self, id: u64) -> oneshot::Receiver<Order> {
        self.state.finishing(id, self.now);
        assert!(self.state.next(id).is_none());
        match self.state.park(id, self.now) {
            Parked::Wait(orders) => orders,
            other => panic!("{other:?}"),
        }
    }

    /// An idle instance of a version.
    pub(crate) fn idle(&mut self, version: &Arc<Version>) -> (u64, oneshot::Receiver<Order>) {
        let id = self.submit(version)[0];
        self.take(id);
        (id, self.park(id))
    }
}

/// The ids of the instances to start for an invocation.
pub(crate) fn orders(placed: Placed) -> Vec<StartOrder> {
    match placed {
        Placed::Given | Placed::Full => Vec::new(),
        Placed::Waits(orders) => orders,
    }
}

pub(crate) fn ids(orders: Vec<StartOrder>) -> Vec<u64> {
    orders.into_iter().map(|order| order.id).collect()
}

pub(crate) fn ordered(orders: &mut oneshot::Receiver<Order>) -> Option<u64> {
    match orders.try_recv() {
        Ok(Order::Run(job)) => Some(job.ticket),
        Ok(Order::End) => Some(0),
        _ => None,
    }
}

#[test]
fn the_idle_instance_that_was_used_last_gets_the_next_invocation() {
    let mut book = Book::new(ROOMY);
    let f = version("f", 128);
    let (a, b) = (book.submit(&f)[0], book.submit(&f)[0]);
    assert_eq!((book.take(a), book.take(b)), (1, 2));
    let mut of_b = book.park(b);
    let mut of_a = book.park(a);
    assert!(book.submit(&f).is_empty());
    assert_eq!(ordered(&mut of_a), Some(3));
    assert_eq!(ordered(&mut of_b), None);
}

#[test]
fn a_burst_starts_as_many_instances_as_the_limit_allows_and_no_more() {
    let mut book = Book::new(Capacity {
        max_per_function: 2,
        ..ROOMY
    });
    let f = version("f", 128);
    let started: usize = (0..5).map(|_| book.submit(&f).len()).sum();
    assert_eq!(started, 2);
    assert_eq!(
        book.submit(&version("g", 128)).len(),
        1,
        "another function has its own limit"
    );
}

#[test]
fn waiting_invocations_are_served_in_the_order_of_their_arrival() {
    let mut book = Book::new(Capacity {
        max_instances: 1,
        ..ROOMY
    });
    let f = version("f", 128);
    let id = book.submit(&f)[0];
    for _ in 0..3 {
        assert!(book.submit(&f).is_empty());
    }
    assert_eq!(book.take(id), 1);
    for expected in 2..=4 {
        book.state.finishing(id, book.now);
        assert_eq!(book.state.next(id).unwrap().ticket, expected);
    }
}

#[test]
fn events_are_served_last_and_in_their_order() {
    let mut book = Book::new(Capacity {
        max_instances: 1,
        ..ROOMY
    });
    let f = version("f", 128);
    let id = book.submit(&f)[0];
    assert_eq!(book.take(id), 1);
    for background in [true, true, false, true, false] {
        let mut job = book.job(&f);
        job.invocation.background = background;
        assert!(orders(book.state.submit(job, book.now)).is_empty());
    }
    for expected in [4, 6, 2, 3, 5] {
        book.state.finishing(id, book.now);
        assert_eq!(book.state.next(id).unwrap().ticket, expected);
    }
}

#[test]
fn a_free_place_goes_to_a_synchronous_invocation_before_an_event_that_has_waited_longer() {
    let mut book = Book::new(Capacity {
        max_instances: 1,
        ..ROOMY
    });
    let (f, g, h) = (version("f", 128), version("g", 128), version("h", 128));
    let id = book.submit(&f)[0];
    book.take(id);
    let mut job = book.job(&g);
    job.invocation.background = true;
    assert!(orders(book.state.submit(job, book.now)).is_empty());
    assert!(book.submit(&h).is_empty());
    let started = book.state.gone(id, book.now);
    assert_eq!(started[0].version.name.as_str(), "h");
}

#[test]
fn an_invocation_waits_for_an_instance_that_has_just_answered_but_not_for_a_slow_one() {
    let mut book = Book::new(ROOMY);
    let f = version("f", 128);
    let id = book.submit(&f)[0];
    book.take(id);
    book.state.finishing(id, book.now);
    assert!(book.submit(&f).is_empty());
    let later = book.now + GRACE;
    assert_eq!(book.state.admit(later).len(), 1);
}

#[test]
fn a_new_instance_that_is_not_needed_any_more_is_removed() {
    let mut book = Book::new(ROOMY);
    let f = version("f", 128);
    let first = book.submit(&f)[0];
    book.take(first);
    let second = book.submit(&f)[0];
    book.state.finishing(first, book.now);
    assert_eq!(book.state.next(first).unwrap().ticket, 2);
    assert!(matches!(book.state.take(second), Taken::Nothing));
    assert_eq!(
        book.state.census(),
        Census {
            busy: 1,
            memory_mib: 128,
            ..Census::default()
        }
    );
}

#[test]
fn the_least_recently_used_idle_instance_is_evicted() {
    let mut book = Book::new(Capacity {
        memory_mib: 300,
        ..ROOMY
    });
    let (f, g, h) = (version("f", 128), version("g", 128), version("h", 128));
    let (_, mut old) = book.idle(&f);
    let (_, mut recent) = book.idle(&g);
    assert_eq!(book.submit(&h).len(), 1);
    assert_eq!(ordered(&mut old), Some(0));
    assert_eq!(ordered(&mut recent), None);
    assert_eq!(book.state.census().memory_mib, 256);
    assert_eq!(book.state.take_evicted(), 1);
}

#[test]
fn idle_instances_are_not_evicted_if_that_would_not_free_enough_memory() {
    let mut book = Book::new(Capacity {
        memory_mib: 300,
        ..ROOMY
    });
    let (f, g) = (version("f", 128), version("g", 10_240));
    let (_, mut idle) = book.idle(&f);
    assert!(book.submit(&g).is_empty());
    assert_eq!(ordered(&mut idle), None);
}

#[test]
fn a_free_place_goes_to_the_version_that_has_waited_longest() {
    let mut book = Book::new(Capacity {
        max_instances: 1,
        ..ROOMY
    });
    let (f, g, h) = (version("f", 128), version("g", 128), version("h", 128));
    let id = book.submit(&f)[0];
    book.take(id);
    assert_eq!((book.submit(&g), book.submit(&h)), (vec![], vec![]));
    let started = book.state.gone(id, book.now);
    assert_eq!(started.len(), 1);
    assert_eq!(started[0].version.name, g.name);
}

#[test]
fn an_invocation_that_has_waited_too_long_is_removed_unless_an_instance_is_starting() {
    let mut book = Book::new(Capacity {
        max_instances: 1,
        ..ROOMY
    });
    let f = version("f", 128);
    let id = book.submit(&f)[0];
    book.submit(&f);
    assert!(matches!(
        book.state
            .give_up(&GroupKey::without_tenant(f.serial), 1, book.now),
        GiveUp::Coming
    ));
    assert!(matches!(
        book.state
            .give_up(&GroupKey::without_tenant(f.serial), 2, book.now),
        GiveUp::Removed
    ));
    book.take(id);
    assert!(matches!(
        book.state
            .give_up(&GroupKey::without_tenant(f.serial), 1, book.now),
        GiveUp::Started
    ));
    assert!(book.state.next(id).is_none());
}

#[test]
fn an_invocation_whose_caller_was_dropped_before_it_began_does_not_run() {
    let mut book = Book::new(ROOMY);
    let f = version("f", 128);
    let id = book.submit(&f)[0];
    book.answers.clear();
    assert!(matches!(book.state.take(id), Taken::Nothing));
}

#[test]
fn a_retired_version_keeps_no_idle_instance_and_still_serves_its_queue() {
    let mut book = Book::new(Capacity {
        max_instances: 2,
        ..ROOMY
    });
    let f = version("f", 128);
    let (_, mut idle) = book.idle(&f);
    let busy = {
        let job = book.job(&f);
        let id = ids(orders(book.state.submit(job, book.now)));
        assert!(id.is_empty());
        assert_eq!(ordered(&mut idle), Some(2));
        1
    };
    f.retire();
    assert_eq!(book.submit(&f).len(), 1);
    assert!(book.state.retire(f.serial, book.now).is_empty());
    book.state.finishing(busy, book.now);
    assert_eq!(book.state.next(busy).unwrap().ticket, 3);
    book.state.finishing(busy, book.now);
    assert!(matches!(book.state.park(busy, book.now), Parked::End));
}

#[test]
fn an_invocation_skips_an_idle_instance_that_has_just_died() {
    let mut book = Book::new(ROOMY);
    let f = version("f", 128);
    let (id, orders) = book.idle(&f);
    drop(orders);
    let started = book.submit(&f);
    assert_eq!(started.len(), 1);
    assert!(book.state.gone(id, book.now).is_empty());
    assert_eq!(book.take(started[0]), 2);
}

#[test]
fn idle_instances_end_after_the_idle_timeout_and_not_before() {
    let mut book = Book::new(ROOMY);
    let (_, mut orders) = book.idle(&version("f", 128));
    let limit = Duration::from_secs(10);
    let due = book.state.reap(limit, book.now).unwrap();
    assert_eq!(due, book.now + limit);
    assert_eq!(ordered(&mut orders), None);
    assert_eq!(book.state.reap(limit, due), None);
    assert_eq!(ordered(&mut orders), Some(0));
    assert_eq!(book.state.census(), Census::default());
}

#[test]
fn a_closed_pool_starts_nothing_and_returns_the_waiting_invocations() {
    let mut book = Book::new(ROOMY);
    let f = version("f", 128);
    let (_, mut idle) = book.idle(&version("g", 128));
    book.submit(&f);
    assert_eq!(book.state.close().len(), 1);
    assert_eq!(ordered(&mut idle), Some(0));
    assert!(book.submit(&f).is_empty());
}

/// Takes an instance without an invocation from its start to idle.
pub(crate) fn warm(book: &mut Book, id: u64) -> oneshot::Receiver<Order> {
    assert!(matches!(book.state.take(id), Taken::Ready));
    book.state.warmed(id, book.now);
    match book.state.park(id, book.now) {
        Parked::Wait(orders) => orders,
        other => panic!("{other:?}"),
    }
}

#[test]
fn provisioned_instances_are_started_without_an_invocation_and_replaced_when_they_end() {
    let mut book = Book::new(ROOMY);
    let f = version("f", 128);
    let started = ids(book.state.set_provisioned(&f, 2, book.now));
    assert_eq!(started.len(), 2);
    let mut orders: Vec<_> = started.iter().map(|id| warm(&mut book, *id)).collect();
    assert_eq!(book.state.census().idle, 2);
    assert!(book.submit(&f).is_empty(), "it runs on one that is ready");
    assert_eq!(ordered(&mut orders[1]), Some(1));
    assert_eq!(ids(book.state.gone(started[0], book.now)).len(), 1);
    assert!(book.state.set_provisioned(&f, 0, book.now).is_empty());
    assert!(book.state.gone(started[1], book.now).is_empty());
}

#[test]
fn provisioned_instances_start_a_few_at_a_time() {
    let mut book = Book::new(Capacity {
        max_starts: 2,
        max_instances: 500,
        max_per_function: 500,
        memory_mib: 128 * 500,
        ..ROOMY
    });
    let f = version("f", 128);
    let mut next = VecDeque::from(ids(book.state.set_provisioned(&f, 500, book.now)));
    let mut kept = Vec::new();
    while let Some(id) = next.pop_front() {
        assert!(book.state.census().starts <= 2);
        assert!(matches!(book.state.take(id), Taken::Ready));
        next.extend(ids(book.state.warmed(id, book.now)));
        match book.state.park(id, book.now) {
            Parked::Wait(orders) => kept.push(orders),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((kept.len(), book.state.census().idle), (500, 500));
    assert_eq!(book.state.provisioned(f.serial).ready, 500);
}

#[test]
fn provisioned_instances_start_after_those_that_invocations_wait_for() {
    let mut book = Book::new(Capacity {
        max_starts: 1,
        ..ROOMY
    });
    let (f, g) = (version("f", 128), version("g", 128));
    let first = book.submit(&g)[0];
    assert!(book.submit(&g).is_empty());
    assert!(book.state.set_provisioned(&f, 1, book.now).is_empty());
    assert_eq!(book.take(first), 1);
    let second = book.state.admit(book.now);
    assert_eq!(second[0].version.name, g.name);
    assert_eq!(book.take(second[0].id), 2);
    assert_eq!(book.state.admit(book.now)[0].version.name, f.name);
}

#[test]
fn instances_that_were_started_for_invocations_count_as_provisioned() {
    let mut book = Book::new(ROOMY);
    let f = version("f", 128);
    let (_, _orders) = book.idle(&f);
    assert_eq!(book.state.set_provisioned(&f, 2, book.now).len(), 1);
}

#[test]
fn a_provisioned_instance_is_neither_evicted_nor_ended_after_the_idle_timeout() {
    let mut book = Book::new(Capacity {
        memory_mib: 300,
        ..ROOMY
    });
    let (f, g, h) = (version("f", 128), version("g", 128), version("h", 128));
    let id = ids(book.state.set_provisioned(&f, 1, book.now))[0];
    let mut kept = warm(&mut book, id);
    let (_, mut other) = book.idle(&g);
    assert_eq!(book.submit(&h).len(), 1, "room is made by the other");
    assert_eq!((ordered(&mut other), ordered(&mut kept)), (Some(0), None));
    let much_later = book.now + Duration::from_secs(3600);
    book.state.reap(Duration::from_secs(1), much_later);
    assert_eq!(ordered(&mut kept), None);
    book.state.set_provisioned(&f, 0, book.now);
    book.state.reap(Duration::from_secs(1), much_later);
    assert_eq!(ordered(&mut kept), Some(0));
}

#[test]
fn provisioned_instances_beyond_a_limit_start_when_there_is_capacity() {
    let mut book = Book::new(Capacity {
        max_instances: 2,
        ..ROOMY
    });
    let (f, g) = (version("f", 128), version("g", 128));
    let busy = book.submit(&g)[0];
    book.take(busy);
    assert_eq!(book.state.set_provisioned(&f, 2, book.now).len(), 1);
    assert_eq!(book.state.gone(busy, book.now).len(), 1);
}

#[test]
fn after_several_failed_starts_a_version_is_not_tried_again() {
    let mut book = Book::new(ROOMY);
    let f = version("f", 128);
    let mut next = ids(book.state.set_provisioned(&f, 1, book.now));
    let mut tries = 0;
    while let [id] = next[..] {
        tries += 1;
        assert!(book.state.start_failed(id, "no").is_none());
        next = ids(book.state.gone(id, book.now));
    }
    assert_eq!(tries, 3);
    assert_eq!(book.state.set_provisioned(&f, 1, book.now).len(), 1);
}
