//! The mailbox's host end; the test plays both the guest and the controller.

mod controller;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use hearth_protocol::guest::MAX_PAYLOAD;
use hearth_protocol::mailbox::{
    ANSWER_BODY, ANSWER_GOES_ON, ANSWER_KIND, ANSWER_META, COMMAND_UNHEARD, DOORBELL_NOTHING,
    FRAMES, KIND_ERROR, KIND_RESPONSE, LOG_PAGES, MAX_META, PAGE, PAGES, PEAK_KIB,
};
use serde_json::json;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory::{MMIO_GAP_END, MMIO_GAP_START};

/// Pages of RAM in each of two regions. The second region is above the device window.
const HALF: u64 = 32;
const HIGH: u64 = MMIO_GAP_END / PAGE as u64;
/// The header's frame, unless a test moves it. The other pages are below it in descending order, so
/// that neither their order nor their addresses match the layout.
const HEADER: u32 = 20;

fn frames() -> Vec<u64> {
    (0..PAGES as u64).map(|n| u64::from(HEADER) - n).collect()
}

/// An answer with `left` bytes still to come, after which the guest waits.
fn rest(left: usize) -> AnswerRemainder {
    AnswerRemainder {
        left,
        goes_on: false,
    }
}

/// A guest's memory, its mailbox, and the controller's end of the socket.
struct Exchange {
    memory: GuestMemory,
    mailbox: Mailbox,
    controller: UnixStream,
}

fn socket() -> (MailboxSocket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    (MailboxSocket::new(theirs).unwrap(), ours)
}

impl Exchange {
    fn unregistered() -> Self {
        let bytes = usize::try_from(HALF).unwrap() * PAGE;
        let ranges = [
            (GuestAddress(0), bytes),
            (GuestAddress(MMIO_GAP_END), bytes),
        ];
        let (socket, controller) = socket();
        Self {
            memory: GuestMemory::from_ranges(&ranges).unwrap(),
            mailbox: Mailbox::new(socket),
            controller,
        }
    }

    fn new() -> Self {
        let mut this = Self::unregistered();
        this.register(HEADER, &frames()).unwrap();
        this
    }

    /// A guest that has sent an answer and waits for an event.
    fn waiting() -> Self {
        let mut this = Self::new();
        this.answer(KIND_RESPONSE, 0, 0, 0);
        assert_eq!(this.ring(DOORBELL_ANSWER).unwrap(), AfterRing::WaitForEvent);
        this.received(HEAD);
        this
    }

    fn register(&mut self, header: u32, frames: &[u64]) -> Result<(), MailboxError> {
        let at = u64::from(header) * PAGE as u64 + FRAMES as u64;
        let bytes: Vec<u8> = frames.iter().flat_map(|n| n.to_le_bytes()).collect();
        // The write fails if the header is outside of RAM, which some tests want.
        drop(self.memory.write_slice(&bytes, GuestAddress(at)));
        self.mailbox.register(&self.memory, header)
    }

    fn field(field: usize) -> GuestAddress {
        GuestAddress(u64::from(HEADER) * PAGE as u64 + field as u64)
    }

    fn set(&self, field: usize, value: u32) {
        self.memory.write_obj(value, Self::field(field)).unwrap();
    }

    fn get(&self, field: usize) -> u32 {
        self.memory.read_obj(Self::field(field)).unwrap()
    }

    fn answer(&self, kind: u32, meta: usize, body: usize, log: usize) {
        let fields = [ANSWER_META, ANSWER_BODY, LOG_LEN];
        for (field, value) in fields.into_iter().zip([meta, body, log]) {
            self.set(field, u32::try_from(value).unwrap());
        }
        self.set(ANSWER_KIND, kind);
        self.set(COMMAND, COMMAND_UNHEARD);
    }

    fn ring(&mut self, value: u32) -> Result<AfterRing, MailboxError> {
        self.mailbox.ring(&self.memory, value, false)
    }

