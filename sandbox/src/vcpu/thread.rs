//! A vCPU's thread: runs the guest until it is told to stop or the guest ends it, serves port I/O
//! itself, and hands memory-mapped I/O to the event loop that owns the devices.
//!
//! It is started with the shell, long before there is a guest, for two reasons: it costs nobody's
//! time, and the main thread can give up the right to start threads before it reads a first command.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hearth_protocol::mailbox::{DOORBELL_PORT, REGISTER_PORT};
use hearth_protocol::sandbox::ExitReason;
use kvm_bindings::KVM_INTERNAL_ERROR_EMULATION;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use vmm_sys_util::eventfd::EventFd;

use super::cpu_time::{self, Timers};
use super::interpreted::Interpreted;
use super::kick::{self, ImmediateExit};
use super::notice::{Counters, MmioAccess, MmioRequest, Notice, NoticeSender, StopReason, count};
use super::shift::{Shift, ShiftError};
use super::state::{StateError, VcpuState};
use crate::assist::{self, StringOperation};
use crate::boot::layout::{VIRTIO_MMIO, VIRTIO_MMIO_SIZE};
use crate::devices::pio::PioBus;
use crate::devices::virtio::Interrupt;
use crate::host::HostKind;
use crate::jail::{FilterError, ThreadFilter};
use crate::mailbox::{Mailbox, MailboxState, Rang};
use crate::memory::GuestMemory;

/// virtio-mmio registers that the vCPU thread answers itself: every interrupt reads the first and
/// writes the second, and neither touches more than one atomic word.
const INTERRUPT_STATUS: u64 = 0x60;
const INTERRUPT_ACK: u64 = 0x64;

