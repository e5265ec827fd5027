//! Records for one subscriber, as the JSON array that is posted.

use std::time::Instant;

use bytes::Bytes;

/// A batch that is being filled.
#[derive(Debug, Default)]
pub(super) struct Batch {
    json: Vec<u8>,
    records: usize,
    /// When its first record was added.
    since: Option<Instant>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Whether a record of `len` bytes still fits. A first record always does, however long it is.
    pub(super) fn has_room(&self, len: usize, max_items: usize, max_bytes: usize) -> bool {
        // A comma before it, a bracket behind it.
        let after = self.json.len() + len + 2;
        self.is_empty() || (self.records < max_items && after <= max_bytes)
    }

    pub(super) fn push(&mut self, record: &[u8], now: Instant) {
        self.json.push(if self.is_empty() { b'[' } else { b',' });
        self.json.extend_from_slice(record);
        self.records += 1;
        self.since.get_or_insert(now);
    }

    /// Ends the array. Its bytes, and the number of its records.
    pub(super) fn finish(&mut self) -> (Bytes, usize) {
        let mut batch = std::mem::take(self);
        batch.json.push(b']');
        (batch.json.into(), batch.records)
    }
}
