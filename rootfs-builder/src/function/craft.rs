//! Builds archives byte by byte for tests; each field can have a false value.

use flate2::{Compress, Compression, FlushCompress};

/// An archive that is being built.
#[derive(Debug, Clone, Default)]
pub(super) struct Crafted {
    pub(super) entries: Vec<Entry>,
    pub(super) comment: Vec<u8>,
    pub(super) zip64: bool,
    /// Added to the directory's offset, size and entry count in the end record.
    pub(super) lie_offset: i64,
    pub(super) lie_size: i64,
    pub(super) lie_count: i64,
}

/// An entry. The values in the central directory and in the local header are independent.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) local_name: Vec<u8>,
    pub(super) made_on: u8,
    pub(super) mode: u32,
    pub(super) flags: u16,
    pub(super) method: u16,
    pub(super) crc: u32,
    pub(super) packed: Vec<u8>,
    pub(super) packed_size: u64,
    pub(super) unpacked_size: u64,
    pub(super) local_unpacked_size: Option<u64>,
    /// Use the local header and the data of the previous entry.
    pub(super) shared: bool,
    /// Put the sizes into a 64-bit extra field.
    pub(super) zip64: bool,
}

pub(super) fn deflate(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 1024);
    Compress::new(Compression::best(), false)
        .compress_vec(content, &mut out, FlushCompress::Finish)
        .unwrap();
    out
}

impl Entry {
    pub(super) fn file(name: &str, content: &[u8]) -> Self {
        Self::raw(name.as_bytes(), 0o100_644, content)
    }

    pub(super) fn link(name: &str, target: &str) -> Self {
        Self::raw(name.as_bytes(), 0o120_777, target.as_bytes())
    }

    pub(super) fn raw(name: &[u8], mode: u32, content: &[u8]) -> Self {
        let packed = deflate(content);
        Self {
            name: name.to_vec(),
            local_name: name.to_vec(),
            made_on: 3,
            mode,
            flags: 0,
            method: 8,
            crc: crc32fast::hash(content),
            packed_size: packed.len() as u64,
            packed,
            unpacked_size: content.len() as u64,
            local_unpacked_size: None,
            shared: false,
            zip64: false,
        }
    }

    pub(super) fn stored(name: &str, content: &[u8]) -> Self {
        let mut entry = Self::file(name, content);
        entry.method = 0;
        entry.packed = content.to_vec();
        entry.packed_size = content.len() as u64;
        entry
    }

    pub(super) fn with_crc(mut self, crc: u32) -> Self {
        self.crc = crc;
        self
    }

    /// Both sizes as the record stores them, and the extra field for them.
    fn sizes(&self, unpacked: u64) -> (u32, u32, Vec<u8>) {
        if !self.zip64 {
            let narrow = |value: u64| u32::try_from(value).unwrap();
            return (narrow(self.packed_size), narrow(unpacked), Vec::new());
        }
        let mut extra = vec![1, 0, 16, 0];
        extra.extend(unpacked.to_le_bytes());
        extra.extend(self.packed_size.to_le_bytes());
        (u32::MAX, u32::MAX, extra)
    }
}

impl Crafted {
    pub(super) fn of(entries: impl IntoIterator<Item = Entry>) -> Self {
        Self {
            entries: entries.into_iter().collect(),
            ..Self::default()
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut directory = Vec::new();
        let mut local_offset = 0;
        for entry in &self.entries {
            if !entry.shared {
                local_offset = u32::try_from(out.len()).unwrap();
                local(&mut out, entry);
            }
            central(&mut directory, entry, local_offset);
        }
        let offset = out.len();
        out.extend(&directory);
        self.end(&mut out, offset, directory.len());
        out
    }

    fn end(&self, out: &mut Vec<u8>, offset: usize, size: usize) {
        let lie = |truth: usize, lie: i64| (truth as u64).wrapping_add_signed(lie);
        let offset = lie(offset, self.lie_offset);
        let size = lie(size, self.lie_size);
        let count = lie(self.entries.len(), self.lie_count);
        if self.zip64 {
            let at = out.len() as u64;
            out.extend(0x0606_4b50_u32.to_le_bytes());
            out.extend(44_u64.to_le_bytes());
            out.extend([45, 3, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            for value in [count, count, size, offset] {
                out.extend(value.to_le_bytes());
            }
            out.extend(0x0706_4b50_u32.to_le_bytes());
            out.extend(0_u32.to_le_bytes());
            out.extend(at.to_le_bytes());
            out.extend(1_u32.to_le_bytes());
        }
        out.extend(0x0605_4b50_u32.to_le_bytes());
        out.extend([0; 4]);
        let narrow = |value: u64| {
            if self.zip64 {
                u32::MAX
            } else {
                u32::try_from(value).unwrap()
            }
        };
        let count = if self.zip64 {
            u16::MAX
        } else {
            u16::try_from(count).unwrap()
        };
        out.extend(count.to_le_bytes());
        out.extend(count.to_le_bytes());
        out.extend(narrow(size).to_le_bytes());
        out.extend(narrow(offset).to_le_bytes());
        out.extend(u16::try_from(self.comment.len()).unwrap().to_le_bytes());
        out.extend(&self.comment);
    }
}

fn local(out: &mut Vec<u8>, entry: &Entry) {
    let unpacked = entry.local_unpacked_size.unwrap_or(entry.unpacked_size);
    let (packed, unpacked, extra) = entry.sizes(unpacked);
    out.extend(0x0403_4b50_u32.to_le_bytes());
    out.extend(20_u16.to_le_bytes());
    out.extend(entry.flags.to_le_bytes());
    out.extend(entry.method.to_le_bytes());
    out.extend([0; 4]);
    out.extend(entry.crc.to_le_bytes());
    out.extend(packed.to_le_bytes());
    out.extend(unpacked.to_le_bytes());
    out.extend(u16::try_from(entry.local_name.len()).unwrap().to_le_bytes());
    out.extend(u16::try_from(extra.len()).unwrap().to_le_bytes());
    out.extend(&entry.local_name);
    out.extend(&extra);
    out.extend(&entry.packed);
}

fn central(out: &mut Vec<u8>, entry: &Entry, local_offset: u32) {
    let (packed, unpacked, extra) = entry.sizes(entry.unpacked_size);
    out.extend(0x0201_4b50_u32.to_le_bytes());
    out.extend([20, entry.made_on, 20, 0]);
    out.extend(entry.flags.to_le_bytes());
    out.extend(entry.method.to_le_bytes());
    out.extend([0; 4]);
    out.extend(entry.crc.to_le_bytes());
    out.extend(packed.to_le_bytes());
    out.extend(unpacked.to_le_bytes());
    out.extend(u16::try_from(entry.name.len()).unwrap().to_le_bytes());
    out.extend(u16::try_from(extra.len()).unwrap().to_le_bytes());
    // Comment length, disk, internal attributes.
    out.extend([0; 6]);
    out.extend((entry.mode << 16).to_le_bytes());
    out.extend(local_offset.to_le_bytes());
    out.extend(&entry.name);
    out.extend(&extra);
}
