//! The exits from `KVM_RUN`, and what serves each: the vCPU's own thread serves I/O ports, the
//! event loop serves device registers (it owns the devices), and [`crate::assist`] completes
//! instructions that KVM's interpreter can't.

use std::sync::mpsc;
use std::time::Instant;

use hearth_protocol::mailbox::{DOORBELL_PORT, REGISTER_PORT};
use hearth_protocol::sandbox::ExitReason;
use kvm_bindings::KVM_INTERNAL_ERROR_EMULATION;
use kvm_ioctls::VcpuExit;

use super::notice::{MmioAccess, MmioRequest, Notice, NoticeSender, count};
use super::runner::Runner;
use super::thread::Attachment;
use crate::assist::{self, StringOperation};
use crate::boot::layout::{VIRTIO_MMIO, VIRTIO_MMIO_SIZE};
use crate::devices::virtio::Interrupt;
use crate::devices::virtio::mmio::register;
use crate::host::HostKind;
use crate::mailbox::AfterRing;

/// Why the thread does not simply enter the guest again.
pub(super) enum Interruption {
    /// A signal or `immediate_exit` has interrupted `KVM_RUN`.
    Signal,
    /// The guest has sent its answer to the controller and waits at the mailbox for an event.
    WaitsForEvent,
    /// The guest reports that it has nothing to do.
    Idle,
    /// The microVM has ended.
    End(ExitReason, String),
}

