//! A real `hearth-sandbox` process under test, and guests of a few bytes: no Linux, only machine
//! code at the kernel's entry point, in 64-bit mode and ring 0.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

use std::fs::File;
use std::io::{IoSlice, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command as Process, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use hearth_protocol::sandbox::{
    Boot, Command, Event, Exited, Message, Outcome, Refusal, Request, Restore, Resume, Snapshot,
    Status, decode, encode,
};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// Far longer than anything here takes; a test that reaches it has found a hang.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The binary under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_hearth-sandbox");

/// A command and the files that go with it.
#[derive(Debug)]
pub(crate) struct Errand {
    pub(crate) command: Command,
    pub(crate) files: Vec<File>,
}

impl From<Command> for Errand {
    fn from(command: Command) -> Self {
        let files = Vec::new();
        Self { command, files }
    }
}

/// The mailbox's descriptor number in a sandbox.
pub(crate) const MAILBOX_FD: RawFd = 903;

/// A sandbox process with its three sockets.
pub(crate) struct Sandbox {
    child: Child,
    control: Option<UnixStream>,
    pub(crate) vsock: UnixStream,
    pub(crate) mailbox: UnixStream,
    received: BytesMut,
    events: Vec<Event>,
    next_id: u64,
}

impl Sandbox {
    pub(crate) fn start() -> Self {
        Self::start_with(Process::new(PROGRAM), Stdio::inherit())
    }

    /// A sandbox under strace, which writes a file for each thread: this name, a dot, and the
    /// thread's number. Each line has the call's number and its arguments in raw form.
    pub(crate) fn start_traced(calls: &Path) -> Self {
        let mut process = Process::new("strace");
        process
            .args([
                "-ff",
                "-n",
                "-qq",
                "-e",
                "raw=all",
                "-e",
                "signal=none",
                "-o",
            ])
            .arg(calls)
            .arg(PROGRAM);
        Self::start_with(process, Stdio::inherit())
    }

    /// A sandbox whose log the test reads.
    pub(crate) fn start_and_listen() -> (Self, ChildStderr) {
        let mut sandbox = Self::start_with(Process::new(PROGRAM), Stdio::piped());
        let stderr = sandbox.child.stderr.take().unwrap();
        (sandbox, stderr)
    }

    /// A sandbox that is started by a user who is not root but may use KVM.
    pub(crate) fn start_without_root(kvm: &File, arguments: &[&str]) -> Self {
        const NOBODY: u32 = 65_534;
        let mut process = Process::new(PROGRAM);
        if nix::unistd::geteuid().is_root() {
            process.uid(NOBODY).gid(NOBODY);
        }
        let raw = kvm.as_raw_fd();
        // SAFETY: only dup2 is called between fork and exec, on a descriptor that is open.
        unsafe {
            process.pre_exec(move || match libc::dup2(raw, 902) {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        process.args(["--kvm-fd", "902"]).args(arguments);
        Self::start_as(process, Stdio::inherit(), Vec::new())
    }

    fn start_with(process: Process, stderr: Stdio) -> Self {
        Self::start_as(process, stderr, own_user())
    }

    fn start_as(mut process: Process, stderr: Stdio, user: Vec<String>) -> Self {
        let (control, theirs) = UnixStream::pair().unwrap();
        let (vsock, their_vsock) = UnixStream::pair().unwrap();
        let (mailbox, their_mailbox) = UnixStream::pair().unwrap();
        let theirs = [theirs, their_vsock, their_mailbox].map(OwnedFd::from);
        process
            .args(["--control-fd", "900", "--vsock-fd", "901"])
            .args(["--mailbox-fd", &MAILBOX_FD.to_string()])
            .args(user)
            .args(std::env::var("HEARTH_TEST_SANDBOX_ARGS").ok())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let raw = theirs.each_ref().map(AsRawFd::as_raw_fd);
        // Far above the descriptors that are open here: dup2 onto the other socket's number would
        // close it.
        // SAFETY: only dup2 is called between fork and exec, on descriptors that are open.
        unsafe {
            process.pre_exec(move || {
                for (from, to) in raw.iter().zip([900, 901, MAILBOX_FD]) {
                    if libc::dup2(*from, to) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let child = process
            .spawn()
            .unwrap_or_else(|e| panic!("{:?}: {e}", process.get_program()));
        control.set_read_timeout(Some(DEADLINE)).unwrap();
        vsock.set_read_timeout(Some(DEADLINE)).unwrap();
        mailbox.set_read_timeout(Some(DEADLINE)).unwrap();
        Self {
            child,
            control: Some(control),
            vsock,
            mailbox,
            received: BytesMut::new(),
            events: Vec::new(),
            next_id: 0,
        }
    }

    pub(crate) fn send(&mut self, errand: impl Into<Errand>) -> u64 {
        let Errand { command, files } = errand.into();
        self.next_id += 1;
        let request = Request {
            id: self.next_id,
            command,
        };
        let bytes = encode(&request).unwrap();
        let raw: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = self.control.as_ref().unwrap().as_raw_fd();
        let rights = if raw.is_empty() { &[] } else { &rights[..] };
        let pieces = [IoSlice::new(&bytes)];
        let sent = sendmsg::<()>(control, &pieces, rights, MsgFlags::empty(), None);
        assert_eq!(sent.unwrap(), bytes.len());
        self.next_id
    }

    fn receive(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = decode(&mut self.received).unwrap() {
                return Some(message);
            }
            let mut chunk = [0; 4096];
            let n = self.control.as_mut().unwrap().read(&mut chunk).unwrap();
            if n == 0 {
                return None;
            }
            self.received.extend_from_slice(&chunk[..n]);
        }
    }

    /// Sends a command and waits for its reply. Events that come meanwhile are kept.
    pub(crate) fn call(&mut self, errand: impl Into<Errand>) -> Outcome {
        let id = self.send(errand);
        self.outcome_of(id)
    }

    /// Waits for the next reply, which must be the one to this command.
    pub(crate) fn outcome_of(&mut self, id: u64) -> Outcome {
        loop {
            match self
                .receive()
                .expect("the sandbox ended instead of answering")
            {
                Message::Reply(reply) => {
                    assert_eq!(reply.id, id);
                    return reply.outcome;
                }
                Message::Event(event) => self.events.push(event),
            }
        }
    }

    pub(crate) fn done(&mut self, errand: impl Into<Errand>) {
        let outcome = self.call(errand);
        assert_eq!(outcome, Outcome::Done);
    }

    /// Saves a paused microVM under this name in the guest's folder.
    pub(crate) fn save(&mut self, guest: &Guest, name: &str) {
        self.done(guest.snapshot(name));
        guest.publish(name);
    }

    pub(crate) fn refused(&mut self, errand: impl Into<Errand>) -> Refusal {
        match self.call(errand) {
            Outcome::Refused(refusal) => refusal,
            other => panic!("should have been refused: {other:?}"),
        }
    }

    pub(crate) fn status(&mut self) -> Status {
        match self.call(Command::Status) {
            Outcome::Status(status) => status,
            other => panic!("no status: {other:?}"),
        }
    }

    pub(crate) fn event(&mut self) -> Event {
        if !self.events.is_empty() {
            return self.events.remove(0);
        }
        match self.receive().expect("the sandbox ended without an event") {
            Message::Event(event) => event,
            Message::Reply(reply) => panic!("an event was due, not {reply:?}"),
        }
    }

    /// Closes the control socket, as a controller that dies does.
    pub(crate) fn abandon(&mut self) {
        self.control = None;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the process and returns its exit status and the reason that it has printed.
    pub(crate) fn end(mut self) -> (i32, Exited) {
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(2));
        };
        let mut line = String::new();
        let stdout = self.child.stdout.as_mut().unwrap();
        stdout.read_to_string(&mut line).unwrap();
        assert_eq!(line.lines().count(), 1, "one line: {line:?}");
        let exited = serde_json::from_str(&line).unwrap();
        (status.code().expect("it exits by itself"), exited)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // A failed test must not leave a microVM behind; the process may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A folder with a guest's kernel, and space for snapshots.
pub(crate) struct Guest {
    pub(crate) dir: tempfile::TempDir,
}

impl Guest {
    /// A kernel of this machine code.
    pub(crate) fn new(code: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kernel"), elf(code)).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn boot_command() -> Boot {
        Boot {
            memory_mib: 128,
            vcpus: 1,
            disks: vec![false; 3],
            kernel_args: String::new(),
            fingerprint: "bare".into(),
        }
    }

    pub(crate) fn boot(&self) -> Errand {
        self.boot_with(Self::boot_command())
    }

    pub(crate) fn boot_with(&self, boot: Boot) -> Errand {
        Errand {
            command: Command::Boot(boot),
            files: vec![File::open(self.path("kernel")).unwrap()],
        }
    }

    pub(crate) fn restore(&self, name: &str, resume: Option<Resume>) -> Errand {
        self.restore_with(
            name,
            Restore {
                disks: vec![false; 3],
                fingerprint: "bare".into(),
                resume,
            },
        )
    }

    pub(crate) fn restore_with(&self, name: &str, restore: Restore) -> Errand {
        let open = |kind| File::open(self.path(&format!("{name}.{kind}"))).unwrap();
        Errand {
            command: Command::Restore(restore),
            files: vec![open("state"), open("memory")],
        }
    }

    /// Takes a snapshot into new files next to their final place.
    pub(crate) fn snapshot(&self, name: &str) -> Errand {
        let new = |kind| {
            let path = self.path(&format!("{name}.{kind}.part"));
            let mut options = File::options();
            options.write(true).create_new(true).open(path).unwrap()
        };
        Errand {
            command: Command::Snapshot(Snapshot::default()),
            files: vec![new("state"), new("memory")],
        }
    }

    /// Gives the files of a snapshot that is whole their final names.
    pub(crate) fn publish(&self, name: &str) {
        for kind in ["state", "memory"] {
            let path = self.path(&format!("{name}.{kind}"));
            std::fs::rename(path.with_extension(format!("{kind}.part")), path).unwrap();
        }
    }

    /// Boots and runs.
    pub(crate) fn run(&self) -> Sandbox {
        let mut sandbox = Sandbox::start();
        sandbox.done(self.boot());
        sandbox.done(Command::Resume(Resume::default()));
        sandbox
    }
}

/// A user that no other process has, for a sandbox that is started by root.
fn own_user() -> Vec<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    if !nix::unistd::geteuid().is_root() {
        return Vec::new();
    }
    let id = 1_800_000_000 + std::process::id() * 256 + NEXT.fetch_add(1, Ordering::Relaxed) % 256;
    ["--uid", "--gid"]
        .into_iter()
        .flat_map(|name| [name.to_owned(), id.to_string()])
        .collect()
}

/// Address at which the code is loaded and starts.
const ENTRY: u64 = 0x10_0000;

/// A 64-bit ELF executable with one segment.
fn elf(code: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    let mut file = Vec::new();
    file.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut put = |bytes: &[u8]| file.extend_from_slice(bytes);
    put(&2u16.to_le_bytes()); // executable
    put(&62u16.to_le_bytes()); // x86-64
    put(&1u32.to_le_bytes());
    put(&ENTRY.to_le_bytes());
    put(&64u64.to_le_bytes()); // program headers behind this one
    put(&0u64.to_le_bytes());
    put(&0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        put(&half.to_le_bytes());
    }
    put(&1u32.to_le_bytes()); // PT_LOAD
    put(&7u32.to_le_bytes());
    for word in [
        HEADERS,
        ENTRY,
        ENTRY,
        code.len() as u64,
        code.len() as u64,
        4096,
    ] {
        put(&word.to_le_bytes());
    }
    put(code);
    file
}

/// Descriptors that a process has open.
pub(crate) fn open_descriptors(pid: u32) -> usize {
    std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd"))
        .unwrap()
        .count()
}
