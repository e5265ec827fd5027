//! A microVM's virtio devices. The event loop owns them.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use hearth_protocol::guest::{DISK_COUNT, GUEST_CID};
use serde::{Deserialize, Serialize};
use vmm_sys_util::epoll::EventSet;

use super::error::MicroVmError;
use super::shell::DeviceEventfds;
use crate::boot::layout::{VIRTIO_MMIO, VIRTIO_MMIO_SIZE};
use crate::devices::virtio::block::{Block, BlockState};
use crate::devices::virtio::vsock::{Vsock, VsockState};
use crate::devices::virtio::{Interrupt, MmioTransport, TransportState};
use crate::memory::GuestMemory;
use crate::vcpu::MmioAccess;

/// The disks in address order, then the vsock device.
#[derive(Debug)]
pub struct Devices {
    disks: Vec<MmioTransport<Block>>,
    vsock: MmioTransport<Vsock>,
    interrupts: Vec<Interrupt>,
}

/// Device state for a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub struct DevicesState {
    disks: Vec<TransportState<BlockState>>,
    vsock: TransportState<VsockState>,
}

/// The disks of a microVM, with their images opened.
#[derive(Debug)]
pub struct Images(Vec<Block>);

impl Images {
    /// Checks every image before anything else is changed.
    pub fn new(disks: Vec<Option<File>>) -> Result<Self, MicroVmError> {
        if disks.len() != DISK_COUNT {
            return Err(MicroVmError::DiskCount {
                given: disks.len(),
                expected: DISK_COUNT,
            });
        }
        let blocks: Result<_, _> = disks
            .into_iter()
            .enumerate()
            .map(|(number, image)| match image {
                Some(file) => Block::from_file(file, number.to_string()),
                None => Ok(Block::empty()),
            })
            .collect();
        Ok(Self(blocks?))
    }
}

impl Devices {
    /// Devices that no driver has seen yet.
    pub fn new(
        images: Images,
        vsock: UnixStream,
        memory: &GuestMemory,
        eventfds: &[DeviceEventfds],
    ) -> Result<Self, MicroVmError> {
        let interrupts = interrupts(eventfds)?;
        let disks = images
            .0
            .into_iter()
            .zip(&interrupts)
            .map(|(block, interrupt)| MmioTransport::new(block, memory.clone(), interrupt.clone()))
            .collect();
        let vsock = vsock_device(vsock)?;
        let vsock = MmioTransport::new(vsock, memory.clone(), interrupts[DISK_COUNT].clone());
        Ok(Self {
            disks,
            vsock,
            interrupts,
        })
    }

    /// Devices with the state of a snapshot. Their images may differ from the snapshot's.
    pub fn restore(
        images: Images,
        vsock: UnixStream,
        state: &DevicesState,
        memory: &GuestMemory,
        eventfds: &[DeviceEventfds],
    ) -> Result<Self, MicroVmError> {
        if state.disks.len() != DISK_COUNT {
            let given = state.disks.len();
            return Err(MicroVmError::DiskCount {
                given,
                expected: DISK_COUNT,
            });
        }
        let interrupts = interrupts(eventfds)?;
        let disks = images
            .0
            .into_iter()
            .zip(&state.disks)
            .zip(&interrupts)
            .map(|((block, state), interrupt)| {
                MmioTransport::restore(block, state, memory.clone(), interrupt.clone())
            })
            .collect::<Result<_, _>>()?;
        let vsock = MmioTransport::restore(
            vsock_device(vsock)?,
            &state.vsock,
            memory.clone(),
            interrupts[DISK_COUNT].clone(),
        )?;
        Ok(Self {
            disks,
            vsock,
            interrupts,
        })
    }

    /// Returns the devices' state, if all of them are quiet. First handles what the drivers have
    /// made available.
    pub fn save(&mut self) -> Result<DevicesState, MicroVmError> {
        self.kick_all();
        Ok(DevicesState {
            disks: self
                .disks
                .iter()
                .map(MmioTransport::save)
                .collect::<Result<_, _>>()?,
            vsock: self.vsock.save()?,
        })
    }

    /// The devices' interrupts in address order.
    pub fn interrupts(&self) -> &[Interrupt] {
        &self.interrupts
    }

    /// Handles every queue once. This finds buffers whose notification came before anything
    /// listened for it.
    pub fn kick_all(&mut self) {
        for disk in &mut self.disks {
            disk.kick_all();
        }
        self.vsock.kick_all();
    }

    /// Whether a device has interrupted its work so that others get their share.
    pub fn has_backlog(&self) -> bool {
        self.vsock.has_backlog() || self.disks.iter().any(MmioTransport::has_backlog)
    }

    /// Continues the interrupted work.
    pub fn run_backlog(&mut self) {
        for disk in &mut self.disks {
            disk.run_backlog();
        }
        self.vsock.run_backlog();
    }

    /// A device's driver has notified a queue.
    pub fn notify(&mut self, device: usize, queue: usize) {
        match self.disks.get_mut(device) {
            Some(disk) => disk.notify(queue),
            None => self.vsock.notify(queue),
        }
    }

    /// A vCPU accesses a register. A read at an address without a device returns zero.
    pub fn access(&mut self, address: u64, access: MmioAccess) -> Vec<u8> {
        let offset = address.wrapping_sub(VIRTIO_MMIO);
        let (device, register) = (offset / VIRTIO_MMIO_SIZE, offset % VIRTIO_MMIO_SIZE);
        let device = usize::try_from(device).unwrap_or(usize::MAX);
        match access {
            MmioAccess::Read(len) => {
                let mut data = vec![0; len];
                match self.disks.get_mut(device) {
                    Some(disk) => disk.read(register, &mut data),
                    None if device == DISK_COUNT => self.vsock.read(register, &mut data),
                    None => {}
                }
                data
            }
            MmioAccess::Write(data) => {
                match self.disks.get_mut(device) {
                    Some(disk) => disk.write(register, &data),
                    None if device == DISK_COUNT => self.vsock.write(register, &data),
                    None => {}
                }
                Vec::new()
            }
        }
    }

    /// What the event loop should wait for on the vsock device's host socket; `None` if that is
    /// nothing, or if the socket is closed.
    pub fn vsock_interest(&self) -> Option<(RawFd, EventSet)> {
        let vsock = self.vsock.device();
        Some((vsock.host_fd()?.as_raw_fd(), vsock.interest()?))
    }

    /// The vsock device's host socket is ready.
    pub fn vsock_ready(&mut self, events: EventSet) {
        self.vsock.on_host_event(events);
    }
}

fn vsock_device(host: UnixStream) -> Result<Vsock, MicroVmError> {
    Vsock::new(GUEST_CID, host).map_err(|e| MicroVmError::Host("the vsock socket", e))
}

fn interrupts(eventfds: &[DeviceEventfds]) -> Result<Vec<Interrupt>, MicroVmError> {
    let copies: io::Result<Vec<Interrupt>> = eventfds
        .iter()
        .map(|fds| Ok(Interrupt::new(fds.interrupt.try_clone()?)))
        .collect();
    copies.map_err(|e| MicroVmError::Host("copying an eventfd", e))
}
