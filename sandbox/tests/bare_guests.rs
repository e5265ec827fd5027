//! What the sandbox promises for any guest, tested with guests of a few instructions.

mod support;

use std::fs::{File, OpenOptions};
use std::time::{Duration, Instant};

use hearth_protocol::sandbox::{
    Boot, Command, Event, ExitReason, Freeze, MAX_DESCRIPTORS, Outcome, RandomRange, RefusalKind,
    Restore, Resume, Snapshot, State,
};
use support::{DEADLINE, Errand, Guest, Sandbox, open_descriptors};

/// `mov dx, 0x600; mov al, 0x34; out dx, al; jmp $`
const SHUTDOWN: &[u8] = &[0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xeb, 0xfe];
/// `mov al, 0xfe; out 0x64, al; jmp $`
const RESET: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe];
/// `lidt [rip+x]` of an empty table, then `ud2`: neither the exception nor the double fault has a
/// handler.
const TRIPLE_FAULT: &[u8] = &[
    0x0f, 0x01, 0x1d, 0x02, 0x00, 0x00, 0x00, 0x0f, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];
/// `jmp $`
const SPIN: &[u8] = &[0xeb, 0xfe];
/// `cli; hlt; jmp $-2`
const HALT_FOR_EVER: &[u8] = &[0xfa, 0xf4, 0xeb, 0xfd];
/// `pxor xmm0, xmm0`: vector arithmetic, which neither the interpreter of a software-KVM host nor
/// the assist executes. Then a shutdown, for hosts where it simply works.
const VECTOR_ARITHMETIC: &[u8] = &[
    0x66, 0x0f, 0xef, 0xc0, 0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xeb, 0xfe,
];
/// `mov dx, 0x3f8; mov al, 'x'; out dx, al; jmp` back to the `out`
const SERIAL_FLOOD: &[u8] = &[0x66, 0xba, 0xf8, 0x03, 0xb0, b'x', 0xee, 0xeb, 0xfd];
/// `mov eax, [0x10000000]; jmp` back: an address with neither memory nor a device, so the event
/// loop answers.
const REGISTER_FLOOD: &[u8] = &[0x8b, 0x04, 0x25, 0x00, 0x00, 0x00, 0x10, 0xeb, 0xf7];
/// `mov dx, 0x1234; in eax, dx; cmp eax, -1; jne $; out dx, eax;` then a shutdown
const UNKNOWN_PORT: &[u8] = &[
    0x66, 0xba, 0x34, 0x12, 0xed, 0x83, 0xf8, 0xff, 0x75, 0xfe, 0xef, 0x66, 0xba, 0x00, 0x06, 0xb0,
    0x34, 0xee, 0xeb, 0xfe,
];
/// Counts in memory and in a register, and shuts down if they ever differ; on `[0x200008] != 0`
/// it shuts down as well. `xor rbx, rbx; mov [0x200000], rbx; L: inc rbx; inc qword [0x200000];
/// cmp rbx, [0x200000]; jne out; jmp L; out:` shutdown
const COUNT: &[u8] = &[
    0x48, 0x31, 0xdb, 0x48, 0x89, 0x1c, 0x25, 0x00, 0x00, 0x20, 0x00, 0x48, 0xff, 0xc3, 0x48, 0xff,
    0x04, 0x25, 0x00, 0x00, 0x20, 0x00, 0x48, 0x3b, 0x1c, 0x25, 0x00, 0x00, 0x20, 0x00, 0x75, 0x02,
    0xeb, 0xe9, 0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xeb, 0xfe,
];

fn ends_with(code: &[u8], reason: ExitReason) -> String {
    let guest = Guest::new(code);
    let mut sandbox = guest.run();
    let Event::Exited(exited) = sandbox.event() else {
        panic!("the sandbox should have ended")
    };
    let (status, line) = sandbox.end();
    assert_eq!(
        exited, line,
        "the controller and standard output get the same reason"
    );
    assert_eq!(line.reason, reason, "{}", line.detail);
    assert_eq!(status, i32::from(reason.code()));
    line.detail
}

#[test]
fn a_guest_that_powers_off_is_told_apart_from_one_that_resets_and_one_that_crashes() {
    ends_with(SHUTDOWN, ExitReason::GuestShutdown);
    ends_with(RESET, ExitReason::GuestReset);
    let detail = ends_with(TRIPLE_FAULT, ExitReason::TripleFault);
    assert!(detail.contains("rip=0x"), "{detail}");
}

