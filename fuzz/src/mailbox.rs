//! The mailbox: a guest that writes anything into its pages and rings at any time, a controller
//! that sends anything; and the controller's end, which reads what such a guest sends.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use hearth_protocol::guest::MAX_PAYLOAD;
use hearth_protocol::mailbox::{
    ANSWER_BODY, ANSWER_KIND, ANSWER_META, AnswerMeta, COMMAND, COMMAND_EVENT, DATA_PAGES,
    DATA_SIZE, DOORBELL_ANSWER, EVENT_BODY, EVENT_META, FRAMES, HEAD, Head, LOG_LEN, LOG_PAGES,
    MAX_META, PAGE, PAGES, PEAK_KIB, VIA_AGENT, What,
};
use hearth_protocol::output::{Lines, LogBuffer, MAX_LINE};
use hearth_sandbox::devices::GuestMemory;
use hearth_sandbox::mailbox::{AfterRing, Mailbox, MailboxError, MailboxSocket, WaitEnd};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::script::Script;

/// Pages of RAM, in two regions.
const RAM_PAGES: usize = 32;
const SEAM_PAGE: usize = 15;
/// The header's frame for a correct guest. The other pages follow it.
const HEADER: u32 = 3;
/// Header fields that a script selects by number.
const FIELDS: [usize; 6] = [
    ANSWER_KIND,
    ANSWER_META,
    ANSWER_BODY,
    LOG_LEN,
    PEAK_KIB,
    FRAMES,
];

/// The first byte selects the side under test.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    match script.below(4) {
        Some(0) => controller_end(&data[1..]),
        Some(1) => output(script),
        Some(_) => {
            let mut world = World::new();
            while world.step(&mut script).is_some() {}
        }
        None => {}
    }
}

struct World {
    memory: GuestMemory,
    mailbox: Mailbox,
    controller: Option<UnixStream>,
    /// Wakes a thread that would wait: nothing here may hang.
    wake: EventFd,
    /// The pages of the mailbox, as the guest registered them.
    frames: Vec<u64>,
    /// Whether the controller has sent bytes that the mailbox has not read.
    unread: bool,
    /// Bytes that the controller has received and that are no complete message yet.
    received: Vec<u8>,
}

fn socket() -> (MailboxSocket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("two sockets");
    ours.set_nonblocking(true).expect("a socket");
    (MailboxSocket::new(theirs).expect("an eventfd"), ours)
}

impl World {
    fn new() -> Self {
        let seam = SEAM_PAGE * PAGE;
        let ranges = [
            (GuestAddress(0), seam),
            (GuestAddress(seam as u64), RAM_PAGES * PAGE - seam),
        ];
        let memory = GuestMemory::from_ranges(&ranges).expect("a little memory");
        let (socket, controller) = socket();
        let mailbox = Mailbox::new(socket);
        let wake = mailbox.waker().expect("a descriptor");
        let world = Self {
            memory,
            mailbox,
            controller: Some(controller),
            wake,
            frames: Vec::new(),
            unread: false,
            received: Vec::new(),
        };
        for page in 0..PAGES {
            world.frame(page, u64::from(HEADER) + page as u64);
        }
        world
    }

    fn put(&self, field: usize, value: u32) {
        let at = GuestAddress(u64::from(HEADER) * PAGE as u64 + field as u64);
        self.memory.write_obj(value, at).expect("the header is RAM");
    }

    fn frame(&self, page: usize, frame: u64) {
        let at = u64::from(HEADER) * PAGE as u64 + (FRAMES + 8 * page) as u64;
        self.memory
            .write_obj(frame, GuestAddress(at))
            .expect("the header is RAM");
    }

    fn ram(&self) -> Vec<u8> {
        let mut bytes = vec![0; RAM_PAGES * PAGE];
        let all = self.memory.read_slice(&mut bytes, GuestAddress(0));
        all.expect("all of it is RAM");
        bytes
    }

