//! One vsock connection, as its host end sees it.
//!
//! # The protocol in half a page
//! Every packet has a header with both addresses (context id and port) and an operation.
//!
//! *Opening.* The guest sends REQUEST to a port of the host. The host answers RESPONSE, which opens
//! the connection, or RST, which refuses it. Only the guest opens connections here.
//!
//! *Data* travels in RW packets, in order and without loss, because the rings are reliable. Flow
//! control is only about memory, and works by *credit*. Each side states in every header how large its
//! receive buffer is (`buf_alloc`), and how many bytes have left that buffer towards their reader so
//! far (`fwd_cnt`, modulo 2³²). The other side knows how many bytes it has sent so far. So
//! `sent - fwd_cnt` bytes are in flight or in the buffer, and it may send up to
//! `buf_alloc - (sent - fwd_cnt)` more. If data flows one way only, its sender would not learn of freed
//! space. For that there are CREDIT_UPDATE, a packet that is only a header, and CREDIT_REQUEST, which
//! asks for one.
//!
//! *Closing.* SHUTDOWN has two flags: its sender will not receive, or will not send, any more. A side
//! that has got both flags finishes its work and answers RST. RST ends the connection at once, at any
//! time. A packet for a connection that does not exist is answered with RST, unless it is an RST. The
//! host here always closes both directions together: SHUTDOWN with both flags, then RST.
//!
//! # What this module does
//! It keeps the connection's counters, and decides what the guest's packets may do and what has to be
//! sent. It moves no bytes and knows no queues. Everything that the guest says about credit is checked
//! here. A guest may lie about its own buffer, which harms only itself. It may not send more than its
//! credit, nor confirm bytes that were never sent.

use serde::{Deserialize, Serialize};

use super::packet::{Header, Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, STREAM};

/// Maximum number of bytes that the guest has sent and the host's socket has not taken. This bounds
/// a connection's memory. A payload of 6 MiB costs the guest six credit updates.
pub const BUF_ALLOC: u32 = 1024 * 1024;

/// If the guest's credit falls below this, it gets a CREDIT_UPDATE without asking. Small exchanges
/// never get there, so they cost no additional packets.
const LOW_CREDIT: u32 = BUF_ALLOC / 2;

/// Why the device resets a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The guest sent more data than its credit allows.
    #[error("guest sent {len} bytes with credit for {credit}")]
    Credit {
        /// Payload of the packet.
        len: u32,
        /// The credit that the guest had.
        credit: u32,
    },
    /// The guest confirmed bytes that were never sent.
    #[error("guest confirmed {confirmed} bytes, {in_flight} were on their way")]
    Confirmed {
        /// By how much its counter advanced.
        confirmed: u32,
        /// By how much it could have advanced.
        in_flight: u32,
    },
    /// The guest sent data after its SHUTDOWN said that it would not.
    #[error("guest sent data after its shutdown")]
    DataAfterShutdown,
}

/// The two ports that identify a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// The host's.
    pub host: u32,
    /// The guest's.
    pub guest: u32,
}

/// An open connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    ports: Ports,
    /// Payload bytes sent to the guest so far, modulo 2³².
    sent: u32,
    /// The guest's last `fwd_cnt`.
    peer_fwd_cnt: u32,
    /// The guest's last `buf_alloc`.
    peer_buf_alloc: u32,
    /// Payload bytes received from the guest so far, modulo 2³².
    received: u32,
    /// How many of them the host's socket has taken.
    forwarded: u32,
    /// The value of `forwarded` that the guest knows.
    advertised: u32,
    /// The guest has not shut down its sending side.
    guest_sends: bool,
    /// The guest has not shut down its receiving side.
    guest_receives: bool,
    response_due: bool,
    update_due: bool,
}

impl Connection {
    /// Accepts the guest's REQUEST. A RESPONSE has to be sent.
    pub fn accept(request: &Header) -> Self {
        Self {
            ports: Ports {
                host: request.dst_port,
                guest: request.src_port,
            },
            sent: 0,
            peer_fwd_cnt: 0,
            peer_buf_alloc: request.buf_alloc,
            received: 0,
            forwarded: 0,
            advertised: 0,
            guest_sends: true,
            guest_receives: true,
            response_due: true,
            update_due: false,
        }
    }

    /// The ports that identify it.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Takes over the credit fields, which every packet of the guest has.
    pub fn on_credit(&mut self, header: &Header) -> Result<(), Violation> {
        let advance = header.fwd_cnt.wrapping_sub(self.peer_fwd_cnt);
        // A guest with several CPUs may put packets on the ring in another order than it stamped
        // them. So a counter that is behind is only outdated, and no violation.
        if advance > u32::MAX / 2 {
            return Ok(());
        }
        let in_flight = self.in_flight();
        if advance > in_flight {
            return Err(Violation::Confirmed {
                confirmed: advance,
                in_flight,
            });
        }
        self.peer_fwd_cnt = header.fwd_cnt;
        self.peer_buf_alloc = header.buf_alloc;
        Ok(())
    }

