//! Everything that sandboxes do, once each: boot, disks, the agent's connection, pauses, budgets,
//! freezes, snapshots of both kinds, restores, refusals, the assist, every kind of end.

use std::fs::File;
use std::io::{Read, Write};
use std::time::Duration;

use hearth_protocol::mailbox::{COMMAND, COMMAND_AGENT, DOORBELL_ANSWER, HEAD, KIND_RESPONSE};
use hearth_protocol::sandbox::{Command, Event, ExitReason, Freeze, Resume, State};
use hearth_sandbox::devices::virtio::vsock::device::TX;
use hearth_sandbox::devices::virtio::vsock::packet::{HEADER, Op};

use crate::assembler::Width;
use crate::doorbell::give;
use crate::driver::{Attacker, BUFFERS, OUT, VSOCK};
use crate::support::{DEADLINE, Errand, Guest, Sandbox};
use crate::trace::{self, Call};

/// `jmp $`
const SPIN: &[u8] = &[0xeb, 0xfe];
/// `mov dx, 0x600; mov al, 0x34; out dx, al; jmp $`
const SHUTDOWN: &[u8] = &[0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xeb, 0xfe];
/// Payload of the packets with which a guest sends more than a socket takes at once.
const PACKET: u32 = 0x1_0000;
const PACKETS: u64 = 12;

/// The calls of all scenes.
pub(crate) fn all() -> Vec<Call> {
    let scenes: [fn(&Stage); 5] = [devices, clones, refusals, instructions, mailbox];
    scenes
        .iter()
        .flat_map(|scene| {
            let stage = Stage::new();
            scene(&stage);
            stage.calls()
        })
        .collect()
}

/// The folder for each process's trace.
struct Stage(tempfile::TempDir);

impl Stage {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn start(&self, name: &str) -> Sandbox {
        let folder = self.0.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        Sandbox::start_traced(&folder.join("calls"))
    }

    fn calls(&self) -> Vec<Call> {
        let folders = std::fs::read_dir(self.0.path()).unwrap();
        folders
            .flat_map(|folder| trace::read(&folder.unwrap().path()))
            .collect()
    }
}

fn resume() -> Command {
    Command::Resume(Resume::default())
}

fn budget(micros: u64) -> Command {
    Command::Resume(Resume {
        cpu_budget_us: Some(micros),
    })
}

fn ends(sandbox: Sandbox, reason: ExitReason) {
    assert_eq!(sandbox.end().1.reason, reason);
}

fn kill(mut sandbox: Sandbox) {
    sandbox.send(Command::Kill);
    ends(sandbox, ExitReason::Killed);
}

/// A guest that reads its disk, exchanges bytes with the host in both directions (more than the
/// host takes at once), ends its connection, and powers off.
fn devices(stage: &Stage) {
    let mut guest = Attacker::new();
    guest.disk_serves();
    guest.connect(16);
    guest.write(OUT + HEADER as u64, b"hello...");
    guest.send(Attacker::packet(Op::Data, 8));
    guest.receives(1, Op::Data);
    guest.write(OUT, &Attacker::packet(Op::Data, PACKET).to_bytes());
    let queue = (VSOCK, TX as u64);
    guest.chain(queue, 0, &[(OUT, HEADER as u64 + u64::from(PACKET), 0)]);
    for _ in 0..PACKETS {
        guest.offer(queue, 0);
    }
    guest.kick(queue);
    guest.came_back(queue, 2 + PACKETS);
    let mut goodbye = Attacker::packet(Op::Shutdown, 0);
    goodbye.flags = 2;
    guest.send(goodbye);
    guest.code.out_string(0x3f8, BUFFERS, 100);
    let (code, _) = guest.code.finish();

    let guest = Guest::new(&code);
    std::fs::write(guest.path("image"), [0x41; 4096]).unwrap();
    let mut boot = Guest::boot_command();
    boot.disks[0] = true;
    let mut errand = guest.boot_with(boot);
    errand.files.push(File::open(guest.path("image")).unwrap());
    let mut sandbox = stage.start("devices");
    sandbox.done(errand);
    sandbox.done(resume());
    sandbox.vsock.write_all(b"and you?").unwrap();
    sandbox.vsock.read_exact(&mut [0; 8]).unwrap();
    // The guest halts when it has sent everything, whether or not the host reads it.
    sandbox.done(Command::Freeze(Freeze::within(DEADLINE / 2)));
    sandbox.done(resume());
    let mut rest = Vec::new();
    sandbox.vsock.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len() as u64, u64::from(PACKET) * PACKETS);
    kill(sandbox);
}

/// A microVM, its clone, and the clone's clone.
fn clones(stage: &Stage) {
    let guest = Guest::new(SPIN);
    let mut original = stage.start("original");
    original.done(guest.boot());
    original.done(budget(5_000));
    assert_eq!(original.event(), Event::CpuBudgetExhausted);
    original.done(resume());
    original.done(Command::Freeze(Freeze::within(Duration::from_millis(5))));
    assert_eq!(original.status().state, State::Paused);
    original.save(&guest, "one");
    original.done(resume());
    original.abandon();
    ends(original, ExitReason::OwnerGone);

    let mut clone = stage.start("clone");
    clone.done(guest.restore("one", Some(Resume::default())));
    clone.done(Command::Pause);
    clone.save(&guest, "two");
    kill(clone);

    let mut grandchild = stage.start("grandchild");
    let within = Resume {
        cpu_budget_us: Some(5_000),
    };
    grandchild.done(guest.restore("two", Some(within)));
    assert_eq!(grandchild.event(), Event::CpuBudgetExhausted);
    kill(grandchild);
}

