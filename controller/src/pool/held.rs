//! What the start of an instance needs of its sandbox while the microVM is at work.

use crate::instance::MicroVm;
use crate::limits::CpuShare;

/// What a start needs of its sandbox while the microVM is at work.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) pid: u32,
    pub(super) share: CpuShare,
}

impl Held {
    pub(super) fn by(vm: &MicroVm) -> Self {
        let process = vm.process();
        Self {
            pid: process.pid(),
            share: process.cpu_share(),
        }
    }
}
