//! From the addresses of a process to guest-physical ones: `/proc/PID/pagemap`
//! (Documentation/admin-guide/mm/pagemap.rst).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use hearth_protocol::sandbox::RandomRange;

use super::registered::State;

const PAGE: u64 = 4096;
/// An entry's bits: the frame's number, and whether there is one.
const FRAME: u64 = (1 << 55) - 1;
const PRESENT: u64 = 1 << 63;
/// Pages of one mapping that are looked at; a mark for forks is one page long.
const MAX_PAGES: u64 = 4096;

/// The page frames of a process.
#[derive(Debug)]
pub(super) struct Frames {
    pagemap: File,
}

impl Frames {
    /// Needs the capability to see frame numbers, which PID 1 has.
    pub(super) fn of(pid: i32) -> io::Result<Self> {
        let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
        Ok(Self { pagemap })
    }

    /// The frames behind `range`, as addresses, of those pages that there are.
    pub(super) fn present(&self, range: Range<u64>) -> io::Result<Vec<u64>> {
        let pages = range.start / PAGE..range.end.div_ceil(PAGE);
        let mut frames = Vec::new();
        for page in pages.take(usize::try_from(MAX_PAGES).expect("it is small")) {
            frames.extend(self.frame(page)?);
        }
        Ok(frames)
    }

    /// Where a generator's state is in guest memory: one range for each page that it lies on.
    pub(super) fn ranges(&self, state: &State) -> io::Result<Vec<RandomRange>> {
        let mut ranges = Vec::new();
        let end = state.address + u64::from(state.len);
        let mut at = state.address;
        while at < end {
            let next = ((at / PAGE + 1) * PAGE).min(end);
            let frame = self.frame(at / PAGE)?.ok_or_else(|| {
                io::Error::other(format!("no page at {at:#x}, where a generator's state is"))
            })?;
            ranges.push(RandomRange {
                address: frame + at % PAGE,
                len: u32::try_from(next - at).expect("at most a page"),
            });
            at = next;
        }
        Ok(ranges)
    }

    fn frame(&self, page: u64) -> io::Result<Option<u64>> {
        let mut entry = [0; 8];
        self.pagemap.read_exact_at(&mut entry, page * 8)?;
        let entry = u64::from_le_bytes(entry);
        match entry & FRAME {
            frame @ 1.. if entry & PRESENT != 0 => Ok(Some(frame * PAGE)),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_crosses_pages_becomes_a_range_for_each() {
        let own = i32::try_from(std::process::id()).unwrap();
        let bytes = vec![7u8; 3 * 4096];
        let start = (bytes.as_ptr() as u64).next_multiple_of(PAGE) + PAGE - 100;
        let state = State {
            address: start,
            len: 2496,
        };
        // Frame numbers are for root alone.
        let Ok(ranges) = Frames::of(own).unwrap().ranges(&state) else {
            assert_ne!(
                nix::unistd::geteuid().as_raw(),
                0,
                "root can see frame numbers"
            );
            return;
        };
        let lens: Vec<_> = ranges.iter().map(|range| range.len).collect();
        assert_eq!(lens, [100, 2396]);
        assert_eq!(ranges[0].address % PAGE, PAGE - 100);
        assert_eq!(ranges[1].address % PAGE, 0);
    }
}
