//! The sandbox's main thread. It owns the microVM and its devices, and waits for all of its sources
//! at once: the controller's commands, the vCPUs' notices, the drivers' notifications and the vsock
//! device's host socket. `commands` executes the commands.

mod commands;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use hearth_protocol::jail::Jail;
use hearth_protocol::sandbox::{Event, ExitReason, Exited, Message, Outcome, Resume};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::control::{ChannelError, ControlChannel};
use crate::freeze::Freeze;
use crate::log;
use crate::microvm::error::MicroVmError;
use crate::microvm::machine::{MicroVm, Sockets};
use crate::microvm::shell::Shell;
use crate::vcpu::{Notice, NoticeSender, StopReason};

/// Maximum number of epoll events for one wake-up.
const BATCH: usize = 16;
const TOKEN_CONTROL: u64 = 0;
const TOKEN_NOTICES: u64 = 1;
const TOKEN_VSOCK: u64 = 2;
/// Tokens of queue notifications: this, plus 16 times the device, plus the queue.
const TOKEN_QUEUES: u64 = 16;

/// What this process is at the moment.
enum ProcessState {
    /// Waits for `Boot` or `Restore`.
    Shell { shell: Box<Shell>, sockets: Sockets },
    /// Has a microVM.
    MicroVm(Box<MicroVm>),
    /// While the shell becomes a microVM, and after a failure in that.
    Neither,
}

/// Work to finish when the vCPUs have stopped.
#[derive(Default)]
struct Stopping {
    /// `Pause` and `Freeze` requests to answer.
    pauses: Vec<u64>,
    /// Whether to report to the controller that the CPU budget is used up.
    budget: bool,
    /// A `Resume` that came while the vCPUs were about to stop.
    resume: Option<(u64, Resume)>,
}

/// The event loop and everything that it owns.
pub struct EventLoop {
    control: ControlChannel,
    /// Rust drops fields in this order, so this queue is dropped before the vCPUs in `process`, whose
    /// threads are then joined. A vCPU's thread that waits for the reply to a register access is
    /// released only by the end of this queue.
    incoming: Receiver<Notice>,
    process: ProcessState,
    stopping: Stopping,
    freeze: Option<Freeze>,
    /// Whether the vCPUs run with a CPU budget. Only stopping them disarms it.
    budgeted: bool,
    epoll: Epoll,
    notices: NoticeSender,
    /// What the epoll waits for on the vsock device's host socket at the moment.
    vsock_interest: Option<(RawFd, EventSet)>,
    jail: Jail,
}

impl std::fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLoop").finish_non_exhaustive()
    }
}

/// Why the loop ends.
type End = Exited;

fn internal(detail: impl std::fmt::Display) -> End {
    Exited {
        reason: ExitReason::InternalError,
        detail: detail.to_string(),
    }
}

/// Ends the process because its control socket can't be used any more.
fn channel_end(e: ChannelError) -> End {
    let reason = match e {
        ChannelError::Closed | ChannelError::Io(_) => ExitReason::OwnerGone,
        ChannelError::Protocol(_) | ChannelError::Descriptors => ExitReason::Usage,
    };
    Exited {
        reason,
        detail: e.to_string(),
    }
}

impl EventLoop {
    /// Makes an event loop for a shell that is connected to its controller.
    pub fn new(
        control: UnixStream,
        sockets: Sockets,
        shell: Shell,
        jail: Jail,
    ) -> Result<Self, MicroVmError> {
        let host = |what| move |e: io::Error| MicroVmError::Host(what, e);
        let control = ControlChannel::new(control).map_err(host("the control socket"))?;
        sockets
            .vsock
            .set_nonblocking(true)
            .map_err(host("the vsock socket"))?;
        let (sender, incoming) = mpsc::channel();
        let wake = EventFd::new(EFD_NONBLOCK).map_err(host("making an eventfd"))?;
        let epoll = Epoll::new().map_err(host("making an epoll"))?;
        for (fd, token, events) in [
            (control.as_raw_fd(), TOKEN_CONTROL, EventSet::IN),
            (wake.as_raw_fd(), TOKEN_NOTICES, EventSet::IN),
        ] {
            epoll
                .ctl(ControlOperation::Add, fd, EpollEvent::new(events, token))
                .map_err(host("epoll_ctl"))?;
        }
        Ok(Self {
            control,
            process: ProcessState::Shell {
                shell: Box::new(shell),
                sockets,
            },
            stopping: Stopping::default(),
            freeze: None,
            budgeted: false,
            epoll,
            notices: NoticeSender {
                channel: sender,
                wake,
            },
            incoming,
            vsock_interest: None,
            jail,
        })
    }

