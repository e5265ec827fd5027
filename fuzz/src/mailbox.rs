//! The mailbox: a guest that writes what it likes into its pages and rings when it likes, an owner
//! that sends what it likes; and the owner's end, which reads what such a guest says.

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
use hearth_sandbox::mailbox::{Mailbox, MailboxSocket, MailboxError, AfterRing, WaitEnd};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::script::Script;

/// Pages of RAM, in two regions.
const RAM_PAGES: usize = 32;
const SEAM_PAGE: usize = 15;
/// Where an honest guest has its header. The other pages follow.
const HEADER: u32 = 3;
/// Fields that a script names by number.
const FIELDS: [usize; 6] = [
    ANSWER_KIND,
    ANSWER_META,
    ANSWER_BODY,
    LOG_LEN,
    PEAK_KIB,
    FRAMES,
];

/// The first byte says which side is looked at.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    match script.below(4) {
        Some(0) => owner(&data[1..]),
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
    owner: Option<UnixStream>,
    /// Whoever would wait is woken: nothing here may hang.
    wake: EventFd,
    /// The pages of the mailbox, as the guest registered them.
    frames: Vec<u64>,
    /// Bytes that the owner has sent and nobody has read.
    unread: bool,
    /// What has come, up to where a message ends.
    come: Vec<u8>,
}

fn line() -> (MailboxSocket, UnixStream) {
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
        let (line, owner) = line();
        let mailbox = Mailbox::new(line);
        let wake = mailbox.waker().expect("a descriptor");
        let world = Self {
            memory,
            mailbox,
            owner: Some(owner),
            wake,
            frames: Vec::new(),
            unread: false,
            come: Vec::new(),
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

    /// Bytes of pages of the mailbox.
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

    /// Whether no two pages are the same.
    fn is_plain(&self) -> bool {
        let mut frames = self.frames.clone();
        frames.sort_unstable();
        frames.dedup();
        frames.len() == PAGES
    }

    /// `None`: the script or the microVM is over.
    fn step(&mut self, script: &mut Script<'_>) -> Option<()> {
        let step = script.below(16)?;
        let before = match step {
            // The guest's own, and the owner's: nothing is done about it yet.
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
                self.tell(&message);
                return Some(());
            }
            8 => {
                let count = script.u8()?.into();
                let bytes = script.bytes(count)?;
                self.tell(bytes);
                return Some(());
            }
            9 => self.look()?,
            10 => {
                self.call();
                let woken = self.mailbox.wait(&self.memory, None).ok()?;
                assert_eq!(woken, WaitEnd::Stop, "who is woken does not wait");
            }
            11 => {
                self.call();
                self.mailbox.resume(&self.memory).ok()?;
                self.forget_call();
                assert!(!self.mailbox.is_waiting(), "it runs");
            }
            12 => self.snapshot(),
            13 => self.owner = None,
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

    fn call(&self) {
        self.wake.write(1).expect("it was read before");
    }

    fn forget_call(&self) {
        // Nothing to read is what is wanted.
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
            "what is taken is RAM"
        );
        Ok(())
    }

    fn tell(&mut self, bytes: &[u8]) {
        if let Some(mut owner) = self.owner.as_ref() {
            // A full socket takes a part.
            self.unread |= matches!(owner.write(bytes), Ok(1..));
        }
    }

    fn look(&mut self) -> Option<()> {
        self.call();
        let woken = self.mailbox.try_receive(&self.memory).ok()?;
        self.forget_call();
        assert!(
            !matches!(woken, Some(WaitEnd::Stop | WaitEnd::TimedOut)),
            "a look does not wait"
        );
        if woken == Some(WaitEnd::Event) && self.is_plain() {
            self.event_is_there();
        }
        Some(())
    }

    /// The guest is told of no more than there can be.
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
        self.call();
        let rang = self.mailbox.ring(&self.memory, value, quiet);
        self.forget_call();
        let begun = self.come.is_empty();
        self.hear();
        let rang = rang.ok()?;
        if self.frames.is_empty() {
            assert_eq!(rang, AfterRing::RunGuest, "nobody is there");
            assert!(self.come.is_empty(), "and nobody hears of it");
        }
        if self.owner.is_none() || rang != AfterRing::WaitForEvent {
            return Some(());
        }
        assert!(self.mailbox.is_waiting());
        let messages = self.messages();
        assert!(self.come.is_empty(), "an answer that was taken is whole");
        let (head, rest) = messages.last().expect("an answer");
        match head.what {
            What::Payload | What::Error => assert!(!head.goes_on, "who goes on does not wait"),
            other => assert_eq!((other, head.rest()), (What::Waits, 0)),
        }
        let data = (head.meta + head.body) as usize;
        if begun && value == DOORBELL_ANSWER && data <= DATA_SIZE {
            let mut expected = self.pages(before, 1, LOG_PAGES);
            expected.truncate(head.log as usize);
            let chunk = self.pages(before, 1 + LOG_PAGES, DATA_PAGES);
            expected.extend_from_slice(&chunk[..data]);
            assert!(*rest == expected, "the owner has what the pages had");
        }
        Some(())
    }

    /// The owner reads all there is.
    fn hear(&mut self) {
        let Some(mut owner) = self.owner.as_ref() else {
            return;
        };
        let mut chunk = [0; 0x1_0000];
        loop {
            match owner.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => self.come.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return,
            }
        }
        if !self.mailbox.is_waiting() {
            // What is whole is taken with the answer, or here if there is much of it.
            if self.come.len() > 8 << 20 {
                self.messages();
            }
        }
    }

    /// The messages that have come whole.
    fn messages(&mut self) -> Vec<(Head, Vec<u8>)> {
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(head) = self.come[at..].first_chunk::<HEAD>() {
            let head = Head::decode(head).expect("the sandbox keeps to the lengths");
            assert_ne!(head.what, What::Agent, "that is the owner's to say");
            let Some(rest) = self.come[at + HEAD..].get(..head.rest()) else {
                break;
            };
            found.push((head, rest.to_vec()));
            at += HEAD + head.rest();
        }
        self.come.drain(..at);
        found
    }

    fn snapshot(&mut self) {
        let state = self.mailbox.save();
        assert_eq!(state.is_some(), !self.frames.is_empty());
        let bytes = postcard::to_stdvec(&state).expect("a state can be written");
        let state: Option<_> = postcard::from_bytes(&bytes).expect("and read");
        let (line, owner) = line();
        let waits = self.mailbox.is_waiting();
        self.mailbox = Mailbox::restore(line, state.as_ref(), &self.memory)
            .expect("what was registered is there");
        assert_eq!(self.mailbox.is_waiting(), waits);
        self.wake = self.mailbox.waker().expect("a descriptor");
        self.owner = Some(owner);
        self.unread = false;
        self.come.clear();
    }

    /// No page changes but the mailbox's, and the pages for output never do.
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
            assert!(ours || old == new, "page {page} is none of the mailbox's");
        }
        if !self.unread && self.is_plain() {
            let data = |ram| self.pages(ram, 1 + LOG_PAGES, DATA_PAGES);
            assert!(data(before) == data(&after), "nobody sent anything");
        }
    }
}

/// What the owner does with what comes.
fn owner(bytes: &[u8]) {
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

/// The function's output, cut anywhere, with gaps.
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
