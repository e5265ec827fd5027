//! The pages of guest memory that a mailbox consists of.

use hearth_protocol::mailbox::{DATA_PAGES, FRAMES, LOG_PAGES, PAGE, PAGES};
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use crate::devices::virtio::chain::Segment;
use crate::host::realtime_ns;
use crate::memory::GuestMemory;

/// Why these pages can't be a mailbox.
#[derive(Debug, thiserror::Error)]
pub enum PagesError {
    /// A page is outside of the guest's RAM.
    #[error("frame {0:#x} of a mailbox is not in the guest's memory")]
    Frame(u64),
    /// A snapshot's mailbox has another number of pages.
    #[error("the snapshot has a mailbox of {0} pages; it must have {PAGES}")]
    Pages(usize),
    /// Guest memory could not be read.
    #[error("the mailbox's memory: {0}")]
    Memory(#[from] GuestMemoryError),
}

/// A mailbox's pages. Each is inside of the guest's RAM.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(into = "Vec<u64>", from = "Vec<u64>")]
pub struct MailboxPages {
    frames: Vec<u64>,
    log: Vec<Segment>,
    data: Vec<Segment>,
}

impl From<MailboxPages> for Vec<u64> {
    fn from(pages: MailboxPages) -> Self {
        pages.frames
    }
}

impl From<Vec<u64>> for MailboxPages {
    fn from(frames: Vec<u64>) -> Self {
        let segment = |frame: &u64| Segment {
            address: address(*frame),
            len: u32::try_from(PAGE).expect("a page is small"),
        };
        let segments = |from: usize, count: usize| {
            let pages = frames.iter().skip(from).take(count);
            pages.map(segment).collect()
        };
        Self {
            log: segments(1, LOG_PAGES),
            data: segments(1 + LOG_PAGES, DATA_PAGES),
            frames,
        }
    }
}

fn address(frame: u64) -> GuestAddress {
    GuestAddress(frame.saturating_mul(PAGE as u64))
}

impl MailboxPages {
    /// Reads the frame numbers from the header page and checks them. They are kept here, so the
    /// guest can't change them afterwards.
    pub fn find(memory: &GuestMemory, header: u32) -> Result<Self, PagesError> {
        let header = u64::from(header);
        if !memory.check_range(address(header), PAGE) {
            return Err(PagesError::Frame(header));
        }
        let mut bytes = [0; PAGES * 8];
        memory.read_slice(&mut bytes, GuestAddress(address(header).0 + FRAMES as u64))?;
        let mut frames: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|number| u64::from_le_bytes(number.try_into().expect("eight bytes")))
            .collect();
        frames[0] = header;
        let pages = Self::from(frames);
        pages.check(memory)?;
        Ok(pages)
    }

    /// Fails unless every page is inside of RAM.
    pub fn check(&self, memory: &GuestMemory) -> Result<(), PagesError> {
        if self.frames.len() != PAGES {
            return Err(PagesError::Pages(self.frames.len()));
        }
        match self
            .frames
            .iter()
            .find(|frame| !memory.check_range(address(**frame), PAGE))
        {
            Some(frame) => Err(PagesError::Frame(*frame)),
            None => Ok(()),
        }
    }

    /// Reads a 4-byte field of the header.
    pub fn get(&self, memory: &GuestMemory, field: usize) -> Result<u32, PagesError> {
        Ok(u32::from_le(memory.read_obj(self.field(field))?))
    }

    /// Writes a 4-byte field of the header.
    pub fn set(&self, memory: &GuestMemory, field: usize, value: u32) -> Result<(), PagesError> {
        Ok(memory.write_obj(value.to_le(), self.field(field))?)
    }

    /// Writes the host's wall clock into an 8-byte field of the header.
    pub fn set_time(&self, memory: &GuestMemory, field: usize) -> Result<(), PagesError> {
        Ok(memory.write_obj(realtime_ns().to_le(), self.field(field))?)
    }

    fn field(&self, field: usize) -> GuestAddress {
        GuestAddress(address(self.frames[0]).0 + field as u64)
    }

    /// The pages for output.
    pub fn log(&self) -> &[Segment] {
        &self.log
    }

    /// The pages for payloads.
    pub fn data(&self) -> &[Segment] {
        &self.data
    }
}
