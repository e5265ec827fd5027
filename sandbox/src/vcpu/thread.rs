//! A vCPU's thread, from outside: started with the shell, given its microVM, told to run, to stop and
//! to say its state. What goes on in it is in [`super::runner`].
//!
//! It is started with the shell, long before there is a guest, for two reasons: it costs nobody's
//! time, and the main thread can give up the right to start threads before it reads a first command.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_ioctls::{Kvm, VcpuFd};
use vmm_sys_util::eventfd::EventFd;

use super::cpu_time::{self, Timers};
use super::interpreted::Interpreted;
use super::kick::{self, ImmediateExit};
use super::notice::{Counters, NoticeSender};
use super::runner::{Order, Runner, Saved, wait_for_microvm};
use super::shift::Shift;
use super::state::StateError;
use crate::devices::pio::PioBus;
use crate::devices::virtio::Interrupt;
use crate::host::HostKind;
use crate::jail::{FilterError, ThreadFilter};
use crate::log;
use crate::mailbox::Mailbox;
use crate::memory::GuestMemory;

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

    /// Lets the guest run. A [`Notice::Stopped`](super::Notice::Stopped) follows some day.
    pub fn run(&self, budget: Option<Duration>) -> Result<(), VcpuError> {
        // The thread does not run now, so nothing else reads the flag, nor what wakes it: who woke it
        // before, to stop it, has stopped it. Later the two would be a stop's that comes after this.
        self.stop.store(false, Ordering::SeqCst);
        if let Some(wake) = &self.wake {
            // Nothing to read is what is wanted.
            drop(wake.read());
        }
        self.order(Order::Run(budget))
    }

    /// Asks a running vCPU to stop, at once and whatever the guest does. [`Notice::Stopped`](super::Notice::Stopped) tells
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
            log::write_line(format_args!("a vCPU thread panicked"));
        }
    }
}
