//! What must be different in each microVM that is restored from one snapshot: the state of random
//! generators.
//!
//! Restored microVMs are copies. A generator whose state lies in guest memory would produce the same
//! numbers in each of them: the same keys, the same nonces. Three things are done about that, and all of
//! them before a vCPU runs, so that no thread of the guest is faster:
//!
//! * *The guest kernel's generator.* Each boot and each restore fills the page at
//!   [`layout::RESTORE_SEED`] with random bytes. The guest kernel compares them with those that it took
//!   last before it makes a number, and reseeds when they differ (`restore-seed.patch`).
//! * *Generators that the agent knows the address of* ([`RandomRange`]): each restore fills their state
//!   with random bytes.
//! * *Generators that reseed themselves from the kernel when they have to.* When the snapshot is written,
//!   they are put into the state in which they have to: pages that processes marked with
//!   `MADV_WIPEONFORK` become zeros (BoringSSL, AWS-LC, s2n and the C library's `getrandom` watch such a
//!   page), and OpenSSL's generators are marked as used up ([`expire_openssl`]).
//!
//! Guest memory is hostile. It is searched for bytes and compared with constants; nothing in it is
//! followed as a pointer.

use std::io;

use hearth_protocol::sandbox::{
    MAX_RANDOM_RANGE, MAX_RANDOM_RANGES, MAX_ZERO_PAGES, RandomRange, Snapshot,
};
use nix::errno::Errno;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use crate::boot::layout;
use crate::memory::{GuestMemory, PAGE};

/// Bytes of [`layout::RESTORE_SEED`] that the guest kernel reads.
const SEED: usize = 64;

/// Why a list of what is to be different can't be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum UniqueError {
    #[error("{0} pages to be zeroed, the limit is {MAX_ZERO_PAGES}")]
    ZeroPages(usize),
    #[error("{0} ranges of random bytes, the limit is {MAX_RANDOM_RANGES}")]
    RandomRanges(usize),
    #[error("a range of {0} random bytes; it must be 1 to {MAX_RANDOM_RANGE}")]
    Length(u32),
    #[error("{len} bytes at {address:#x} are not in guest memory")]
    Outside { address: u64, len: u32 },
    #[error("{0:#x} is not the address of a page")]
    Unaligned(u64),
}

/// Refuses a list that is too long or names memory that the guest does not have.
pub fn check(memory: &GuestMemory, unique: &Snapshot) -> Result<(), UniqueError> {
    if unique.zero_pages.len() > MAX_ZERO_PAGES {
        return Err(UniqueError::ZeroPages(unique.zero_pages.len()));
    }
    for &address in &unique.zero_pages {
        if address % PAGE as u64 != 0 {
            return Err(UniqueError::Unaligned(address));
        }
        let len = u32::try_from(PAGE).expect("a page is small");
        inside(memory, RandomRange { address, len })?;
    }
    check_ranges(memory, &unique.random_ranges)
}

/// The same for what a state file has.
pub fn check_ranges(memory: &GuestMemory, ranges: &[RandomRange]) -> Result<(), UniqueError> {
    if ranges.len() > MAX_RANDOM_RANGES {
        return Err(UniqueError::RandomRanges(ranges.len()));
    }
    for range in ranges {
        if !(1..=MAX_RANDOM_RANGE).contains(&range.len) {
            return Err(UniqueError::Length(range.len));
        }
        inside(memory, *range)?;
    }
    Ok(())
}

fn inside(memory: &GuestMemory, range: RandomRange) -> Result<(), UniqueError> {
    let RandomRange { address, len } = range;
    if memory.check_range(GuestAddress(address), len as usize) {
        return Ok(());
    }
    Err(UniqueError::Outside { address, len })
}

/// Gives the guest kernel a seed, and each of `ranges` new content. Must come before a vCPU runs.
pub fn make_unique(memory: &GuestMemory, ranges: &[RandomRange]) -> io::Result<()> {
    let mut bytes = [0; MAX_RANDOM_RANGE as usize];
    let seed = RandomRange {
        address: layout::RESTORE_SEED.0,
        len: u32::try_from(SEED).expect("the seed is small"),
    };
    for range in std::iter::once(&seed).chain(ranges) {
        let bytes = &mut bytes[..range.len as usize];
        fill(bytes)?;
        memory
            .write_slice(bytes, GuestAddress(range.address))
            .map_err(|error: GuestMemoryError| io::Error::other(error))?;
    }
    Ok(())
}