    /// Writes into the mailbox's pages, from page `first` on.
    fn write(&self, first: usize, bytes: &[u8]) {
        for (page, part) in frames()[first..].iter().zip(bytes.chunks(PAGE)) {
            let at = GuestAddress(page * PAGE as u64);
            self.memory.write_slice(part, at).unwrap();
        }
    }

    fn data(&self) -> Vec<u8> {
        let mut bytes = vec![0; DATA_SIZE];
        for (page, part) in frames()[FIRST_DATA..].iter().zip(bytes.chunks_mut(PAGE)) {
            let at = GuestAddress(page * PAGE as u64);
            self.memory.read_slice(part, at).unwrap();
        }
        bytes
    }

    fn received(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.controller.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn received_nothing(&mut self) {
        self.controller.set_nonblocking(true).unwrap();
        let read = self.controller.read(&mut [0]);
        assert_eq!(read.unwrap_err().kind(), ErrorKind::WouldBlock);
        self.controller.set_nonblocking(false).unwrap();
    }

    /// Sends an event's head, and as much of the event as `rest` has.
    fn send_event(&mut self, meta: usize, body: usize, rest: &[u8]) {
        let (meta, body) = (meta.try_into().unwrap(), body.try_into().unwrap());
        let head = Head {
            meta,
            body,
            ..Head::bare(What::Payload)
        };
        self.send(&[&head.encode()[..], rest].concat());
    }

    fn send(&mut self, bytes: &[u8]) {
        self.controller.write_all(bytes).unwrap();
    }

    fn wait(&mut self) -> Result<WaitEnd, MailboxError> {
        self.mailbox.wait(&self.memory, None)
    }
}

const FIRST_LOG: usize = 1;
const FIRST_DATA: usize = 1 + LOG_PAGES;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

#[test]
fn an_answer_reaches_the_controller_with_its_output_and_the_guest_waits() {
    let mut it = Exchange::new();
    let (log, data) = (pattern(LOG_SIZE - 1), pattern(5000));
    it.answer(KIND_ERROR, 100, 4900, log.len());
    it.set(PEAK_KIB, 77);
    it.write(FIRST_LOG, &log);
    it.write(FIRST_DATA, &data);
    assert_eq!(it.ring(DOORBELL_ANSWER).unwrap(), AfterRing::WaitForEvent);
    assert!(it.mailbox.is_waiting());
    assert_eq!(it.get(COMMAND), COMMAND_WAIT);
    let head = Head {
        what: What::Error,
        log: u32::try_from(log.len()).unwrap(),
        meta: 100,
        body: 4900,
        peak_kib: 77,
        goes_on: false,
    };
    let all = it.received(HEAD + log.len() + data.len());
    assert_eq!(all, [&head.encode()[..], &log, &data].concat());
    it.received_nothing();
}

#[test]
fn an_answer_in_chunks_arrives_whole() {
    let mut it = Exchange::new();
    let all = pattern(3 * DATA_SIZE - 1);
    it.answer(KIND_RESPONSE, 10, all.len() - 10, 0);
    let mut controller = it.controller.try_clone().unwrap();
    let len = HEAD + all.len();
    let reader = thread::spawn(move || {
        let mut bytes = vec![0; len];
        controller.read_exact(&mut bytes).map(|()| bytes)
    });
    let chunks: Vec<&[u8]> = all.chunks(DATA_SIZE).collect();
    for chunk in &chunks[..2] {
        it.write(FIRST_DATA, chunk);
        assert_eq!(it.ring(DOORBELL_MORE).unwrap(), AfterRing::RunGuest);
        assert!(!it.mailbox.is_waiting());
    }
    it.write(FIRST_DATA, chunks[2]);
    assert_eq!(it.ring(DOORBELL_ANSWER).unwrap(), AfterRing::WaitForEvent);
    assert_eq!(reader.join().unwrap().unwrap()[HEAD..], all);
}

#[test]
fn a_guest_that_runs_on_after_its_answer_waits_when_it_rings_for_that() {
    let mut it = Exchange::new();
    it.set(ANSWER_GOES_ON, 1);
    for body in [5, DATA_SIZE + 5] {
        it.answer(KIND_RESPONSE, 0, body, 0);
        if body > DATA_SIZE {
            assert_eq!(it.ring(DOORBELL_MORE).unwrap(), AfterRing::RunGuest);
        }
        assert_eq!(it.ring(DOORBELL_ANSWER).unwrap(), AfterRing::RunGuest);
        assert_eq!(it.get(COMMAND), COMMAND_WAIT);
        assert!(!it.mailbox.is_waiting());
        let head = Head {
            body: u32::try_from(body).unwrap(),
            goes_on: true,
            ..Head::bare(What::Payload)
        };
        assert_eq!(it.received(HEAD + body)[..HEAD], head.encode());
    }
    it.received_nothing();
    it.set(COMMAND, COMMAND_UNHEARD);
    assert_eq!(it.ring(DOORBELL_WAIT).unwrap(), AfterRing::WaitForEvent);
    assert_eq!(it.get(COMMAND), COMMAND_WAIT);
    assert!(it.mailbox.is_waiting());
    assert_eq!(it.received(HEAD), Head::bare(What::Waits).encode());
    it.received_nothing();
}

#[test]
fn an_event_in_chunks_arrives_whole_and_no_sooner_than_it_is_taken() {
    let mut it = Exchange::waiting();
    let all = pattern(2 * DATA_SIZE + 5);
    let mut controller = it.controller.try_clone().unwrap();
    let head = Head {
        meta: 10,
        body: u32::try_from(all.len() - 10).unwrap(),
        ..Head::bare(What::Payload)
    };
    let message = [&head.encode()[..], &all].concat();
    let writer = thread::spawn(move || {
        // In pieces whose length does not divide a chunk's.
        message
            .chunks(10_007)
            .try_for_each(|part| controller.write_all(part))
    });
    it.set(VIA_AGENT, 1);
    assert_eq!(it.wait().unwrap(), WaitEnd::Event);
    assert_eq!(it.get(COMMAND), COMMAND_EVENT);
    assert_eq!((it.get(EVENT_META), it.get(EVENT_BODY)), (10, head.body));
    assert_eq!(it.get(VIA_AGENT), 0);
    assert_eq!(it.data(), all[..DATA_SIZE]);
    assert_eq!(it.ring(DOORBELL_TAKEN).unwrap(), AfterRing::RunGuest);
    assert_eq!(it.data(), all[DATA_SIZE..2 * DATA_SIZE]);
    assert_eq!(it.ring(DOORBELL_TAKEN).unwrap(), AfterRing::RunGuest);
    assert_eq!(it.data()[..5], all[2 * DATA_SIZE..]);
    writer.join().unwrap().unwrap();
    assert!(it.ring(DOORBELL_TAKEN).is_err(), "there is no more");
}

#[test]
fn lengths_out_of_bounds_and_unknown_kinds_end_it_and_the_controller_hears_nothing() {
    let most = u32::MAX as usize;
    for (kind, meta, body, log) in [
        (KIND_RESPONSE, MAX_META + 1, 0, 0),
        (KIND_RESPONSE, 0, MAX_PAYLOAD + 1, 0),
        (KIND_RESPONSE, 0, 0, LOG_SIZE + 1),
        (KIND_ERROR, most, most, most),
        (0, 0, 0, 0),
        (3, 0, 0, 0),
    ] {
        for value in [DOORBELL_ANSWER, DOORBELL_MORE] {
            let mut it = Exchange::new();
            it.answer(kind, meta, body, log);
            let refused = it.ring(value).unwrap_err();
            assert!(matches!(refused, MailboxError::Answer { .. }), "{refused}");
            it.received_nothing();
        }
    }
    let mut it = Exchange::new();
    it.set(LOG_LEN, u32::try_from(LOG_SIZE + 1).unwrap());
    assert!(it.ring(DOORBELL_LOG).is_err());
    it.received_nothing();
    it.set(LOG_LEN, u32::try_from(LOG_SIZE).unwrap());
    assert_eq!(it.ring(DOORBELL_LOG).unwrap(), AfterRing::RunGuest);
    it.received(HEAD + LOG_SIZE);
}

#[test]
fn what_is_rung_in_the_wrong_state_is_refused_or_means_nothing() {
    let all = [
        DOORBELL_NOTHING,
        DOORBELL_ANSWER,
        DOORBELL_MORE,
        DOORBELL_TAKEN,
        DOORBELL_LOG,
        DOORBELL_OFFER,
        DOORBELL_IDLE,
        DOORBELL_WAIT,
        DOORBELL_WAIT + 1,
        u32::MAX,
    ];
    let states = [
        (
            ExchangeState::NotWaiting,
            vec![DOORBELL_MORE, DOORBELL_TAKEN],
        ),
        (ExchangeState::Event(0), vec![DOORBELL_MORE, DOORBELL_TAKEN]),
        (
            ExchangeState::Event(9),
            vec![DOORBELL_ANSWER, DOORBELL_MORE, DOORBELL_LOG, DOORBELL_WAIT],
        ),
        (
            ExchangeState::Answer(rest(9)),
            vec![DOORBELL_MORE, DOORBELL_TAKEN, DOORBELL_LOG, DOORBELL_WAIT],
        ),
        (
            ExchangeState::Waiting,
            vec![
                DOORBELL_ANSWER,
                DOORBELL_MORE,
                DOORBELL_TAKEN,
                DOORBELL_LOG,
                DOORBELL_WAIT,
            ],
        ),
    ];
    for (state, refused) in states {
        for value in all {
            let mut it = Exchange::new();
            it.answer(KIND_RESPONSE, 0, 1, 0);
            it.mailbox.state = state;
            it.send(&[0; 9]);
            let rang = it.ring(value);
            let is_refused = matches!(rang, Err(MailboxError::Ring { .. }));
            assert_eq!(is_refused, refused.contains(&value), "{value} in {state:?}");
            let expected = match (value, state) {
                (DOORBELL_ANSWER | DOORBELL_WAIT, _) => AfterRing::WaitForEvent,
                (DOORBELL_IDLE, ExchangeState::Waiting) => AfterRing::GuestIdle,
                _ => AfterRing::RunGuest,
            };
            assert!(
                is_refused || rang.unwrap() == expected,
                "{value} in {state:?}"
            );
        }
    }
}

#[test]
fn an_offer_is_an_answer_only_where_nothing_can_have_been_written() {
    let mut it = Exchange::new();
    it.answer(KIND_RESPONSE, 0, 5, 0);
    it.write(FIRST_DATA, b"hello");
    assert_eq!(it.ring(DOORBELL_OFFER).unwrap(), AfterRing::RunGuest);
    assert_eq!(it.get(COMMAND), COMMAND_LOOK);
    assert!(!it.mailbox.is_waiting());
    it.received_nothing();
    let rang = it.mailbox.ring(&it.memory, DOORBELL_OFFER, true).unwrap();
    assert_eq!(rang, AfterRing::WaitForEvent);
    assert_eq!(it.received(HEAD + 5)[HEAD..], *b"hello");
}

#[test]
fn rings_of_a_guest_without_a_mailbox_are_ignored() {
    for value in 0..9 {
        let mut it = Exchange::unregistered();
        it.answer(KIND_RESPONSE, 0, 1, 1);
        assert_eq!(it.ring(value).unwrap(), AfterRing::RunGuest);
        assert_eq!(it.get(COMMAND), COMMAND_UNHEARD);
        assert!(it.mailbox.save().is_none());
        it.received_nothing();
    }
}

/// Frames outside of RAM: right after it, in the device window, after the end, and past all
/// addresses.
const NOWHERE: [u64; 8] = [
    HALF,
    MMIO_GAP_START / PAGE as u64,
    HIGH - 1,
    HIGH + HALF,
    1 << 52,
    (1 << 52) - 1,
    u64::MAX,
    u64::MAX / PAGE as u64,
];

#[test]
fn pages_outside_of_ram_are_refused() {
    for nowhere in NOWHERE {
        for page in 1..PAGES {
            let mut it = Exchange::unregistered();
            let mut frames = frames();
            frames[page] = nowhere;
            let refused = it.register(HEADER, &frames).unwrap_err();
            let expected = MailboxError::Pages(PagesError::Frame(nowhere));
            assert_eq!(refused.to_string(), expected.to_string());
            assert_eq!(
                it.ring(DOORBELL_ANSWER).unwrap(),
                AfterRing::RunGuest,
                "not taken"
            );
        }
        if let Ok(header) = u32::try_from(nowhere) {
            assert!(
                Exchange::unregistered()
                    .register(header, &frames())
                    .is_err()
            );
        }
    }
    assert!(
        Exchange::unregistered()
            .register(u32::MAX, &frames())
            .is_err()
    );
}

#[test]
fn a_header_in_the_last_page_of_ram_is_one() {
    for last in [HALF - 1, HIGH + HALF - 1] {
        let mut it = Exchange::unregistered();
        let header = u32::try_from(last).unwrap();
        it.register(header, &frames()).unwrap();
        let at = |field: usize| GuestAddress(last * PAGE as u64 + field as u64);
        it.memory.write_obj(KIND_RESPONSE, at(ANSWER_KIND)).unwrap();
        assert_eq!(it.ring(DOORBELL_ANSWER).unwrap(), AfterRing::WaitForEvent);
        it.received(HEAD);
    }
}

#[test]
fn the_same_page_for_everything_harms_only_the_guest() {
    let mut it = Exchange::unregistered();
    it.register(HEADER, &[HEADER.into(); PAGES]).unwrap();
    it.answer(KIND_RESPONSE, MAX_META, DATA_SIZE - MAX_META, LOG_SIZE);
    assert_eq!(it.ring(DOORBELL_ANSWER).unwrap(), AfterRing::WaitForEvent);
    it.received(HEAD + LOG_SIZE + DATA_SIZE);
    let mut before = vec![0; usize::try_from(HALF).unwrap() * PAGE];
    it.memory.read_slice(&mut before, GuestAddress(0)).unwrap();
    it.send_event(MAX_META, DATA_SIZE - MAX_META, &[0xff; DATA_SIZE]);
    assert_eq!(it.wait().unwrap(), WaitEnd::Event);
    assert_eq!(it.get(COMMAND), COMMAND_EVENT);
    let mut after = vec![0; before.len()];
    it.memory.read_slice(&mut after, GuestAddress(0)).unwrap();
    let header = HEADER as usize * PAGE..(HEADER as usize + 1) * PAGE;
    before[header.clone()].fill(0);
    after[header].fill(0);
    assert!(before == after, "no other page has changed");
}

#[test]
fn the_pages_are_those_that_were_registered_whatever_the_header_says_later() {
    let mut it = Exchange::waiting();
    let nowhere: Vec<u8> = [u64::MAX; PAGES]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .collect();
    it.memory
        .write_slice(&nowhere, Exchange::field(FRAMES))
        .unwrap();
    it.send_event(0, 3, b"abc");
    assert_eq!(it.wait().unwrap(), WaitEnd::Event);
    assert_eq!(it.data()[..3], *b"abc");
}

#[test]
fn registering_again_is_refused_while_bytes_are_under_way() {
    for (state, taken) in [
        (ExchangeState::NotWaiting, true),
        (ExchangeState::Waiting, true),
        (ExchangeState::Event(0), true),
        (ExchangeState::Event(1), false),
        (ExchangeState::Answer(rest(1)), false),
    ] {
        let mut it = Exchange::new();
        it.mailbox.state = state;
        let registered = it.register(HEADER, &frames());
        assert_eq!(registered.is_ok(), taken, "{state:?}");
        assert!(!taken || it.mailbox.state == ExchangeState::NotWaiting);
    }
}