    /// The bytes of some of the mailbox's pages.
    fn pages(&self, ram: &[u8], from: usize, count: usize) -> Vec<u8> {
        self.frames[from..from + count]
            .iter()
            .flat_map(|frame| {
                let at = usize::try_from(*frame).expect("it was registered") * PAGE;
                &ram[at..at + PAGE]
            })
            .copied()
            .collect()
    }

    /// Whether all pages of the mailbox are different.
    fn is_plain(&self) -> bool {
        let mut frames = self.frames.clone();
        frames.sort_unstable();
        frames.dedup();
        frames.len() == PAGES
    }

    /// Executes one step; `None` if the script or the microVM has ended.
    fn step(&mut self, script: &mut Script<'_>) -> Option<()> {
        let step = script.below(16)?;
        let before = match step {
            // The guest writes its own memory, or the controller sends: no reaction yet.
            0..=4 | 6..=8 => Vec::new(),
            _ => self.ram(),
        };
        match step {
            0 | 1 => {
                let field = FIELDS[usize::from(script.below(6)?)];
                self.put(field, script.magnitude()?);
                return Some(());
            }
            2 => {
                self.put(usize::from(script.u16()?) % (PAGE - 4), script.u32()?);
                return Some(());
            }
            3 => {
                let page = usize::from(script.below(19)?);
                let frame = match script.below(4)? {
                    0..=2 => script.below(33)?.into(),
                    _ => script.u64()?,
                };
                self.frame(page, frame);
                return Some(());
            }
            4 => {
                let at = script.u16()?;
                let byte = script.u8()?;
                let at = usize::from(at) % (RAM_PAGES - 1) * PAGE;
                let page = [byte; PAGE];
                self.memory.write_slice(&page, GuestAddress(at as u64)).ok();
                return Some(());
            }
            5 => {
                let frame = match script.below(4)? {
                    0..=2 => HEADER,
                    _ => script.magnitude()?,
                };
                self.register(frame).ok()?;
            }
            6 | 7 => {
                let what = [What::Payload, What::Payload, What::Agent, What::Output]
                    [usize::from(script.below(4)?)];
                let (meta, body) = (script.magnitude()?, script.magnitude()?);
                let sent = script.length()? as usize;
                let head = Head {
                    meta,
                    body,
                    ..Head::bare(what)
                };
                let mut message = head.encode().to_vec();
                message.extend((0..sent.min(2 * DATA_SIZE)).map(|n| n.to_le_bytes()[0]));
                self.send(&message);
                return Some(());
            }
            8 => {
                let count = script.u8()?.into();
                let bytes = script.bytes(count)?;
                self.send(bytes);
                return Some(());
            }
            9 => self.try_receive()?,
            10 => {
                self.wake_thread();
                let woken = self.mailbox.wait(&self.memory, None).ok()?;
                assert_eq!(woken, WaitEnd::Stop, "a woken thread does not wait");
            }
            11 => {
                self.wake_thread();
                self.mailbox.resume(&self.memory).ok()?;
                self.clear_wake();
                assert!(!self.mailbox.is_waiting(), "it runs");
            }
            12 => self.snapshot(),
            13 => self.controller = None,
            _ => {
                let value = match script.u8()? {
                    byte @ 0..240 => u32::from(byte % 9),
                    _ => script.u32()?,
                };
                let quiet = script.below(2)? == 1;
                self.ring(value, quiet, &before)?;
            }
        }
        self.nothing_else_changed(&before);
        Some(())
    }

    fn wake_thread(&self) {
        self.wake.write(1).expect("it was read before");
    }

    fn clear_wake(&self) {
        // WouldBlock is the usual result.
        drop(self.wake.read());
    }

    fn register(&mut self, frame: u32) -> Result<(), MailboxError> {
        self.mailbox.register(&self.memory, frame)?;
        let ram = self.ram();
        let header = frame as usize * PAGE + FRAMES;
        self.frames = ram[header..header + 8 * PAGES]
            .chunks_exact(8)
            .map(|number| u64::from_le_bytes(number.try_into().expect("eight")))
            .collect();
        self.frames[0] = frame.into();
        assert!(
            self.frames.iter().all(|frame| *frame < RAM_PAGES as u64),
            "a registered page is RAM"
        );
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) {
        if let Some(mut controller) = self.controller.as_ref() {
            // A full socket takes only a part.
            self.unread |= matches!(controller.write(bytes), Ok(1..));
        }
    }

