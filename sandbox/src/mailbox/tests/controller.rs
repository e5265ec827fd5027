//! Controllers that break the protocol, that go away, or that change with a restore.

use super::*;

#[test]
fn a_controller_that_breaks_the_rules_ends_it() {
    let bare = |what| Head::bare(what).encode().to_vec();
    let mut long = bare(What::Payload);
    long[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut with_output = bare(What::Payload);
    with_output[4] = 1;
    let mut agent_with_body = bare(What::Agent);
    agent_with_body[12] = 1;
    for (what, bytes) in [
        ("a head cut short", bare(What::Payload)[..HEAD - 1].to_vec()),
        ("no kind", vec![0; HEAD]),
        ("a sandbox's word", bare(What::Error)),
        ("another", bare(What::Output)),
        ("a length past all bounds", long),
        ("an event with output", with_output),
        ("no event, with a body", agent_with_body),
        ("two words", [bare(What::Agent), bare(What::Agent)].concat()),
        (
            "two events",
            [bare(What::Payload), bare(What::Payload)].concat(),
        ),
    ] {
        let mut it = Exchange::waiting();
        it.send(&bytes);
        assert!(it.wait().is_err(), "{what}");
        assert_eq!(
            it.get(COMMAND),
            COMMAND_WAIT,
            "{what}: the guest has nothing"
        );
    }
}

#[test]
fn a_controller_that_goes_away_is_noticed_wherever_it_stands() {
    let gone = |mut it: Exchange| {
        it.controller = UnixStream::pair().unwrap().0;
        it
    };
    let mut it = gone(Exchange::waiting());
    assert!(matches!(it.wait(), Err(MailboxError::Closed)));
    assert!(matches!(
        it.mailbox.try_receive(&it.memory),
        Err(MailboxError::Closed)
    ));

    let it = Exchange::new();
    it.answer(KIND_RESPONSE, 0, 1, 0);
    assert!(gone(it).ring(DOORBELL_ANSWER).is_err(), "before an answer");

    let mut it = Exchange::new();
    it.answer(KIND_RESPONSE, 0, DATA_SIZE + 1, 0);
    it.ring(DOORBELL_MORE).unwrap();
    assert!(gone(it).ring(DOORBELL_ANSWER).is_err(), "in one");

    let mut it = Exchange::waiting();
    it.send_event(0, DATA_SIZE, &[1; 100]);
    assert!(gone(it).wait().is_err(), "in an event's first chunk");

    let mut it = Exchange::waiting();
    it.send_event(0, DATA_SIZE + 9, &[1; DATA_SIZE]);
    assert_eq!(it.wait().unwrap(), WaitEnd::Event);
    assert!(gone(it).ring(DOORBELL_TAKEN).is_err(), "behind it");
}

/// Wakes the thread a moment after it has begun to wait, and checks that it returns.
fn woken<T>(mut it: Exchange, what: impl FnOnce(&mut Exchange) -> T) -> T {
    let waker = it.mailbox.waker().unwrap();
    let started = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(30));
            waker.write(1).unwrap();
        });
        let result = what(&mut it);
        assert!(started.elapsed() < Duration::from_secs(20));
        result
    })
}

#[test]
fn the_event_loop_can_wake_the_thread_from_every_wait() {
    assert_eq!(
        woken(Exchange::waiting(), Exchange::wait).unwrap(),
        WaitEnd::Stop
    );
    // A controller that does not read: the socket takes a few messages and is then full.
    let it = Exchange::new();
    it.set(LOG_LEN, u32::try_from(LOG_SIZE).unwrap());
    let sent = woken(it, |it| {
        loop {
            if let Err(e) = it.ring(DOORBELL_LOG) {
                break e;
            }
        }
    });
    assert!(matches!(sent, MailboxError::Stopped), "{sent}");
    // A controller that sends less than it has announced.
    let mut it = Exchange::waiting();
    it.send_event(0, 100, &[1; 50]);
    assert!(matches!(
        woken(it, Exchange::wait),
        Err(MailboxError::Stopped)
    ));
}

