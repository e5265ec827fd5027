//! Hearth's VMM. One process is one microVM.
//!
//! The process begins as a *shell*: it has an empty VM, locks itself into its jail, and waits on its
//! control socket. The controller then sends `Boot` or `Restore`, which makes the shell a microVM, and
//! drives it with further commands until the process ends.
//!
//! * [`event_loop`]: the main thread. It owns the devices and serves the controller's commands.
//! * [`vcpu`]: the threads that run the guest.
//! * [`microvm`]: the shell, the microVM, and the state that a snapshot of it holds.
//! * [`boot`]: loads a kernel file and sets the vCPU up for its first instruction.
//! * [`devices`]: virtio over MMIO, I/O ports, the serial port.
//! * [`mailbox`]: the host's end of the mailbox. A vCPU's thread exchanges events and answers with a
//!   runtime through guest memory, without the guest's kernel.
//! * [`snapshot`]: the files of a snapshot.
//! * [`files`]: the descriptors that come with a command, which the controller has opened.
//! * [`jail`]: what the process gives up before it reads a first command.
//! * [`assist`]: completes the instructions that KVM can't interpret on hosts without VT-x or AMD-V.

pub mod assist;
pub mod boot;
pub mod control;
pub mod devices;
pub mod event_loop;
pub mod fault_signals;
pub mod files;
mod freeze;
pub mod host;
pub mod jail;
pub mod log;
pub mod mailbox;
pub mod memory;
pub mod microvm;
pub mod snapshot;
pub mod vcpu;