    /// The guest has sent `len` bytes of payload.
    pub fn on_data(&mut self, len: u32) -> Result<(), Violation> {
        if !self.guest_sends {
            return Err(Violation::DataAfterShutdown);
        }
        let credit = BUF_ALLOC - self.buffered();
        if len > credit {
            return Err(Violation::Credit { len, credit });
        }
        self.received = self.received.wrapping_add(len);
        Ok(())
    }

    /// The guest requests a CREDIT_UPDATE.
    pub fn on_credit_request(&mut self) {
        self.update_due = true;
    }

    /// The guest has sent SHUTDOWN with `flags`.
    pub fn on_shutdown(&mut self, flags: u32) {
        self.guest_receives &= flags & SHUTDOWN_RECEIVE == 0;
        self.guest_sends &= flags & SHUTDOWN_SEND == 0;
    }

    /// The host's socket has taken `len` of the guest's bytes.
    pub fn forwarded(&mut self, len: u32) {
        debug_assert!(len <= self.buffered());
        self.forwarded = self.forwarded.wrapping_add(len);
        let known_credit = BUF_ALLOC.saturating_sub(self.received.wrapping_sub(self.advertised));
        if known_credit < LOW_CREDIT
            && self.forwarded.wrapping_sub(self.advertised) >= LOW_CREDIT / 2
        {
            self.update_due = true;
        }
    }

    /// Payload bytes that may be sent to the guest now.
    pub fn credit(&self) -> u32 {
        if self.guest_receives && !self.response_due {
            self.peer_buf_alloc.saturating_sub(self.in_flight())
        } else {
            0
        }
    }

    /// The guest's bytes that the host's socket has not taken.
    pub fn buffered(&self) -> u32 {
        self.received.wrapping_sub(self.forwarded)
    }

    /// Whether the guest may still send.
    pub fn guest_sends(&self) -> bool {
        self.guest_sends
    }

    /// Whether the guest has shut down both directions.
    pub fn finished(&self) -> bool {
        !self.guest_sends && !self.guest_receives
    }

    /// The packet without payload that has to be sent next, if any.
    pub fn due(&self) -> Option<Op> {
        if self.response_due {
            Some(Op::Response)
        } else if self.update_due {
            Some(Op::CreditUpdate)
        } else {
            None
        }
    }

    /// The header of a packet with `len` bytes of payload, which is sent now.
    pub fn stamp(&mut self, op: Op, len: u32) -> Header {
        self.sent = self.sent.wrapping_add(len);
        self.advertised = self.forwarded;
        // Every packet tells the guest the present credit.
        self.update_due = false;
        if op == Op::Response {
            self.response_due = false;
        }
        Header {
            src_port: self.ports.host,
            dst_port: self.ports.guest,
            len,
            kind: STREAM,
            op: op.number(),
            buf_alloc: BUF_ALLOC,
            fwd_cnt: self.forwarded,
            ..Header::default()
        }
    }

    /// Whether a quiet connection can be in this state. Only quiet connections are saved.
    pub fn is_plausible(&self) -> bool {
        self.buffered() == 0
            && self.forwarded.wrapping_sub(self.advertised) <= BUF_ALLOC
            && self.due().is_none()
            && !self.finished()
    }