    /// Runs until the microVM ends, reports the reason to the controller, and returns it.
    pub fn run(mut self) -> Exited {
        let end = loop {
            if let Err(end) = self.run_once() {
                break end;
            }
        };
        // The controller may be gone; standard output carries the same line.
        if let Err(e) = self
            .control
            .send(&Message::Event(Event::Exited(end.clone())))
            && end.reason != ExitReason::OwnerGone
        {
            log::write_line(format_args!("reporting the end to the controller: {e}"));
        }
        end
    }

    fn run_once(&mut self) -> Result<(), End> {
        let mut events = [EpollEvent::default(); BATCH];
        let count = match self.epoll.wait(self.timeout(), &mut events) {
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(e) => return Err(internal(format_args!("epoll_wait: {e}"))),
        };
        for event in &events[..count] {
            match event.data() {
                TOKEN_CONTROL => self.serve_controller()?,
                TOKEN_NOTICES => self.serve_vcpus()?,
                TOKEN_VSOCK => {
                    if let ProcessState::MicroVm(machine) = &mut self.process {
                        machine.devices().vsock_ready(event.event_set());
                    }
                }
                token => self.serve_queue(token - TOKEN_QUEUES)?,
            }
        }
        // No work is done for a stopped microVM: a driver can make a ring that produces work
        // without end.
        if let ProcessState::MicroVm(machine) = &mut self.process
            && machine.is_running()
        {
            machine.devices().run_backlog();
        }
        self.advance_freeze();
        self.update_vsock_interest()
    }

    /// In milliseconds, rounded up: a look that comes too early would only be followed by another.
    fn timeout(&self) -> i32 {
        match (&self.process, &self.freeze) {
            (ProcessState::MicroVm(machine), _)
                if machine.is_running() && machine.devices_ref().has_backlog() =>
            {
                0
            }
            (_, Some(freeze)) => {
                let millis = freeze.wait(Instant::now()).as_micros().div_ceil(1000);
                i32::try_from(millis).unwrap_or(i32::MAX)
            }
            _ => -1,
        }
    }

    /// Stops the vCPUs if the guest has come to rest, or if the time for that is over.
    fn advance_freeze(&mut self) {
        let (ProcessState::MicroVm(machine), Some(freeze)) = (&self.process, &mut self.freeze)
        else {
            return;
        };
        if freeze.is_due(|| machine.cpu_time(), Instant::now()) {
            machine.stop();
            self.stopping
                .pauses
                .extend(self.freeze.take().map(|f| f.id));
        }
    }

    fn serve_queue(&mut self, token: u64) -> Result<(), End> {
        let ProcessState::MicroVm(machine) = &mut self.process else {
            return Ok(());
        };
        let index = |n: u64| usize::try_from(n).expect("tokens are small");
        let (device, queue) = (index(token / 16), index(token % 16));
        machine.eventfds()[device].queues[queue]
            .read()
            .map_err(|e| internal(format_args!("queue eventfd: {e}")))?;
        machine.devices().notify(device, queue);
        Ok(())
    }

