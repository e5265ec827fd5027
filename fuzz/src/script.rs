//! A script for a guest, read from arbitrary bytes. All bytes are a valid script, which ends where
//! they end. Numbers are encoded so that most bytes give a plausible number and a few give any
//! number.

use crate::world::{BUFFERS, RAM, SEAM};

/// The rest of a script. Each method returns `None` when the script has ended.
#[derive(Debug, Clone, Copy)]
pub struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    /// A whole script.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next bytes.
    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    /// A byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u8) -> Option<u8> {
        self.u8().map(|byte| byte % limit)
    }

    /// An address: mostly a buffer's, else near an edge of RAM, or any.
    pub fn address(&mut self) -> Option<u64> {
        Some(match self.below(8)? {
            0..=4 => BUFFERS + u64::from(self.u16()?),
            5 => SEAM - 64 + u64::from(self.u8()?),
            6 => RAM - 64 + u64::from(self.u8()?),
            _ => self.u64()?,
        })
    }

    /// A length: short, a number of sectors, or any.
    pub fn length(&mut self) -> Option<u32> {
        Some(match self.u8()? {
            byte @ 0..200 => byte.into(),
            byte @ 200..248 => u32::from(byte - 200) * 512,
            _ => self.u32()?,
        })
    }

    /// A number whose magnitude matters more than its value: small, or near a power of two.
    pub fn magnitude(&mut self) -> Option<u32> {
        Some(match self.u8()? {
            byte @ 0..128 => byte.into(),
            byte @ 128..192 => (1u32 << (byte % 32)).wrapping_sub(u32::from(byte & 1)),
            _ => self.u32()?,
        })
    }
}