    fn try_receive(&mut self) -> Option<()> {
        self.wake_thread();
        let woken = self.mailbox.try_receive(&self.memory).ok()?;
        self.clear_wake();
        assert!(
            !matches!(woken, Some(WaitEnd::Stop | WaitEnd::TimedOut)),
            "try_receive does not wait"
        );
        if woken == Some(WaitEnd::Event) && self.is_plain() {
            self.event_is_there();
        }
        Some(())
    }

    /// The lengths that the guest sees are within the limits.
    fn event_is_there(&self) {
        let word = |field: usize| {
            let at = self.frames[0] * PAGE as u64 + field as u64;
            self.memory.read_obj::<u32>(GuestAddress(at)).expect("RAM")
        };
        assert_eq!(word(COMMAND), COMMAND_EVENT);
        assert!(word(EVENT_META) as usize <= MAX_META);
        assert!(word(EVENT_BODY) as usize <= MAX_PAYLOAD);
        assert_eq!(word(VIA_AGENT), 0);
    }

    fn ring(&mut self, value: u32, quiet: bool, before: &[u8]) -> Option<()> {
        self.wake_thread();
        let rang = self.mailbox.ring(&self.memory, value, quiet);
        self.clear_wake();
        let begun = self.received.is_empty();
        self.read_all();
        let rang = rang.ok()?;
        if self.frames.is_empty() {
            assert_eq!(rang, AfterRing::RunGuest, "no mailbox is registered");
            assert!(
                self.received.is_empty(),
                "and the controller receives nothing"
            );
        }
        if self.controller.is_none() || rang != AfterRing::WaitForEvent {
            return Some(());
        }
        assert!(self.mailbox.is_waiting());
        let messages = self.messages();
        assert!(
            self.received.is_empty(),
            "an answer that was taken is complete"
        );
        let (head, rest) = messages.last().expect("an answer");
        match head.what {
            What::Payload | What::Error => {
                assert!(!head.goes_on, "a guest that goes on does not wait")
            }
            other => assert_eq!((other, head.rest()), (What::Waits, 0)),
        }
        let data = (head.meta + head.body) as usize;
        if begun && value == DOORBELL_ANSWER && data <= DATA_SIZE {
            let mut expected = self.pages(before, 1, LOG_PAGES);
            expected.truncate(head.log as usize);
            let chunk = self.pages(before, 1 + LOG_PAGES, DATA_PAGES);
            expected.extend_from_slice(&chunk[..data]);
            assert!(
                *rest == expected,
                "the controller has the bytes of the pages"
            );
        }
        Some(())
    }

