//! One virtio-blk request (virtio 1.2, 5.2.6): a 16-byte header that the device reads, data, and a
//! status byte that it writes. The header is copied once, so later changes by the guest have no
//! effect.

use vm_memory::GuestAddress;

use super::image::{Image, SECTOR};
use crate::devices::GuestMemory;
use crate::devices::virtio::chain::Chain;
use crate::devices::virtio::device::DeviceError;
use crate::devices::virtio::guest_io::{copy_from_guest, copy_to_guest};

/// `VIRTIO_BLK_T_IN`: read.
pub const IN: u32 = 0;
/// `VIRTIO_BLK_T_OUT`: write.
pub const OUT: u32 = 1;
/// `VIRTIO_BLK_T_FLUSH`.
pub const FLUSH: u32 = 4;
/// `VIRTIO_BLK_T_GET_ID`.
pub const GET_ID: u32 = 8;

/// `VIRTIO_BLK_S_OK`.
pub const OK: u8 = 0;
/// `VIRTIO_BLK_S_IOERR`.
pub const IOERR: u8 = 1;
/// `VIRTIO_BLK_S_UNSUPP`.
pub const UNSUPP: u8 = 2;

/// Bytes of a request's header.
pub const HEADER: usize = 16;
/// Bytes of the answer to [`GET_ID`].
pub const ID: usize = 20;

/// The status of a request, and the number of data bytes that the device has written.
struct Done {
    status: u8,
    written: u32,
}

const FAILED: Done = Done {
    status: IOERR,
    written: 0,
};

/// Serves the request in `chain` and returns how many bytes were written to the chain.
///
/// An error means that the chain is no request (no header, or no space for the status): the driver
/// is broken. A valid request that can't be fulfilled gets a status that says so.
pub fn serve(
    chain: &Chain,
    memory: &GuestMemory,
    image: Option<&Image>,
    id: &[u8; ID],
) -> Result<u32, DeviceError> {
    let mut header = [0; HEADER];
    if chain.readable_len() < HEADER as u64 {
        return Err(DeviceError::Request("header shorter than 16 bytes"));
    }
    copy_from_guest(memory, chain.readable(), 0, &mut header)?;
    let status_at = status_address(chain)?;

    let done = dispatch(&header, chain, memory, image, id)?;
    vm_memory::Bytes::write_obj(memory, done.status, status_at)
        .map_err(|error| DeviceError::Buffer(error.into()))?;
    Ok(done.written + 1)
}

fn dispatch(
    header: &[u8; HEADER],
    chain: &Chain,
    memory: &GuestMemory,
    image: Option<&Image>,
    id: &[u8; ID],
) -> Result<Done, DeviceError> {
    let (kind, sector) = parse(header);
    // The status byte is the last writable byte; the other writable bytes are for data.
    let room = chain.writable_len() - 1;
    let has_input = chain.readable_len() > HEADER as u64;
    Ok(match kind {
        IN if has_input => FAILED,
        IN => read(sector, room, chain, memory, image),
        OUT => FAILED,
        // The disk is read-only, so everything is on stable storage.
        FLUSH => Done {
            status: OK,
            written: 0,
        },
        GET_ID if room < ID as u64 || has_input => FAILED,
        GET_ID => {
            copy_to_guest(memory, chain.writable(), 0, id)?;
            Done {
                status: OK,
                written: 20,
            }
        }
        _ => Done {
            status: UNSUPP,
            written: 0,
        },
    })
}

fn parse(header: &[u8; HEADER]) -> (u32, u64) {
    let (kind, rest) = header.split_first_chunk::<4>().expect("16 bytes");
    let (_reserved, sector) = rest.split_first_chunk::<4>().expect("12 bytes");
    let sector = sector.first_chunk::<8>().expect("8 bytes");
    (u32::from_le_bytes(*kind), u64::from_le_bytes(*sector))
}

fn status_address(chain: &Chain) -> Result<GuestAddress, DeviceError> {
    let last = chain
        .writable()
        .last()
        .ok_or(DeviceError::Request("nowhere to write the status to"))?;
    Ok(GuestAddress(last.address.0 + u64::from(last.len) - 1))
}

fn read(
    sector: u64,
    room: u64,
    chain: &Chain,
    memory: &GuestMemory,
    image: Option<&Image>,
) -> Done {
    let Some(image) = image else {
        return FAILED;
    };
    let within = room.is_multiple_of(SECTOR)
        && sector
            .checked_add(room / SECTOR)
            .is_some_and(|end| end <= image.sectors());
    let (Some(offset), Ok(len), Ok(written)) = (
        sector.checked_mul(SECTOR),
        usize::try_from(room),
        u32::try_from(room),
    ) else {
        return FAILED;
    };
    if within && image.read(memory, chain.writable(), len, offset).is_ok() {
        Done {
            status: OK,
            written,
        }
    } else {
        FAILED
    }
}
