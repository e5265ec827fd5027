//! The vsock device: three queues, at most one connection, one Unix socket.
//!
//! The guest may connect once to [`AGENT_PORT`] of the host for each socket that the device is
//! given; whatever else it sends is answered with RST. The owner waits for [`Vsock::host_fd`] with
//! [`Vsock::interest`] and calls [`on_host_event`](VirtioDevice::on_host_event).
//!
//! # What makes it quick
//! Bytes go between socket and guest buffers without a stop in between. The transmit queue is
//! worked off completely before anything is said to the driver. Interrupts are what costs a guest
//! most, so: one per batch of received packets, and none for transmitted ones of their own. The
//! driver only wants those to free its buffers, and it does that at the next interrupt just as
//! well; it is interrupted for them alone only when a quarter of the ring has come together, so
//! that it never waits for room. Likewise the driver is asked not to notify about fresh receive
//! buffers unless the device has run out of them.
//!
//! # What a snapshot keeps
//! The counters of the connection, so that a guest restored with another socket behind the device
//! notices nothing. [`Vsock::resetting_connections`] is the other way: the connection is dropped
//! and the guest told so by a TRANSPORT_RESET event; until it has handled that, no connection is
//! accepted and so no byte is delivered.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use hearth_protocol::guest::{AGENT_PORT, HOST_CID};
use serde::{Deserialize, Serialize};
use vmm_sys_util::epoll::EventSet;