#[test]
fn an_instruction_that_nobody_can_complete_ends_the_microvm_with_its_bytes_and_registers() {
    let host = hearth_sandbox::host::HostIdentity::detect().unwrap();
    if host.kind == hearth_sandbox::host::HostKind::Hardware {
        ends_with(VECTOR_ARITHMETIC, ExitReason::GuestShutdown);
        return;
    }
    let detail = ends_with(VECTOR_ARITHMETIC, ExitReason::InternalError);
    assert!(
        detail.contains("pxor xmm0,xmm0") && detail.contains("66, 0f, ef, c0"),
        "{detail}"
    );
    assert!(
        detail.contains("rip=0x100000") && detail.contains("cr3="),
        "{detail}"
    );
}

#[test]
fn unknown_ports_read_as_ones_and_swallow_writes() {
    ends_with(UNKNOWN_PORT, ExitReason::GuestShutdown);
}

#[test]
fn a_spinning_guest_is_killed_at_once() {
    // The thread of the last vCPU nearly always waits for the event loop.
    let often = [REGISTER_FLOOD; 10];
    for code in [SPIN, HALT_FOR_EVER, SERIAL_FLOOD].into_iter().chain(often) {
        let mut sandbox = Guest::new(code).run();
        if code == REGISTER_FLOOD {
            while sandbox.status().exits.mmio == 0 {}
        }
        sandbox.send(Command::Kill);
        let Event::Exited(exited) = sandbox.event() else {
            panic!("the sandbox should have ended")
        };
        assert_eq!(exited.reason, ExitReason::Killed);
        assert_eq!(sandbox.end().0, i32::from(ExitReason::Killed.code()));
    }
}

#[test]
fn a_spinning_guest_is_paused_and_resumed_any_number_of_times() {
    let mut sandbox = Guest::new(SPIN).run();
    for _ in 0..100 {
        assert_eq!(sandbox.status().state, State::Running);
        sandbox.done(Command::Pause);
        assert_eq!(sandbox.status().state, State::Paused);
        sandbox.done(Command::Pause);
        sandbox.done(Command::Resume(Resume::default()));
    }
}

fn freeze(within: Duration) -> Command {
    Command::Freeze(Freeze::within(within))
}

#[test]
fn a_halted_guest_is_frozen_long_before_its_time_is_up() {
    let mut sandbox = Guest::new(HALT_FOR_EVER).run();
    sandbox.done(freeze(DEADLINE * 2));
    assert_eq!(sandbox.status().state, State::Paused);
}

#[test]
fn a_guest_that_never_rests_is_frozen_when_its_time_is_up() {
    let mut sandbox = Guest::new(SPIN).run();
    for within in [Duration::ZERO, Duration::from_millis(20)] {
        sandbox.done(freeze(within));
        assert_eq!(sandbox.status().state, State::Paused);
        sandbox.done(Command::Resume(Resume::default()));
    }
}

#[test]
fn a_resume_calls_off_a_freeze_and_a_pause_hastens_it() {
    let mut sandbox = Guest::new(SPIN).run();
    let freezing = sandbox.send(freeze(DEADLINE * 2));
    let resumed = sandbox.send(Command::Resume(Resume::default()));
    for id in [freezing, resumed] {
        assert_eq!(sandbox.outcome_of(id), Outcome::Done);
    }
    assert_eq!(sandbox.status().state, State::Running);
    let freezing = sandbox.send(freeze(DEADLINE * 2));
    let paused = sandbox.send(Command::Pause);
    for id in [freezing, paused] {
        assert_eq!(sandbox.outcome_of(id), Outcome::Done);
    }
    assert_eq!(sandbox.status().state, State::Paused);
}

