//! The records of a ZIP archive: APPNOTE.TXT 6.3.10, section 4.3.
//!
//! The archive itself gives the offset of each record, so every read is checked. What the numbers
//! mean is checked in `archive`.

use super::FunctionError;

const END_SIGNATURE: u32 = 0x0605_4b50;
const END_LENGTH: usize = 22;
const END64_SIGNATURE: u32 = 0x0606_4b50;
const END64_LENGTH: usize = 56;
const END64_LOCATOR_SIGNATURE: u32 = 0x0706_4b50;
const END64_LOCATOR_LENGTH: usize = 20;
const CENTRAL_SIGNATURE: u32 = 0x0201_4b50;
const CENTRAL_LENGTH: usize = 46;
const LOCAL_SIGNATURE: u32 = 0x0403_4b50;
const LOCAL_LENGTH: usize = 30;
const ZIP64_EXTRA: u16 = 0x0001;

/// An archive's bytes, with checked little-endian reads.
#[derive(Debug, Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn slice(self, at: usize, length: usize, what: &str) -> Result<&'a [u8], FunctionError> {
        at.checked_add(length)
            .and_then(|end| self.0.get(at..end))
            .ok_or_else(|| FunctionError::damaged(format!("{what} at {at} is cut off")))
    }

    fn u16(self, at: usize) -> u16 {
        u16::from_le_bytes(self.0[at..at + 2].try_into().expect("two bytes"))
    }

    fn u32(self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }

    fn u64(self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }
}

/// The location of the central directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Directory {
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) entries: u64,
    /// Offset of the end records, at which the central directory must end.
    pub(super) end: u64,
}

/// Finds the end-of-archive record, or its 64-bit form.
pub(super) fn directory(data: &[u8]) -> Result<Directory, FunctionError> {
    let at = find_end(data).ok_or(FunctionError::NotAnArchive { size: data.len() })?;
    let record = Bytes(&data[at..at + END_LENGTH]);
    let small = Directory {
        offset: u64::from(record.u32(16)),
        size: u64::from(record.u32(12)),
        entries: u64::from(record.u16(10)),
        end: at as u64,
    };
    if record.u16(4) != 0 || record.u16(6) != 0 || record.u16(8) != record.u16(10) {
        // A 64-bit archive may have 0xffff as disk numbers too.
        let all_ones = |value: u16| value == 0 || value == u16::MAX;
        if !all_ones(record.u16(4)) || !all_ones(record.u16(6)) {
            return Err(FunctionError::damaged("it is a part of a split archive"));
        }
        if record.u16(8) != record.u16(10) {
            return Err(FunctionError::damaged(
                "its end record has two entry counts",
            ));
        }
    }
    let needs_64 = small.offset == u64::from(u32::MAX)
        || small.size == u64::from(u32::MAX)
        || small.entries == u64::from(u16::MAX);
    let large = end_64(data, at)?;
    match (large, needs_64) {
        (None, false) => Ok(small),
        (None, true) => Err(FunctionError::damaged("its 64-bit end record is missing")),
        (Some(large), _) => {
            let agrees = |small: u64, large: u64, unknown: u64| small == large || small == unknown;
            if agrees(small.offset, large.offset, u64::from(u32::MAX))
                && agrees(small.size, large.size, u64::from(u32::MAX))
                && agrees(small.entries, large.entries, u64::from(u16::MAX))
            {
                Ok(large)
            } else {
                Err(FunctionError::damaged(
                    "its two end records contradict each other",
                ))
            }
        }
    }
}

/// The end record is at the end of the archive. Only a comment of the stated length follows it.
fn find_end(data: &[u8]) -> Option<usize> {
    let last = data.len().checked_sub(END_LENGTH)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    (first..=last).rev().find(|&at| {
        let record = Bytes(&data[at..]);
        record.u32(0) == END_SIGNATURE
            && at + END_LENGTH + usize::from(record.u16(20)) == data.len()
    })
}

/// The 64-bit end record, if there is a locator before the ordinary end record at `end`.
fn end_64(data: &[u8], end: usize) -> Result<Option<Directory>, FunctionError> {
    let Some(locator_at) = end.checked_sub(END64_LOCATOR_LENGTH) else {
        return Ok(None);
    };
    let locator = Bytes(&data[locator_at..end]);
    if locator.u32(0) != END64_LOCATOR_SIGNATURE {
        return Ok(None);
    }
    let at = usize::try_from(locator.u64(8)).unwrap_or(usize::MAX);
    let what = "the 64-bit end record";
    let record = Bytes(Bytes(&data[..locator_at]).slice(at, END64_LENGTH, what)?);
    if record.u32(0) != END64_SIGNATURE {
        return Err(FunctionError::damaged(
            "its 64-bit end record is not where it should be",
        ));
    }
    if locator.u32(4) != 0 || record.u32(16) != 0 || record.u32(20) != 0 {
        return Err(FunctionError::damaged("it is a part of a split archive"));
    }
    if record.u64(24) != record.u64(32) {
        return Err(FunctionError::damaged(
            "its end record has two entry counts",
        ));
    }
    Ok(Some(Directory {
        offset: record.u64(48),
        size: record.u64(40),
        entries: record.u64(32),
        end: at as u64,
    }))
}

