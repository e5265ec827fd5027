//! The mailbox's pages: made, held and registered once, before the runtime snapshot; see
//! [`hearth_protocol::mailbox`].
//!
//! The host writes to page frames, so a frame must stay the mailbox's for as long as the microVM
//! lives, whatever the function does to its own mapping. The pages belong to a sealed memory file:
//! no process can shrink it, but the function can still punch a hole into it. So a pipe holds a
//! reference to every page (`vmsplice`): the guest kernel neither frees nor moves a page that has one,
//! be it for swap, compaction or migration.
//!
//! The runtime, hence the function, can write anything to the header: nothing in it may be trusted.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, IoSlice, PipeReader, PipeWriter};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use bytes::{Bytes, BytesMut};
use hearth_mailbox::pages::Pages;
use hearth_protocol::mailbox::{
    ANSWERS, AnswerMeta, COMMAND, COMMAND_AGENT, COMMAND_EVENT, COMMAND_UNHEARD, COMMAND_WAIT,
    DOORBELL_IDLE, DOORBELL_PORT, DOORBELL_PORTS, DOORBELL_WAIT, EVENT_TIME, KIND_ERROR,
    KIND_RESPONSE, OPEN, PAGE, PAGES, PEAK_KIB, READING, READS_OUTPUT, REGISTER_PORT,
    REQUEST_ID_HEADER, REQUEST_ID_LEN, VIA_AGENT, WORKING,
};

const NAME: &CStr = c"mailbox";
const SIZE: usize = PAGES * PAGE;
/// Ports that a registration takes up.
const REGISTER_PORTS: libc::c_ulong = 4;
/// An entry of pagemap: the frame's number, and whether there is one.
const FRAME_MASK: u64 = (1 << 55) - 1;
const PRESENT: u64 = 1 << 63;

/// A claim on the function's output: whether, before it, the answer had to go through the agent.
#[derive(Debug)]
pub(crate) struct Reading(u32);

/// Why the vCPU runs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wakeup {
    /// An event has arrived: [`Mailbox::take_event`].
    Event,
    /// The guest kernel and other processes get to run. The agent then waits again.
    RunGuest,
    /// The event will come by the connection.
    UseConnection,
}

/// An event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) request_id: String,
    /// Headers of the Runtime API, each with its line break.
    pub(crate) headers: Bytes,
    pub(crate) body: Bytes,
    /// The host's wall clock when it wrote the event: nanoseconds since the epoch.
    pub(crate) realtime_ns: u64,
}

/// An answer that the runtime has given and not sent.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) failed: bool,
    pub(crate) meta: AnswerMeta,
    pub(crate) body: Bytes,
}

/// Whether the agent waits at the mailbox for the next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    No,
    /// It will, and the host does not know yet.
    Planned,
    /// It does, and the host knows.
    Announced,
}

/// The pages as the agent has them.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pages: Pages,
    file: OwnedFd,
    /// Holds a reference to every page. The pipe is never read.
    _pins: (PipeReader, PipeWriter),
    /// The runtime's count of answers when the agent read it last.
    answers: u32,
    wait: Wait,
    /// Whether the host reacted to the last doorbell.
    host_serves: bool,
}

impl Mailbox {
    /// Makes the mailbox, registers it with the host, and gets access to the doorbell's port.
    pub(crate) fn create() -> io::Result<Self> {
        let mailbox = Self::make()?;
        let frames = frames(mailbox.pages.address())?;
        mailbox.pages.set_frames(&frames);
        register(frames[0])?;
        // SAFETY: ioperm only changes which ports this process may use.
        check(unsafe { libc::ioperm(DOORBELL_PORT.into(), DOORBELL_PORTS, 1) } as isize)?;
        Ok(mailbox)
    }

    /// Makes a mailbox that the host does not know.
    pub(crate) fn make() -> io::Result<Self> {
        let file = sealed_file()?;
        let pages = Pages::map(file.as_raw_fd()).ok_or_else(io::Error::last_os_error)?;
        let at = pages.address();
        for page in 0..PAGES {
            // SAFETY: within the mapping. The write gives each page its frame.
            unsafe { at.as_ptr().add(page * PAGE).write_volatile(0) };
        }
        let pins = pin(at)?;
        let mailbox = Self {
            pages,
            file,
            _pins: pins,
            answers: 0,
            wait: Wait::No,
            host_serves: true,
        };
        // Until the first event.
        mailbox.route_answer_via_agent(true);
        Ok(mailbox)
    }

    /// The file that a runtime maps.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Says whether the runtime may use the mailbox.
    pub(crate) fn open(&self, open: bool) {
        self.pages.set(OPEN, u32::from(open));
    }

    /// Writes the function's peak memory to the header, for answers that the agent does not see.
    pub(crate) fn publish_peak_memory(&self, bytes: u64) {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        self.pages.set(PEAK_KIB, kib);
    }