#[test]
fn a_resume_with_a_cpu_budget_during_a_freeze_is_held_to_it() {
    let mut sandbox = Guest::new(SPIN).run();
    let budget = Resume {
        cpu_budget_us: Some(1_000),
    };
    let freezing = sandbox.send(freeze(DEADLINE * 2));
    let resumed = sandbox.send(Command::Resume(budget));
    for id in [freezing, resumed] {
        assert_eq!(sandbox.outcome_of(id), Outcome::Done);
    }
    assert_eq!(sandbox.event(), Event::CpuBudgetExhausted);
    // The budget does not apply to the next run, which has none.
    let resumed = sandbox.send(Command::Resume(budget));
    let freezing = sandbox.send(freeze(DEADLINE * 2));
    let free = sandbox.send(Command::Resume(Resume::default()));
    for id in [resumed, freezing, free] {
        assert_eq!(sandbox.outcome_of(id), Outcome::Done);
    }
    let used = sandbox.status().vcpu_cpu_us;
    let deadline = Instant::now() + DEADLINE;
    while sandbox.status().vcpu_cpu_us < used + 20_000 {
        assert!(Instant::now() < deadline, "the guest does not run");
    }
    assert_eq!(sandbox.status().state, State::Running);
}

#[test]
fn a_paused_guest_uses_no_cpu() {
    let mut sandbox = Guest::new(SPIN).run();
    sandbox.done(Command::Pause);
    // The thread may still be on its way to sleep: wait until it uses no CPU time any more.
    let deadline = Instant::now() + DEADLINE;
    loop {
        let before = sandbox.status().vcpu_cpu_us;
        for _ in 0..100 {
            sandbox.status();
        }
        if sandbox.status().vcpu_cpu_us == before {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "a paused vCPU still uses CPU time"
        );
    }
}

#[test]
fn a_microvm_does_not_outlive_its_owner() {
    for code in [SPIN, REGISTER_FLOOD] {
        let mut sandbox = Guest::new(code).run();
        sandbox.abandon();
        let (status, line) = sandbox.end();
        assert_eq!(line.reason, ExitReason::OwnerGone);
        assert_eq!(status, i32::from(ExitReason::OwnerGone.code()));
    }
}

#[test]
fn a_cpu_budget_stops_the_guest_and_can_be_renewed() {
    let guest = Guest::new(SPIN);
    let mut sandbox = Sandbox::start();
    sandbox.done(guest.boot());
    for round in 1..=3 {
        let budget = 20_000;
        sandbox.done(Command::Resume(Resume {
            cpu_budget_us: Some(budget),
        }));
        assert_eq!(sandbox.event(), Event::CpuBudgetExhausted);
        let status = sandbox.status();
        assert_eq!(status.state, State::Paused);
        assert!(
            status.vcpu_cpu_us >= round * budget,
            "{} µs",
            status.vcpu_cpu_us
        );
    }
}

#[test]
fn a_sleeping_guest_does_not_use_up_its_cpu_budget() {
    let guest = Guest::new(HALT_FOR_EVER);
    let mut sandbox = Sandbox::start();
    sandbox.done(guest.boot());
    sandbox.done(Command::Resume(Resume {
        cpu_budget_us: Some(1_000_000),
    }));
    for _ in 0..1000 {
        assert_eq!(sandbox.status().state, State::Running);
    }
    sandbox.done(Command::Pause);
}

#[test]
fn clones_of_one_snapshot_run_on_from_where_it_was_taken() {
    let guest = Guest::new(COUNT);
    let mut original = guest.run();
    original.done(Command::Pause);
    original.save(&guest, "one");
    let mut clones: Vec<Sandbox> = (0..3).map(|_| Sandbox::start()).collect();
    for clone in &mut clones {
        clone.done(guest.restore("one", Some(Resume::default())));
    }
    // A guest whose memory and registers differ would have shut down.
    for (generation, clone) in clones.iter_mut().enumerate() {
        clone.done(Command::Pause);
        let name = format!("clone{generation}");
        clone.save(&guest, &name);
        let mut grandchild = Sandbox::start();
        let resume = Resume {
            cpu_budget_us: Some(10_000),
        };
        grandchild.done(guest.restore(&name, Some(resume)));
        assert_eq!(grandchild.event(), Event::CpuBudgetExhausted);
    }
}

#[test]
fn a_snapshot_of_a_running_microvm_is_refused_and_hurts_nothing() {
    let guest = Guest::new(SPIN);
    let mut sandbox = guest.run();
    let refusal = sandbox.refused(guest.snapshot("x"));
    assert_eq!(refusal.kind, RefusalKind::InvalidRequest);
    let written = std::fs::metadata(guest.path("x.state.part")).unwrap().len();
    assert_eq!(written, 0);
    assert_eq!(sandbox.status().state, State::Running);
}

