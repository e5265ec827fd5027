//! Hearth's VMM. One process is one microVM.
//!
//! * [`event_loop`]: the one thread that owns the devices and talks to the owner.
//! * [`vcpu`]: the threads that run the guest.
//! * [`microvm`]: shell, machine, and what a snapshot of it holds.
//! * [`boot`]: from a kernel file to a first instruction.
//! * [`devices`]: virtio over MMIO, ports, serial.
//! * [`snapshot`]: the files.
//! * [`assist`]: what software-KVM hosts need.

pub mod assist;
pub mod boot;
pub mod control;
pub mod devices;
pub mod event_loop;
mod freeze;
pub mod host;
pub mod log;
pub mod memory;
pub mod microvm;
pub mod snapshot;
pub mod vcpu;
