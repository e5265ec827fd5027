//! The vsock device: three queues, at most one connection, one Unix socket.
//!
//! For each socket that the device gets, the guest may connect once to [`AGENT_PORT`] of the host;
//! any other packet is answered with RST. The event loop waits for [`Vsock::host_fd`] with
//! [`Vsock::interest`] and calls [`on_host_event`](VirtioDevice::on_host_event).
//!
//! # What makes it fast
//!
//! Bytes move between the socket and the guest's buffers without an intermediate buffer. All
//! packets on the transmit queue are handled before the driver is notified. Interrupts cost a guest
//! most, so there is one for each batch of received packets, and none for transmitted packets
//! alone: the driver needs those only to free its buffers, and does that at its next interrupt just
//! as well. It gets one for them only when a quarter of the ring is unannounced, so that it never
//! waits for space. Likewise the driver is asked not to notify about new receive buffers, unless
//! the device has run out of them.
//!
//! # What a snapshot keeps
//!
//! The connection's counters are saved, so that a guest that is restored with another socket behind
//! its device notices nothing. [`Vsock::resetting_connections`] is the alternative: it drops the
//! connection and tells the guest by a TRANSPORT_RESET event. Until the guest has handled the
//! event, no connection is accepted, so no byte is delivered.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;
use std::{fmt, io};

use hearth_protocol::guest::{AGENT_PORT, HOST_CID};
use serde::{Deserialize, Serialize};
use vmm_sys_util::epoll::EventSet;

use super::connection::{Connection, Ports, Violation};
use super::host_stream::HostStream;
use super::packet::{Header, Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, STREAM};
use crate::devices::GuestMemory;
use crate::devices::virtio::chain::Chain;
use crate::devices::virtio::device::{
    ConfigChange, DeviceError, NotQuiet, StateError, VirtioDevice, WorkResult,
};
use crate::devices::virtio::guest_io::copy_to_guest;
use crate::devices::virtio::queue::VirtQueue;
use crate::log::Log;

/// Index of the queue from host to guest.
pub const RX: usize = 0;
/// Index of the queue from guest to host.
pub const TX: usize = 1;
/// Index of the queue for events.
pub const EVENT: usize = 2;

