//! A snapshot's state file: arbitrary bytes, and an arbitrary body with a matching header.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use hearth_protocol::guest::DISK_COUNT;
use hearth_protocol::sandbox::MIN_MEMORY_MIB;
use hearth_sandbox::boot::layout::{VIRTIO_MMIO, VIRTIO_MMIO_SIZE};
use hearth_sandbox::host::{HostIdentity, HostKind};
use hearth_sandbox::mailbox::{Mailbox, MailboxSocket};
use hearth_sandbox::memory::{self, GuestMemory, MemorySize};
use hearth_sandbox::microvm::devices::{Devices, Images};
use hearth_sandbox::microvm::shell::DeviceEventfds;
use hearth_sandbox::microvm::state::{MicroVmState, VERSION};
use hearth_sandbox::snapshot::state_file;
use hearth_sandbox::vcpu::MmioAccess;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Offset of the body, and offsets of its length and checksum.
const BODY: usize = 20;
const LEN: usize = 12;
const CHECKSUM: usize = 16;

thread_local! {
    /// In memory if the host has a folder for that, because each input is flushed.
    static FILE: File = tempfile::tempfile_in("/dev/shm")
        .or_else(|_| tempfile::tempfile())
        .expect("a place for a file");
}

/// The first byte says whether to correct the length and the checksum; without that, hardly any
/// input would get past them.
pub fn run(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if choice & 1 == 0 && bytes.len() >= BODY {
        put_right(&mut bytes);
    }
    let Some(state) = FILE.with(|file| {
        file.set_len(0).expect("an open file");
        file.write_all_at(&bytes, 0).expect("room for it");
        let state: MicroVmState = state_file::read(file).ok()?;
        written_again(&state, file);
        Some(state)
    }) else {
        return;
    };
    for vcpus in [0, 1] {
        // The host here has another identity, so the check may refuse the state or not.
        let _ = state.check(&host(), "fingerprint", vcpus);
    }
    if MemorySize::from_mib(state.memory_mib).is_ok() {
        restored(&state);
    }
}

fn put_right(bytes: &mut [u8]) {
    let (header, body) = bytes.split_at_mut(BODY);
    header[..8].copy_from_slice(b"HEARTHSS");
    header[8..LEN].copy_from_slice(&1u32.to_le_bytes());
    let len = u32::try_from(body.len()).expect("shorter than 4 GiB");
    header[LEN..CHECKSUM].copy_from_slice(&len.to_le_bytes());
    header[CHECKSUM..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
}

fn host() -> HostIdentity {
    HostIdentity {
        kind: HostKind::Software,
        cpu: format!("of version {VERSION}"),
        flags: String::new(),
    }
}

/// A state that can be read can be written, and reads the same again.
fn written_again(state: &MicroVmState, file: &File) {
    state_file::write(file, state).expect("it was small enough to be read");
    let again: MicroVmState = state_file::read(file).expect("just written");
    let bytes = |state| postcard::to_stdvec(state).expect("a state can be written");
    assert_eq!(bytes(&again), bytes(state));
}

/// Devices are restored from the state, or it is refused. Restored devices can be used by a guest
/// whose memory does not match, and end in a defined state.
fn restored(state: &MicroVmState) {
    let size = MemorySize::from_mib(MIN_MEMORY_MIB).expect("the smallest there is");
    let memory = memory::anonymous(size).expect("address space");
    let eventfds: Vec<DeviceEventfds> = (0..=DISK_COUNT).map(|_| eventfds()).collect();
    let images = Images::new((0..DISK_COUNT).map(|_| None).collect()).expect("empty drives");
    let (ours, _host) = UnixStream::pair().expect("a descriptor is left");
    mailbox(state, &memory);
    let Ok(mut devices) = Devices::restore(images, ours, &state.devices, &memory, &eventfds) else {
        return;
    };
    devices.kick_all();
    for device in 0..=DISK_COUNT {
        for queue in 0..4 {
            devices.notify(device, queue);
        }
        for register in (0..0x140).step_by(4) {
            let at = VIRTIO_MMIO + device as u64 * VIRTIO_MMIO_SIZE;
            devices.access(at + register, MmioAccess::Read(4));
        }
    }
    devices.vsock_ready(EventSet::IN | EventSet::OUT);
    for _ in 0..64 {
        devices.run_backlog();
    }
    assert!(!devices.has_backlog(), "work without end");
    let Ok(saved) = devices.save() else {
        return;
    };
    let images = Images::new((0..DISK_COUNT).map(|_| None).collect()).expect("empty drives");
    let (ours, _host) = UnixStream::pair().expect("a descriptor is left");
    Devices::restore(images, ours, &saved, &memory, &eventfds)
        .expect("what was saved can be restored");
}

/// An accepted mailbox can be used: its guest is resumed and then saved.
fn mailbox(state: &MicroVmState, memory: &GuestMemory) {
    let (ours, _controller) = UnixStream::pair().expect("a descriptor is left");
    let socket = MailboxSocket::new(ours).expect("a descriptor is left");
    let Ok(mut mailbox) = Mailbox::restore(socket, state.mailbox.as_ref(), memory) else {
        return;
    };
    mailbox.resume(memory).expect("its pages are RAM");
    assert!(!mailbox.is_waiting(), "it runs");
    assert_eq!(mailbox.save().is_some(), state.mailbox.is_some());
}

fn eventfds() -> DeviceEventfds {
    let eventfd = || EventFd::new(EFD_NONBLOCK).expect("a descriptor is left");
    DeviceEventfds {
        interrupt: eventfd(),
        queues: Vec::new(),
    }
}
