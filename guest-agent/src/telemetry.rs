//! Lambda's Telemetry API, and its predecessor, the Logs API: what happens to a function, and what the
//! function and its extensions write, is sent to the extensions that have subscribed.
//!
//! ```text
//! event, lines ──▶ Record ──▶ a subscriber's batch ──▶ POST to its listener in this guest
//! ```
//!
//! There is a [`Telemetry`] only in a guest with extensions, and after init only in one with
//! subscribers: it costs other functions nothing. Subscribers belong to the function, hence are
//! hostile. The agent waits for none of them, and what it holds for one is bounded: records that do not
//! fit are counted, and the count is sent in their place when there is space again.
//!
//! The guest does not stay awake for a delivery: what has not been delivered when an instance is paused
//! is delivered when it runs again.

mod batch;
mod delivery;
mod event;
mod record;
mod reply;
mod subscriber;
mod subscription;
#[cfg(test)]
pub(crate) mod tests;

use std::time::{Duration, Instant, SystemTime};

use hearth_protocol::agent::{Invoke, Usage};
use hearth_protocol::output::Lines;
use nix::sys::epoll::{Epoll, EpollFlags};

pub(crate) use self::event::{Event, Outcome};
pub(crate) use self::record::Source;
use self::record::{Record, Writer};
use self::subscriber::Subscriber;
pub(crate) use self::subscription::{Api, Invalid, Subscription};
use crate::environment::FunctionIdentity;

/// Maximum records, and their bytes, that are kept during init for later subscribers.
const MAX_EARLY_RECORDS: usize = 1000;
const MAX_EARLY_BYTES: usize = 256 * 1024;

/// Records of init, for extensions that subscribe later.
#[derive(Debug, Default)]
struct Early {
    records: Vec<Record>,
    bytes: usize,
    dropped_records: u64,
    dropped_bytes: u64,
}

impl Early {
    fn push(&mut self, record: &Record) {
        let len = record.len();
        if self.records.len() >= MAX_EARLY_RECORDS || self.bytes + len > MAX_EARLY_BYTES {
            self.dropped_records += 1;
            self.dropped_bytes += len as u64;
            return;
        }
        self.bytes += len;
        self.records.push(record.clone());
    }
}

/// The current invocation, as it is reported.
#[derive(Debug)]
pub(crate) struct Invocation {
    request_id: String,
    trace_id: Option<String>,
    began: Instant,
    /// When its result began to arrive, if it is streamed.
    answering: Option<Instant>,
    /// How the runtime's part of it ended.
    outcome: Option<Outcome>,
}

/// What is reported, and to which subscribers.
#[derive(Debug)]
pub(crate) struct Telemetry {
    function: FunctionIdentity,
    /// `None` once init is over: no extension may subscribe any more.
    early: Option<Early>,
    subscribers: Vec<Subscriber>,
    invocation: Option<Invocation>,
    restoring: Option<Instant>,
    /// How long the last restore took, until an invocation's report includes it.
    restored: Option<Duration>,
}

impl Telemetry {
    /// For a function whose init began at `began`.
    pub(crate) fn new(function: FunctionIdentity, began: SystemTime) -> Self {
        let mut telemetry = Self {
            function,
            early: Some(Early::default()),
            subscribers: Vec::new(),
            invocation: None,
            restoring: None,
            restored: None,
        };
        telemetry.report_at(began, &Event::InitStart);
        telemetry
    }

    /// Adds a subscription. It replaces the extension's earlier one, unless that was the other API's.
    pub(crate) fn subscribe(
        &mut self,
        name: &str,
        subscription: Subscription,
    ) -> Result<(), Invalid> {
        let api = subscription.api;
        let types = subscription.types.names();
        let known = self.subscribers.iter_mut().find(|s| s.name == name);
        match known {
            Some(known) if known.api() != api => return Err(Invalid::OtherApi),
            Some(known) => known.replace(subscription),
            None => {
                let mut subscriber = Subscriber::new(name.to_owned(), subscription);
                if let Some(early) = &self.early {
                    let now = Instant::now();
                    for record in &early.records {
                        subscriber.push(record, now);
                    }
                    subscriber.lost(early.dropped_records, early.dropped_bytes);
                }
                self.subscribers.push(subscriber);
            }
        }
        self.report(&Event::Subscribed {
            api,
            name,
            types: &types,
        });
        Ok(())
    }

    /// Init is over, and with it the time to subscribe. Whether there are subscribers.
    pub(crate) fn close_subscriptions(&mut self) -> bool {
        self.early = None;
        !self.subscribers.is_empty()
    }

    /// Reports an event that has just happened.
    pub(crate) fn report(&mut self, event: &Event<'_>) {
        self.report_at(SystemTime::now(), event);
    }

    fn report_at(&mut self, at: SystemTime, event: &Event<'_>) {
        let record = event.record(at, &self.function);
        self.push(&record);
    }