#[test]
fn a_limited_wait_ends_by_itself() {
    let mut it = Exchange::waiting();
    let woken = it.mailbox.wait(&it.memory, Some(Duration::from_millis(5)));
    assert_eq!(woken.unwrap(), WaitEnd::TimedOut);
    assert_eq!(it.mailbox.try_receive(&it.memory).unwrap(), None);
}

/// Saves this mailbox's state and restores it with another controller's socket.
fn restored(it: &Exchange) -> (Mailbox, UnixStream) {
    let text = serde_json::to_string(&it.mailbox.save()).unwrap();
    let state: Option<MailboxState> = serde_json::from_str(&text).unwrap();
    let (socket, controller) = socket();
    let mailbox = Mailbox::restore(socket, state.as_ref(), &it.memory).unwrap();
    (mailbox, controller)
}

#[test]
fn a_guest_that_waits_waits_for_its_new_controller_after_a_restore() {
    let mut it = Exchange::waiting();
    (it.mailbox, it.controller) = restored(&it);
    assert!(it.mailbox.is_waiting());
    it.send_event(0, 2, b"hi");
    assert_eq!(it.wait().unwrap(), WaitEnd::Event);
    assert_eq!(it.data()[..2], *b"hi");
    // An exchange in progress is not continued.
    for state in [
        ExchangeState::Event(0),
        ExchangeState::Event(9),
        ExchangeState::Answer(rest(9)),
    ] {
        it.mailbox.state = state;
        assert_eq!(restored(&it).0.state, ExchangeState::NotWaiting);
    }
}

#[test]
fn a_guest_that_is_let_run_without_an_event_turns_to_its_agent() {
    let mut it = Exchange::waiting();
    it.mailbox.resume(&it.memory).unwrap();
    assert_eq!(it.get(COMMAND), COMMAND_AGENT);
    assert!(!it.mailbox.is_waiting());
    // A guest that does not wait is not affected.
    it.set(COMMAND, COMMAND_UNHEARD);
    it.mailbox.resume(&it.memory).unwrap();
    assert_eq!(it.get(COMMAND), COMMAND_UNHEARD);
}

/// A controller sent the guest to its agent, and then paused and resumed the microVM before the
/// vCPU's thread had read that message. The controller's next event was then refused as a second
/// message, or lost.
#[test]
fn what_the_controller_said_before_a_resume_is_not_left_for_later() {
    let mut it = Exchange::waiting();
    it.send(&Head::bare(What::Agent).encode());
    it.mailbox.resume(&it.memory).unwrap();
    assert_eq!(it.get(COMMAND), COMMAND_AGENT);
    it.answer(KIND_RESPONSE, 0, 0, 0);
    it.ring(DOORBELL_ANSWER).unwrap();
    it.send_event(0, 2, b"hi");
    assert_eq!(it.wait().unwrap(), WaitEnd::Event);

    let mut it = Exchange::waiting();
    it.send_event(0, 2, b"hi");
    it.mailbox.resume(&it.memory).unwrap();
    assert_eq!(it.get(COMMAND), COMMAND_EVENT);
    assert_eq!(it.data()[..2], *b"hi");
}

#[test]
fn a_state_whose_pages_are_no_memory_is_refused() {
    let it = Exchange::new();
    let restore = |pages: &[u64]| {
        let state = json!({ "pages": pages, "waiting": true });
        let state: MailboxState = serde_json::from_value(state).unwrap();
        Mailbox::restore(socket().0, Some(&state), &it.memory).map(drop)
    };
    restore(&frames()).unwrap();
    for nowhere in NOWHERE {
        for page in 0..PAGES {
            let mut frames = frames();
            frames[page] = nowhere;
            assert!(restore(&frames).is_err(), "page {page} at {nowhere:#x}");
        }
    }
    let one_more: Vec<u64> = frames().into_iter().chain([1]).collect();
    for wrong in [&[][..], &frames()[1..], &one_more] {
        let refused = restore(wrong).unwrap_err();
        let expected = MailboxError::Pages(PagesError::Pages(wrong.len()));
        assert_eq!(refused.to_string(), expected.to_string());
    }
}
