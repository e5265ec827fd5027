//! A vCPU's thread as the event loop sees it: start it with the shell, attach it to its microVM,
//! run it, stop it, save its state. The loop inside the thread is in [`super::runner`].
//!
//! The thread starts with the shell, long before there is a guest, for two reasons: no request
//! waits for the start, and the main thread can give up the right to start threads before it reads
//! its first command.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_ioctls::{Kvm, VcpuFd};
use vmm_sys_util::eventfd::EventFd;

use super::cpu_time::{self, Timers};
use super::emulation_counter::EmulationCounter;
use super::kick::{self, ImmediateExit};
use super::mailbox_scheduler::MailboxScheduler;
use super::notice::{Counters, NoticeSender};
use super::runner::{Runner, SavedVcpu, VcpuCommand, wait_for_microvm};
use super::state::StateError;
use crate::devices::pio::PioBus;
use crate::devices::virtio::Interrupt;
use crate::host::HostKind;
use crate::jail::{FilterError, ThreadFilter};
use crate::log;
use crate::mailbox::Mailbox;
use crate::memory::GuestMemory;

/// Why a vCPU could not be started or saved.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// The host refused a thread or a timer.
    #[error("starting a vCPU thread: {0}")]
    Thread(#[from] io::Error),
    /// The kick's signal handler could not be installed.
    #[error("installing the vCPU signal handler: {0}")]
    Signal(vmm_sys_util::errno::Error),
    /// The thread's system call filter could not be installed.
    #[error("vCPU thread: {0}")]
    Filter(#[from] FilterError),
    /// The vCPU's state could not be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The thread has ended.
    #[error("the vCPU thread has ended")]
    Gone,
}

/// What a vCPU's thread gets from its microVM.
#[derive(Debug)]
pub struct Attachment {
    /// Its number, from 0.
    pub id: u8,
    /// For reading its own state.
    pub kvm: Arc<Kvm>,
    /// Guest memory.
    pub memory: GuestMemory,
    /// Interrupts of the virtio devices, in the order of their addresses.
    pub interrupts: Vec<Interrupt>,
    /// I/O ports. Each vCPU has its own set; guests use the serial port of the first vCPU only.
    pub ports: PioBus<fn(&str)>,
    /// The kind of host: on a software-KVM host, ring 0 needs the assist.
    pub host: HostKind,
    /// The way to the event loop.
    pub notices: NoticeSender,
    /// `KVM_RUN` returns, counted over all vCPUs.
    pub counters: Arc<Counters>,
    /// The mailbox. Only a microVM with one vCPU has one.
    pub mailbox: Option<Mailbox>,
    /// Counts KVM's emulated instructions, on hosts where KVM interprets the guest's kernel.
    pub emulation_counter: Option<EmulationCounter>,
}

/// A vCPU's thread that has no microVM yet.
#[derive(Debug)]
pub struct IdleVcpu {
    thread: JoinHandle<Option<VcpuFd>>,
    commands: Sender<VcpuCommand>,
}

impl IdleVcpu {
    /// Starts the thread of vCPU `id` and waits until its system call filter is installed.
    pub fn start(id: u8, filter: ThreadFilter) -> Result<Self, VcpuError> {
        kick::install_handler().map_err(VcpuError::Signal)?;
        let (commands, incoming) = mpsc::channel();
        let (ready, started) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name(format!("vcpu{id}"))
            .spawn(move || {
                // The timers signal this thread, so it makes them itself; the filter forbids
                // `timer_create`.
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
        Ok(Self { thread, commands })
    }
}

/// A vCPU and its thread. Dropping it stops and joins the thread.
#[derive(Debug)]
pub struct Vcpu {
    thread: Option<JoinHandle<Option<VcpuFd>>>,
    commands: Option<Sender<VcpuCommand>>,
    stop: Arc<AtomicBool>,
    immediate_exit: Arc<ImmediateExit>,
    /// Wakes the thread while it waits at the mailbox, outside of `KVM_RUN`.
    wake: Option<EventFd>,
}

impl Vcpu {
    /// Gives the thread its vCPU, which does not run yet.
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
        let emulation_counter = attachment.emulation_counter.take();
        let wake = mailbox.as_ref().map(Mailbox::waker).transpose()?;
        let runner = Runner {
            fd,
            attachment,
            scheduler: mailbox.map(|mailbox| MailboxScheduler::new(mailbox, emulation_counter)),
            stop: Arc::clone(&stop),
            immediate_exit: Arc::clone(&immediate_exit),
        };
        let vcpu = Self {
            thread: Some(idle.thread),
            commands: Some(idle.commands),
            stop,
            immediate_exit,
            wake,
        };
        vcpu.command(VcpuCommand::Attach(Box::new(runner)))?;
        Ok(vcpu)
    }

    /// Lets the guest run. A [`Notice::Stopped`](super::Notice::Stopped) follows when it has
    /// stopped.
    pub fn run(&self, budget: Option<Duration>) -> Result<(), VcpuError> {
        // Clear both before the vCPU runs, while the thread still waits for a command and reads
        // neither. A stop requested before this has already happened; a stop requested between the
        // `Run` command and a later clear would be lost.
        self.stop.store(false, Ordering::SeqCst);
        if let Some(wake) = &self.wake {
            // WouldBlock is the usual result: nothing has woken the thread.
            drop(wake.read());
        }
        self.command(VcpuCommand::Run(budget))
    }

    /// Asks a running vCPU to stop, whatever the guest does.
    /// [`Notice::Stopped`](super::Notice::Stopped) reports when it has.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.immediate_exit.set(true);
        if let Some(wake) = &self.wake {
            // A write to an eventfd fails only when its counter is full, and then the thread is
            // woken anyway.
            drop(wake.write(1));
        }
        if let Some(thread) = &self.thread {
            kick::interrupt(thread);
        }
    }

    /// Reads the state of a stopped vCPU.
    pub fn save(&self) -> Result<SavedVcpu, VcpuError> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.command(VcpuCommand::Save(reply))?;
        Ok(answer.recv().map_err(|_| VcpuError::Gone)??)
    }

    /// CPU time that the thread has used.
    pub fn cpu_time(&self) -> Duration {
        self.thread
            .as_ref()
            .and_then(cpu_time::of)
            .unwrap_or_default()
    }

    fn command(&self, command: VcpuCommand) -> Result<(), VcpuError> {
        self.commands
            .as_ref()
            .ok_or(VcpuError::Gone)?
            .send(command)
            .map_err(|_| VcpuError::Gone)
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        // The closed channel ends the thread's loop; the stop gets it out of `KVM_RUN`.
        self.commands = None;
        self.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::write_line(format_args!("a vCPU thread panicked"));
        }
    }
}
