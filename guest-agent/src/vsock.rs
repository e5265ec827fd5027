//! A vsock stream to the host, with `Read` and `Write`.
//!
//! It uses `send` and `recv`, because `write` and `read` go through the guest kernel's file layer, which
//! costs some hundred instructions more.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use hearth_protocol::guest::{AGENT_PORT, HOST_CID};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, VsockAddr, connect, recv, send, sendmsg, socket,
};

/// Maximum attempts to connect. A device that has only just started may miss the first.
const ATTEMPTS: u32 = 5;

/// A connected, non-blocking stream socket.
#[derive(Debug)]
pub(crate) struct HostStream {
    socket: OwnedFd,
}

impl HostStream {
    /// Connects to the agent's port on the host.
    pub(crate) fn connect() -> Result<Self, Errno> {
        let cid = u32::try_from(HOST_CID).expect("the host's context id is 2");
        let address = VsockAddr::new(cid, AGENT_PORT);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let socket = socket(
                AddressFamily::Vsock,
                SockType::Stream,
                SockFlag::SOCK_CLOEXEC,
                None,
            )?;
            enlarge_buffer(&socket)?;
            match connect(socket.as_raw_fd(), &address) {
                Ok(()) => return Self::new(socket),
                Err(Errno::ETIMEDOUT | Errno::ECONNRESET | Errno::ECONNREFUSED)
                    if attempt < ATTEMPTS => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Wraps a connected stream socket.
    pub(crate) fn new(socket: OwnedFd) -> Result<Self, Errno> {
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { socket })
    }
}

/// Buffer of each direction in bytes: the guest kernel holds no more received bytes, and has no more sent
/// bytes unacknowledged, whatever credit the host gives. It must be at least as large as the host's
/// buffer, because the host sends a credit update only when a good part of its own buffer has been used.
static BUFFER: u64 = 1024 * 1024;

/// Options of `AF_VSOCK` sockets, linux/vm_sockets.h.
const SO_VM_SOCKETS_BUFFER_SIZE: libc::c_int = 0;
const SO_VM_SOCKETS_BUFFER_MAX_SIZE: libc::c_int = 2;

/// Must come before `connect`, which announces the size.
fn enlarge_buffer(socket: &OwnedFd) -> Result<(), Errno> {
    for option in [SO_VM_SOCKETS_BUFFER_MAX_SIZE, SO_VM_SOCKETS_BUFFER_SIZE] {
        let len = libc::socklen_t::try_from(size_of_val(&BUFFER)).expect("8");
        // SAFETY: both options take a u64, which is read during the call.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::AF_VSOCK,
                option,
                (&raw const BUFFER).cast(),
                len,
            )
        };
        Errno::result(result)?;
    }
    Ok(())
}

impl Read for &HostStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty())?)
    }
}

impl Write for &HostStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fd = self.socket.as_raw_fd();
        Ok(send(fd, bytes, MsgFlags::MSG_NOSIGNAL)?)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let fd = self.socket.as_raw_fd();
        Ok(sendmsg::<()>(
            fd,
            slices,
            &[],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for HostStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
