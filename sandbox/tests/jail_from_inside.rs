//! The jail as an attacker finds it: attempts to get out, each in a process of its own, under
//! several conditions.
//!
//! * Without a jail the attempt must succeed, or it would prove nothing.
//! * With the jail but without a system call filter it must fail: the second line of defence works
//!   alone. (Some attempts are exempt: without a filter, starting a process is allowed.)
//! * With the filter of either kind of thread the process must be killed.
//!
//! The same without root, where the jail has fewer parts: with the filter the process must be
//! killed, and without the filter the attempt must fail.
//!
//! The processes start with one thread, as a sandbox does, so this test has its own `main`.

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus};

use hearth_protocol::jail::JailPart;
use hearth_sandbox::jail::{self, Filters, HostResources, Identity, Mismatch, NO_MAILBOX};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::geteuid;

/// Exit status of an attempt that was refused.
const REFUSED: i32 = 10;

/// One attempt to get out.
struct Attempt {
    name: &'static str,
    run: fn(&Scene) -> io::Result<()>,
    /// Whether another part of the jail than the filter prevents it too.
    second_line: bool,
}

const fn twice(name: &'static str, run: fn(&Scene) -> io::Result<()>) -> Attempt {
    Attempt {
        name,
        run,
        second_line: true,
    }
}

const fn once(name: &'static str, run: fn(&Scene) -> io::Result<()>) -> Attempt {
    Attempt {
        name,
        run,
        second_line: false,
    }
}

const ATTEMPTS: &[Attempt] = &[
    twice("open_a_file_of_the_host", |_| {
        File::open("/etc/passwd").map(drop)
    }),
    twice("open_another_vms_memory_file", |scene| {
        File::options()
            .read(true)
            .write(true)
            .open(scene.folder.join("memory"))
            .map(drop)
    }),
    twice("open_its_own_memory_by_path", |_| {
        File::open("/proc/self/mem").map(drop)
    }),
    twice("open_kvm_again", |_| File::open("/dev/kvm").map(drop)),
    twice("make_a_file", |scene| {
        File::create(scene.folder.join("new")).map(drop)
    }),
    twice("make_a_file_in_its_root", |_| {
        File::create("/hearth-jail-test")?;
        std::fs::remove_file("/hearth-jail-test")
    }),
    twice("connect_to_a_tcp_port_of_the_host", |scene| {
        TcpStream::connect(("127.0.0.1", scene.port)).map(drop)
    }),
    twice("connect_to_an_abstract_unix_socket", |scene| {
        UnixStream::connect_addr(&scene.abstract_socket()).map(drop)
    }),
    once("make_a_socket", |_| UnixStream::pair().map(drop)),
    twice("signal_another_process", |scene| {
        // SAFETY: signal 0 has no effect on the running process.
        check(unsafe { libc::kill(scene.victim, libc::SIGCONT) })
    }),
    twice("trace_another_process", |scene| {
        // SAFETY: the tracee is a child of the test and is not changed.
        let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, scene.victim, 0, 0) };
        check(i32::try_from(seized).unwrap())
    }),
    twice("read_another_processs_memory", |scene| {
        let mut byte = 0u8;
        let local = libc::iovec {
            iov_base: (&raw mut byte).cast(),
            iov_len: 1,
        };
        let remote = libc::iovec {
            iov_base: scene.victim_memory as *mut libc::c_void,
            iov_len: 1,
        };
        // SAFETY: one byte is written, to a byte; the other address is not this process's.
        let read = unsafe { libc::process_vm_readv(scene.victim, &local, 1, &remote, 1, 0) };
        check(libc::c_int::try_from(read).unwrap())
    }),
    twice("mount", |scene| {
        let nothing = None::<&str>;
        nix::mount::mount(
            Some("x"),
            &scene.folder,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            nothing,
        )?;
        Ok(nix::mount::umount(&scene.folder)?)
    }),
    twice("change_its_root", |_| Ok(nix::unistd::chroot("/")?)),
    twice("make_a_namespace", |_| {
        Ok(unshare(CloneFlags::CLONE_NEWUTS)?)
    }),
    twice("become_root", |_| {
        Ok(nix::unistd::setresuid(0.into(), 0.into(), 0.into())?)
    }),
    // Lower than a process's usual limit, higher than a sandbox's.
    twice("raise_a_limit", |_| {
        let (resource, limit) = (nix::sys::resource::Resource::RLIMIT_NOFILE, 1024);
        Ok(nix::sys::resource::setrlimit(resource, limit, limit)?)
    }),
    twice("run_a_program", |_| {
        let error = std::os::unix::process::CommandExt::exec(&mut Command::new("/bin/true"));
        Err(error)
    }),
    once("start_a_process", |_| {
        // SAFETY: there is one thread, and the child only ends.
        match unsafe { libc::fork() } {
            // SAFETY: ends the child at once.
            0 => unsafe { libc::_exit(0) },
            pid => check(pid),
        }
    }),
    once("start_a_thread", |_| {
        std::thread::Builder::new().spawn(|| {})?.join().unwrap();
        Ok(())
    }),
    once("make_memory_executable", |_| {
        let prot = libc::PROT_READ | libc::PROT_EXEC;
        map(prot, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
    }),
    once("make_shared_memory", |_| {
        map(libc::PROT_READ, libc::MAP_SHARED | libc::MAP_ANONYMOUS)
    }),
    once("ask_kvm_what_no_sandbox_asks", |scene| {
        const KVM_GET_API_VERSION: libc::c_ulong = 0xae00;
        // SAFETY: takes no argument and returns a number.
        check(unsafe { libc::ioctl(scene.kvm, KVM_GET_API_VERSION, 0) })
    }),
    once("take_the_filter_off", |_| {
        // SAFETY: a plain number.
        check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) })
    }),
];

