//! Where in guest memory a mailbox is.

use hearth_protocol::mailbox::{DATA_PAGES, FRAMES, LOG_PAGES, PAGE, PAGES};
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use crate::devices::virtio::chain::Segment;
use crate::host::realtime_ns;
use crate::memory::GuestMemory;

/// Why there is no mailbox.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A page is not in RAM.
    #[error("frame {0:#x} of a mailbox is not in the guest's memory")]
    Frame(u64),
    /// A snapshot with another number of pages.
    #[error("a mailbox of {0} pages; it has {PAGES}")]
    Pages(usize),
    /// Guest memory could not be read.
    #[error("the mailbox's memory: {0}")]
    Memory(#[from] GuestMemoryError),
}

/// The pages of a mailbox, each checked to be RAM.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(into = "Vec<u64>", from = "Vec<u64>")]
pub struct Place {
    frames: Vec<u64>,
    log: Vec<Segment>,
    data: Vec<Segment>,
}

impl From<Place> for Vec<u64> {
    fn from(place: Place) -> Self {
        place.frames
    }
}

impl From<Vec<u64>> for Place {
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

impl Place {
    /// Reads the frame numbers in the header page; the guest can't change them afterwards.
    pub fn find(memory: &GuestMemory, header: u32) -> Result<Self, PlaceError> {
        let header = u64::from(header);
        if !memory.check_range(address(header), PAGE) {
            return Err(PlaceError::Frame(header));
        }
        let mut bytes = [0; PAGES * 8];
        memory.read_slice(&mut bytes, GuestAddress(address(header).0 + FRAMES as u64))?;
        let mut frames: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|number| u64::from_le_bytes(number.try_into().expect("eight bytes")))
            .collect();
        frames[0] = header;
        let place = Self::from(frames);
        place.check(memory)?;
        Ok(place)
    }

    /// Whether all of it is RAM.
    pub fn check(&self, memory: &GuestMemory) -> Result<(), PlaceError> {
        if self.frames.len() != PAGES {
            return Err(PlaceError::Pages(self.frames.len()));
        }
        match self
            .frames
            .iter()
            .find(|frame| !memory.check_range(address(**frame), PAGE))
        {
            Some(frame) => Err(PlaceError::Frame(*frame)),
            None => Ok(()),
        }
    }

    /// Reads a field of the header.
    pub fn get(&self, memory: &GuestMemory, field: usize) -> Result<u32, PlaceError> {
        Ok(u32::from_le(memory.read_obj(self.field(field))?))
    }

    /// Writes one.
    pub fn set(&self, memory: &GuestMemory, field: usize, value: u32) -> Result<(), PlaceError> {
        Ok(memory.write_obj(value.to_le(), self.field(field))?)
    }

    /// Writes the host's wall clock into one of 8 bytes.
    pub fn set_time(&self, memory: &GuestMemory, field: usize) -> Result<(), PlaceError> {
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
