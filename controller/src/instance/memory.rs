//! Measures a sandbox process's memory, from `/proc/PID/smaps_rollup`.
//!
//! To read that file, the kernel walks all pages of the process. So it is read for listings and before an
//! instance is killed, but not in an ordinary invocation.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// Proportional set size in KiB: a page that n processes share counts as 1/n. `None` if the process has
/// ended or belongs to another user.
pub(crate) fn pss_kib(pid: u32) -> Option<u64> {
    field(&rollup(pid)?, "Pss:")
}

/// Bytes of pages that no other process shares: those that the guest has written, and the sandbox's own.
pub(crate) fn private_bytes(pid: u32) -> Option<u64> {
    let text = rollup(pid)?;
    Some((field(&text, "Private_Dirty:")? + field(&text, "Private_Clean:")?) * 1024)
}

/// An approximation of [`private_bytes`] that is cheap enough for every invocation: resident pages that
/// are not in the page cache, from `/proc/PID/statm`, which stays open.
#[derive(Debug, Default)]
pub(super) struct OwnPages(Option<File>);

impl OwnPages {
    /// The approximation. `pid` must be the same in each call.
    pub(super) fn bytes(&mut self, pid: u32) -> Option<u64> {
        let file = match &mut self.0 {
            Some(file) => file,
            none => none.insert(File::open(format!("/proc/{pid}/statm")).ok()?),
        };
        // The file has seven numbers.
        let mut text = [0; 256];
        let len = file.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..len]).ok()?;
        let mut pages = text
            .split_whitespace()
            .skip(1)
            .map_while(|n| n.parse().ok());
        let (resident, shared): (u64, u64) = (pages.next()?, pages.next()?);
        Some(resident.saturating_sub(shared) * 4096)
    }
}

fn rollup(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory() {
        assert!(pss_kib(std::process::id()).unwrap() > 0);
        assert!(private_bytes(std::process::id()).unwrap() > 0);
        assert!(OwnPages::default().bytes(std::process::id()).unwrap() > 0);
        assert_eq!(pss_kib(u32::MAX), None);
    }
}
