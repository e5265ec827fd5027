//! One attack: a guest's program, the line that must be in the log, and the state in which the
//! sandbox must be afterwards. Each attack runs in a sandbox process of its own.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ChildStderr;
use std::time::{Duration, Instant};

use hearth_protocol::sandbox::{Command, Event, ExitReason, Freeze, Resume, State};
use hearth_sandbox::devices::serial::{BURST, PER_SECOND};
use nix::poll::{PollFd, PollFlags, poll};

use crate::driver::Attacker;
use crate::support::{DEADLINE, Errand, Guest, Sandbox};

/// An attack.
pub(crate) struct Attack {
    what: &'static str,
    /// A part of a log line, or of the reason of the end.
    log: &'static str,
    guest: fn(&mut Attacker),
    /// What the other end of the agent's connection does meanwhile.
    host: fn(&mut Sandbox),
    left: Left,
}

/// The state in which the sandbox must be afterwards.
enum Left {
    /// It works: a driver that resets the disk can use it, and the controller gets replies.
    Service,
    /// It has ended for this reason.
    End(ExitReason),
}

pub(crate) const fn attack(
    what: &'static str,
    log: &'static str,
    guest: fn(&mut Attacker),
) -> Attack {
    Attack {
        what,
        log,
        guest,
        host: |_| {},
        left: Left::Service,
    }
}

impl Attack {
    pub(crate) const fn with_host(mut self, host: fn(&mut Sandbox)) -> Self {
        self.host = host;
        self
    }

    pub(crate) const fn ends(mut self, reason: ExitReason) -> Self {
        self.left = Left::End(reason);
        self
    }
}

/// Runs all attacks, and fails with the names of those that the sandbox did not withstand.
pub(crate) fn withstand(attacks: &[Attack]) {
    let broken: Vec<&str> = attacks
        .iter()
        .filter(|attack| catch_unwind(AssertUnwindSafe(|| run(attack))).is_err())
        .map(|attack| attack.what)
        .collect();
    assert!(broken.is_empty(), "not withstood: {broken:?}");
}

fn run(attack: &Attack) {
    let mut attacker = Attacker::new();
    (attack.guest)(&mut attacker);
    if let Left::Service = attack.left {
        attacker.disk_serves();
    }
    let (code, looks) = attacker.code.finish();
    let guest = Guest::new(&code);
    let image: Vec<u8> = (0..8u8).flat_map(|n| [0x40 + n; 512]).collect();
    std::fs::write(guest.path("image"), &image).unwrap();
    let started = Instant::now();
    let (mut sandbox, stderr) = Sandbox::start_and_listen();
    let mut log = Log::new(stderr);
    sandbox.done(boot(&guest));
    sandbox.done(Command::Resume(Resume::default()));
    (attack.host)(&mut sandbox);
    match attack.left {
        Left::Service => {
            log.until(attack.what, "guest: done", &looks);
            serves(sandbox);
        }
        Left::End(reason) => {
            let Event::Exited(exited) = sandbox.event() else {
                panic!("{}: the sandbox should have ended", attack.what)
            };
            assert_eq!(exited.reason, reason, "{}: {}", attack.what, exited.detail);
            log.seen.push_str(&exited.detail);
            log.seen.push('\n');
            // By itself and with that exit status; a signal would mean a crash.
            assert_eq!(sandbox.end().0, i32::from(reason.code()), "{}", attack.what);
        }
    }
    log.rest();
    assert!(
        attack.log.is_empty() || log.seen.contains(attack.log),
        "{}: nothing like {:?} in the log:\n{}",
        attack.what,
        attack.log,
        log.seen
    );
    // At most the burst of each device's log.
    let own = |line: &&str| !line.starts_with("guest: ");
    let lines = log.seen.lines().filter(own).count();
    assert!(lines < 60, "{}: {lines} lines in the log", attack.what);
    let console: usize = log
        .seen
        .lines()
        .filter_map(|line| line.strip_prefix("guest: "))
        .map(|text| text.chars().count())
        .sum();
    let budget = u64::from(BURST) + u64::from(PER_SECOND) * (started.elapsed().as_secs() + 1);
    assert!(
        console as u64 <= budget,
        "{}: {console} bytes on the console",
        attack.what
    );
    assert!(std::fs::read(guest.path("image")).unwrap() == image);
}

fn boot(guest: &Guest) -> Errand {
    let mut command = Guest::boot_command();
    command.disks[0] = true;
    let mut errand = guest.boot_with(command);
    errand.files.push(File::open(guest.path("image")).unwrap());
    errand
}

/// The guest has finished and halted. The controller gets replies, no thread spins, and the process
/// ends when it is asked to.
fn serves(mut sandbox: Sandbox) {
    sandbox.done(Command::Freeze(Freeze::within(DEADLINE / 2)));
    assert_eq!(sandbox.status().state, State::Paused);
    rests(sandbox.pid(), sandbox.pid());
    sandbox.send(Command::Kill);
    let Event::Exited(exited) = sandbox.event() else {
        panic!("the sandbox should have ended")
    };
    assert_eq!(exited.reason, ExitReason::Killed);
    assert_eq!(sandbox.end().0, i32::from(ExitReason::Killed.code()));
}

/// Waits until a thread sleeps and has used no CPU time between two looks.
pub(crate) fn rests(pid: u32, thread: u32) {
    stays(pid, thread, 'S');
}

/// The same for a given state, as in `/proc`.
pub(crate) fn stays(pid: u32, thread: u32, state: char) {
    let file = |name| std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/{name}")).unwrap();
    let deadline = Instant::now() + DEADLINE;
    let mut before = String::new();
    loop {
        let (used, stat) = (file("schedstat"), file("stat"));
        let is = stat.rsplit(") ").next().unwrap().starts_with(state);
        if is && used == before {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "thread {thread} never stays {state}"
        );
        before = used;
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The sandbox's standard error: its log, which includes the guest's serial line.
struct Log {
    lines: BufReader<ChildStderr>,
    seen: String,
}

impl Log {
    fn new(stderr: ChildStderr) -> Self {
        Self {
            lines: BufReader::new(stderr),
            seen: String::new(),
        }
    }

    /// Reads up to this line.
    fn until(&mut self, what: &str, wanted: &str, looks: &[String]) {
        loop {
            let line = self.line().unwrap_or_else(|| {
                panic!("{what}: the log ended without {wanted:?}:\n{}", self.seen)
            });
            if line == wanted {
                return;
            }
            if let Some(stuck) = line.strip_prefix("guest: stuck ") {
                let (number, found) = stuck.split_once(' ').unwrap();
                let look = usize::from_str_radix(number, 16).unwrap();
                panic!(
                    "{what}: look {look} ({}) found {found}:\n{}",
                    looks[look], self.seen
                );
            }
        }
    }

    /// Reads the rest of an ended process's log.
    fn rest(&mut self) {
        while self.line().is_some() {}
    }

    fn line(&mut self) -> Option<String> {
        if self.lines.buffer().is_empty() {
            let mut ready = [PollFd::new(self.lines.get_ref().as_fd(), PollFlags::POLLIN)];
            let timeout = u16::try_from(DEADLINE.as_millis()).unwrap();
            let count = poll(&mut ready, timeout).unwrap();
            assert_eq!(count, 1, "no word from the sandbox:\n{}", self.seen);
        }
        let mut line = String::new();
        if self.lines.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        self.seen.push_str(&line);
        Some(line.trim_end().to_owned())
    }
}