/// Why a vCPU could not be started or asked.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// The host has no thread or timer left.
    #[error("starting a vCPU thread: {0}")]
    Thread(#[from] io::Error),
    /// The kick's signal handler could not be installed.
    #[error("installing the vCPU signal handler: {0}")]
    Signal(vmm_sys_util::errno::Error),
    /// The thread's system calls could not be limited.
    #[error("vCPU thread: {0}")]
    Filter(#[from] FilterError),
    /// Its state could not be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The thread has ended.
    #[error("the vCPU thread has ended")]
    Gone,
}

/// What a vCPU needs of its microVM.
#[derive(Debug)]
pub struct Attachment {
    /// Its number, from 0.
    pub id: u8,
    /// For reading its own state.
    pub kvm: Arc<Kvm>,
    /// Guest memory.
    pub memory: GuestMemory,
    /// Interrupts of the virtio devices, in address order.
    pub interrupts: Vec<Interrupt>,
    /// Ports. Each vCPU has its own; only the first one's serial port is ever used.
    pub ports: PioBus<fn(&str)>,
    /// Whether ring 0 needs assistance.
    pub host: HostKind,
    /// To the event loop.
    pub notices: NoticeSender,
    /// Shared by all vCPUs.
    pub counters: Arc<Counters>,
    /// The mailbox, where there is one vCPU.
    pub mailbox: Option<Mailbox>,
    /// What KVM interprets, where the guest's kernel is.
    pub interpreted: Option<Interpreted>,
}

/// A stopped vCPU, and the mailbox that its thread keeps.
type Saved = (Box<VcpuState>, Option<MailboxState>);

enum Order {
    Attach(Box<Runner>),
    Run(Option<Duration>),
    Save(SyncSender<Result<Saved, StateError>>),
}

/// A vCPU thread without a microVM.
#[derive(Debug)]
pub struct IdleVcpu {
    thread: JoinHandle<Option<VcpuFd>>,
    orders: Sender<Order>,
}

impl IdleVcpu {
    /// Starts the thread of vCPU `id` and waits until its system calls are limited.
    pub fn start(id: u8, filter: ThreadFilter) -> Result<Self, VcpuError> {
        kick::install_handler().map_err(VcpuError::Signal)?;
        let (orders, incoming) = mpsc::channel();
        let (ready, started) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name(format!("vcpu{id}"))
            .spawn(move || {
                // The timers are for this thread and can't be had behind the filter.
                let timers = Timers::new().map_err(VcpuError::Thread).and_then(|timers| {
                    filter.install()?;
                    Ok(timers)
                });
                match timers {
                    Ok(timers) => {
                        drop(ready.send(Ok(())));
                        wait_for_microvm(&incoming, &timers)
                    }
                    Err(e) => {
                        drop(ready.send(Err(e)));
                        None
                    }
                }
            })?;
        started.recv().map_err(|_| VcpuError::Gone)??;
        Ok(Self { thread, orders })
    }
}

/// The thread's life.
fn wait_for_microvm(orders: &Receiver<Order>, timers: &Timers) -> Option<VcpuFd> {
    match orders.recv() {
        Ok(Order::Attach(mut runner)) => {
            runner.work(orders, timers);
            Some(runner.fd)
        }
        // A shell that is not used any more.
        Ok(_) | Err(_) => None,
    }
}

/// A vCPU and its thread. Dropping it stops and joins the thread.
#[derive(Debug)]
pub struct Vcpu {
    thread: Option<JoinHandle<Option<VcpuFd>>>,
    orders: Option<Sender<Order>>,
    stop: Arc<AtomicBool>,
    immediate_exit: Arc<ImmediateExit>,
    /// Wakes a thread that waits at the mailbox.
    wake: Option<EventFd>,
}

impl Vcpu {
    /// Gives a thread its vCPU, which does not run yet.
    pub fn attach(
        idle: IdleVcpu,
        mut fd: VcpuFd,
        mut attachment: Attachment,
    ) -> Result<Self, VcpuError> {
        // SAFETY: the thread owns `fd` and returns it, so that it lives until the thread is joined;
        // `Vcpu` uses the pointer only before it joins.
        let immediate_exit = Arc::new(unsafe { ImmediateExit::of(&mut fd) });
        let stop = Arc::new(AtomicBool::new(false));
        let mailbox = attachment.mailbox.take();
        let interpreted = attachment.interpreted.take();
        let wake = mailbox.as_ref().map(Mailbox::waker).transpose()?;
        let runner = Runner {
            fd,
            attachment,
            shift: mailbox.map(|mailbox| Shift::new(mailbox, interpreted)),
            stop: Arc::clone(&stop),
            immediate_exit: Arc::clone(&immediate_exit),
        };
        let vcpu = Self {
            thread: Some(idle.thread),
            orders: Some(idle.orders),
            stop,
            immediate_exit,
            wake,
        };
        vcpu.order(Order::Attach(Box::new(runner)))?;
        Ok(vcpu)
    }

    /// Lets the guest run. A [`Notice::Stopped`] follows some day.
    pub fn run(&self, budget: Option<Duration>) -> Result<(), VcpuError> {
        // The thread does not run now, so nothing else reads the flag.
        self.stop.store(false, Ordering::SeqCst);
        self.order(Order::Run(budget))
    }

    /// Asks a running vCPU to stop, at once and whatever the guest does. [`Notice::Stopped`] tells
    /// when it has.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.immediate_exit.set(true);
        if let Some(wake) = &self.wake {
            // It can only fail by having been woken more often than a number counts.
            drop(wake.write(1));
        }
        if let Some(thread) = &self.thread {
            kick::interrupt(thread);
        }
    }

    /// Reads the state of a stopped vCPU.
    pub fn save(&self) -> Result<Saved, VcpuError> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.order(Order::Save(reply))?;
        Ok(answer.recv().map_err(|_| VcpuError::Gone)??)
    }

    /// CPU time that the thread has used.
    pub fn cpu_time(&self) -> Duration {
        self.thread
            .as_ref()
            .and_then(cpu_time::of)
            .unwrap_or_default()
    }

    fn order(&self, order: Order) -> Result<(), VcpuError> {
        self.orders
            .as_ref()
            .ok_or(VcpuError::Gone)?
            .send(order)
            .map_err(|_| VcpuError::Gone)
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        // No more orders, and no more waiting in KVM_RUN: the thread ends.
        self.orders = None;
        self.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("a vCPU thread panicked");
        }
    }
}

/// The thread's side.
struct Runner {
    fd: VcpuFd,
    attachment: Attachment,
    shift: Option<Shift>,
    stop: Arc<AtomicBool>,
    immediate_exit: Arc<ImmediateExit>,
}

