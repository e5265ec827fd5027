//! The pipe that the function writes its stdout and stderr to.
//!
//! The agent keeps the writing end open as well. Otherwise epoll would report a hang-up at each turn once
//! the function has closed its output or exited.

use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, BorrowedFd};

use hearth_protocol::guest::FUNCTION_UID;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Gid, Uid, fchown};

/// Capacity of the pipe in bytes. The guest kernel allocates its memory as it fills.
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
        // Only the reading end: the function expects that writing blocks.
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // Programs open /dev/stdout. That opens the pipe again, which only its owner may.
        fchown(
            &writer,
            Some(Uid::from_raw(FUNCTION_UID)),
            Some(Gid::from_raw(FUNCTION_UID)),
        )?;
        // A function can write this much before the agent reads, without waiting.
        let capacity = fcntl(&reader, FcntlArg::F_SETPIPE_SZ(CAPACITY))
            .or_else(|_| fcntl(&reader, FcntlArg::F_GETPIPE_SZ))?;
        Ok(Self {
            reader,
            writer,
            capacity: usize::try_from(capacity).unwrap_or(65_536),
        })
    }

    /// The end for a process's stdout and stderr.
    pub(crate) fn writer(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }

    /// Reads what the pipe held at the call, and passes it to `take` in pieces. Reads the pipe's capacity
    /// at most: that is everything written before the call, and a function that never stops writing
    /// cannot keep the agent here.
    pub(crate) fn drain(&mut self, scratch: &mut [u8], mut take: impl FnMut(&[u8])) {
        let mut left = self.capacity;
        while left > 0 {
            // The agent has the writing end open, so the only error is that the pipe is empty.
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