/// Maximum number of packets without payload that wait for a receive buffer and belong to no
/// connection. If a guest causes more of them and takes none, the rest is dropped.
const OUTBOX: usize = 32;

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`.
const TRANSPORT_RESET: u32 = 0;

/// How many transmit descriptors may be returned without an interrupt: a quarter of the ring.
fn unannounced_limit(queue: &VirtQueue) -> usize {
    usize::from(queue.size() / 4)
}

/// A packet without payload for a connection that does not exist or no longer exists.
#[derive(Debug, Clone, Copy)]
pub(super) struct ControlPacket {
    pub(super) ports: Ports,
    /// The context id that the guest expects as the sender's.
    pub(super) from_cid: u64,
    pub(super) op: Op,
    pub(super) flags: u32,
    pub(super) kind: u16,
}

/// The progress of a transport reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reset {
    /// No reset is in progress.
    None,
    /// The event waits for a buffer.
    Pending,
    /// The event is on the ring. The driver returns a buffer to the queue when it has handled it.
    Delivered { avail_index: u16 },
}

/// The device.
#[derive(Debug)]
pub struct Vsock {
    pub(super) guest_cid: u64,
    config: [u8; 8],
    pub(super) host: Option<HostStream>,
    pub(super) connection: Option<Connection>,
    pub(super) outbox: VecDeque<ControlPacket>,
    reset: Reset,
    drop_connection: bool,
    /// The receive queue was empty when there was something to send.
    pub(super) starved: bool,
    /// Transmit descriptors returned since the last interrupt.
    pub(super) unannounced: usize,
    pub(super) chain: Chain,
    log: Log,
}

/// The part of the device that goes into a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockState {
    /// The guest's context id.
    pub guest_cid: u64,
    /// The agent's connection, if it is up.
    pub connection: Option<Connection>,
    /// Transmit descriptors returned since the last interrupt.
    pub unannounced: u16,
}

impl Vsock {
    /// A device for the guest with context id `guest_cid`, and the connected socket behind it.
    pub fn new(guest_cid: u64, host: UnixStream) -> io::Result<Self> {
        Ok(Self {
            guest_cid,
            config: guest_cid.to_le_bytes(),
            host: Some(HostStream::new(host)?),
            connection: None,
            outbox: VecDeque::with_capacity(OUTBOX),
            reset: Reset::None,
            drop_connection: false,
            starved: false,
            unannounced: 0,
            chain: Chain::default(),
            log: Log::new(Self::NAME),
        })
    }

    /// For a restore that does not keep the saved connection: the guest is told to drop it.
    #[must_use]
    pub fn resetting_connections(mut self) -> Self {
        self.drop_connection = true;
        self
    }

    /// Whether the guest is connected.
    pub fn connected(&self) -> bool {
        self.connection.is_some()
    }

    /// The socket to wait for, if it is still open.
    pub fn host_fd(&self) -> Option<BorrowedFd<'_>> {
        self.host.as_ref().map(HostStream::fd)
    }

    /// The events to wait for on [`host_fd`](Self::host_fd), level-triggered. `None` means that the
    /// descriptor must not even be registered: epoll reports a closed peer even if no event is
    /// requested, and the device can't do anything about it now, so the loop would spin. The answer
    /// may change with every call into the transport.
    pub fn interest(&self) -> Option<EventSet> {
        let host = self.host.as_ref()?;
        let mut events = EventSet::empty();
        if self.can_receive() {
            events |= EventSet::IN;
        }
        if host.waiting() > 0 {
            events |= EventSet::OUT;
        }
        (!events.is_empty()).then_some(events)
    }

    pub(super) fn can_receive(&self) -> bool {
        !self.starved
            && self
                .connection
                .as_ref()
                .is_some_and(|connection| connection.credit() > 0)
    }

    pub(super) fn flush(&mut self) {
        let (Some(host), Some(connection)) = (self.host.as_mut(), self.connection.as_mut()) else {
            return;
        };
        match host.flush() {
            Some(taken) => {
                connection.forwarded(taken);
                self.after_flush();
            }
            None => self.host_gone(),
        }
    }

    /// Acts on the guest's SHUTDOWN once all bytes before it have been sent.
    pub(super) fn after_flush(&mut self) {
        let (Some(host), Some(connection)) = (self.host.as_ref(), self.connection.as_ref()) else {
            return;
        };
        if host.waiting() > 0 || connection.guest_sends() {
            return;
        }
        if connection.finished() {
            self.reset_connection(None);
        } else {
            host.finish_sending();
        }
    }

    /// The host has closed its end, which ends both directions for the guest.
    pub(super) fn host_gone(&mut self) {
        if let Some(connection) = &self.connection {
            let ports = connection.ports();
            self.queue_control_packet(ControlPacket {
                ports,
                from_cid: HOST_CID,
                op: Op::Shutdown,
                flags: SHUTDOWN_RECEIVE | SHUTDOWN_SEND,
                kind: STREAM,
            });
        }
        self.reset_connection(None);
    }

    pub(super) fn reset_connection(&mut self, reason: Option<Violation>) {
        if let Some(violation) = reason {
            self.complain(format_args!("connection reset: {violation}"));
        }
        if let Some(connection) = &self.connection {
            let ports = connection.ports();
            self.queue_control_packet(ControlPacket {
                ports,
                from_cid: HOST_CID,
                op: Op::Reset,
                flags: 0,
                kind: STREAM,
            });
        }
        self.close();
    }

    /// Ends the connection and closes the socket. A socket serves one connection only: its reader
    /// could not tell a second connection's bytes from the first one's.
    pub(super) fn close(&mut self) {
        self.connection = None;
        self.host = None;
    }

    pub(super) fn refuse(&mut self, header: &Header) {
        self.queue_control_packet(ControlPacket {
            ports: Ports {
                host: header.dst_port,
                guest: header.src_port,
            },
            from_cid: header.dst_cid,
            op: Op::Reset,
            flags: 0,
            kind: header.kind,
        });
    }

    fn queue_control_packet(&mut self, note: ControlPacket) {
        if self.outbox.len() < OUTBOX {
            self.outbox.push_back(note);
        } else {
            self.complain(format_args!(
                "no receive buffers for {OUTBOX} packets, one more left out"
            ));
        }
    }

    /// Delivers a pending reset in one of the driver's event buffers. The driver returns a buffer
    /// after it has handled the event, so a new buffer is its acknowledgement.
    fn deliver_reset(
        &mut self,
        queue: &mut VirtQueue,
        memory: &GuestMemory,
    ) -> Result<bool, DeviceError> {
        let ring = DeviceError::ring(EVENT);
        let mut delivered = false;
        if self.reset == Reset::Pending && queue.pop(memory, &mut self.chain).map_err(&ring)? {
            copy_to_guest(
                memory,
                self.chain.writable(),
                0,
                &TRANSPORT_RESET.to_le_bytes(),
            )?;
            // Read before the buffer is returned: any later buffer is an acknowledgement.
            let avail_index = queue.avail_index(memory).map_err(&ring)?;
            queue.push_used(memory, &self.chain, 4).map_err(&ring)?;
            self.reset = Reset::Delivered { avail_index };
            delivered = true;
        }
        if self.reset_unacknowledged(queue, memory)? {
            queue.unmute(memory).map_err(&ring)?;
        } else {
            queue.mute(memory).map_err(&ring)?;
        }
        Ok(delivered)
    }

    /// Whether the guest has not yet handled the event that tells it that its connections are gone.
    pub(super) fn reset_unacknowledged(
        &mut self,
        events: &VirtQueue,
        memory: &GuestMemory,
    ) -> Result<bool, DeviceError> {
        if let Reset::Delivered { avail_index } = self.reset {
            let now = events
                .avail_index(memory)
                .map_err(DeviceError::ring(EVENT))?;
            if now != avail_index {
                self.reset = Reset::None;
            }
        }
        Ok(self.reset != Reset::None)
    }

    /// Whether to interrupt the driver, given what has changed.
    fn announce(
        &mut self,
        received: bool,
        event: bool,
        queues: &[VirtQueue],
        memory: &GuestMemory,
    ) -> Result<bool, DeviceError> {
        let wanted = |index: usize| {
            queues[index]
                .wants_interrupt(memory)
                .map_err(DeviceError::ring(index))
        };
        let many = self.unannounced >= unannounced_limit(&queues[TX]);
        let interrupt =
            (received && wanted(RX)?) || (event && wanted(EVENT)?) || (many && wanted(TX)?);
        if interrupt {
            // All queues share the interrupt, and the driver looks at each of them.
            self.unannounced = 0;
        }
        Ok(interrupt)
    }

    pub(super) fn complain(&mut self, what: fmt::Arguments<'_>) {
        self.log.line(Instant::now(), what);
    }
}

impl VirtioDevice for Vsock {
    const TYPE: u32 = 19;
    const NAME: &'static str = "vsock";
    const QUEUE_SIZES: &'static [u16] = &[64, 64, 8];
    type State = VsockState;

    fn features(&self) -> u64 {
        // Without EVENT_IDX: in other VMMs, a transmitted descriptor that was in flight at a
        // snapshot has made guests wait for ever for a request to notify.
        0
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn activate(
        &mut self,
        queues: &mut [VirtQueue],
        memory: &GuestMemory,
    ) -> Result<(), DeviceError> {
        self.feed(&mut queues[RX], memory)?;
        queues[EVENT].mute(memory).map_err(DeviceError::ring(EVENT))
    }

    fn process_queue(
        &mut self,
        index: usize,
        queues: &mut [VirtQueue],
        memory: &GuestMemory,
    ) -> Result<WorkResult, DeviceError> {
        let (mut received, mut event) = (false, false);
        // For this queue only: `run_backlog` would not handle another queue's chains.
        let mut more = false;
        match index {
            RX => {
                self.feed(&mut queues[RX], memory)?;
                received = self.receive(true, &mut queues[RX], memory)?;
            }
            TX => {
                self.transmit(queues, memory)?;
                received = self.receive(false, &mut queues[RX], memory)?;
                more = queues[TX]
                    .has_pending(memory)
                    .map_err(DeviceError::ring(TX))?;
            }
            _ => event = self.deliver_reset(&mut queues[EVENT], memory)?,
        }
        let interrupt = self.announce(received, event, queues, memory)?;
        Ok(WorkResult { interrupt, more })
    }

    fn on_host_event(
        &mut self,
        events: EventSet,
        queues: &mut [VirtQueue],
        memory: &GuestMemory,
    ) -> Result<WorkResult, DeviceError> {
        if events.intersects(EventSet::OUT | EventSet::ERROR | EventSet::HANG_UP) {
            self.flush();
        }
        let received = self.receive(true, &mut queues[RX], memory)?;
        Ok(WorkResult {
            interrupt: self.announce(received, false, queues, memory)?,
            more: false,
        })
    }

    fn reset(&mut self) {
        // A device that was never used keeps its socket, because drivers reset a device before they
        // use it.
        if self.connection.is_some() {
            self.close();
        }
        self.outbox.clear();
        self.reset = Reset::None;
        self.starved = false;
        self.unannounced = 0;
    }

    fn save(&self, queues: &[VirtQueue], memory: &GuestMemory) -> Result<VsockState, NotQuiet> {
        // An index that can't be read counts as pending.
        if queues[TX].ready() && queues[TX].has_pending(memory).unwrap_or(true) {
            return Err(NotQuiet::QueuePending {
                device: Self::NAME,
                queue: TX,
            });
        }
        if self.reset != Reset::None {
            return Err(NotQuiet::ResetPending);
        }
        if self.has_due() {
            return Err(NotQuiet::ControlPending);
        }
        if let Some(host) = &self.host {
            if host.waiting() > 0 {
                return Err(NotQuiet::BytesToHost(host.waiting()));
            }
            if host.has_unread() {
                return Err(NotQuiet::BytesToGuest);
            }
        }
        Ok(VsockState {
            guest_cid: self.guest_cid,
            connection: self.connection.clone(),
            // A driver that wants no interrupts can be owed one for the whole ring at most.
            unannounced: u16::try_from(self.unannounced)
                .unwrap_or(u16::MAX)
                .min(Self::QUEUE_SIZES[TX]),
        })
    }

    fn restore(&mut self, state: &VsockState) -> Result<ConfigChange, StateError> {
        if state.guest_cid != self.guest_cid {
            return Err(StateError::Impossible {
                what: "guest context id",
                value: state.guest_cid,
            });
        }
        if state.unannounced > Self::QUEUE_SIZES[TX] {
            return Err(StateError::Impossible {
                what: "unannounced descriptors",
                value: state.unannounced.into(),
            });
        }
        self.unannounced = state.unannounced.into();
        if self.drop_connection {
            self.reset = Reset::Pending;
        } else if let Some(connection) = &state.connection {
            if !connection.is_plausible() || connection.ports().host != AGENT_PORT {
                return Err(StateError::Impossible {
                    what: "connection to port",
                    value: connection.ports().host.into(),
                });
            }
            self.connection = Some(connection.clone());
            // The guest sends its SHUTDOWN only once, and the new socket's reader has not seen it.
            self.after_flush();
        }
        Ok(ConfigChange::None)
    }
}