/// Fills `bytes` from the host kernel's generator.
fn fill(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: pointer and length are those of a live slice that nothing else refers to.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match Errno::result(got) {
            Ok(got) => filled += usize::try_from(got).expect("a count of bytes"),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// `max_request` of every generator that OpenSSL has.
const MAX_REQUEST: u64 = 1 << 16;
/// OpenSSL's `DRBG_MAX_LENGTH`: what a length is that has no bound.
const MAX_LENGTH: u64 = 0x7fff_ffff;
/// OpenSSL's `MAX_RESEED_INTERVAL`: generate requests until a reseed.
const MAX_RESEED_INTERVAL: u32 = 1 << 24;
/// The intervals, in requests, that OpenSSL's generators are made with.
const RESEED_INTERVALS: [u32; 2] = [1 << 8, 1 << 16];
/// The intervals, in seconds, that OpenSSL's generators are made with.
const RESEED_TIME_INTERVALS: [u64; 2] = [60 * 60, 7 * 60];
/// Times that a generator can have been seeded at: 2015 to 2105, seconds since the epoch.
const RESEED_TIMES: std::ops::Range<u64> = 1_420_000_000..4_260_000_000;

/// Marks each generator of OpenSSL in a page of guest memory as one that has made as many numbers as it
/// may: before the next one it takes a new seed from its parent, and the topmost from the kernel.
///
/// OpenSSL 1.1.1 (`struct rand_drbg_st`) and 3 and 4 (`struct prov_drbg_st`) keep a generator's limits
/// one behind the other, on the heap, in every copy of the library, linked statically or not:
///
/// ```text
/// -56  max_request       0x10000      -24  max_noncelen
/// -48  min_entropylen                 -16  max_perslen
/// -40  max_entropylen                  -8  max_adinlen
/// -32  min_noncelen
///   0  generate_counter, reseed_interval        (two 32-bit numbers)
///  +8  reseed_time       seconds     +16  reseed_time_interval   seconds
/// ```
///
/// A page may end anywhere in between, and the next page of guest-physical memory belongs to somebody
/// else. The two numbers at 0 are aligned and always on one page; what comes before them on that page
/// shows what they are, or, in the first 56 bytes of a page, what comes after them.
fn expire_openssl(page: &mut [u8]) {
    let mut at = 0;
    while at + 8 <= page.len() {
        if let Some(interval) = generator_at(page, at) {
            // It never made more than its interval allows; an interval of 0 would mean "no limit".
            let interval = interval.max(1);
            page[at..at + 4].copy_from_slice(&interval.to_le_bytes());
            page[at + 4..at + 8].copy_from_slice(&interval.to_le_bytes());
        }
        at += 8;
    }
}

/// The reseed interval of the generator whose counters are at `at`.
fn generator_at(page: &[u8], at: usize) -> Option<u32> {
    let word = |at: usize| {
        let bytes = page.get(at..at + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    };
    let counters = word(at)?;
    let interval = u32::try_from(counters >> 32).expect("the upper half");
    let counter = u32::try_from(counters & 0xffff_ffff).expect("the lower half");
    // Cheap, and true of hardly any other eight bytes.
    if interval > MAX_RESEED_INTERVAL || (interval != 0 && counter > interval) {
        return None;
    }
    if at < 56 {
        let first_of_page = RESEED_INTERVALS.contains(&interval)
            && RESEED_TIMES.contains(&word(at + 8)?)
            && RESEED_TIME_INTERVALS.contains(&word(at + 16)?);
        return first_of_page.then_some(interval);
    }
    if word(at - 56)? != MAX_REQUEST {
        return None;
    }
    let mut lengths = [0; 6];
    for (length, at) in lengths.iter_mut().zip((at - 48..at).step_by(8)) {
        *length = word(at)?;
    }
    let [
        min_entropy,
        max_entropy,
        min_nonce,
        max_nonce,
        perslen,
        adinlen,
    ] = lengths;
    let possible = (16..=MAX_LENGTH).contains(&min_entropy)
        && (min_entropy..=MAX_LENGTH).contains(&max_entropy)
        && min_nonce <= max_nonce
        && max_nonce <= MAX_LENGTH
        && (16..=MAX_LENGTH).contains(&perslen)
        && (16..=MAX_LENGTH).contains(&adinlen);
    possible.then_some(interval)
}

/// Applies to the page at `address` what a snapshot has differently from the microVM that it was taken
/// of. `zero_pages` must be sorted.
pub fn for_clones(page: &mut [u8], address: u64, zero_pages: &[u64]) {
    if zero_pages.binary_search(&address).is_ok() {
        page.fill(0);
    } else {
        expire_openssl(page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{self, MemorySize};

    fn memory() -> GuestMemory {
        memory::anonymous(MemorySize::from_mib(128).unwrap()).unwrap()
    }

    /// A generator as OpenSSL 3.0 has it, from `max_request` to what follows `reseed_time_interval`.
    fn generator(counter: u32, interval: u32, time_interval: u64) -> Vec<u8> {
        let counters = u64::from(interval) << 32 | u64::from(counter);
        let words = [
            MAX_REQUEST,
            0x20,
            MAX_LENGTH,
            0x10,
            MAX_LENGTH,
            MAX_LENGTH,
            MAX_LENGTH,
            counters,
            1_796_100_024,
            time_interval,
            0x2_0000_0002,
        ];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn counters(page: &[u8], at: usize) -> (u32, u32) {
        let number = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().unwrap());
        (number(at), number(at + 4))
    }

    #[test]
    fn openssls_generators_are_used_up_wherever_they_lie_on_a_page() {
        let primary = generator(3, 1 << 8, 3600);
        let secondary = generator(2, 1 << 16, 420);
        for (generator, interval) in [(&primary, 1 << 8), (&secondary, 1 << 16)] {
            // From a generator of which the page has its last words only, to one of which it has the
            // first ones. The counters are the eighth word.
            for start in (-56_isize..=4032).step_by(8) {
                let mut page = vec![0xa5; PAGE];
                for (place, byte) in (start..).zip(generator) {
                    if let Some(to) = usize::try_from(place).ok().and_then(|at| page.get_mut(at)) {
                        *to = *byte;
                    }
                }
                let at = usize::try_from(start + 56).unwrap();
                expire_openssl(&mut page);
                assert_eq!(counters(&page, at), (interval, interval), "at {at}");
            }
        }
    }

    #[test]
    fn a_generator_without_a_limit_gets_one() {
        let mut page = vec![0; PAGE];
        page[64..64 + 88].copy_from_slice(&generator(7, 0, 0));
        expire_openssl(&mut page);
        assert_eq!(counters(&page, 64 + 56), (1, 1));
    }

    #[test]
    fn memory_that_is_no_generator_stays_as_it_is() {
        let mut pages = vec![vec![0; PAGE], vec![0xff; PAGE]];
        // Counters of another kind, and lengths that no generator has.
        for (word, value) in [(0, 0x1_0001), (8, 8), (16, 1 << 31), (40, 3), (48, 0)] {
            let mut page = vec![0; PAGE];
            page[64..64 + 88].copy_from_slice(&generator(3, 1 << 8, 3600));
            page[64 + word..64 + word + 8].copy_from_slice(&u64::to_le_bytes(value));
            pages.push(page);
        }
        let mut random = vec![0; PAGE];
        fill(&mut random).unwrap();
        pages.push(random);
        for page in &mut pages {
            let before = page.clone();
            expire_openssl(page);
            assert!(*page == before);
        }
    }

    #[test]
    fn named_pages_are_zero_and_others_are_not() {
        let mut page = vec![7; PAGE];
        for_clones(&mut page, 0x5000, &[0x1000, 0x6000]);
        assert_eq!(page, vec![7; PAGE]);
        for_clones(&mut page, 0x6000, &[0x1000, 0x6000]);
        assert_eq!(page, vec![0; PAGE]);
    }

    #[test]
    fn lists_that_are_too_long_or_leave_the_guests_memory_are_refused() {
        let memory = memory();
        let end = 128 << 20;
        let zero = |pages: Vec<u64>| Snapshot {
            zero_pages: pages,
            random_ranges: Vec::new(),
        };
        let random = |address, len| Snapshot {
            zero_pages: Vec::new(),
            random_ranges: vec![RandomRange { address, len }],
        };
        for refused in [
            zero(vec![end]),
            zero(vec![u64::MAX - 4095]),
            zero(vec![1]),
            zero(vec![0; MAX_ZERO_PAGES + 1]),
            random(end - 1, 2),
            random(u64::MAX, 1),
            random(0, 0),
            random(0, MAX_RANDOM_RANGE + 1),
            Snapshot {
                zero_pages: Vec::new(),
                random_ranges: vec![RandomRange { address: 0, len: 1 }; MAX_RANDOM_RANGES + 1],
            },
        ] {
            assert!(check(&memory, &refused).is_err(), "{refused:?}");
        }
        for taken in [
            zero(vec![0, end - 4096]),
            random(end - 1, 1),
            random(20, MAX_RANDOM_RANGE),
        ] {
            check(&memory, &taken).unwrap();
        }
    }

    #[test]
    fn each_time_seed_and_ranges_are_others_and_nothing_else_is() {
        let memory = memory();
        let range = RandomRange {
            address: 0x50_0014,
            len: 2496,
        };
        let read = |address, len| {
            let mut bytes = vec![0; len];
            memory
                .read_slice(&mut bytes, GuestAddress(address))
                .unwrap();
            bytes
        };
        let mut seen = std::collections::HashSet::new();
        for _ in 0..50 {
            make_unique(&memory, &[range]).unwrap();
            assert!(seen.insert(read(layout::RESTORE_SEED.0, SEED)));
            assert!(seen.insert(read(range.address, 2496)));
        }
        assert_eq!(read(range.address - 20, 20), vec![0; 20]);
        assert_eq!(read(range.address + 2496, 20), vec![0; 20]);
        assert_eq!(read(layout::RESTORE_SEED.0 - 8, 8), vec![0; 8]);
        assert_eq!(read(layout::RESTORE_SEED.0 + SEED as u64, 8), vec![0; 8]);
    }
}