fn check(result: libc::c_int) -> io::Result<()> {
    Ok(nix::errno::Errno::result(result).map(drop)?)
}

fn map(protection: libc::c_int, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: a new mapping somewhere, which nothing uses.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What an attacker could reach outside.
struct Scene {
    folder: PathBuf,
    port: u16,
    victim: libc::pid_t,
    /// Address of readable memory in the victim.
    victim_memory: usize,
    kvm: libc::c_int,
}

impl Scene {
    fn abstract_socket(&self) -> SocketAddr {
        SocketAddr::from_abstract_name(self.folder.as_os_str().as_encoded_bytes()).unwrap()
    }
}

/// The conditions of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walls {
    Nothing,
    WithoutFilter,
    MainThread,
    VcpuThread,
    WithoutRootAndFilter,
    WithoutRoot,
}

impl Walls {
    const ALL: [Self; 6] = [
        Self::Nothing,
        Self::WithoutFilter,
        Self::MainThread,
        Self::VcpuThread,
        Self::WithoutRootAndFilter,
        Self::WithoutRoot,
    ];

    fn without_root(self) -> bool {
        matches!(self, Self::WithoutRootAndFilter | Self::WithoutRoot)
    }

    fn without_filter(self) -> bool {
        matches!(self, Self::WithoutFilter | Self::WithoutRootAndFilter)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--attempt") {
        attempt(&arguments[1..]);
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let wanted = ATTEMPTS
        .iter()
        .filter(|attempt| filter.is_none_or(|filter| attempt.name.contains(filter.as_str())));
    let mut failed = 0;
    for attempt in wanted {
        let complaints: Vec<_> = Walls::ALL
            .into_iter()
            .filter_map(|walls| judge(attempt, walls))
            .collect();
        let verdict = if complaints.is_empty() {
            "ok"
        } else {
            "FAILED"
        };
        println!("test {} ... {verdict}", attempt.name);
        complaints.iter().for_each(|text| println!("    {text}"));
        failed += complaints.len();
    }
    ExitCode::from(u8::from(failed > 0))
}

/// What is wrong with an attempt's result, if anything.
fn judge(attempt: &Attempt, walls: Walls) -> Option<String> {
    let root = geteuid().is_root();
    // Without root there is less to lose, and there are fewer obstacles.
    if !root && (matches!(walls, Walls::Nothing | Walls::WithoutFilter) || walls.without_root())
        || walls.without_filter() && !attempt.second_line
    {
        return None;
    }
    let status = stage(attempt.name, walls);
    let right = match walls {
        Walls::Nothing => status.code() == Some(0),
        Walls::WithoutFilter | Walls::WithoutRootAndFilter => status.code() == Some(REFUSED),
        Walls::MainThread | Walls::VcpuThread | Walls::WithoutRoot => {
            status.signal() == Some(libc::SIGSYS)
        }
    };
    (!right).then(|| format!("{walls:?}: {status}"))
}

/// Prepares the conditions and runs the attempt.
fn stage(name: &str, walls: Walls) -> ExitStatus {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("memory"), "secret").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut victim = Killed(Command::new("sleep").arg("60").spawn().unwrap());
    let scene = Scene {
        folder: folder.path().into(),
        port: tcp.local_addr().unwrap().port(),
        victim: libc::pid_t::try_from(victim.0.id()).unwrap(),
        victim_memory: 0,
        kvm: -1,
    };
    let _unix = UnixListener::bind_addr(&scene.abstract_socket()).unwrap();
    let mut process = Command::new(std::env::current_exe().unwrap());
    process
        .args(["--attempt", name, &format!("{walls:?}")])
        .arg(&scene.folder)
        .args([scene.port.to_string(), scene.victim.to_string()]);
    let status = if walls == Walls::Nothing || walls.without_root() {
        process.status()
    } else {
        in_new_pid_namespace(|| process.status())
    };
    // The attempt must not have harmed the victim.
    assert!(victim.0.try_wait().unwrap().is_none(), "the victim is dead");
    status.unwrap()
}

