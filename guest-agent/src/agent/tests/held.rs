//! Answers that a runtime has given at the mailbox and not sent.

use hearth_protocol::mailbox::{
    ANSWER_BODY, ANSWER_KIND, ANSWER_META, AnswerMeta, HELD, KIND_ERROR, KIND_RESPONSE, LOG_SIZE,
    PAGE,
};

use super::*;

/// What a runtime does that gives its answer and then something else.
fn hold(guest: &Guest, kind: u32, request_id: &str, body: &[u8]) {
    let meta = AnswerMeta::write(request_id, None);
    for (field, value) in [
        (ANSWER_KIND, kind),
        (ANSWER_META, u32::try_from(meta.len()).unwrap()),
        (ANSWER_BODY, u32::try_from(body.len()).unwrap()),
    ] {
        guest.mailbox.set(field, value);
    }
    let bytes = [meta.as_bytes(), body].concat();
    // SAFETY: the data pages come after the header and the log pages, and have room.
    unsafe {
        let data = guest.mailbox.address().as_ptr().add(PAGE + LOG_SIZE);
        data.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
    }
    guest.mailbox.set(HELD, 1);
}

/// Makes the agent look at the mailbox: it does so when nothing has happened for a while.
fn write_a_line(guest: &mut Guest) {
    guest.output.write_all(b"line\n").unwrap();
}

fn answer(guest: &mut Guest) -> AgentMessage {
    loop {
        match guest.hear() {
            AgentMessage::Log(..) => {}
            other => return other,
        }
    }
}

#[test]
fn a_held_answer_is_sent_and_no_other_after_it() {
    for (n, kind) in [KIND_RESPONSE, KIND_ERROR].into_iter().enumerate() {
        let (mut guest, mut runtime) = Guest::running();
        hold(&guest, kind, "1", b"given");
        write_a_line(&mut guest);
        let (request_id, body) = match (n, answer(&mut guest)) {
            (0, AgentMessage::Response(response, body)) => (response.request_id, body),
            (1, AgentMessage::FunctionError(error, body)) => (error.request_id, body),
            (_, other) => panic!("{other:?}"),
        };
        assert_eq!((&*request_id, &*body), ("1", &b"given"[..]));
        assert_eq!(guest.mailbox.get(HELD), 0);
        assert!(runtime.respond("1", b"late").starts_with("HTTP/1.1 403 "));
        runtime.get(NEXT);
        assert!(matches!(answer(&mut guest), AgentMessage::Ready(_)));
        guest.finish();
    }
}

#[test]
fn a_held_answer_to_another_invocation_is_dropped() {
    let (mut guest, mut runtime) = Guest::running();
    hold(&guest, KIND_RESPONSE, "0", b"foreign");
    write_a_line(&mut guest);
    assert!(matches!(guest.hear(), AgentMessage::Log(..)));
    while guest.mailbox.get(HELD) != 0 {
        std::thread::yield_now();
    }
    assert!(runtime.respond("1", b"own").starts_with("HTTP/1.1 202 "));
    assert!(matches!(answer(&mut guest), AgentMessage::Response(_, body) if body == "own"));
    guest.finish();
}
