//! No instance serves two tenants.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::tests::{Book, GRACE, ROOMY, ids, ordered, orders, version};
use super::*;
use crate::function::{TenantId, Version};

const TWO: Capacity = Capacity {
    max_instances: 2,
    ..ROOMY
};

impl Book {
    fn job_of(&mut self, version: &Arc<Version>, tenant: &str) -> Job {
        let mut job = self.job(version);
        job.invocation.tenant = TenantId::parse(tenant);
        job
    }

    /// Submits an invocation of a tenant; returns the ids of the instances to start.
    fn submit_of(&mut self, version: &Arc<Version>, tenant: &str) -> Vec<u64> {
        let job = self.job_of(version, tenant);
        ids(orders(self.state.submit(job, self.now)))
    }

    /// An idle instance of a tenant.
    fn idle_of(&mut self, version: &Arc<Version>, tenant: &str) -> (u64, oneshot::Receiver<Order>) {
        let id = self.submit_of(version, tenant)[0];
        self.take(id);
        (id, self.park(id))
    }
}

#[test]
fn an_idle_instance_gets_invocations_of_its_own_tenant_alone() {
    let mut book = Book::new(ROOMY);
    let f = version("f", 128);
    let (_, mut blues) = book.idle_of(&f, "blue");
    assert_eq!(book.submit_of(&f, "green").len(), 1);
    assert_eq!(book.submit(&f).len(), 1, "nor one without a tenant");
    assert_eq!(ordered(&mut blues), None);
    assert!(book.submit_of(&f, "blue").is_empty());
    assert_eq!(ordered(&mut blues), Some(4));
}

#[test]
fn an_instance_that_has_answered_takes_no_waiting_invocation_of_another_tenant() {
    let mut book = Book::new(Capacity {
        max_instances: 1,
        ..ROOMY
    });
    let f = version("f", 128);
    let id = book.submit_of(&f, "blue")[0];
    book.take(id);
    assert!(book.submit_of(&f, "green").is_empty());
    assert!(book.submit_of(&f, "blue").is_empty());
    book.state.finishing(id, book.now);
    assert_eq!(
        book.state.next(id).unwrap().ticket,
        3,
        "blue's, not green's"
    );
    // Once it is idle, it ends for the instance that green needs.
    let mut blues = book.park(id);
    let started = ids(book.state.admit(book.now));
    assert_eq!(ordered(&mut blues), Some(0));
    assert_eq!(book.take(started[0]), 2);
}

#[test]
fn an_invocation_that_its_instance_could_not_begin_goes_to_no_other_tenants() {
    let mut book = Book::new(ROOMY);
    let f = version("f", 128);
    let (_, mut blues) = book.idle_of(&f, "blue");
    let job = book.job_of(&f, "green");
    assert_eq!(book.state.resubmit(job, book.now).len(), 1);
    assert_eq!(ordered(&mut blues), None);
}

#[test]
fn an_instance_that_starts_for_one_tenant_is_not_taken_by_another() {
    let mut book = Book::new(TWO);
    let f = version("f", 128);
    let for_blue = book.submit_of(&f, "blue")[0];
    book.answers.clear();
    let for_green = book.submit_of(&f, "green")[0];
    assert!(matches!(book.state.take(for_blue), Taken::Nothing));
    assert_eq!(book.take(for_green), 2);
}

#[test]
fn at_its_functions_limit_a_tenant_takes_the_place_of_anothers_idle_instance() {
    let mut book = Book::new(Capacity {
        max_per_function: 2,
        ..ROOMY
    });
    let f = version("f", 128);
    let (_, mut blues) = book.idle_of(&f, "blue");
    book.now += GRACE;
    let (_, mut greens) = book.idle_of(&f, "green");
    assert_eq!(book.submit_of(&f, "red").len(), 1);
    assert_eq!((ordered(&mut blues), ordered(&mut greens)), (Some(0), None));
}

#[test]
fn a_retired_version_keeps_no_idle_instance_of_any_tenant() {
    let mut book = Book::new(ROOMY);
    let f = version("f", 128);
    let (_, mut blues) = book.idle_of(&f, "blue");
    let (_, mut greens) = book.idle_of(&f, "green");
    f.retire();
    assert!(book.state.retire(f.serial, book.now).is_empty());
    assert_eq!(ordered(&mut blues), Some(0));
    assert_eq!(ordered(&mut greens), Some(0));
    assert!(book.state.groups.is_empty());
}

const TENANTS: [&str; 3] = ["blue", "green", "red"];

/// Instances as their tasks drive them, in an order that a seed decides.
struct World {
    book: Book,
    version: Arc<Version>,
    starting: Vec<u64>,
    busy: Vec<u64>,
    idle: Vec<(u64, oneshot::Receiver<Order>)>,
    /// The tenants of each instance, and how many invocations it had.
    served: HashMap<u64, (BTreeSet<String>, u32)>,
    of_tenant: BTreeMap<String, u32>,
}

impl World {
    fn serve(&mut self, id: u64, job: &Job) {
        let tenant = job.invocation.tenant.as_ref().expect("each has one");
        let (tenants, invocations) = self.served.entry(id).or_default();
        tenants.insert(tenant.as_str().to_owned());
        *invocations += 1;
        *self.of_tenant.entry(tenant.as_str().into()).or_default() += 1;
        self.busy.push(id);
    }

    fn step(&mut self, random: usize) {
        match random % 8 {
            0 | 1 => {
                let tenant = TENANTS[random / 8 % 3];
                let version = self.version.clone();
                let started = self.book.submit_of(&version, tenant);
                self.starting.extend(started);
            }
            2 if !self.starting.is_empty() => {
                let id = self.starting.swap_remove(random / 8 % self.starting.len());
                if let Taken::Job(job) = self.book.state.take(id) {
                    self.book.state.started(id);
                    self.serve(id, &job);
                }
            }
            3..=5 if !self.busy.is_empty() => {
                let id = self.busy.swap_remove(random / 8 % self.busy.len());
                self.book.state.finishing(id, self.book.now);
                match self.book.state.park(id, self.book.now) {
                    Parked::Run(job) => self.serve(id, &job),
                    Parked::Wait(orders) => self.idle.push((id, orders)),
                    Parked::End => unreachable!("nothing ends the pool"),
                }
            }
            _ => {
                let started = ids(self.book.state.admit(self.book.now));
                self.starting.extend(started);
            }
        }
        for (id, mut orders) in std::mem::take(&mut self.idle) {
            match orders.try_recv() {
                Ok(Order::Run(job)) => self.serve(id, &job),
                Ok(_) => {}
                Err(_) => self.idle.push((id, orders)),
            }
        }
    }
}

#[test]
fn whatever_happens_no_instance_serves_two_tenants() {
    let mut world = World {
        book: Book::new(Capacity {
            max_instances: 4,
            max_starts: 2,
            ..ROOMY
        }),
        version: version("f", 128),
        starting: Vec::new(),
        busy: Vec::new(),
        idle: Vec::new(),
        served: HashMap::new(),
        of_tenant: BTreeMap::new(),
    };
    let mut random: u32 = 2_463_534_242;
    for _ in 0..20_000 {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        world.step((random >> 8) as usize);
    }
    for (id, (tenants, _)) in &world.served {
        assert_eq!(tenants.len(), 1, "instance {id} has served {tenants:?}");
    }
    assert_eq!(world.of_tenant.len(), 3);
    assert!(world.of_tenant.values().all(|served| *served > 100));
    assert!(
        world
            .served
            .values()
            .any(|(_, invocations)| *invocations > 3)
    );
}