    /// Whether the runtime reads the function's output itself and sends it with each answer.
    pub(crate) fn runtime_reads_output(&self) -> bool {
        self.pages.get(READS_OUTPUT) != 0
    }

    /// Claims the function's output for the agent, which then has to see the answer to the current
    /// event. `None` while the runtime reads the output.
    pub(crate) fn begin_reading(&self) -> Option<Reading> {
        let before = Reading(self.pages.get(VIA_AGENT));
        self.pages.set(VIA_AGENT, 1);
        if self.pages.get(READING) == 0 {
            return Some(before);
        }
        self.pages.set(VIA_AGENT, before.0);
        None
    }

    /// The agent has read. If there was nothing, the answer may go the way it could before.
    pub(crate) fn end_reading(&self, reading: &Reading, something: bool) {
        if !something {
            self.pages.set(VIA_AGENT, reading.0);
        }
    }

    /// The runtime has ended: it no longer reads output, even if it ended while it did.
    pub(crate) fn runtime_ended(&self) {
        self.pages.set(READING, 0);
    }

    /// Says whether the answer to the current event has to go through the agent.
    pub(crate) fn route_answer_via_agent(&self, via_agent: bool) {
        self.pages.set(VIA_AGENT, u32::from(via_agent));
    }

    /// The agent gives the runtime an event: the runtime no longer works on one from the mailbox.
    pub(crate) fn clear_working(&self) {
        self.pages.set(WORKING, 0);
    }

    /// Whether the runtime has answered at the mailbox since the last call.
    pub(crate) fn has_answered(&mut self) -> bool {
        let answers = self.pages.get(ANSWERS);
        std::mem::replace(&mut self.answers, answers) != answers
    }

    /// Takes over the answer that the runtime holds, if it holds one. Only the agent sends it then. What
    /// is no valid answer is dropped.
    pub(crate) fn take_held(&self) -> Option<Held> {
        if !self.pages.take_held() {
            return None;
        }
        let (kind, meta, body) = self.pages.held_answer();
        Some(Held {
            failed: kind == KIND_ERROR,
            meta: AnswerMeta::parse(&meta).ok()?,
            body: body.into(),
        })
    }

    /// The invocation that the runtime took from the mailbox and works on.
    pub(crate) fn working_on(&self) -> Option<String> {
        match self.pages.get(WORKING) {
            1 => request_id(&self.pages.request_id()),
            _ => None,
        }
    }

    /// Whether the host reacted to the last doorbell.
    pub(crate) fn host_serves(&self) -> bool {
        self.host_serves
    }

    /// Whether the agent waits at the mailbox for the next event.
    pub(crate) fn waits(&self) -> bool {
        self.wait != Wait::No
    }

    /// Decides whether the agent waits at the mailbox for the next event: if it `can`, unless the host
    /// has told the runtime to use the agent. Then the host expects `Ready` by the connection.
    pub(crate) fn choose_wait(&mut self, can: bool) -> bool {
        let will = can && self.pages.get(COMMAND) != COMMAND_AGENT;
        self.wait = if will { Wait::Planned } else { Wait::No };
        will
    }

    /// Gives the host an answer, with output in front of it. `false`: the host did not take it.
    pub(crate) fn hand_over(&mut self, failed: bool, log: &[u8], meta: &[u8], body: &[u8]) -> bool {
        let kind = if failed { KIND_ERROR } else { KIND_RESPONSE };
        self.host_serves = self.pages.hand_over(kind, log, meta, body);
        self.host_serves
    }

    /// Stops the vCPU until there is something to do.
    pub(crate) fn stop_vcpu(&mut self) -> Wakeup {
        let before = match self.wait {
            Wait::Announced => self.pages.get(COMMAND),
            Wait::No | Wait::Planned => {
                self.pages.set(COMMAND, COMMAND_UNHEARD);
                self.pages.ring(DOORBELL_WAIT);
                self.wait = Wait::Announced;
                COMMAND_UNHEARD
            }
        };
        // An event may have arrived while the guest ran.
        if before == COMMAND_WAIT {
            self.pages.ring(DOORBELL_IDLE);
        }
        match self.pages.get(COMMAND) {
            COMMAND_EVENT => {
                self.wait = Wait::No;
                Wakeup::Event
            }
            COMMAND_WAIT => Wakeup::RunGuest,
            command => {
                self.host_serves = command != COMMAND_UNHEARD;
                self.wait = Wait::No;
                Wakeup::UseConnection
            }
        }
    }