fn in_new_pid_namespace<T>(start: impl FnOnce() -> T) -> T {
    let own = File::open("/proc/self/ns/pid").unwrap();
    if unshare(CloneFlags::CLONE_NEWPID).is_err() {
        return start();
    }
    let started = start();
    setns(&own, CloneFlags::CLONE_NEWPID).unwrap();
    started
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Becomes an ordinary user, as somebody who starts a sandbox without root.
fn give_root_up() {
    let nobody = 65_534;
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setresgid(nobody.into(), nobody.into(), nobody.into()).unwrap();
    nix::unistd::setresuid(nobody.into(), nobody.into(), nobody.into()).unwrap();
    // A process may be inspected by its own user.
    nix::sys::prctl::set_dumpable(true).unwrap();
}

/// Address of a process's first mapping.
fn first_mapping(pid: &str) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    usize::from_str_radix(maps.split('-').next().unwrap(), 16).unwrap()
}

/// The attacker's process.
fn attempt(arguments: &[String]) -> ! {
    let [name, walls, folder, port, victim] = arguments else {
        panic!("{arguments:?}")
    };
    let attempt = ATTEMPTS.iter().find(|a| a.name == *name).unwrap();
    let walls = Walls::ALL
        .into_iter()
        .find(|w| format!("{w:?}") == *walls)
        .unwrap();
    let resources = HostResources::open(None).unwrap();
    let scene = Scene {
        folder: folder.into(),
        port: port.parse().unwrap(),
        victim: victim.parse().unwrap(),
        victim_memory: first_mapping(victim),
        kvm: resources.kvm.as_raw_fd(),
    };
    if walls.without_root() {
        give_root_up();
        let jail = jail::enter(None).unwrap();
        let missing: Vec<_> = jail.missing.iter().map(|missing| missing.part).collect();
        assert!(missing.contains(&JailPart::User), "{jail}");
        assert!(!missing.contains(&JailPart::Landlock), "{jail}");
    } else if walls != Walls::Nothing {
        let id = 1_700_000_000 + std::process::id();
        let identity = geteuid().is_root().then(|| Identity::new(id, id).unwrap());
        let jail = jail::enter(identity).unwrap();
        assert!(jail.is_complete() || identity.is_none(), "{jail}");
    }
    let filters = Filters::new(Mismatch::Kill, NO_MAILBOX).unwrap();
    match walls {
        Walls::Nothing | Walls::WithoutFilter | Walls::WithoutRootAndFilter => {}
        Walls::MainThread | Walls::WithoutRoot => filters.main.install().unwrap(),
        Walls::VcpuThread => filters.vcpu.install().unwrap(),
    }
    let status = match (attempt.run)(&scene) {
        Ok(()) => 0,
        Err(_) => REFUSED,
    };
    // SAFETY: ends the process at once; there is nothing to clean up.
    unsafe { libc::_exit(status) }
}
