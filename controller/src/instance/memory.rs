//! What a sandbox process has of the host's memory, from `/proc/PID/smaps_rollup`.
//!
//! Reading that makes the kernel walk the process's pages: for listings and for instances that are
//! about to be killed, never on an invocation's ordinary way.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// Proportional set size in KiB: shared pages count by their share. `None` when the process is gone
/// or not ours.
pub(crate) fn pss_kib(pid: u32) -> Option<u64> {
    field(&rollup(pid)?, "Pss:")
}

/// Bytes that no other process has: what the guest wrote, and the sandbox's own.
pub(crate) fn private_bytes(pid: u32) -> Option<u64> {
    let text = rollup(pid)?;
    Some((field(&text, "Private_Dirty:")? + field(&text, "Private_Clean:")?) * 1024)
}

/// About the same of one process, cheap enough for every invocation: pages that are not the page
/// cache's, from a file that stays open.
#[derive(Debug, Default)]
pub(super) struct OwnPages(Option<File>);

impl OwnPages {
    /// How much memory that is. `pid` is always the same.
    pub(super) fn bytes(&mut self, pid: u32) -> Option<u64> {
        let file = match &mut self.0 {
            Some(file) => file,
            none => none.insert(File::open(format!("/proc/{pid}/statm")).ok()?),
        };
        // Seven numbers.
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