impl Runner {
    /// Runs the guest up to one exit and serves it.
    pub(super) fn run_once(&mut self) -> Result<(), Interruption> {
        let Attachment {
            ports,
            interrupts,
            notices,
            counters,
            host,
            memory,
            ..
        } = &mut self.attachment;
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port @ (DOORBELL_PORT | REGISTER_PORT), data)) => {
                count(&counters.io);
                let (Some(scheduler), Ok(value)) = (&mut self.scheduler, <[u8; 4]>::try_from(data))
                else {
                    return Ok(());
                };
                let value = u32::from_le_bytes(value);
                let rang = if port == DOORBELL_PORT {
                    scheduler.ring(memory, value)
                } else {
                    let registered = scheduler.mailbox.register(memory, value);
                    registered.map(|()| AfterRing::RunGuest)
                };
                match rang {
                    Ok(AfterRing::RunGuest) => Ok(()),
                    Ok(AfterRing::WaitForEvent) => Err(Interruption::WaitsForEvent),
                    Ok(AfterRing::GuestIdle) => Err(Interruption::Idle),
                    Err(e) => Err(Interruption::End(ExitReason::InternalError, e.to_string())),
                }
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                count(&counters.io);
                if *host == HostKind::Software
                    && let Some(operation) = StringOperation::of_port(port)
                {
                    count(&counters.assists);
                    return operation
                        .perform(&self.fd, memory)
                        .map_err(|e| self.fatal(&e.to_string()));
                }
                match ports.write(port, data, Instant::now()) {
                    Some(reason) => Err(Interruption::End(
                        reason,
                        format!("the guest wrote to port {port:#x}"),
                    )),
                    None => Ok(()),
                }
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                count(&counters.io);
                ports.read(port, data);
                Ok(())
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                count(&counters.mmio);
                // The guest reads this register at every interrupt and then writes the
                // acknowledgement. Both touch one atomic word only, so the thread serves them
                // without the event loop.
                if let Some((interrupt, register::INTERRUPT_STATUS)) =
                    addressed(interrupts, address)
                    && let Ok(word) = <&mut [u8; 4]>::try_from(&mut *data)
                {
                    *word = interrupt.status().to_le_bytes();
                    return Ok(());
                }
                let bytes = forward(notices, address, MmioAccess::Read(data.len()))?;
                data.fill(0);
                for (to, from) in data.iter_mut().zip(bytes) {
                    *to = from;
                }
                Ok(())
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                count(&counters.mmio);
                if let Some((interrupt, register::INTERRUPT_ACK)) = addressed(interrupts, address)
                    && let Ok(word) = <[u8; 4]>::try_from(data)
                {
                    interrupt.acknowledge(u32::from_le_bytes(word));
                    return Ok(());
                }
                forward(notices, address, MmioAccess::Write(data.to_vec())).map(|_| ())
            }
            Ok(VcpuExit::InternalError) => self.internal_error(),
            Ok(VcpuExit::Shutdown) => Err(Interruption::End(
                ExitReason::TripleFault,
                self.describe("triple fault"),
            )),
            Ok(VcpuExit::FailEntry(reason, cpu)) => Err(self.fatal(&format!(
                "the CPU refused to enter the guest: reason {reason:#x} on CPU {cpu}"
            ))),
            Ok(VcpuExit::Intr) => Err(Interruption::Signal),
            Ok(VcpuExit::Hlt | VcpuExit::IrqWindowOpen) => {
                count(&counters.other);
                Ok(())
            }
            Ok(exit) => {
                let text = format!("unexpected KVM exit: {exit:?}");
                Err(self.fatal(&text))
            }
            Err(e) if e.errno() == libc::EINTR => Err(Interruption::Signal),
            // This vCPU waits for the guest to start it (INIT, SIPI).
            Err(e) if e.errno() == libc::EAGAIN => Ok(()),
            Err(e) => Err(self.fatal(&format!("KVM_RUN: {e}"))),
        }
    }

    fn internal_error(&mut self) -> Result<(), Interruption> {
        count(&self.attachment.counters.emulation);
        // SAFETY: KVM has just reported KVM_EXIT_INTERNAL_ERROR, so this is the union's member.
        let suberror = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
        if self.attachment.host != HostKind::Software || suberror != KVM_INTERNAL_ERROR_EMULATION {
            return Err(self.fatal(&format!("KVM internal error, suberror {suberror}")));
        }
        match assist::complete(&self.fd, &self.attachment.memory) {
            Ok(()) => {
                count(&self.attachment.counters.assists);
                Ok(())
            }
            Err(e) => Err(self.fatal(&e.to_string())),
        }
    }

    fn fatal(&self, what: &str) -> Interruption {
        Interruption::End(ExitReason::InternalError, self.describe(what))
    }

    /// `what` and the registers, if KVM can still read them.
    fn describe(&self, what: &str) -> String {
        match (self.fd.get_regs(), self.fd.get_sregs()) {
            (Ok(regs), Ok(sregs)) => format!(
                "{what}; rip={:#x} rsp={:#x} rflags={:#x} rax={:#x} rbx={:#x} rcx={:#x} rdx={:#x} \
                 rsi={:#x} rdi={:#x} rbp={:#x} cr0={:#x} cr2={:#x} cr3={:#x} cr4={:#x} efer={:#x} \
                 cs={:#x}",
                regs.rip,
                regs.rsp,
                regs.rflags,
                regs.rax,
                regs.rbx,
                regs.rcx,
                regs.rdx,
                regs.rsi,
                regs.rdi,
                regs.rbp,
                sregs.cr0,
                sregs.cr2,
                sregs.cr3,
                sregs.cr4,
                sregs.efer,
                sregs.cs.selector,
            ),
            _ => what.to_owned(),
        }
    }
}

/// The device and the register at an MMIO address.
fn addressed(interrupts: &[Interrupt], address: u64) -> Option<(&Interrupt, u64)> {
    let offset = address.checked_sub(VIRTIO_MMIO)?;
    let device = usize::try_from(offset / VIRTIO_MMIO_SIZE).ok()?;
    Some((interrupts.get(device)?, offset % VIRTIO_MMIO_SIZE))
}

/// Passes an access to the event loop and waits for the reply.
fn forward(
    notices: &NoticeSender,
    address: u64,
    access: MmioAccess,
) -> Result<Vec<u8>, Interruption> {
    let (reply, answer) = mpsc::sync_channel(1);
    let gone = || Interruption::End(ExitReason::InternalError, "the event loop has ended".into());
    if !notices.send(Notice::Mmio(MmioRequest {
        address,
        access,
        reply,
    })) {
        return Err(gone());
    }
    answer.recv().map_err(|_| gone())
}