/// Commands that are refused, and a shell that is not used.
fn refusals(stage: &Stage) {
    let guest = Guest::new(&[0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe]); // a reset
    let mut sandbox = stage.start("refusals");
    let files = vec![File::open("/dev/null").unwrap()];
    let command = Command::Boot(Guest::boot_command());
    sandbox.refused(Errand { command, files });
    std::fs::write(guest.path("bad.state"), b"no state").unwrap();
    std::fs::write(guest.path("bad.memory"), b"").unwrap();
    sandbox.refused(guest.restore("bad", None));
    sandbox.done(guest.boot());
    sandbox.done(resume());
    ends(sandbox, ExitReason::GuestReset);

    let mut shell = stage.start("shell");
    assert_eq!(shell.status().state, State::Shell);
    shell.abandon();
    ends(shell, ExitReason::OwnerGone);
}

/// Arms the local APIC's timer for a time that never comes. `Attacker::new` has mapped its
/// addresses.
fn arm_timer(guest: &mut Attacker) {
    const APIC: u64 = 0xfee0_0000;
    const TWO_MIB: u64 = 0x20_0000;
    const GIB: u64 = 1 << 30;
    const DEVICE_TABLE: u64 = 0xc000;
    const PRESENT_WRITABLE_LARGE_UNCACHED: u64 = 0x93;
    let entry = DEVICE_TABLE + APIC % GIB / TWO_MIB * 8;
    let page = APIC | PRESENT_WRITABLE_LARGE_UNCACHED;
    guest.code.store(Width::Quad, entry, page);
    guest.code.store(Width::Double, APIC + 0xf0, 0x1ff); // on
    guest.code.store(Width::Double, APIC + 0x320, 0x4_0040); // TSC deadline, vector 0x40
    // mov ecx, 0x6e0; mov eax, 0; mov edx, 0x7fff_ffff; wrmsr
    guest.code.put(&[0xb9, 0xe0, 0x06, 0, 0]);
    guest.code.put(&[0xb8, 0, 0, 0, 0]);
    guest.code.put(&[0xba, 0xff, 0xff, 0xff, 0x7f, 0x0f, 0x30]);
}

/// A runtime that answers at the mailbox with output, and arms a timer meanwhile. It gets an event,
/// answers it too, and is paused while it waits.
fn mailbox(stage: &Stage) {
    let mut guest = Attacker::new();
    guest.mailbox();
    arm_timer(&mut guest);
    for _ in 0..2 {
        guest.answer(KIND_RESPONSE, 0, 5, 9);
        guest.ring(DOORBELL_ANSWER);
    }
    guest.header_is(COMMAND, COMMAND_AGENT, "it is let run by other means");
    let (code, _) = guest.code.finish();
    let guest = Guest::new(&code);
    let mut sandbox = stage.start("mailbox");
    sandbox.done(guest.boot());
    sandbox.done(resume());
    let mut answer = [0; HEAD + 9 + 5];
    sandbox.mailbox.read_exact(&mut answer).unwrap();
    give(&mut sandbox, 0, 3, b"abc");
    sandbox.mailbox.read_exact(&mut answer).unwrap();
    sandbox.done(Command::Pause);
    sandbox.done(resume());
    sandbox.done(Command::Freeze(Freeze::within(DEADLINE / 2)));
    kill(sandbox);
}

/// Instructions that KVM's interpreter leaves to the sandbox, a fault of one of them, and one that
/// the sandbox can't complete either.
fn instructions(stage: &Stage) {
    let mut guest = Attacker::new();
    // edx:eax = all ones; rcx = a buffer; xsave [rcx]; xrstor [rcx]; fnclex
    guest
        .code
        .put(&[0xb8, 0xff, 0xff, 0xff, 0xff, 0x31, 0xd2, 0xb9]);
    guest
        .code
        .put(&u32::try_from(BUFFERS).unwrap().to_le_bytes());
    guest
        .code
        .put(&[0x0f, 0xae, 0x21, 0x0f, 0xae, 0x29, 0x9b, 0xdb, 0xe2]);
    // mov ecx, 0x8000_0000, which is not mapped; xsave [rcx]: a page fault without a handler.
    guest.code.put(&[0xb9, 0, 0, 0, 0x80, 0x0f, 0xae, 0x21]);
    let (code, _) = guest.code.finish();
    let guest = Guest::new(&code);
    let mut sandbox = stage.start("assist");
    sandbox.done(guest.boot());
    sandbox.done(resume());
    ends(sandbox, ExitReason::TripleFault);

    // pxor xmm0, xmm0; then a power-off, for hosts where it simply works
    let code = [&[0x66, 0x0f, 0xef, 0xc0], SHUTDOWN].concat();
    let guest = Guest::new(&code);
    let mut sandbox = stage.start("unknown");
    sandbox.done(guest.boot());
    sandbox.done(resume());
    let reason = sandbox.end().1.reason;
    assert!(
        matches!(
            reason,
            ExitReason::InternalError | ExitReason::GuestShutdown
        ),
        "{reason:?}"
    );
}
