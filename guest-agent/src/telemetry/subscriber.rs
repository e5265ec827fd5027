//! One subscriber: the records that it has not received yet, in order and within bounds.
//!
//! At most two batches are held, one that is being sent and one that is being filled. Records that
//! arrive while both are full are counted instead, and the count is sent before the next record.

use std::time::{Instant, SystemTime};

use bytes::Bytes;
use nix::sys::epoll::{Epoll, EpollFlags};

use super::batch::Batch;
use super::delivery::{Delivered, Delivery};
use super::event::Event;
use super::record::{Record, Source};
use super::subscription::{Api, Subscription};
use crate::environment::FunctionIdentity;

/// More bytes than the event has that reports lost records.
const LOST_EVENT: usize = 512;

/// Records that could not be kept.
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
    /// A finished batch, and how many records it has. It is being sent, unless `delivery` is idle.
    outgoing: Option<(Bytes, usize)>,
    lost: Lost,
    /// The batch that is being filled is due now.
    flush_requested: bool,
    /// Every record is due at once.
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

    /// Replaces the subscription. Records that have not been sent yet go to the new listener.
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

    /// Adds a record, if the subscriber wants it.
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

    /// Counts records that are lost.
    pub(super) fn lost(&mut self, records: u64, bytes: u64) {
        self.lost.records += records;
        self.lost.bytes += bytes;
    }

    /// Reports what was lost, before a record of `len` bytes. Whether there is space for both.
    fn report_lost(&mut self, len: usize, now: Instant) -> bool {
        if !self.make_room(LOST_EVENT + len) {
            return false;
        }
        let Lost { records, bytes } = std::mem::take(&mut self.lost);
        // The event has no field that depends on the function.
        let function = FunctionIdentity::default();
        let event = Event::LogsDropped { records, bytes };
        let told = event.record(SystemTime::now(), &function);
        // As on Lambda, a subscriber without platform events does not receive it.
        if let Some(json) = told.of(self.wanted.dialect)
            && self.wants(Source::Platform)
        {
            self.filling.push(json, now);
        }
        true
    }

    /// Finishes the batch if `len` more bytes do not fit into it. Whether they fit now.
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

    /// What there is, is due at the next [`send_due`](Self::send_due).
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

    /// Sends what is due. `epoll` reports the connection under `token`.
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

    /// Something has happened on the connection. The caller calls [`send_due`](Self::send_due) next.
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