    /// The controller reads everything that has arrived.
    fn read_all(&mut self) {
        let Some(mut controller) = self.controller.as_ref() else {
            return;
        };
        let mut chunk = [0; 0x1_0000];
        loop {
            match controller.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return,
            }
        }
        if !self.mailbox.is_waiting() {
            // Complete messages are taken with the answer, or here if there are many bytes.
            if self.received.len() > 8 << 20 {
                self.messages();
            }
        }
    }

    /// Takes the complete messages.
    fn messages(&mut self) -> Vec<(Head, Vec<u8>)> {
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(head) = self.received[at..].first_chunk::<HEAD>() {
            let head = Head::decode(head).expect("the sandbox keeps to the lengths");
            assert_ne!(head.what, What::Agent, "only the controller sends this");
            let Some(rest) = self.received[at + HEAD..].get(..head.rest()) else {
                break;
            };
            found.push((head, rest.to_vec()));
            at += HEAD + head.rest();
        }
        self.received.drain(..at);
        found
    }

    fn snapshot(&mut self) {
        let state = self.mailbox.save();
        assert_eq!(state.is_some(), !self.frames.is_empty());
        let bytes = postcard::to_stdvec(&state).expect("a state can be written");
        let state: Option<_> = postcard::from_bytes(&bytes).expect("and read");
        let (socket, controller) = socket();
        let waits = self.mailbox.is_waiting();
        self.mailbox = Mailbox::restore(socket, state.as_ref(), &self.memory)
            .expect("the registered pages are RAM");
        assert_eq!(self.mailbox.is_waiting(), waits);
        self.wake = self.mailbox.waker().expect("a descriptor");
        self.controller = Some(controller);
        self.unread = false;
        self.received.clear();
    }

    /// No page except the mailbox's changes, and the pages for output never do.
    fn nothing_else_changed(&self, before: &[u8]) {
        let after = self.ram();
        for (page, (old, new)) in before
            .chunks_exact(PAGE)
            .zip(after.chunks_exact(PAGE))
            .enumerate()
        {
            let written = |n: &usize| *n == 0 || *n > LOG_PAGES;
            let ours = (0..self.frames.len())
                .filter(written)
                .any(|n| self.frames[n] == page as u64);
            assert!(
                ours || old == new,
                "page {page} does not belong to the mailbox"
            );
        }
        if !self.unread && self.is_plain() {
            let data = |ram| self.pages(ram, 1 + LOG_PAGES, DATA_PAGES);
            assert!(
                data(before) == data(&after),
                "the controller has sent nothing"
            );
        }
    }
}

/// The controller's end: decodes what comes from a guest.
fn controller_end(bytes: &[u8]) {
    if let Some(head) = bytes.first_chunk::<HEAD>()
        && let Ok(head) = Head::decode(head)
    {
        assert!(head.rest() < 8 << 20);
        assert_eq!(Head::decode(&head.encode()), Ok(head));
    }
    let Ok(meta) = AnswerMeta::parse(bytes) else {
        return;
    };
    let values = [
        Some(&meta.request_id),
        meta.content_type.as_ref(),
        meta.error_type.as_ref(),
    ];
    for value in values.into_iter().flatten() {
        assert!(!value.contains("\r\n"), "a value is within its line");
        assert!(value.len() <= bytes.len());
    }
}

/// A function's output, cut anywhere, with gaps.
fn output(mut script: Script<'_>) {
    let mut whole = LogBuffer::default();
    let mut cut = LogBuffer::default();
    let mut given = 0;
    while let (Some(kind), Some(count)) = (script.u8(), script.u8()) {
        let Some(part) = script.bytes(count.into()) else {
            break;
        };
        if kind == 0xff {
            whole.drop_output(count.into());
            cut.drop_output(count.into());
            continue;
        }
        // Long records need more bytes than a script has.
        let part = part.repeat(if kind >= 0xf0 { 1024 } else { 1 });
        given += part.len();
        if given > 4 * MAX_LINE {
            break;
        }
        whole.push(&part);
        for piece in part.chunks(usize::from(kind).max(1)) {
            cut.push(piece);
        }
        assert_eq!(whole.has_lines(), cut.has_lines());
        if kind & 3 == 3 {
            let lines = whole.take_lines();
            assert_eq!(lines, cut.take_lines(), "however it is cut");
            check(lines.as_ref());
        }
    }
    let rest = whole.take_all();
    assert_eq!(rest, cut.take_all(), "however it is cut");
    check(rest.as_ref());
    assert_eq!(whole.take_all(), None, "all was taken");
}

fn check(lines: Option<&Lines>) {
    let Some(lines) = lines else { return };
    assert!(lines.bytes.is_empty() || lines.bytes.ends_with(b"\n"));
    let mut end = 0;
    for &(at, len) in &lines.multiline {
        let (at, len) = (at as usize, len as usize);
        assert!(at >= end, "records are in order and apart");
        end = at + len;
        let text = &lines.bytes[at..end];
        assert!(text.contains(&b'\n') && !text.ends_with(b"\n"));
        assert_eq!(lines.bytes[end], b'\n', "a newline is behind it");
        assert!(len <= 2 * MAX_LINE);
    }
}