impl Runner {
    fn work(&mut self, orders: &Receiver<Order>, timers: &Timers) {
        let id = self.attachment.id;
        while let Ok(order) = orders.recv() {
            match order {
                // It has one.
                Order::Attach(_) => return,
                Order::Run(budget) => {
                    let reason = self.run_with_budget(timers, budget);
                    if !self.attachment.notices.send(Notice::Stopped(id, reason)) {
                        return;
                    }
                }
                Order::Save(reply) => {
                    let mailbox = self.shift.as_ref().and_then(|shift| shift.mailbox.save());
                    let state = VcpuState::save(&self.attachment.kvm, &self.fd)
                        .map(|state| (Box::new(state), mailbox));
                    if reply.send(state).is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn run_with_budget(&mut self, timers: &Timers, budget: Option<Duration>) -> StopReason {
        if let Err(end) = self.at_mailbox(|shift, vcpu, memory| shift.begin(vcpu, memory)) {
            return end;
        }
        let Some(budget) = budget else {
            return self.run_until_stopped(timers, None);
        };
        let limit = cpu_time::own() + budget;
        // A zero setting would disarm the timer; the smallest one fires at once.
        if let Err(e) = timers.budget.arm(budget.max(Duration::from_nanos(1))) {
            return timer_failed(&e);
        }
        let reason = self.run_until_stopped(timers, Some(limit));
        if let Err(e) = timers.budget.arm(Duration::ZERO) {
            return timer_failed(&e);
        }
        reason
    }

    fn run_until_stopped(&mut self, timers: &Timers, mut limit: Option<Duration>) -> StopReason {
        let timer = &timers.mailbox;
        loop {
            let went_on = match self.run_once() {
                Ok(()) => Ok(()),
                Err(Interruption::Waits) => {
                    // The budget was that of the call which is over now.
                    if limit.take().is_some()
                        && let Err(e) = timers.budget.arm(Duration::ZERO)
                    {
                        return timer_failed(&e);
                    }
                    self.at_mailbox(|shift, vcpu, memory| shift.answered(vcpu, memory, timer))
                }
                Err(Interruption::Idle) => {
                    self.at_mailbox(|shift, vcpu, memory| shift.idle(vcpu, memory, timer))
                }
                Err(Interruption::Signal) => {
                    count(&self.attachment.counters.interrupted);
                    self.immediate_exit.set(false);
                    // Read after the byte was cleared: a stop that sets it again is seen here.
                    if self.stop.load(Ordering::SeqCst) {
                        let stopped = self.at_mailbox(|shift, vcpu, _| shift.stopped(vcpu, timer));
                        return stopped.err().unwrap_or(StopReason::Requested);
                    }
                    if limit.is_some_and(|limit| cpu_time::own() >= limit) {
                        return StopReason::BudgetExhausted;
                    }
                    self.at_mailbox(|shift, vcpu, memory| shift.kicked(vcpu, memory, timer))
                }
                Err(Interruption::End(reason, detail)) => return StopReason::End(reason, detail),
            };
            if let Err(end) = went_on {
                return end;
            }
        }
    }

    /// Has the mailbox's side act, where there is one. What it fails by ends the microVM.
    fn at_mailbox(
        &mut self,
        act: impl FnOnce(&mut Shift, &VcpuFd, &GuestMemory) -> Result<(), ShiftError>,
    ) -> Result<(), StopReason> {
        let Some(shift) = &mut self.shift else {
            return Ok(());
        };
        act(shift, &self.fd, &self.attachment.memory)
            .map_err(|e| StopReason::End(ExitReason::InternalError, e.to_string()))
    }

    /// Runs the guest up to one exit and serves it.
    fn run_once(&mut self) -> Result<(), Interruption> {
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
                let (Some(shift), Ok(value)) = (&mut self.shift, <[u8; 4]>::try_from(data)) else {
                    return Ok(());
                };
                let value = u32::from_le_bytes(value);
                let rang = if port == DOORBELL_PORT {
                    shift.ring(memory, value)
                } else {
                    let registered = shift.mailbox.register(memory, value);
                    registered.map(|()| Rang::GoOn)
                };
                match rang {
                    Ok(Rang::GoOn) => Ok(()),
                    Ok(Rang::Waits) => Err(Interruption::Waits),
                    Ok(Rang::Idle) => Err(Interruption::Idle),
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
                if let Some((interrupt, INTERRUPT_STATUS)) = register(interrupts, address)
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
                if let Some((interrupt, INTERRUPT_ACK)) = register(interrupts, address)
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
            // A secondary CPU that has not been started yet.
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

    /// `what`, with the registers if KVM still gives them.
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

/// Why the guest does not simply run on.
enum Interruption {
    Signal,
    /// An answer is with the owner, and the guest waits at the mailbox.
    Waits,
    /// The guest was let run and has nothing to do.
    Idle,
    End(ExitReason, String),
}

fn timer_failed(e: &io::Error) -> StopReason {
    StopReason::End(ExitReason::InternalError, format!("CPU timer: {e}"))
}

/// Which device's register an address is.
fn register(interrupts: &[Interrupt], address: u64) -> Option<(&Interrupt, u64)> {
    let offset = address.checked_sub(VIRTIO_MMIO)?;
    let device = usize::try_from(offset / VIRTIO_MMIO_SIZE).ok()?;
    Some((interrupts.get(device)?, offset % VIRTIO_MMIO_SIZE))
}

/// Hands an access to the event loop and waits for its answer.
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
