//! One subscriber: what it has not been told yet, in order and within its bounds.
//!
//! At most two batches are held, one that is on its way and one that is being filled. What comes
//! while both are full is counted instead, and told before what follows it.

use std::time::{Instant, SystemTime};

use bytes::Bytes;
use nix::sys::epoll::{Epoll, EpollFlags};

use super::batch::Batch;
use super::delivery::{Delivered, Delivery};
use super::event::Event;
use super::record::{Record, Source};
use super::subscription::{Api, Subscription};
use crate::environment::FunctionIdentity;

/// More than the event that tells of what was lost is long.
const LOST_EVENT: usize = 512;

/// Records that were not told of.
#[derive(Debug, Clone, Copy, Default)]
struct Lost {
    records: u64,
    bytes: u64,
}

#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) name: String,
    wanted: Subscription,
    filling: Batch,
    /// A full batch, and how many records it has. On its way, unless `delivery` is idle.
    outgoing: Option<(Bytes, usize)>,
    lost: Lost,
    /// What there is leaves now.
    flush_requested: bool,
    /// So does everything that comes from now on.
    unbuffered: bool,
    delivery: Delivery,
}

impl Subscriber {
    pub(super) fn new(name: String, wanted: Subscription) -> Self {
        let delivery = Delivery::new(wanted.listener.port);
        Self {
            name,
            wanted,
            filling: Batch::default(),
            outgoing: None,
            lost: Lost::default(),
            flush_requested: false,
            unbuffered: false,
            delivery,
        }
    }

    /// From now on this is what it wants. What it has not been told yet goes to its new listener.
    pub(super) fn replace(&mut self, wanted: Subscription) {
        self.delivery = Delivery::new(wanted.listener.port);
        self.wanted = wanted;
    }

    pub(super) fn api(&self) -> Api {
        self.wanted.api
    }

    pub(super) fn wants(&self, source: Source) -> bool {
        self.wanted.types.has(source)
    }

    /// Takes a record, if it is one that is wanted.
    pub(super) fn push(&mut self, record: &Record, now: Instant) {
        if !self.wants(record.source) {
            return;
        }
        let Some(json) = record.of(self.wanted.dialect) else {
            return;
        };
        if self.lost.records > 0 && !self.report_lost(json.len(), now) {
            self.lost(1, json.len() as u64);
            return;
        }
        if self.make_room(json.len()) {
            self.filling.push(json, now);
        } else {
            self.lost(1, json.len() as u64);
        }
    }

    /// Counts what can't be told.
    pub(super) fn lost(&mut self, records: u64, bytes: u64) {
        self.lost.records += records;
        self.lost.bytes += bytes;
    }

    /// Says what was lost, before a record of `len` bytes. Whether there is room for both.
    fn report_lost(&mut self, len: usize, now: Instant) -> bool {
        if !self.make_room(LOST_EVENT + len) {
            return false;
        }
        let Lost { records, bytes } = std::mem::take(&mut self.lost);
        // It is the same for every function.
        let function = FunctionIdentity::default();
        let event = Event::LogsDropped { records, bytes };
        let told = event.record(SystemTime::now(), &function);
        // Who does not want the platform's events is not told, as on Lambda.
        if let Some(json) = told.of(self.wanted.dialect)
            && self.wants(Source::Platform)
        {
            self.filling.push(json, now);
        }
        true
    }

    /// Whether `len` more bytes fit, into this batch or a new one.
    fn make_room(&mut self, len: usize) -> bool {
        let (max_items, max_bytes) = (self.wanted.max_items, self.wanted.max_bytes);
        if self.filling.has_room(len, max_items, max_bytes) {
            return true;
        }
        if self.outgoing.is_some() {
            return false;
        }
        self.outgoing = Some(self.filling.finish());
        true
    }

    /// What there is leaves at the next turn.
    pub(super) fn flush_soon(&mut self) {
        self.flush_requested = !self.filling.is_empty();
    }

    pub(super) fn stop_buffering(&mut self) {
        self.unbuffered = true;
    }

    pub(super) fn thawed(&mut self, now: Instant) {
        self.delivery.thawed(now);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.filling.is_empty() && self.outgoing.is_none()
    }

    /// When [`Subscriber::send_due`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        if !self.delivery.is_idle() {
            return self.delivery.due();
        }
        let since = self.filling.since()?;
        Some(match self.flush_requested || self.unbuffered {
            true => since,
            false => since + self.wanted.timeout,
        })
    }

    /// Sends what is due. What happens on the connection is told by `epoll`, under `token`.
    pub(super) fn send_due(&mut self, epoll: &Epoll, token: u64, now: Instant) {
        let outcome = self.delivery.send_due(now);
        self.note(outcome);
        while self.delivery.is_idle() {
            if self.outgoing.is_none() && self.due().is_some_and(|due| due <= now) {
                self.outgoing = Some(self.filling.finish());
                self.flush_requested = false;
            }
            let Some((batch, _)) = &self.outgoing else {
                break;
            };
            let head = head(&self.wanted, batch.len());
            let outcome = self.delivery.send(head, batch.clone(), now);
            self.note(outcome);
        }
        self.delivery.watch(epoll, token);
    }

    /// Something has happened on the connection; a turn follows.
    pub(super) fn ready(&mut self, events: EpollFlags, now: Instant) {
        let outcome = self.delivery.ready(events, now);
        self.note(outcome);
    }

    fn note(&mut self, outcome: Option<Delivered>) {
        let Some(outcome) = outcome else {
            return;
        };
        if let (Some((batch, records)), Delivered::Lost) = (self.outgoing.take(), outcome) {
            self.lost(records as u64, batch.len() as u64);
        }
    }
}

fn head(wanted: &Subscription, len: usize) -> Bytes {
    let listener = &wanted.listener;
    format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         Content-Length: {len}\r\n\r\n",
        listener.path, listener.host
    )
    .into()
}
