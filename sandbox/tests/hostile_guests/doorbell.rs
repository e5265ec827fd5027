//! An attacker's mailbox: its pages are contiguous unless an attack moves them. And the
//! controller's end of the sandbox's mailbox socket.

use std::io::Write;

use hearth_protocol::mailbox::{
    ANSWER_BODY, ANSWER_KIND, ANSWER_META, DOORBELL_PORT, FRAMES, Head, LOG_LEN, PAGE, PAGES,
    REGISTER_PORT, What,
};

use crate::assembler::Width;
use crate::driver::Attacker;
use crate::support::Sandbox;

/// Address of an attacker's header page.
pub(crate) const HEADER: u64 = 0x70_0000;
/// Its frame.
pub(crate) const FRAME: u64 = HEADER / PAGE as u64;

/// Frames of a correct guest.
pub(crate) fn frames() -> Vec<u64> {
    (FRAME..FRAME + PAGES as u64).collect()
}

impl Attacker {
    /// Writes the frame numbers into the header at its address.
    pub(crate) fn name_pages(&mut self, frames: &[u64]) {
        for (at, frame) in (HEADER + FRAMES as u64..).step_by(8).zip(frames) {
            self.code.store(Width::Quad, at, *frame);
        }
    }

    pub(crate) fn register(&mut self, frame: u64) {
        let frame = u32::try_from(frame).unwrap();
        self.code.out(Width::Double, REGISTER_PORT, frame);
    }

    /// A mailbox as an agent makes it.
    pub(crate) fn mailbox(&mut self) {
        self.name_pages(&frames());
        self.register(FRAME);
    }

    pub(crate) fn ring(&mut self, value: u32) {
        self.code.out(Width::Double, DOORBELL_PORT, value);
    }

    pub(crate) fn write_header(&mut self, field: usize, value: u32) {
        let at = HEADER + field as u64;
        self.code.store(Width::Double, at, value.into());
    }

    pub(crate) fn header_is(&mut self, field: usize, value: u32, what: &str) {
        let at = HEADER + field as u64;
        let value = value.into();
        self.code.expect(Width::Double, at, u64::MAX, value, what);
    }

    /// Writes the header of an answer for the next ring.
    pub(crate) fn answer(&mut self, kind: u32, meta: u32, body: u32, log: u32) {
        self.write_header(ANSWER_KIND, kind);
        self.write_header(ANSWER_META, meta);
        self.write_header(ANSWER_BODY, body);
        self.write_header(LOG_LEN, log);
    }
}

/// The controller's next event: the lengths that it announces, and as much as it sends.
pub(crate) fn give(sandbox: &mut Sandbox, meta: u32, body: u32, bytes: &[u8]) {
    let head = Head {
        meta,
        body,
        ..Head::bare(What::Payload)
    };
    let message = [&head.encode()[..], bytes].concat();
    sandbox.mailbox.write_all(&message).unwrap();
}

/// The controller sends a waiting guest to its agent.
pub(crate) fn release(sandbox: &mut Sandbox) {
    let word = Head::bare(What::Agent).encode();
    sandbox.mailbox.write_all(&word).unwrap();
}
