//! The function's processes, read from `/proc`: what code they have mapped, and which of their pages
//! are zero in a fork's child.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::path::PathBuf;

/// A process, as far as random generators are concerned.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) threads: usize,
    /// Files that it has mapped to execute, each once.
    pub(super) code: Vec<CodeFile>,
    /// Addresses marked with `MADV_WIPEONFORK`, which `MAP_DROPPABLE` implies.
    pub(super) wipe_on_fork: Vec<Range<u64>>,
}

/// A file that a process executes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CodeFile {
    /// Device and inode, as `/proc/PID/maps` writes them.
    pub(super) identity: (String, u64),
    /// As the process knows it; it may have been renamed or deleted since.
    pub(super) path: String,
    /// Opens exactly this file, whatever its path leads to by now.
    pub(super) link: PathBuf,
}

/// Every process with memory of its own but this one. `image` is the device of the runtime's image.
///
/// Marks for forks are looked for only where a process runs code that is not the image's: nothing in the
/// image makes them, and their list (`smaps`) takes seconds where the guest kernel is interpreted.
pub(super) fn all(image: &str) -> io::Result<Vec<Process>> {
    let own = std::process::id();
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid == own {
            continue;
        }
        let pid = i32::try_from(pid).map_err(io::Error::other)?;
        let read = File::open(format!("/proc/{pid}/maps")).and_then(|maps| {
            let mut process = parse(pid, BufReader::new(maps))?;
            if process.code.iter().any(|file| file.identity.0 != image) {
                let smaps = File::open(format!("/proc/{pid}/smaps"))?;
                process = parse(pid, BufReader::new(smaps))?;
            }
            let threads = fs::read_dir(format!("/proc/{pid}/task"))?.count();
            Ok(Process { threads, ..process })
        });
        match read {
            Ok(process) if process.code.is_empty() && process.wipe_on_fork.is_empty() => {}
            Ok(process) => processes.push(process),
            // It ended while it was looked at.
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(processes)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Parses `/proc/PID/maps`, or `smaps` (proc_pid_smaps(5)), which has the figures of each mapping below its
/// line; the last are its flags.
fn parse(pid: i32, smaps: impl BufRead) -> io::Result<Process> {
    let mut code = BTreeMap::new();
    let mut wipe_on_fork = Vec::new();
    let mut current = None;
    for line in smaps.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if let Some(range) = current.take()
                && flags.split_ascii_whitespace().any(|flag| flag == "wf")
            {
                wipe_on_fork.push(range);
            }
            continue;
        }
        let Some(mapping) = Mapping::parse(&line) else {
            continue;
        };
        current = Some(mapping.addresses.clone());
        if mapping.executable && mapping.inode != 0 {
            let Range { start, end } = mapping.addresses;
            let identity = (mapping.device.to_owned(), mapping.inode);
            code.entry(identity.clone()).or_insert_with(|| CodeFile {
                identity,
                path: mapping.path.to_owned(),
                link: format!("/proc/{pid}/map_files/{start:x}-{end:x}").into(),
            });
        }
    }
    Ok(Process {
        pid,
        threads: 1,
        code: code.into_values().collect(),
        wipe_on_fork,
    })
}

/// The first line of a mapping.
struct Mapping<'a> {
    addresses: Range<u64>,
    executable: bool,
    device: &'a str,
    inode: u64,
    path: &'a str,
}

impl<'a> Mapping<'a> {
    /// `None` for any other line.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let addresses = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
        let permissions = fields.next()?;
        let _offset = fields.next()?;
        let device = fields.next()?;
        let inode = fields.next()?.parse().ok()?;
        Some(Self {
            addresses,
            executable: permissions.contains('x'),
            device,
            inode,
            path: fields.next().unwrap_or_default().trim_start(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0c0a00000-55d0c0a21000 r-xp 00001000 fe:00 1234                       /usr/bin/python3.11
Size:                132 kB
VmFlags: rd ex mr mw me sd
55d0c0b00000-55d0c0b21000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
VmFlags: rd wr mr mw me ac sd
7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n\
Size:                  4 kB
VmFlags: rd wr mr mw me wf ac sd
7f0000002000-7f0000003000 r-xp 00000000 fe:10 7                          /var/task/a b (deleted)
VmFlags: rd ex mr mw me sd
7f0000004000-7f0000005000 r-xp 00002000 fe:10 7                          /var/task/a b (deleted)
VmFlags: rd ex mr mw me sd
7ffc00000000-7ffc00002000 r-xp 00000000 00:00 0                          [vdso]
VmFlags: rd ex mr mw me de sd
";

    #[test]
    fn code_is_listed_once_per_file_and_wiped_pages_are_found() {
        let process = parse(42, SMAPS.as_bytes()).unwrap();
        let paths: Vec<_> = process.code.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["/usr/bin/python3.11", "/var/task/a b (deleted)"]);
        assert_eq!(
            process.code[1].link,
            PathBuf::from("/proc/42/map_files/7f0000002000-7f0000003000")
        );
        let marked: Vec<_> = process
            .wipe_on_fork
            .iter()
            .map(|r| (r.start, r.end))
            .collect();
        assert_eq!(marked, [(0x7f00_0000_0000, 0x7f00_0000_1000)]);
    }

    #[test]
    fn a_page_that_was_marked_is_found_in_a_real_process() {
        let page = 4096;
        // SAFETY: a new mapping, whose address nobody else has.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                page,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED);
        // SAFETY: advice about the mapping that was just made.
        assert_eq!(unsafe { libc::madvise(at, page, libc::MADV_WIPEONFORK) }, 0);
        let smaps = BufReader::new(File::open("/proc/self/smaps").unwrap());
        let process = parse(1, smaps).unwrap();
        let start = at as u64;
        assert!(
            process
                .wipe_on_fork
                .iter()
                .any(|range| range.contains(&start)),
            "{process:?}"
        );
        assert!(!process.code.is_empty());
        // SAFETY: nothing refers to the mapping any more.
        unsafe { libc::munmap(at, page) };
    }
}
