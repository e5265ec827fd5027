//! Hostile inputs 45 and 46: kernels, images and snapshots that no sandbox should start from.

use std::fs::File;

use hearth_protocol::mailbox::{PAGE, PAGES};
use hearth_protocol::sandbox::{
    Command, ExitReason, MAX_RANDOM_RANGE, MAX_RANDOM_RANGES, Outcome, RandomRange, RefusalKind,
    Resume,
};
use hearth_sandbox::devices::virtio::TransportState;
use hearth_sandbox::devices::virtio::block::BlockState;
use hearth_sandbox::devices::virtio::queue::SavedQueue;
use hearth_sandbox::devices::virtio::transport_state::DriverState;
use hearth_sandbox::devices::virtio::vsock::VsockState;
use hearth_sandbox::host::HostIdentity;
use kvm_bindings::{
    kvm_clock_data, kvm_cpuid_entry2, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state,
    kvm_msr_entry, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use serde::{Deserialize, Serialize};

use crate::support::{Guest, Sandbox};

/// `jmp $`
const SPIN: &[u8] = &[0xeb, 0xfe];

/// A file that is no kernel: the boot is refused, and the process ends by itself.
fn no_kernel(what: &str, kernel: &[u8]) {
    let guest = Guest::new(SPIN);
    std::fs::write(guest.path("kernel"), kernel).unwrap();
    let mut sandbox = Sandbox::start();
    let Outcome::Refused(refusal) = sandbox.call(guest.boot()) else {
        panic!("{what}: taken for a kernel")
    };
    assert_eq!(
        refusal.kind,
        RefusalKind::InvalidRequest,
        "{what}: {}",
        refusal.message
    );
    assert!(
        refusal.message.contains("kernel"),
        "{what}: {}",
        refusal.message
    );
    let (_, line) = sandbox.end();
    assert_eq!(line.reason, ExitReason::InternalError, "{what}");
}

#[test]
fn kernels_that_are_none() {
    let good = std::fs::read(Guest::new(SPIN).path("kernel")).unwrap();
    let changed = |at: usize, bytes: &[u8]| {
        let mut kernel = good.clone();
        kernel[at..at + bytes.len()].copy_from_slice(bytes);
        kernel
    };
    let quad = |at, value: u64| changed(at, &value.to_le_bytes());
    // Offsets in an ELF header, and in its one program header after that.
    const HEADER: usize = 64;
    no_kernel("nothing", b"");
    no_kernel("half a header", &good[..HEADER / 2]);
    no_kernel("no program headers", &good[..HEADER]);
    no_kernel("half a program header", &good[..HEADER + 28]);
    no_kernel("another magic", &changed(0, b"\x7fELG"));
    no_kernel("big-endian", &changed(5, &[2]));
    no_kernel("program headers far away", &quad(32, 1 << 40));
    no_kernel("program headers before the start", &quad(32, u64::MAX));
    no_kernel("headers of another size", &changed(54, &[55, 0]));
    no_kernel("65535 headers", &changed(56, &[0xff, 0xff]));
    no_kernel("an entry outside of memory", &quad(24, 1 << 40));
    no_kernel("an entry in the devices", &quad(24, 0xd000_0000));
    no_kernel("an entry below the kernel", &quad(24, 0x1000));
    no_kernel(
        "a segment that the file has not",
        &quad(HEADER + 32, 1 << 20),
    );
    no_kernel("a segment larger than memory", &quad(HEADER + 32, 1 << 40));
    no_kernel("a segment outside of memory", &quad(HEADER + 24, 1 << 40));
    no_kernel("a segment at the end of all", &quad(HEADER + 24, u64::MAX));
    no_kernel("a segment far into the file", &quad(HEADER + 8, u64::MAX));
    let mut compressed = vec![0; 0x1000];
    compressed[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    compressed[0x202..0x206].copy_from_slice(b"HdrS");
    no_kernel("a bzImage", &compressed);
}

#[test]
fn images_of_sizes_that_no_disk_has() {
    let guest = Guest::new(SPIN);
    let mut sandbox = Sandbox::start();
    let with_image = |len: u64| {
        let image = File::create(guest.path("image")).unwrap();
        image.set_len(len).unwrap();
        let mut boot = Guest::boot_command();
        boot.disks[0] = true;
        let mut errand = guest.boot_with(boot);
        errand.files.push(File::open(guest.path("image")).unwrap());
        errand
    };
    for len in [0, 1, 511, 513] {
        let refusal = sandbox.refused(with_image(len));
        assert_eq!(refusal.kind, RefusalKind::InvalidRequest, "{len} bytes");
        assert!(
            refusal.message.contains("disk image 0"),
            "{}",
            refusal.message
        );
    }
    // An image of the file system's maximum size is no reason to fail: none of it is read.
    sandbox.done(with_image(1 << 40));
    sandbox.done(Command::Resume(Resume::default()));
}

/// The state file's body with every field public: the forger's version of
/// `hearth_sandbox::microvm::state::MicroVmState`.
#[derive(Serialize, Deserialize)]
struct Body {
    version: String,
    fingerprint: String,
    host: HostIdentity,
    memory_mib: u32,
    vcpus: Vec<Vcpu>,
    disks: Vec<TransportState<BlockState>>,
    vsock: TransportState<VsockState>,
    mailbox: Option<Mailbox>,
    random_ranges: Vec<RandomRange>,
    pit: kvm_pit_state2,
    clock: kvm_clock_data,
    chips: [kvm_irqchip; 3],
}

#[derive(Serialize, Deserialize)]
struct Vcpu {
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Box<kvm_xsave>,
    xcrs: kvm_xcrs,
    debug_regs: kvm_debugregs,
    lapic: kvm_lapic_state,
    tsc_khz: u32,
    cpuid: Vec<kvm_cpuid_entry2>,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
}

#[derive(Serialize, Deserialize)]
struct Mailbox {
    frames: Vec<u64>,
    waiting: bool,
}

/// Length of the file's header, and the offsets of the body's length and checksum.
const HEADER: usize = 20;
const LENGTH: usize = 12;
const CHECKSUM: usize = 16;

/// A whole file for a body.
fn file_of(body: &[u8]) -> Vec<u8> {
    let mut bytes = b"HEARTHSS\x01\0\0\0".to_vec();
    bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    bytes.extend(crc32fast::hash(body).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// A snapshot of a guest that spins.
struct Snapshot {
    guest: Guest,
    state: Vec<u8>,
}

impl Snapshot {
    fn take() -> Self {
        let guest = Guest::new(SPIN);
        let mut original = guest.run();
        original.done(Command::Pause);
        original.save(&guest, "it");
        let state = std::fs::read(guest.path("it.state")).unwrap();
        Self { guest, state }
    }

    fn body(&self) -> Body {
        postcard::from_bytes(&self.state[HEADER..]).unwrap()
    }

    /// This state file is refused with the kind that makes the controller take a new snapshot.
    /// Afterwards either the shell is as good as before, or the process has ended by itself.
    fn refused(&self, what: &str, state: &[u8]) {
        std::fs::write(self.guest.path("it.state"), state).unwrap();
        let mut sandbox = Sandbox::start();
        let refusal = sandbox.refused(self.guest.restore("it", None));
        assert!(
            matches!(
                refusal.kind,
                RefusalKind::SnapshotUnusable | RefusalKind::InvalidRequest
            ),
            "{what}: {refusal:?}"
        );
        sandbox.abandon();
        let (_, line) = sandbox.end();
        assert!(
            matches!(
                line.reason,
                ExitReason::OwnerGone | ExitReason::InternalError
            ),
            "{what}: {line:?}"
        );
    }

    fn forged(&self, what: &str, forge: impl FnOnce(&mut Body)) {
        let mut body = self.body();
        forge(&mut body);
        self.refused(what, &file_of(&postcard::to_stdvec(&body).unwrap()));
    }
}

#[test]
fn the_forgers_view_of_a_state_is_the_sandboxs() {
    let snapshot = Snapshot::take();
    let body = postcard::to_stdvec(&snapshot.body()).unwrap();
    assert!(file_of(&body) == snapshot.state);
}

#[test]
fn state_files_that_are_broken() {
    let snapshot = Snapshot::take();
    let good = &snapshot.state;
    let changed = |at: usize, bytes: &[u8]| {
        let mut state = good.clone();
        state[at..at + bytes.len()].copy_from_slice(bytes);
        state
    };
    for len in [0, 1, HEADER - 1, HEADER, HEADER + 1, good.len() - 1] {
        snapshot.refused("truncated", &good[..len]);
    }
    snapshot.refused("magic", &changed(0, b"HEARTHSX"));
    snapshot.refused("version", &changed(8, &[2]));
    snapshot.refused(
        "a changed byte",
        &changed(good.len() / 2, &[0xa5, 0x5a, 0xa5]),
    );
    snapshot.refused("checksum", &changed(CHECKSUM, &[0; 4]));
    snapshot.refused("a longer body", &changed(LENGTH, &u32::MAX.to_le_bytes()));
    snapshot.refused("a shorter body", &changed(LENGTH, &[0; 4]));
    snapshot.refused("a byte more", &[good.as_slice(), b"!"].concat());
    snapshot.refused("oversized", &vec![0x20; 64 << 20]);
    snapshot.refused("an empty body", &file_of(b""));
    snapshot.refused("a body of ones", &file_of(&[0xff; 4096]));
    snapshot.refused("half a body", &file_of(&good[HEADER..good.len() / 2]));
}

#[test]
fn memory_that_does_not_fit_the_state() {
    let snapshot = Snapshot::take();
    for mib in [0, 1, 127, 129, 256, 10_241, u32::MAX] {
        snapshot.forged("memory size", |body| body.memory_mib = mib);
    }
    std::fs::write(snapshot.guest.path("it.state"), &snapshot.state).unwrap();
    for len in [0, 1, 4096, (128 << 20) - 1, (128 << 20) + 4096] {
        let memory = File::options()
            .write(true)
            .open(snapshot.guest.path("it.memory"))
            .unwrap();
        memory.set_len(len).unwrap();
        snapshot.refused("memory file", &snapshot.state);
    }
}

/// A queue as a driver sets it up, in the snapshot's memory.
fn queue(size: u16) -> SavedQueue {
    SavedQueue {
        size,
        ready: true,
        descriptors: 0x20_0000,
        available: 0x20_4000,
        used: 0x20_8000,
        next_avail: 0,
        next_used: 0,
    }
}

type Spoil = fn(&mut DriverState);

fn driver(size: u16, spoil: Spoil) -> Option<DriverState> {
    const VERSION_1: u64 = 1 << 32;
    let mut driver = DriverState {
        features: VERSION_1,
        queues: vec![queue(size)],
    };
    spoil(&mut driver);
    Some(driver)
}

#[test]
fn device_states_that_no_driver_could_have_left() {
    let snapshot = Snapshot::take();
    let spoils: [(&str, Spoil); 15] = [
        ("no queue", |d| d.queues.clear()),
        ("two queues", |d| d.queues.push(queue(8))),
        ("queue size 0", |d| d.queues[0].size = 0),
        ("an odd size", |d| d.queues[0].size = 100),
        ("a size over the limit", |d| d.queues[0].size = 0x8000),
        ("not ready", |d| d.queues[0].ready = false),
        ("misaligned", |d| d.queues[0].descriptors += 8),
        ("outside of memory", |d| d.queues[0].used = 128 << 20),
        ("wrapping", |d| d.queues[0].available = u64::MAX - 1),
        ("overlapping", |d| d.queues[0].available = d.queues[0].used),
        ("taken and not given back", |d| d.queues[0].next_avail = 1),
        ("given back and not taken", |d| d.queues[0].next_used = 1),
        ("positions that memory does not have", |d| {
            d.queues[0].next_avail = 0x4000;
            d.queues[0].next_used = 0x4000;
        }),
        ("no features", |d| d.features = 0),
        ("features that are not offered", |d| d.features |= 1 << 29),
    ];
    for (what, spoil) in spoils {
        snapshot.forged(what, |body| body.disks[0].driver = driver(128, spoil));
    }
    snapshot.forged("no disks", |body| body.disks.clear());
    snapshot.forged("a disk more", |body| {
        body.disks.push(body.disks[0].clone());
    });
    snapshot.forged("another kind of device", |body| {
        body.vsock.device_type = 2;
    });
    snapshot.forged("interrupts that there are not", |body| {
        body.disks[2].interrupt_status = 4;
    });
    snapshot.forged("a capacity past all", |body| {
        body.disks[0].device.sectors = u64::MAX;
    });
    snapshot.forged("another guest's context", |body| {
        body.vsock.device.guest_cid = 2;
    });
}

#[test]
fn mailboxes_that_are_not_in_memory() {
    let snapshot = Snapshot::take();
    let forged = |frames: Vec<u64>| {
        move |body: &mut Body| {
            body.mailbox = Some(Mailbox {
                frames,
                waiting: true,
            });
        }
    };
    let good = vec![0x700; PAGES];
    let last = (128 << 20) / PAGE as u64 - 1;
    for nowhere in [last + 1, 0xd_0000, 1 << 52, u64::MAX] {
        for page in [0, 1, PAGES - 1] {
            let mut frames = good.clone();
            frames[page] = nowhere;
            snapshot.forged("a page outside of memory", forged(frames));
        }
    }
    for count in [0, 1, PAGES - 1, PAGES + 1, 100_000] {
        snapshot.forged("another number of pages", forged(vec![0x700; count]));
    }
    // The state that all of these are made from is accepted.
    let mut body = snapshot.body();
    forged(good)(&mut body);
    let state = file_of(&postcard::to_stdvec(&body).unwrap());
    std::fs::write(snapshot.guest.path("it.state"), state).unwrap();
    Sandbox::start().done(snapshot.guest.restore("it", None));
}

#[test]
fn random_ranges_that_are_not_in_memory() {
    let snapshot = Snapshot::take();
    let range = |address, len| RandomRange { address, len };
    let refused = |what, ranges: Vec<RandomRange>| {
        snapshot.forged(what, |body| body.random_ranges = ranges);
    };
    let end = 128 << 20;
    for (address, len) in [(end, 1), (end - 1, 2), (0xd000_0000, 1), (u64::MAX, 1)] {
        refused("a range outside of memory", vec![range(address, len)]);
    }
    for len in [0, MAX_RANDOM_RANGE + 1, u32::MAX] {
        refused("a range of another length", vec![range(0x20_0000, len)]);
    }
    let good = vec![range(0x20_0000, MAX_RANDOM_RANGE); MAX_RANDOM_RANGES];
    let more = [&good[..], &good[..1]].concat();
    refused("more ranges than there may be", more);
    // The state that all of these are made from is accepted.
    let mut body = snapshot.body();
    body.random_ranges = good;
    let state = file_of(&postcard::to_stdvec(&body).unwrap());
    std::fs::write(snapshot.guest.path("it.state"), state).unwrap();
    Sandbox::start().done(snapshot.guest.restore("it", None));
}

#[test]
fn cpu_states_past_the_limits() {
    let snapshot = Snapshot::take();
    snapshot.forged("no CPU", |body| body.vcpus.clear());
    snapshot.forged("a CPU more", |body| {
        body.vcpus.push(snapshot.body().vcpus.remove(0));
    });
    snapshot.forged("more CPUID entries than KVM takes", |body| {
        let cpuid = &mut body.vcpus[0].cpuid;
        cpuid.extend(vec![cpuid[0]; 257]);
    });
    snapshot.forged("an MSR that is none", |body| {
        body.vcpus[0].msrs[0].index = 0xdead_beef;
    });
    snapshot.forged("more MSRs than there are", |body| {
        let none = kvm_msr_entry {
            index: 0xdead_beef,
            ..Default::default()
        };
        body.vcpus[0].msrs.extend(vec![none; 50_000]);
    });
    snapshot.forged("a feature register that no CPU takes", |body| {
        body.vcpus[0].sregs.cr4 = u64::MAX;
    });
    snapshot.forged("another version", |body| body.version.push('0'));
    snapshot.forged("another host", |body| body.host.cpu.push('0'));
    snapshot.forged("another kernel", |body| body.fingerprint.push('0'));
}

#[test]
fn a_clock_that_ran_at_another_speed_is_scaled_or_refused_and_a_slight_drift_is_taken() {
    let snapshot = Snapshot::take();
    let restored = |khz: fn(u32) -> u32| {
        let mut body = snapshot.body();
        body.vcpus[0].tsc_khz = khz(body.vcpus[0].tsc_khz);
        let state = file_of(&postcard::to_stdvec(&body).unwrap());
        std::fs::write(snapshot.guest.path("it.state"), state).unwrap();
        Sandbox::start().call(snapshot.guest.restore("it", None))
    };
    // 200 ppm.
    assert_eq!(restored(|khz| khz - khz / 5000), Outcome::Done);
    for other in [|khz| khz / 2, |_| 0, |_| u32::MAX] {
        match restored(other) {
            Outcome::Done => {}
            Outcome::Refused(refusal) => {
                assert_eq!(refusal.kind, RefusalKind::SnapshotUnusable);
                assert!(refusal.message.contains("TSC"), "{}", refusal.message);
            }
            Outcome::Status(status) => panic!("a status was not asked for: {status:?}"),
        }
    }
}