    fn serve_vcpus(&mut self) -> Result<(), End> {
        self.notices
            .wake
            .read()
            .map_err(|e| internal(format_args!("eventfd: {e}")))?;
        for handled in 1.. {
            let Ok(notice) = self.incoming.try_recv() else {
                break;
            };
            match notice {
                Notice::Mmio(request) => {
                    let ProcessState::MicroVm(machine) = &mut self.process else {
                        continue;
                    };
                    let data = machine.devices().access(request.address, request.access);
                    // A vCPU that no longer waits has ended, and reports that itself.
                    drop(request.reply.send(data));
                }
                Notice::Stopped(_, StopReason::End(reason, detail)) => {
                    return Err(Exited { reason, detail });
                }
                Notice::Stopped(_, reason) => self.vcpu_stopped(&reason)?,
            }
            // vCPUs that access registers without end must not keep the loop from the controller's
            // commands.
            if handled == BATCH {
                self.notices
                    .wake
                    .write(1)
                    .map_err(|e| internal(format_args!("eventfd: {e}")))?;
                break;
            }
        }
        Ok(())
    }

    fn vcpu_stopped(&mut self, reason: &StopReason) -> Result<(), End> {
        let ProcessState::MicroVm(machine) = &mut self.process else {
            return Ok(());
        };
        if *reason == StopReason::BudgetExhausted {
            self.stopping.budget = true;
            machine.stop();
        }
        if !machine.stopped_one() {
            return Ok(());
        }
        let Stopping {
            mut pauses,
            budget,
            resume,
        } = std::mem::take(&mut self.stopping);
        pauses.extend(self.freeze.take().map(|freeze| freeze.id));
        self.budgeted = false;
        if budget {
            self.control
                .send(&Message::Event(Event::CpuBudgetExhausted))
                .map_err(channel_end)?;
        }
        for id in pauses {
            self.reply(id, Outcome::Done)?;
        }
        match resume {
            Some((id, resume)) => self.resume(id, resume),
            None => Ok(()),
        }
    }

    fn watch_devices(&self, machine: &MicroVm) -> Result<(), End> {
        let add = |fd, token, events| {
            self.epoll
                .ctl(ControlOperation::Add, fd, EpollEvent::new(events, token))
                .map_err(|e| internal(format_args!("epoll_ctl: {e}")))
        };
        for (device, eventfds) in (0u64..).zip(machine.eventfds()) {
            for (queue, notify) in (0u64..).zip(&eventfds.queues) {
                let token = TOKEN_QUEUES + device * 16 + queue;
                add(notify.as_raw_fd(), token, EventSet::IN)?;
            }
        }
        Ok(())
    }

    /// Adds the vsock device's socket to the epoll only while there is something to wait for. epoll
    /// reports a closed peer even if no event is requested, so the loop would spin.
    fn update_vsock_interest(&mut self) -> Result<(), End> {
        let ProcessState::MicroVm(machine) = &mut self.process else {
            return Ok(());
        };
        let wanted = machine.devices().vsock_interest();
        if wanted == self.vsock_interest {
            return Ok(());
        }
        let result = match (self.vsock_interest, wanted) {
            (None, Some((fd, events))) => self.epoll_ctl(ControlOperation::Add, fd, events),
            (Some(_), Some((fd, events))) => self.epoll_ctl(ControlOperation::Modify, fd, events),
            (Some((fd, events)), None) => {
                match self.epoll_ctl(ControlOperation::Delete, fd, events) {
                    // Closing the descriptor has removed it already.
                    Err(e) if matches!(e.raw_os_error(), Some(libc::EBADF | libc::ENOENT)) => {
                        Ok(())
                    }
                    result => result,
                }
            }
            (None, None) => Ok(()),
        };
        self.vsock_interest = wanted;
        result.map_err(|e| internal(format_args!("epoll_ctl: {e}")))
    }

    fn epoll_ctl(
        &self,
        operation: ControlOperation,
        fd: RawFd,
        events: EventSet,
    ) -> io::Result<()> {
        self.epoll
            .ctl(operation, fd, EpollEvent::new(events, TOKEN_VSOCK))
    }
}
