//! The pipe that the function writes its stdout and stderr to.
//!
//! The agent keeps the writing end open as well: a function that closes its output, or exits, then
//! never makes the reading end report a hang-up over and over.

use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, BorrowedFd};

use hearth_protocol::guest::FUNCTION_UID;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Gid, Uid, fchown};

/// Bytes that the pipe holds. Its memory is used as it fills.
const CAPACITY: libc::c_int = 1024 * 1024;

/// Both ends of the pipe.
#[derive(Debug)]
pub(crate) struct Output {
    reader: PipeReader,
    writer: PipeWriter,
    capacity: usize,
}

impl Output {
    pub(crate) fn create() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        // Only the reading end: the function expects its output to block.
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // Programs open /dev/stdout, which opens the pipe anew and asks for its owner's rights.
        fchown(
            &writer,
            Some(Uid::from_raw(FUNCTION_UID)),
            Some(Gid::from_raw(FUNCTION_UID)),
        )?;
        // What a function writes before somebody looks, without waiting for that.
        let capacity = fcntl(&reader, FcntlArg::F_SETPIPE_SZ(CAPACITY))
            .or_else(|_| fcntl(&reader, FcntlArg::F_GETPIPE_SZ))?;
        Ok(Self {
            reader,
            writer,
            capacity: usize::try_from(capacity).unwrap_or(65_536),
        })
    }

    /// What a runtime's stdout and stderr are to be.
    pub(crate) fn writer(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }

    /// Reads what the pipe held when this was called, and hands it to `take` in pieces. At most
    /// one pipe's capacity: a function that writes without end can't keep the agent here, and
    /// everything written before the call is read nevertheless.
    pub(crate) fn drain(&mut self, scratch: &mut [u8], mut take: impl FnMut(&[u8])) {
        let mut left = self.capacity;
        while left > 0 {
            // A pipe whose writing end is open here has no end and no errors but "empty".
            let Ok(count) = self.reader.read(scratch) else {
                return;
            };
            take(&scratch[..count]);
            if count < scratch.len() {
                return;
            }
            left = left.saturating_sub(count);
        }
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn drained(output: &mut Output) -> Vec<u8> {
        let mut all = vec![];
        output.drain(&mut [0; 4096], |bytes| all.extend_from_slice(bytes));
        all
    }

    #[test]
    fn an_empty_pipe_gives_nothing_and_does_not_wait() {
        assert!(drained(&mut Output::create().unwrap()).is_empty());
    }

    #[test]
    fn everything_that_was_written_before_is_read() {
        let mut output = Output::create().unwrap();
        let mut writer = output.writer.try_clone().unwrap();
        let full = vec![b'x'; output.capacity];
        writer.write_all(&full).unwrap();
        assert_eq!(drained(&mut output), full);
        writer.write_all(b"more").unwrap();
        assert_eq!(drained(&mut output), b"more");
    }
}