use super::connection::{Connection, Ports, Violation};
use super::host_stream::HostStream;
use super::packet::{Header, Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, STREAM};
use crate::devices::GuestMemory;
use crate::devices::virtio::chain::Chain;
use crate::devices::virtio::device::{
    ConfigChange, DeviceError, NotQuiet, Outcome, StateError, VirtioDevice,
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

/// Packets without payload and without connection that may wait for a receive buffer. A guest that
/// provokes more of them and takes none does not get the rest.
const OUTBOX: usize = 32;

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`.
const TRANSPORT_RESET: u32 = 0;

/// The part of the transmit ring that is given back without an interrupt.
fn unannounced_limit(queue: &VirtQueue) -> usize {
    usize::from(queue.size() / 4)
}

/// A packet without payload for a connection that is not, or no longer, there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Note {
    pub(super) ports: Ports,
    /// Context id that the guest takes the sender for.
    pub(super) from_cid: u64,
    pub(super) op: Op,
    pub(super) flags: u32,
    pub(super) kind: u16,
}

/// How far telling the guest of a transport reset has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reset {
    /// There is none to tell.
    None,
    /// The event waits for a buffer.
    Pending,
    /// It is on the ring. The driver gives a buffer back to the queue when it has handled it.
    Delivered { avail_index: u16 },
}

/// The device.
#[derive(Debug)]
pub struct Vsock {
    pub(super) guest_cid: u64,
    config: [u8; 8],
    pub(super) host: Option<HostStream>,
    pub(super) connection: Option<Connection>,
    pub(super) outbox: VecDeque<Note>,
    reset: Reset,
    drop_connection: bool,
    /// The receive queue was empty when something had to be sent.
    pub(super) starved: bool,
    /// Transmit descriptors given back since the last interrupt.
    pub(super) unannounced: usize,
    pub(super) chain: Chain,
    log: Log,
}

/// What a snapshot keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockState {
    /// The guest's context id.
    pub guest_cid: u64,
    /// The agent's connection, if it is up.
    pub connection: Option<Connection>,
    /// Transmit descriptors given back without an interrupt so far.
    pub unannounced: u16,
}

impl Vsock {
    /// A device for the guest with id `guest_cid` and a connected socket to bridge to.
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

    /// For a restore that does not carry the saved connection over: the guest is told to drop it.
    #[must_use]
    pub fn resetting_connections(mut self) -> Self {
        self.drop_connection = true;
        self
    }

    /// Whether the guest is connected.
    pub fn connected(&self) -> bool {
        self.connection.is_some()
    }

    /// The socket to wait for, as long as there is one.
    pub fn host_fd(&self) -> Option<BorrowedFd<'_>> {
        self.host.as_ref().map(HostStream::fd)
    }

    /// What to wait for at [`host_fd`](Self::host_fd), level-triggered. `None`: not at all, the
    /// descriptor must not even be registered, because a closed peer is reported whether asked for
    /// or not and there is nothing that could be done about it now: the waiting would spin. Ask
    /// again after every call into the transport.
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

    /// What a SHUTDOWN of the guest's asks for happens when the bytes before it are through.
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

    /// The host closed its end: both directions end for the guest.
    pub(super) fn host_gone(&mut self) {
        if let Some(connection) = &self.connection {
            let ports = connection.ports();
            self.note(Note {
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
            self.note(Note {
                ports,
                from_cid: HOST_CID,
                op: Op::Reset,
                flags: 0,
                kind: STREAM,
            });
        }
        self.close();
    }

    /// A socket serves one connection: whoever is at its other end could not tell the bytes of a
    /// second one from those of the first.
    pub(super) fn close(&mut self) {
        self.connection = None;
        self.host = None;
    }

    pub(super) fn refuse(&mut self, header: &Header) {
        self.note(Note {
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

    fn note(&mut self, note: Note) {
        if self.outbox.len() < OUTBOX {
            self.outbox.push_back(note);
        } else {
            self.complain(format_args!(
                "no receive buffers for {OUTBOX} packets, one more left out"
            ));
        }
    }

    /// The driver's event buffers: one is used to tell of a reset, and when the next one comes
    /// the driver has handled it (it gives buffers back afterwards).
    fn tell_reset(
        &mut self,
        queue: &mut VirtQueue,
        memory: &GuestMemory,
    ) -> Result<bool, DeviceError> {
        let ring = DeviceError::ring(EVENT);
        let mut told = false;
        if self.reset == Reset::Pending && queue.pop(memory, &mut self.chain).map_err(&ring)? {
            copy_to_guest(
                memory,
                self.chain.writable(),
                0,
                &TRANSPORT_RESET.to_le_bytes(),
            )?;
            // Read before the buffer is given back: what comes after it is an acknowledgement.
            let avail_index = queue.avail_index(memory).map_err(&ring)?;
            queue.push_used(memory, &self.chain, 4).map_err(&ring)?;
            self.reset = Reset::Delivered { avail_index };
            told = true;
        }
        if self.reset_unacknowledged(queue, memory)? {
            queue.unmute(memory).map_err(&ring)?;
        } else {
            queue.mute(memory).map_err(&ring)?;
        }
        Ok(told)
    }

    /// Whether the guest has yet to learn that its connections are gone.
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

    /// Whether the driver is to be interrupted, given what there is to tell.
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
            // All queues share the line, and the driver looks at each of them.
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
        // Without EVENT_IDX: a transmitted descriptor in flight at a snapshot has left guests
        // elsewhere waiting for ever to be asked for notifications again.
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
    ) -> Result<Outcome, DeviceError> {
        let (mut received, mut event) = (false, false);
        // Of this queue alone: the chains of another one would not be taken by coming back here.
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
            _ => event = self.tell_reset(&mut queues[EVENT], memory)?,
        }
        let interrupt = self.announce(received, event, queues, memory)?;
        Ok(Outcome { interrupt, more })
    }

    fn on_host_event(
        &mut self,
        events: EventSet,
        queues: &mut [VirtQueue],
        memory: &GuestMemory,
    ) -> Result<Outcome, DeviceError> {
        if events.intersects(EventSet::OUT | EventSet::ERROR | EventSet::HANG_UP) {
            self.flush();
        }
        let received = self.receive(true, &mut queues[RX], memory)?;
        Ok(Outcome {
            interrupt: self.announce(received, false, queues, memory)?,
            more: false,
        })
    }

    fn reset(&mut self) {
        // A device that was never used keeps its socket: drivers reset before they begin.
        if self.connection.is_some() {
            self.close();
        }
        self.outbox.clear();
        self.reset = Reset::None;
        self.starved = false;
        self.unannounced = 0;
    }

    fn save(&self, queues: &[VirtQueue], memory: &GuestMemory) -> Result<VsockState, NotQuiet> {
        // An index that can't be read is not a quiet one.
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
            // A driver that wants no interrupts is owed one for the whole ring at most.
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
            // The guest has said it once; this socket's reader has not been there to hear it.
            self.after_flush();
        }
        Ok(ConfigChange::None)
    }
}
