//! A sandbox that is started without root works, reports which parts of its jail are missing and
//! why, has all the other parts, and ends before its first command if all parts are required.

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod support;

use std::fs::File;

use hearth_protocol::jail::JailPart;
use hearth_protocol::sandbox::{Command, Event, ExitReason, Resume, State};
use support::{Guest, Sandbox, open_descriptors};

/// `jmp $`
const SPIN: &[u8] = &[0xeb, 0xfe];

fn kvm() -> File {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .unwrap()
}

fn missing(sandbox: &mut Sandbox) -> Vec<JailPart> {
    let jail = sandbox.status().jail;
    assert!(jail.missing.iter().all(|part| !part.why.is_empty()));
    jail.missing.iter().map(|part| part.part).collect()
}

#[test]
fn it_boots_runs_saves_and_restores() {
    let guest = Guest::new(SPIN);
    let mut original = Sandbox::start_without_root(&kvm(), &[]);
    original.done(guest.boot());
    original.done(Command::Resume(Resume::default()));
    original.done(Command::Pause);
    original.save(&guest, "one");
    let mut clone = Sandbox::start_without_root(&kvm(), &[]);
    clone.done(guest.restore("one", Some(Resume::default())));
    assert_eq!(clone.status().state, State::Running);
    clone.send(Command::Kill);
    assert_eq!(clone.end().1.reason, ExitReason::Killed);
}

#[test]
fn it_has_every_part_of_the_jail_that_takes_no_root() {
    let mut sandbox = Sandbox::start_without_root(&kvm(), &[]);
    let missing = missing(&mut sandbox);
    assert!(missing.contains(&JailPart::User) && missing.contains(&JailPart::Processes));
    let own = [JailPart::User, JailPart::Processes];
    let others: Vec<_> = missing.iter().filter(|part| !own.contains(part)).collect();
    let pid = sandbox.pid();
    let file = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    let status = file("status");
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "no {line:?} in\n{status}");
    }
    assert!(file("limits").contains("Max open files            256                  256"));
    // The environment that it inherited from this test was not empty.
    assert!(std::env::vars().next().is_some());
    assert!(file("environ").bytes().all(|byte| byte == 0));
    // Sockets, KVM and its descriptors, standard streams, the pagemap: nothing else of the
    // parent's.
    assert!(open_descriptors(pid) < 40);
    if std::fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|n| n.trim() != "0")
    {
        assert!(others.is_empty(), "could be had: {others:?}");
        assert_eq!(file("mounts").lines().count(), 1, "{}", file("mounts"));
    }
}

#[test]
fn it_ends_before_its_first_command_where_the_whole_jail_is_required() {
    let mut sandbox = Sandbox::start_without_root(&kvm(), &["--require-jail"]);
    let Event::Exited(exited) = sandbox.event() else {
        panic!("an end was due")
    };
    assert!(
        exited.detail.contains("the jail is not complete: without"),
        "{}",
        exited.detail
    );
    let (status, line) = sandbox.end();
    assert_eq!(line.reason, ExitReason::InternalError);
    assert_eq!(status, i32::from(ExitReason::InternalError.code()));
}
