//! Hearth's VMM. One process is one microVM.
//!
//! * [`event_loop`]: the one thread that owns the devices and talks to the owner.
//! * [`vcpu`]: the threads that run the guest.
//! * [`microvm`]: shell, machine, and what a snapshot of it holds.
//! * [`boot`]: from a kernel file to a first instruction.
//! * [`devices`]: virtio over MMIO, ports, serial.
//! * [`mailbox`]: what a vCPU's thread exchanges with a runtime that needs no kernel for it.
//! * [`snapshot`]: the files.
//! * [`files`]: what comes with a command, opened by the owner.
//! * [`jail`]: what the process locks itself up in before all that.
//! * [`assist`]: what software-KVM hosts need.

pub mod assist;
pub mod boot;
pub mod control;
pub mod devices;
pub mod event_loop;
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