/// An entry of the central directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Central<'a> {
    pub(super) name: &'a [u8],
    /// The system on which the archive was made; 3 is Unix.
    pub(super) made_on: u8,
    pub(super) flags: u16,
    pub(super) method: u16,
    pub(super) crc: u32,
    pub(super) packed: u64,
    pub(super) unpacked: u64,
    pub(super) attributes: u32,
    pub(super) local_offset: u64,
    /// Offset of the next entry.
    pub(super) next: usize,
}

/// Reads the entry at offset `at` of the central directory `directory`.
pub(super) fn central(directory: &[u8], at: usize) -> Result<Central<'_>, FunctionError> {
    let what = "a directory entry";
    let fixed = Bytes(Bytes(directory).slice(at, CENTRAL_LENGTH, what)?);
    if fixed.u32(0) != CENTRAL_SIGNATURE {
        return Err(FunctionError::damaged(format!(
            "{what} at {at} has a wrong signature"
        )));
    }
    let name_at = at + CENTRAL_LENGTH;
    let name = Bytes(directory).slice(name_at, usize::from(fixed.u16(28)), what)?;
    let extra_at = name_at + name.len();
    let extra = Bytes(directory).slice(extra_at, usize::from(fixed.u16(30)), what)?;
    let comment_at = extra_at + extra.len();
    let comment = Bytes(directory).slice(comment_at, usize::from(fixed.u16(32)), what)?;

    let mut unpacked = u64::from(fixed.u32(24));
    let mut packed = u64::from(fixed.u32(20));
    let mut local_offset = u64::from(fixed.u32(42));
    let wide = [&mut unpacked, &mut packed, &mut local_offset];
    widen(extra, wide)?;
    let disk = fixed.u16(34);
    if disk != 0 && disk != u16::MAX {
        return Err(FunctionError::damaged("it is a part of a split archive"));
    }
    Ok(Central {
        name,
        made_on: fixed.0[5],
        flags: fixed.u16(8),
        method: fixed.u16(10),
        crc: fixed.u32(16),
        packed,
        unpacked,
        attributes: fixed.u32(38),
        local_offset,
        next: comment_at + comment.len(),
    })
}

/// The local header before an entry's data.
#[derive(Debug, Clone, Copy)]
pub(super) struct Local<'a> {
    pub(super) name: &'a [u8],
    pub(super) flags: u16,
    pub(super) method: u16,
    pub(super) crc: u32,
    pub(super) packed: u64,
    pub(super) unpacked: u64,
    /// Offset of the data.
    pub(super) data: usize,
}

/// Reads the local header at offset `at` of the archive.
pub(super) fn local(data: &[u8], at: u64) -> Result<Local<'_>, FunctionError> {
    let what = "an entry's header";
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    let fixed = Bytes(Bytes(data).slice(at, LOCAL_LENGTH, what)?);
    if fixed.u32(0) != LOCAL_SIGNATURE {
        return Err(FunctionError::damaged(format!(
            "{what} at {at} has a wrong signature"
        )));
    }
    let name_at = at + LOCAL_LENGTH;
    let name = Bytes(data).slice(name_at, usize::from(fixed.u16(26)), what)?;
    let extra_at = name_at + name.len();
    let extra = Bytes(data).slice(extra_at, usize::from(fixed.u16(28)), what)?;
    let mut unpacked = u64::from(fixed.u32(22));
    let mut packed = u64::from(fixed.u32(18));
    widen(extra, [&mut unpacked, &mut packed])?;
    Ok(Local {
        name,
        flags: fixed.u16(6),
        method: fixed.u16(8),
        crc: fixed.u32(14),
        packed,
        unpacked,
        data: extra_at + extra.len(),
    })
}

/// Replaces each value that is all ones by its 64-bit form in the extra fields. They are in the
/// order of the values.
fn widen<const N: usize>(extra: &[u8], values: [&mut u64; N]) -> Result<(), FunctionError> {
    let mut fields = extra;
    let mut wide: Option<&[u8]> = None;
    // Too few bytes for another field are padding, which some programs write.
    while let Some((head, rest)) = fields.split_at_checked(4) {
        let (id, length) = (Bytes(head).u16(0), usize::from(Bytes(head).u16(2)));
        let Some((body, rest)) = rest.split_at_checked(length) else {
            return Err(FunctionError::damaged("an extra field is cut off"));
        };
        if id == ZIP64_EXTRA && wide.replace(body).is_some() {
            return Err(FunctionError::damaged(
                "an entry has two 64-bit extra fields",
            ));
        }
        fields = rest;
    }
    let Some(mut wide) = wide else { return Ok(()) };
    for value in values
        .into_iter()
        .filter(|value| **value == u64::from(u32::MAX))
    {
        let Some((number, rest)) = wide.split_at_checked(8) else {
            return Err(FunctionError::damaged("a 64-bit extra field is cut off"));
        };
        *value = Bytes(number).u64(0);
        wide = rest;
    }
    Ok(())
}
