//! Makes clones of one snapshot differ: adds entropy from the host to the guest kernel's random number
//! generator and reseeds it, before any process can read from it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;

use nix::errno::Errno;

/// Minimum bytes accepted: 256 bits, the key length of the guest kernel's generator.
pub(crate) const MIN_ENTROPY: usize = 32;
/// Maximum bytes used; more add nothing.
const MAX_ENTROPY: usize = 64;

/// Why the generator could not be reseeded. The agent must serve nothing after that.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EntropyError {
    #[error("{0} bytes of entropy, at least {MIN_ENTROPY} are needed")]
    TooShort(usize),
    #[error("adding entropy: {0}")]
    Add(Errno),
    #[error("reseeding: {0}")]
    Reseed(Errno),
}

/// `struct rand_pool_info`, random(4).
#[repr(C)]
struct PoolInfo {
    entropy_bits: libc::c_int,
    size: libc::c_int,
    bytes: [u8; MAX_ENTROPY],
}

/// `RNDADDENTROPY`: `_IOW('R', 3, int[2])`.
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
/// `RNDRESEEDCRNG`: `_IO('R', 7)`.
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

/// The guest kernel's generator.
#[derive(Debug)]
pub(crate) struct Generator {
    device: File,
}

impl Generator {
    /// Opens the device; needs `/dev`.
    pub(crate) fn open() -> io::Result<Self> {
        File::open("/dev/urandom").map(|device| Self { device })
    }

    /// Adds `entropy` and forces a reseed. Every later byte of `/dev/urandom` and `getrandom` depends on
    /// it, the vDSO's included.
    pub(crate) fn reseed(&self, entropy: &[u8]) -> Result<(), EntropyError> {
        if entropy.len() < MIN_ENTROPY {
            return Err(EntropyError::TooShort(entropy.len()));
        }
        let len = entropy.len().min(MAX_ENTROPY);
        let size = libc::c_int::try_from(len).expect("at most 64");
        let mut info = PoolInfo {
            entropy_bits: size * 8,
            size,
            bytes: [0; MAX_ENTROPY],
        };
        info.bytes[..len].copy_from_slice(&entropy[..len]);
        let fd = self.device.as_raw_fd();
        // SAFETY: `info` has the layout of rand_pool_info and holds the `size` bytes that it
        // announces; the kernel only reads it, during the call.
        let added = unsafe { libc::ioctl(fd, RNDADDENTROPY as _, &raw const info) };
        Errno::result(added).map_err(EntropyError::Add)?;
        // SAFETY: RNDRESEEDCRNG takes no argument.
        let reseeded = unsafe { libc::ioctl(fd, RNDRESEEDCRNG as _, 0) };
        Errno::result(reseeded)
            .map(drop)
            .map_err(EntropyError::Reseed)
    }

    /// A random (version 4) UUID.
    pub(crate) fn uuid(&mut self) -> io::Result<String> {
        let mut bytes = [0u8; 16];
        self.device.read_exact(&mut bytes)?;
        let mut bits = u128::from_be_bytes(bytes);
        bits = bits & !(0xf << 76) | 4 << 76;
        bits = bits & !(0x3 << 62) | 2 << 62;
        Ok(format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            bits >> 96,
            bits >> 80 & 0xffff,
            bits >> 64 & 0xffff,
            bits >> 48 & 0xffff,
            bits & 0xffff_ffff_ffff
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_of_version_4_and_differ() {
        let mut generator = Generator::open().unwrap();
        let (a, b) = (generator.uuid().unwrap(), generator.uuid().unwrap());
        assert_ne!(a, b);
        assert_eq!((a.len(), a.matches('-').count()), (36, 4));
        assert_eq!(&a[14..15], "4");
        assert!("89ab".contains(&a[19..20]), "{a}");
    }

    #[test]
    fn short_entropy_is_refused() {
        let generator = Generator::open().unwrap();
        assert!(matches!(
            generator.reseed(&[7; 31]),
            Err(EntropyError::TooShort(31))
        ));
    }
}