    fn in_flight(&self) -> u32 {
        self.sent.wrapping_sub(self.peer_fwd_cnt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER_BUF: u32 = 256 * 1024;

    fn open() -> Connection {
        let mut connection = Connection::accept(&Header {
            src_port: 5000,
            dst_port: 1024,
            buf_alloc: PEER_BUF,
            ..Header::default()
        });
        assert_eq!(connection.due(), Some(Op::Response));
        connection.stamp(Op::Response, 0);
        connection
    }

    fn credit(buf_alloc: u32, fwd_cnt: u32) -> Header {
        Header {
            buf_alloc,
            fwd_cnt,
            ..Header::default()
        }
    }

    #[test]
    fn nothing_may_be_sent_before_the_response() {
        let mut connection = Connection::accept(&credit(PEER_BUF, 0));
        assert_eq!(connection.credit(), 0);
        connection.stamp(Op::Response, 0);
        assert_eq!(connection.credit(), PEER_BUF);
        assert_eq!(connection.due(), None);
    }

    #[test]
    fn the_guests_credit_is_used_up_exactly_and_comes_back_exactly() {
        let mut connection = open();
        connection.stamp(Op::Data, PEER_BUF - 1);
        assert_eq!(connection.credit(), 1);
        connection.stamp(Op::Data, 1);
        assert_eq!(connection.credit(), 0);
        connection.on_credit(&credit(PEER_BUF, 100)).unwrap();
        assert_eq!(connection.credit(), 100);
    }

    #[test]
    fn counters_wrap_around_at_2_to_the_32() {
        let mut connection = open();
        let mut total = 0_u32;
        for _ in 0..40_000 {
            connection.stamp(Op::Data, PEER_BUF);
            total = total.wrapping_add(PEER_BUF);
            assert_eq!(connection.credit(), 0);
            connection.on_credit(&credit(PEER_BUF, total)).unwrap();
            assert_eq!(connection.credit(), PEER_BUF);
            connection.on_data(BUF_ALLOC).unwrap();
            assert!(connection.on_data(1).is_err());
            connection.forwarded(BUF_ALLOC);
            assert_eq!(connection.due(), Some(Op::CreditUpdate));
            connection.stamp(Op::CreditUpdate, 0);
        }
    }

    #[test]
    fn a_guest_that_confirms_more_than_was_sent_is_caught() {
        let mut connection = open();
        connection.stamp(Op::Data, 10);
        assert_eq!(
            connection.on_credit(&credit(PEER_BUF, 11)),
            Err(Violation::Confirmed {
                confirmed: 11,
                in_flight: 10
            })
        );
    }

    #[test]
    fn old_news_about_credit_changes_nothing() {
        let mut connection = open();
        connection.stamp(Op::Data, 10);
        connection.on_credit(&credit(PEER_BUF, 10)).unwrap();
        connection.on_credit(&credit(0, 9)).unwrap();
        assert_eq!(connection.credit(), PEER_BUF);
    }

    #[test]
    fn a_buffer_of_nothing_or_one_that_shrinks_stops_the_data() {
        let mut connection = open();
        connection.stamp(Op::Data, 1000);
        connection.on_credit(&credit(500, 0)).unwrap();
        assert_eq!(connection.credit(), 0);
        connection.on_credit(&credit(0, 1000)).unwrap();
        assert_eq!(connection.credit(), 0);
        connection.on_credit(&credit(u32::MAX, 1000)).unwrap();
        assert_eq!(connection.credit(), u32::MAX);
    }

    #[test]
    fn a_guest_that_ignores_our_credit_is_caught() {
        let mut connection = open();
        connection.on_data(BUF_ALLOC - 5).unwrap();
        assert_eq!(
            connection.on_data(6),
            Err(Violation::Credit { len: 6, credit: 5 })
        );
        connection.on_data(5).unwrap();
    }

    #[test]
    fn small_exchanges_cost_no_credit_updates() {
        let mut connection = open();
        for _ in 0..100_000 {
            connection.on_data(200).unwrap();
            connection.forwarded(200);
            assert_eq!(connection.due(), None);
            connection.stamp(Op::Data, 300);
            let confirmed = connection.sent;
            connection.on_credit(&credit(PEER_BUF, confirmed)).unwrap();
        }
    }

    #[test]
    fn a_guest_that_only_sends_is_told_before_its_credit_ends() {
        let mut connection = open();
        let mut known_credit = BUF_ALLOC;
        let mut updates = 0;
        for _ in 0..1000 {
            assert!(known_credit >= 64 * 1024, "the guest would have to wait");
            connection.on_data(64 * 1024).unwrap();
            known_credit -= 64 * 1024;
            connection.forwarded(64 * 1024);
            if let Some(op) = connection.due() {
                connection.stamp(op, 0);
                known_credit = BUF_ALLOC;
                updates += 1;
            }
        }
        assert!(updates <= 1000 / 8, "{updates} updates for 1000 packets");
    }

    #[test]
    fn a_credit_request_is_answered_and_a_flood_of_them_once() {
        let mut connection = open();
        for _ in 0..1000 {
            connection.on_credit_request();
        }
        assert_eq!(connection.due(), Some(Op::CreditUpdate));
        connection.stamp(Op::CreditUpdate, 0);
        assert_eq!(connection.due(), None);
    }

    #[test]
    fn shutdown_flags_add_up_and_never_go_back() {
        let mut connection = open();
        connection.on_shutdown(SHUTDOWN_RECEIVE);
        assert_eq!(connection.credit(), 0);
        assert!(connection.guest_sends());
        connection.on_shutdown(0);
        connection.on_shutdown(SHUTDOWN_SEND);
        assert!(connection.finished());
        assert_eq!(connection.on_data(0), Err(Violation::DataAfterShutdown));
    }

    #[test]
    fn only_a_quiet_connection_is_plausible_in_a_snapshot() {
        let mut connection = open();
        assert!(connection.is_plausible());
        connection.on_data(1).unwrap();
        assert!(!connection.is_plausible());
        connection.forwarded(1);
        assert!(connection.is_plausible());
        connection.on_credit_request();
        assert!(!connection.is_plausible());
    }
}
