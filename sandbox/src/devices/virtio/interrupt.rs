//! A device's interrupt: the InterruptStatus word, and the eventfd that KVM turns into an edge on
//! the I/O APIC's pin. The word is the only device state that two threads access: the event loop
//! sets bits, and the vCPU's thread serves the guest's reads and acknowledgements without waking
//! the event loop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// InterruptStatus bit 0: a used ring has new entries (virtio 1.2, 4.2.2).
pub const QUEUE: u32 = 1 << 0;
/// InterruptStatus bit 1: the configuration, or the device's status, has changed.
pub const CONFIG: u32 = 1 << 1;

/// One device's interrupt. Clones share the line.
///
/// # Why no interrupt is lost
/// The interrupt is edge-triggered, so each [`trigger_queue`](Self::trigger_queue) sets its bit
/// *and then* writes the eventfd, even if the bit was still set. Omitting the write looks safe with
/// a driver that acknowledges before it looks at the rings (Linux). But the specification lets a
/// driver look first and acknowledge afterwards (4.2.3.4): a bit set in between would be cleared
/// and the driver would not look again. The cost is one eventfd write for each batch of work. The
/// APIC merges or queues an edge that comes while an interrupt is pending or in service, which is
/// what the driver needs: its handler runs at least once after the last edge. The bit is set before
/// the edge, so that a handler that the edge has started never reads a zero status.
#[derive(Debug, Clone)]
pub struct Interrupt {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    status: AtomicU32,
    line: EventFd,
}

impl Interrupt {
    /// An interrupt; `line` is registered as an irqfd.
    pub fn new(line: EventFd) -> Self {
        Self {
            shared: Arc::new(Shared {
                status: AtomicU32::new(0),
                line,
            }),
        }
    }

    /// The InterruptStatus register (0x60).
    pub fn status(&self) -> u32 {
        self.shared.status.load(Ordering::SeqCst)
    }

    /// A write to the InterruptACK register (0x64): clears `bits`.
    pub fn acknowledge(&self, bits: u32) {
        self.shared.status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Makes the driver look at the used rings.
    pub fn trigger_queue(&self) -> io::Result<()> {
        self.trigger(QUEUE)
    }

    /// Makes the driver look at the status and the configuration.
    pub fn trigger_config(&self) -> io::Result<()> {
        self.trigger(CONFIG)
    }

    /// Raises the edge again for pending bits. After a restore it is unknown whether the edge of a
    /// saved status had reached the vCPU; an additional edge is harmless, and a missing one would
    /// hang the driver.
    pub fn resample(&self) -> io::Result<()> {
        match self.status() {
            0 => Ok(()),
            pending => self.trigger(pending),
        }
    }

    /// Sets the pending bits of a snapshot. The caller refuses unknown bits.
    pub fn restore_status(&self, status: u32) {
        self.shared
            .status
            .store(status & (QUEUE | CONFIG), Ordering::SeqCst);
    }

    fn trigger(&self, bits: u32) -> io::Result<()> {
        self.shared.status.fetch_or(bits, Ordering::SeqCst);
        self.shared.line.write(1)
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    fn line() -> (Interrupt, EventFd) {
        let fd = EventFd::new(EFD_NONBLOCK).unwrap();
        (Interrupt::new(fd.try_clone().unwrap()), fd)
    }

    #[test]
    fn each_trigger_is_an_edge_even_when_the_last_was_not_acknowledged() {
        let (interrupt, fd) = line();
        interrupt.trigger_queue().unwrap();
        assert_eq!(fd.read().unwrap(), 1);
        interrupt.trigger_queue().unwrap();
        assert_eq!(fd.read().unwrap(), 1);
        assert_eq!(interrupt.status(), QUEUE);
    }

    #[test]
    fn acknowledging_clears_only_the_named_bits() {
        let (interrupt, _fd) = line();
        interrupt.trigger_queue().unwrap();
        interrupt.trigger_config().unwrap();
        interrupt.acknowledge(QUEUE);
        assert_eq!(interrupt.status(), CONFIG);
        interrupt.acknowledge(u32::MAX);
        assert_eq!(interrupt.status(), 0);
    }

    #[test]
    fn a_restored_pending_status_is_raised_again_and_an_empty_one_is_not() {
        let (interrupt, fd) = line();
        interrupt.resample().unwrap();
        assert!(fd.read().is_err());
        interrupt.restore_status(QUEUE);
        interrupt.resample().unwrap();
        assert_eq!(fd.read().unwrap(), 1);
        assert_eq!(interrupt.status(), QUEUE);
    }

    #[test]
    fn clones_share_the_line() {
        let (interrupt, fd) = line();
        let vcpu_side = interrupt.clone();
        interrupt.trigger_queue().unwrap();
        assert_eq!(vcpu_side.status(), QUEUE);
        vcpu_side.acknowledge(QUEUE);
        assert_eq!(interrupt.status(), 0);
        assert_eq!(fd.read().unwrap(), 1);
    }
}
