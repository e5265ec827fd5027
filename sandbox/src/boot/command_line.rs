//! The kernel's command line: arguments for every guest, arguments for software-KVM hosts, and the
//! devices.

use super::layout::{COMMAND_LINE_MAX, RESTORE_SEED, VIRTIO_IRQ, VIRTIO_MMIO, VIRTIO_MMIO_SIZE};
use crate::assist;
use crate::host::HostKind;

/// * `panic=-1 reboot=k`: a panic becomes a reset through the keyboard controller, which the
///   sandbox reports as [`GuestReset`](hearth_protocol::sandbox::ExitReason::GuestReset).
/// * `earlyprintk=…,keep quiet`: errors reach the serial port without a serial driver; a quiet
///   kernel writes nothing else.
/// * `clocksource=kvm-clock`: the only clock that `KVM_SET_CLOCK` continues after a restore. A
///   software-KVM host can't give a guest its own TSC, so the kernel's choice there, `tsc`, would
///   jump by the snapshot's age.
/// * `no-kvmapf`: when the host has to read a page from disk, the vCPU waits for it. The alternative
///   (asynchronous page faults: two interrupts and a switch to another task) takes longer than the
///   read.
/// * `thp_anon=32K:always`: one fault maps eight pages of anonymous memory. Starting a language
///   runtime takes thousands of such faults, and few of the extra pages stay unused.
const COMMON: &str = "root=/dev/vda rootfstype=erofs ro init=/init panic=-1 reboot=k \
    earlyprintk=serial,0x3f8,115200,keep quiet loglevel=4 random.trust_cpu=on clocksource=kvm-clock \
    no-kvmapf thp_anon=32K:always";

/// The command line is longer than the kernel would read.
#[derive(Debug, thiserror::Error)]
#[error("kernel command line of {0} bytes, the limit is {max}", max = COMMAND_LINE_MAX - 1)]
pub struct CommandLineTooLong(usize);

/// The command line for a guest with `devices` virtio-mmio devices.
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