    /// Copies the event out of the mailbox.
    pub(crate) fn take_event(&mut self) -> io::Result<Event> {
        let (meta, body) = self.pages.event();
        let (mut headers, mut event) = (BytesMut::zeroed(meta), BytesMut::zeroed(body));
        let realtime_ns = self.pages.time(EVENT_TIME);
        self.pages.take(&mut headers, &mut event);
        let id = headers
            .strip_prefix(REQUEST_ID_HEADER.as_bytes())
            .and_then(|rest| request_id(rest.get(..REQUEST_ID_LEN)?));
        Ok(Event {
            request_id: id.ok_or_else(|| io::Error::other("the event has no valid request id"))?,
            headers: headers.freeze(),
            body: event.freeze(),
            realtime_ns,
        })
    }
}

fn request_id(bytes: &[u8]) -> Option<String> {
    let is_id = bytes
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || *b == b'-');
    is_id.then(|| bytes.iter().map(|b| char::from(*b)).collect())
}

fn sealed_file() -> io::Result<OwnedFd> {
    // SAFETY: the name is a string; the returned descriptor has no other owner.
    let file = unsafe {
        let fd = libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let file = File::from(file);
    file.set_len(SIZE as u64)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: changes flags of a descriptor that this function owns.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } as isize)?;
    Ok(file.into())
}

/// Puts a reference to every page into a pipe.
fn pin(at: NonNull<u8>) -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    let capacity = libc::c_int::try_from(SIZE.next_power_of_two()).expect("the mailbox is small");
    // SAFETY: changes the capacity of a pipe that this function owns.
    check(unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, capacity) } as isize)?;
    // SAFETY: the mapping is SIZE bytes long. Only its address is used.
    let pages = unsafe { std::slice::from_raw_parts(at.as_ptr(), SIZE) };
    let piece = IoSlice::new(pages);
    // SAFETY: one piece; without SPLICE_F_GIFT the pages stay as they are.
    let held = check(unsafe {
        libc::vmsplice(
            writer.as_raw_fd(),
            (&raw const piece).cast(),
            1,
            libc::SPLICE_F_NONBLOCK,
        )
    })?;
    if held != SIZE {
        return Err(io::Error::other(
            "vmsplice took fewer pages than the mailbox has",
        ));
    }
    Ok((reader, writer))
}

/// The page frames of the pages, in order.
fn frames(at: NonNull<u8>) -> io::Result<Vec<u64>> {
    let map = File::open("/proc/self/pagemap")?;
    let first = at.as_ptr() as u64 / PAGE as u64;
    let mut bytes = [0; PAGES * 8];
    map.read_exact_at(&mut bytes, first * 8)?;
    bytes
        .chunks_exact(8)
        .map(|entry| {
            let entry = u64::from_le_bytes(entry.try_into().expect("eight bytes"));
            match entry & FRAME_MASK {
                frame @ 1.. if entry & PRESENT != 0 => Ok(frame),
                _ => Err(io::Error::other("a mailbox page has no page frame")),
            }
        })
        .collect()
}

/// Tells the host the frame of the mailbox's header.
fn register(frame: u64) -> io::Result<()> {
    let frame = u32::try_from(frame).map_err(io::Error::other)?;
    let port = libc::c_ulong::from(REGISTER_PORT);
    // SAFETY: ioperm only changes which ports this process may use. Writing to these ports makes the
    // host write to the mailbox's pages and to no other memory of the agent.
    unsafe {
        check(libc::ioperm(port, REGISTER_PORTS, 1) as isize)?;
        std::arch::asm!(
            "out dx, eax",
            in("dx") REGISTER_PORT,
            in("eax") frame,
            options(nostack, preserves_flags)
        );
        check(libc::ioperm(port, REGISTER_PORTS, 0) as isize)?;
    }
    Ok(())
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The descriptors that a runtime is started with: the pages' file, and the reading end of its output.
pub(crate) type Descriptors = [RawFd; 2];

#[cfg(test)]
mod tests {
    use hearth_protocol::mailbox::{ANSWER_BODY, ANSWER_KIND, ANSWER_META, DATA_SIZE, HELD};

    use super::*;

    /// The header is the function's to write.
    #[test]
    fn lengths_of_a_held_answer_are_bounded_and_one_that_is_none_is_dropped() {
        let mailbox = Mailbox::make().unwrap();
        assert!(mailbox.take_held().is_none());
        mailbox.pages.set(ANSWER_KIND, KIND_ERROR);
        mailbox.pages.set(ANSWER_BODY, u32::MAX);
        mailbox.pages.set(HELD, 1);
        let held = mailbox.take_held().unwrap();
        assert!(held.failed && held.meta.request_id.is_empty());
        assert_eq!(held.body.len(), DATA_SIZE);
        // Zeros are no header lines.
        mailbox.pages.set(ANSWER_META, u32::MAX);
        mailbox.pages.set(HELD, 1);
        assert!(mailbox.take_held().is_none());
        assert_eq!(mailbox.pages.get(HELD), 0);
    }
}