#[test]
fn each_clone_has_a_seed_of_its_own_and_what_it_was_told_to_have() {
    const SEED: u64 = 0x9_e000;
    const RANGE: u64 = 0x50_0014;
    let guest = Guest::new(SPIN);
    let mut original = guest.run();
    original.done(Command::Pause);
    let mut errand = guest.snapshot("one");
    errand.command = Command::Snapshot(Snapshot {
        zero_pages: Vec::new(),
        random_ranges: vec![RandomRange {
            address: RANGE,
            len: 100,
        }],
    });
    original.done(errand);
    guest.publish("one");
    let memories = ["two", "three"].map(|name| {
        let mut clone = Sandbox::start();
        clone.done(guest.restore("one", None));
        clone.save(&guest, name);
        std::fs::read(guest.path(&format!("{name}.memory"))).unwrap()
    });
    let parts = |start: u64, len: usize| {
        let start = usize::try_from(start).unwrap();
        memories.each_ref().map(|m| &m[start..start + len])
    };
    let [one, other] = parts(SEED, 64);
    assert_ne!(one, other);
    let [one, other] = parts(RANGE, 100);
    assert_ne!(one, other);
    let [one, other] = parts(RANGE + 100, 100);
    assert_eq!(one, other);
}

#[test]
fn a_list_of_what_clones_have_for_themselves_that_leaves_memory_is_refused() {
    let guest = Guest::new(SPIN);
    let mut original = guest.run();
    original.done(Command::Pause);
    let mut errand = guest.snapshot("one");
    errand.command = Command::Snapshot(Snapshot {
        zero_pages: vec![!4095],
        random_ranges: Vec::new(),
    });
    let refusal = original.refused(errand);
    assert_eq!(refusal.kind, RefusalKind::InvalidRequest);
}

#[test]
fn a_snapshot_never_overwrites_the_memory_that_it_runs_on() {
    let guest = Guest::new(SPIN);
    let mut original = guest.run();
    original.done(Command::Pause);
    original.save(&guest, "one");
    let before = std::fs::read(guest.path("one.memory")).unwrap();
    let mut clone = Sandbox::start();
    clone.done(guest.restore("one", None));
    let writable = |name| {
        OpenOptions::new()
            .write(true)
            .open(guest.path(name))
            .unwrap()
    };
    let refusal = clone.refused(Errand {
        command: Command::Snapshot(Snapshot::default()),
        files: vec![writable("one.state"), writable("one.memory")],
    });
    assert!(refusal.message.contains("maps"), "{}", refusal.message);
    assert!(std::fs::read(guest.path("one.memory")).unwrap() == before);
    clone.save(&guest, "two");
}

#[test]
fn an_unusable_snapshot_is_refused_and_the_shell_stays_usable() {
    let guest = Guest::new(SPIN);
    let mut original = guest.run();
    original.done(Command::Pause);
    original.save(&guest, "good");
    let state = std::fs::read(guest.path("good.state")).unwrap();
    let mut clone = Sandbox::start();
    let mut refuse = |what: &str, prepare: &dyn Fn()| {
        std::fs::write(guest.path("bad.state"), &state).unwrap();
        std::fs::copy(guest.path("good.memory"), guest.path("bad.memory")).unwrap();
        prepare();
        let refusal = clone.refused(guest.restore("bad", None));
        assert_eq!(
            refusal.kind,
            RefusalKind::SnapshotUnusable,
            "{what}: {}",
            refusal.message
        );
    };
    refuse("changed byte", &|| {
        let mut bad = state.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        std::fs::write(guest.path("bad.state"), bad).unwrap();
    });
    refuse("truncated state", &|| {
        std::fs::write(guest.path("bad.state"), &state[..state.len() - 1]).unwrap();
    });
    refuse("no memory", &|| {
        std::fs::write(guest.path("bad.memory"), b"").unwrap();
    });
    let other = Restore {
        disks: vec![false; 3],
        fingerprint: "another kernel".into(),
        resume: None,
    };
    let refusal = clone.refused(guest.restore_with("good", other));
    assert_eq!(refusal.kind, RefusalKind::SnapshotUnusable);
    clone.done(guest.restore("good", None));
}

#[test]
fn a_short_memory_file_is_refused() {
    let guest = Guest::new(SPIN);
    let mut original = guest.run();
    original.done(Command::Pause);
    original.save(&guest, "short");
    let memory = OpenOptions::new()
        .write(true)
        .open(guest.path("short.memory"))
        .unwrap();
    memory.set_len((128 << 20) - 1).unwrap();
    let mut clone = Sandbox::start();
    let refusal = clone.refused(guest.restore("short", None));
    assert_eq!(
        refusal.kind,
        RefusalKind::SnapshotUnusable,
        "{}",
        refusal.message
    );
}