    /// Reports output of the function or of an extension.
    pub(crate) fn lines(&mut self, source: Source, lines: &Lines) {
        if lines.dropped > 0 {
            // The number of lines is not known.
            for subscriber in self.subscribers.iter_mut().filter(|s| s.wants(source)) {
                subscriber.lost(1, lines.dropped);
            }
        }
        if self.early.is_none() && !self.subscribers.iter().any(|s| s.wants(source)) {
            return;
        }
        let writer = Writer::new(source, SystemTime::now(), self.function.json_logs);
        for line in record::split(lines) {
            let record = writer.line(line);
            self.push(&record);
        }
    }

    fn push(&mut self, record: &Record) {
        if let Some(early) = &mut self.early {
            early.push(record);
        }
        let now = Instant::now();
        for subscriber in &mut self.subscribers {
            subscriber.push(record, now);
        }
    }

    /// An invocation begins. What was not delivered before is delivered now.
    pub(crate) fn begin(&mut self, invoke: &Invoke) {
        self.thawed();
        for subscriber in &mut self.subscribers {
            subscriber.flush_soon();
        }
        self.invocation = Some(Invocation {
            request_id: invoke.request_id.clone(),
            trace_id: invoke.trace_id.clone(),
            began: Instant::now(),
            answering: None,
            outcome: None,
        });
        self.report(&Event::Start {
            request_id: &invoke.request_id,
            trace_id: invoke.trace_id.as_deref(),
        });
    }

    /// The runtime has begun to stream its result.
    pub(crate) fn answering(&mut self) {
        if let Some(invocation) = &mut self.invocation {
            invocation.answering = Some(Instant::now());
        }
    }

    /// The runtime's part of the invocation has ended.
    pub(crate) fn runtime_done(&mut self, outcome: Outcome) {
        let Some(mut invocation) = self.invocation.take() else {
            return;
        };
        if invocation.outcome.is_none() {
            self.report(&Event::RuntimeDone {
                invocation: &invocation,
                outcome: &outcome,
            });
            invocation.outcome = Some(outcome);
        }
        self.invocation = Some(invocation);
    }

    /// The invocation is over for its extensions as well.
    pub(crate) fn invocation_ended(&mut self) {
        let Some(invocation) = self.invocation.take() else {
            return;
        };
        let restore = self.restored.take();
        self.report(&Event::Report {
            invocation: &invocation,
            took: invocation.began.elapsed(),
            restore,
        });
        self.report(&Event::End {
            request_id: &invocation.request_id,
        });
    }

    /// The host ends the microVM, for this reason. Reports the end of an invocation that this cuts off,
    /// and sends everything now.
    pub(crate) fn shut_down(&mut self, reason: &str, max_memory_bytes: u64) {
        self.thawed();
        if let Some(invocation) = &self.invocation {
            let usage = Usage {
                duration_us: u64::try_from(invocation.began.elapsed().as_micros())
                    .unwrap_or(u64::MAX),
                cpu_us: 0,
                max_memory_bytes,
            };
            self.runtime_done(Outcome::cut_off(reason, usage));
            self.invocation_ended();
        }
        self.flush();
    }

    /// Sends everything now, and from now on each record at once.
    pub(crate) fn flush(&mut self) {
        for subscriber in &mut self.subscribers {
            subscriber.stop_buffering();
        }
    }

    /// Whether everything has been delivered, or given up.
    pub(crate) fn is_idle(&self) -> bool {
        self.subscribers.iter().all(Subscriber::is_idle)
    }

    /// The microVM was restored, and the runtime's hooks may run now.
    pub(crate) fn restoring(&mut self) {
        self.thawed();
        self.restoring = Some(Instant::now());
        self.report(&Event::RestoreStart);
    }

    /// The runtime's hooks have run after the restore, or have failed.
    pub(crate) fn restored(&mut self, failed: Option<&str>) {
        let Some(began) = self.restoring.take() else {
            return;
        };
        let took = began.elapsed();
        self.restored = Some(took);
        self.report(&Event::RestoreRuntimeDone { failed });
        self.report(&Event::RestoreReport { took, failed });
    }

    /// The guest was paused: that time does not count against listeners.
    pub(crate) fn thawed(&mut self) {
        let now = Instant::now();
        for subscriber in &mut self.subscribers {
            subscriber.thawed(now);
        }
    }

    /// When [`Telemetry::send_due`] has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.subscribers.iter().filter_map(Subscriber::due).min()
    }

    /// Sends what is due. `epoll` reports the subscribers' connections under `token` and those that
    /// follow it.
    pub(crate) fn send_due(&mut self, epoll: &Epoll, token: u64) {
        let now = Instant::now();
        for (subscriber, token) in self.subscribers.iter_mut().zip(token..) {
            subscriber.send_due(epoll, token, now);
        }
    }

    /// Something has happened on a subscriber's connection.
    pub(crate) fn ready(&mut self, index: usize, events: EpollFlags) {
        if let Some(subscriber) = self.subscribers.get_mut(index) {
            subscriber.ready(events, Instant::now());
        }
    }
}
