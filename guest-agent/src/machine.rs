//! Prepares the machine for a function: file systems, loopback, host name. Done once, before the runtime
//! snapshot, so that no request waits for it.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Why the machine could not be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    #[error("mounting {fs} at {target}: {source}")]
    Mount {
        fs: &'static str,
        target: String,
        source: Errno,
    },
    #[error("creating {path}: {source}")]
    Create {
        path: String,
        source: std::io::Error,
    },
    #[error("bringing up the loopback interface: {0}")]
    Loopback(Errno),
    #[error("reading {NAME_FILE}: {0}")]
    HostnameFile(std::io::Error),
    #[error("setting the host name: {0}")]
    Hostname(Errno),
}

/// The image's file with the guest's name, which `/etc/hosts` resolves.
const NAME_FILE: &str = "/etc/hostname";

/// Mounts the file systems, brings up loopback, and sets the host name.
pub(crate) fn prepare() -> Result<(), MachineError> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_at("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755")?;
    // A function sees its own processes only, and not the agent.
    mount_at("proc", "/proc", quiet, "hidepid=invisible")?;
    mount_at("sysfs", "/sys", quiet | MsFlags::MS_RDONLY, "")?;
    mount_at("cgroup2", "/sys/fs/cgroup", quiet, "")?;
    mount_at("tmpfs", "/run", quiet, "mode=0755,size=1m")?;
    create_dir("/dev/shm")?;
    // For the semaphores of Python's multiprocessing.
    mount_at(
        "tmpfs",
        "/dev/shm",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        "mode=1777",
    )?;
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        match symlink(target, link) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(MachineError::Create {
                    path: link.to_owned(),
                    source: e,
                });
            }
            _ => {}
        }
    }
    for (switch, value) in [
        // A function must not read the guest kernel's log.
        ("kernel/dmesg_restrict", "1"),
        // When memory runs out, the guest kernel need not print the list of all processes.
        ("vm/oom_dump_tasks", "0"),
    ] {
        // A kernel without this setting works as well.
        let _ = fs::write(Path::new("/proc/sys").join(switch), value);
    }
    loopback_up()?;
    let name = fs::read_to_string(NAME_FILE).map_err(MachineError::HostnameFile)?;
    nix::unistd::sethostname(name.trim_end()).map_err(MachineError::Hostname)
}

/// Mounts `/tmp` with the function's configured size.
pub(crate) fn mount_tmp(size_mib: u32) -> Result<(), MachineError> {
    mount_at(
        "tmpfs",
        "/tmp",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        &format!("mode=1777,size={size_mib}m"),
    )
}

/// Mounts a read-only image.
pub(crate) fn mount_image(device: &str, target: &str) -> Result<(), MachineError> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some(device), target, Some("erofs"), flags, None::<&str>).map_err(|source| {
        MachineError::Mount {
            fs: "erofs",
            target: target.to_owned(),
            source,
        }
    })
}

fn mount_at(
    fs: &'static str,
    target: &str,
    flags: MsFlags,
    data: &str,
) -> Result<(), MachineError> {
    let data = (!data.is_empty()).then_some(data);
    match mount(Some(fs), target, Some(fs), flags, data) {
        // The kernel mounts devtmpfs by itself if it is configured to.
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(source) => Err(MachineError::Mount {
            fs,
            target: target.to_owned(),
            source,
        }),
    }
}

fn create_dir(path: &str) -> Result<(), MachineError> {
    if Path::new(path).is_dir() {
        return Ok(());
    }
    fs::create_dir(path).map_err(|source| MachineError::Create {
        path: path.to_owned(),
        source,
    })
}

/// Sets `IFF_UP` on `lo`; the kernel then gives it 127.0.0.1/8 by itself.
fn loopback_up() -> Result<(), MachineError> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(MachineError::Loopback)?;
    // SAFETY: an all-zero ifreq is a valid one: an empty name and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = from.cast_signed();
    }
    let up = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = i16::try_from(up).expect("the flags are 0x41");
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which `request` is, and keeps no pointer to it.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) };
    Errno::result(result)
        .map(drop)
        .map_err(MachineError::Loopback)
}