#[test]
fn a_boot_that_makes_no_sense_is_refused_and_the_shell_stays_usable() {
    let guest = Guest::new(SHUTDOWN);
    let mut sandbox = Sandbox::start();
    type Spoil = fn(&mut Boot);
    let attempts: [(&str, Spoil); 4] = [
        ("127 MiB", |b| b.memory_mib = 127),
        ("10241 MiB", |b| b.memory_mib = 10_241),
        ("another number of CPUs", |b| b.vcpus = 2),
        ("two disks", |b| b.disks.truncate(2)),
    ];
    for (what, spoil) in attempts {
        let mut boot = Guest::boot_command();
        spoil(&mut boot);
        let refusal = sandbox.refused(guest.boot_with(boot));
        assert_eq!(
            refusal.kind,
            RefusalKind::InvalidRequest,
            "{what}: {}",
            refusal.message
        );
    }
    for command in [Command::Resume(Resume::default()), Command::Pause] {
        assert_eq!(sandbox.refused(command).kind, RefusalKind::InvalidRequest);
    }
    sandbox.done(guest.boot());
    sandbox.done(Command::Resume(Resume::default()));
    assert_eq!(sandbox.end().1.reason, ExitReason::GuestShutdown);
}

#[test]
fn a_file_that_is_no_kernel_ends_the_sandbox_with_a_reason() {
    let guest = Guest::new(SHUTDOWN);
    std::fs::write(guest.path("kernel"), b"#!/bin/sh\n").unwrap();
    let mut sandbox = Sandbox::start();
    let refusal = sandbox.refused(guest.boot());
    assert_eq!(refusal.kind, RefusalKind::InvalidRequest);
    assert!(refusal.message.contains("kernel"), "{}", refusal.message);
}

#[test]
fn descriptors_that_are_missing_surplus_or_of_the_wrong_kind_are_refused_and_closed() {
    let guest = Guest::new(SHUTDOWN);
    let mut sandbox = Sandbox::start();
    assert_eq!(sandbox.status().state, State::Shell);
    let before = open_descriptors(sandbox.pid());
    let kernel = || File::open(guest.path("kernel")).unwrap();
    let writable = || OpenOptions::new().write(true).open(guest.path("kernel"));
    let wrong = [
        ("none", vec![]),
        ("two", vec![kernel(), kernel()]),
        ("a device", vec![File::open("/dev/null").unwrap()]),
        ("a folder", vec![File::open(guest.dir.path()).unwrap()]),
        ("writable", vec![writable().unwrap()]),
    ];
    for (what, files) in wrong {
        let command = Command::Boot(Guest::boot_command());
        let refusal = sandbox.refused(Errand { command, files });
        assert_eq!(refusal.kind, RefusalKind::InvalidRequest, "{what}");
    }
    let surplus = Errand {
        command: Command::Status,
        files: vec![kernel()],
    };
    assert_eq!(sandbox.refused(surplus).kind, RefusalKind::InvalidRequest);
    let mut with_image = Guest::boot_command();
    with_image.disks[1] = true;
    let mut errand = guest.boot_with(with_image);
    errand.files.push(File::open("/dev/null").unwrap());
    let refusal = sandbox.refused(errand);
    assert!(refusal.message.contains("disk 1"), "{}", refusal.message);
    assert_eq!(open_descriptors(sandbox.pid()), before);
    sandbox.done(guest.boot());
    sandbox.done(Command::Resume(Resume::default()));
    assert_eq!(sandbox.end().1.reason, ExitReason::GuestShutdown);
}

#[test]
fn more_descriptors_than_a_message_may_carry_end_the_sandbox() {
    let mut sandbox = Sandbox::start();
    let files = (0..=MAX_DESCRIPTORS)
        .map(|_| File::open("/dev/null").unwrap())
        .collect();
    sandbox.send(Errand {
        command: Command::Status,
        files,
    });
    let (status, line) = sandbox.end();
    assert_eq!(line.reason, ExitReason::Usage, "{}", line.detail);
    assert_eq!(status, i32::from(ExitReason::Usage.code()));
}
