//! A real `hearth-sandbox` process under test, and guests of a few bytes to run in it: no Linux,
//! just machine code at the kernel's entry point, in 64-bit mode and ring 0.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use hearth_protocol::sandbox::{
    Boot, Command, Event, Exited, Message, Outcome, Refusal, Request, Restore, Resume,
    SnapshotFiles, Status, decode, encode,
};

/// Far longer than anything here takes; a test that meets it has found a hang.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A sandbox process with its two sockets.
pub(crate) struct Sandbox {
    child: Child,
    control: Option<UnixStream>,
    pub(crate) vsock: UnixStream,
    received: BytesMut,
    events: Vec<Event>,
    next_id: u64,
}

impl Sandbox {
    pub(crate) fn start() -> Self {
        let (control, theirs) = UnixStream::pair().unwrap();
        let (vsock, their_vsock) = UnixStream::pair().unwrap();
        let (theirs, their_vsock) = (OwnedFd::from(theirs), OwnedFd::from(their_vsock));
        let mut process = Process::new(env!("CARGO_BIN_EXE_hearth-sandbox"));
        process
            .args(["--control-fd", "900", "--vsock-fd", "901"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let raw = [theirs.as_raw_fd(), their_vsock.as_raw_fd()];
        // Far above what is open here: a dup2 onto the other socket would lose it.
        // SAFETY: only dup2 is called between fork and exec, on descriptors that are open.
        unsafe {
            process.pre_exec(move || {
                for (from, to) in raw.iter().zip([900, 901]) {
                    if libc::dup2(*from, to) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let child = process.spawn().unwrap();
        control.set_read_timeout(Some(DEADLINE)).unwrap();
        vsock.set_read_timeout(Some(DEADLINE)).unwrap();
        Self {
            child,
            control: Some(control),
            vsock,
            received: BytesMut::new(),
            events: Vec::new(),
            next_id: 0,
        }
    }

    pub(crate) fn send(&mut self, command: Command) -> u64 {
        self.next_id += 1;
        let request = Request {
            id: self.next_id,
            command,
        };
        self.control
            .as_mut()
            .unwrap()
            .write_all(&encode(&request).unwrap())
            .unwrap();
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

    /// Sends a command and waits for its reply; events on the way are kept.
    pub(crate) fn call(&mut self, command: Command) -> Outcome {
        let id = self.send(command);
        self.outcome_of(id)
    }

    /// Waits for the next reply, which must be to this command.
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

    pub(crate) fn done(&mut self, command: Command) {
        let outcome = self.call(command);
        assert_eq!(outcome, Outcome::Done);
    }

    pub(crate) fn refused(&mut self, command: Command) -> Refusal {
        match self.call(command) {
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

    /// Closes the control socket, as an owner does who dies.
    pub(crate) fn abandon(&mut self) {
        self.control = None;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the process and returns its exit status and last words.
    pub(crate) fn end(mut self) -> (i32, Exited) {
        let started = Instant::now();
        let mut line = String::new();
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut line)
            .unwrap();
        let status = self.child.wait().unwrap();
        assert!(started.elapsed() < DEADLINE);
        assert_eq!(line.lines().count(), 1, "one line: {line:?}");
        let exited = serde_json::from_str(&line).unwrap();
        (status.code().expect("it exits by itself"), exited)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // A failed test must not leave a microVM behind; it may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A folder with a guest's kernel and room for snapshots.
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

    pub(crate) fn boot(&self) -> Boot {
        Boot {
            kernel: self.path("kernel"),
            memory_mib: 128,
            vcpus: 1,
            disks: vec![None, None, None],
            kernel_args: String::new(),
            fingerprint: "bare".into(),
        }
    }

    pub(crate) fn files(&self, name: &str) -> SnapshotFiles {
        SnapshotFiles {
            state: self.path(&format!("{name}.state")),
            memory: self.path(&format!("{name}.memory")),
        }
    }

    pub(crate) fn restore(&self, name: &str) -> Restore {
        Restore {
            snapshot: self.files(name),
            disks: vec![None, None, None],
            fingerprint: "bare".into(),
            resume: None,
        }
    }

    /// Boots and runs.
    pub(crate) fn run(&self) -> Sandbox {
        let mut sandbox = Sandbox::start();
        sandbox.done(Command::Boot(self.boot()));
        sandbox.done(Command::Resume(Resume::default()));
        sandbox
    }
}

/// Where the code lies and starts.
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
