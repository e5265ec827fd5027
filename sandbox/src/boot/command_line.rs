//! The kernel's command line: what every guest gets, what a software-KVM host adds, the devices.

use super::layout::{COMMAND_LINE_MAX, RESTORE_SEED, VIRTIO_IRQ, VIRTIO_MMIO, VIRTIO_MMIO_SIZE};
use crate::assist;
use crate::host::HostKind;

/// * `panic=-1 reboot=k`: a panic becomes a reset through the keyboard controller, which the
///   sandbox sees as such.
/// * `earlyprintk=…,keep quiet`: errors reach the serial port without a serial driver; a quiet
///   kernel writes nothing.
/// * `clocksource=kvm-clock`: the one clock that `KVM_SET_CLOCK` continues after a restore. A
///   software-KVM host can't give a guest its own TSC: there the kernel's choice, `tsc`, would jump
///   by the snapshot's age.
/// * `no-kvmapf`: a page that the host has yet to read makes the vCPU wait for it. The alternative,
///   two interrupts and another task in between, is longer than the read.
/// * `thp_anon=32K:always`: anonymous memory comes in runs of eight pages, one fault for all: the
///   start of a language runtime is thousands of them, and what is cleared in excess is little.
const COMMON: &str = "root=/dev/vda rootfstype=erofs ro init=/init panic=-1 reboot=k \
    earlyprintk=serial,0x3f8,115200,keep quiet loglevel=4 random.trust_cpu=on clocksource=kvm-clock \
    no-kvmapf thp_anon=32K:always";

/// A command line that the kernel would cut off.
#[derive(Debug, thiserror::Error)]
#[error("kernel command line of {0} bytes, the limit is {max}", max = COMMAND_LINE_MAX - 1)]
pub struct CommandLineTooLong(usize);

/// The whole command line for `devices` virtio-mmio devices.
pub fn build(host: HostKind, devices: usize, extra: &str) -> Result<String, CommandLineTooLong> {
    let mut line = COMMON.to_owned();
    if host == HostKind::Software {
        line.push(' ');
        line.push_str(assist::KERNEL_ARGUMENTS);
    }
    line.push_str(&format!(" restore_seed={:#x}", RESTORE_SEED.0));
    for (address, irq) in (VIRTIO_MMIO..)
        .step_by(usize::try_from(VIRTIO_MMIO_SIZE).expect("fits"))
        .zip(VIRTIO_IRQ..)
        .take(devices)
    {
        line.push_str(&format!(" virtio_mmio.device=4K@{address:#x}:{irq}"));
    }
    if !extra.is_empty() {
        line.push(' ');
        line.push_str(extra);
    }
    if line.len() < COMMAND_LINE_MAX {
        Ok(line)
    } else {
        Err(CommandLineTooLong(line.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_gets_its_own_address_and_line() {
        let line = build(HostKind::Hardware, 2, "x=1").unwrap();
        assert!(
            line.contains("virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6")
        );
        assert!(line.ends_with(" x=1"));
    }

    #[test]
    fn hardware_hosts_get_no_workarounds() {
        assert!(
            !build(HostKind::Hardware, 4, "")
                .unwrap()
                .contains("clearcpuid")
        );
        assert!(
            !build(HostKind::Hardware, 4, "")
                .unwrap()
                .contains("string-assist")
        );
        assert!(
            build(HostKind::Software, 4, "")
                .unwrap()
                .contains("clearcpuid")
        );
    }

    #[test]
    fn a_line_that_the_kernel_would_cut_is_refused() {
        assert!(build(HostKind::Hardware, 4, &"x".repeat(COMMAND_LINE_MAX)).is_err());
    }
}
