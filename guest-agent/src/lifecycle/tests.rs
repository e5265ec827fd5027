//! What each request, message and exit means in each state.

use super::*;

const A: ConnectionId = ConnectionId(0);
const B: ConnectionId = ConnectionId(1);

fn invocation(id: &str) -> Invocation {
    Invocation {
        meta: Invoke {
            request_id: id.into(),
            ..Invoke::default()
        },
        event: Bytes::from_static(b"{}"),
    }
}

fn ready() -> Lifecycle {
    let mut life = Lifecycle::new();
    life.configure(false).unwrap();
    assert_eq!(life.next(A), Ok(Next::Announce { first: true }));
    life
}

fn running(id: &str) -> Lifecycle {
    let mut life = ready();
    assert_eq!(
        life.invoke(invocation(id)),
        Ok(Accepted::Deliver(A, invocation(id)))
    );
    life
}

#[test]
fn an_invocation_goes_round() {
    let mut life = running("1");
    assert_eq!(life.running(), Some("1"));
    assert_eq!(life.answer("1", "InvocationResponse"), Ok(()));
    assert_eq!(life.running(), None);
    assert_eq!(life.next(A), Ok(Next::Announce { first: false }));
}

#[test]
fn an_invocation_that_comes_before_next_is_held_for_it() {
    let mut life = running("1");
    life.answer("1", "InvocationResponse").unwrap();
    assert_eq!(life.invoke(invocation("2")), Ok(Accepted::Held));
    assert_eq!(
        life.next(B),
        Ok(Next::Deliver {
            invocation: invocation("2"),
            first: false
        })
    );
    assert_eq!(life.running(), Some("2"));
}

#[test]
fn a_second_answer_is_an_invalid_transition() {
    let mut life = running("1");
    life.answer("1", "InvocationResponse").unwrap();
    let err = life.answer("1", "InvocationErrorResponse").unwrap_err();
    assert_eq!(
        err.to_string(),
        "State transition from RuntimeResponseSentState to InvocationErrorResponse failed for \
         runtime. Error: State transition is not allowed"
    );
}

#[test]
fn an_answer_for_another_invocation_is_refused_and_changes_nothing() {
    let mut life = running("1");
    assert_eq!(
        life.answer("2", "InvocationResponse"),
        Err(AnswerError::UnknownRequestId)
    );
    assert_eq!(life.running(), Some("1"));
}

#[test]
fn an_answer_without_an_invocation_is_refused() {
    let mut life = ready();
    assert_eq!(
        life.answer("", "InvocationResponse"),
        Err(AnswerError::UnknownRequestId)
    );
}

#[test]
fn next_is_refused_while_another_connection_waits_or_an_event_is_out() {
    assert!(ready().next(B).is_err());
    assert!(running("1").next(A).is_err());
}

#[test]
fn a_runtime_that_reconnects_is_announced_once() {
    let mut life = ready();
    life.connection_closed(A);
    assert_eq!(life.next(B), Ok(Next::Wait { instead_of: None }));
    assert_eq!(
        life.invoke(invocation("1")),
        Ok(Accepted::Deliver(B, invocation("1")))
    );
}

#[test]
fn a_client_that_only_listens_keeps_its_place_until_another_asks() {
    let mut life = ready();
    life.connection_half_closed(A);
    assert!(matches!(
        life.invoke(invocation("1")),
        Ok(Accepted::Deliver(A, _))
    ));
    let mut life = ready();
    life.connection_half_closed(A);
    assert_eq!(
        life.next(B),
        Ok(Next::Wait {
            instead_of: Some(A)
        })
    );
    assert!(matches!(
        life.invoke(invocation("1")),
        Ok(Accepted::Deliver(B, _))
    ));
}

#[test]
fn an_event_waits_for_a_runtime_whose_connection_broke() {
    let mut life = ready();
    life.connection_closed(A);
    assert_eq!(life.invoke(invocation("1")), Ok(Accepted::Held));
    assert!(matches!(life.next(B), Ok(Next::Deliver { .. })));
}

#[test]
fn a_connection_that_does_not_wait_may_close() {
    let mut life = ready();
    life.connection_closed(B);
    assert!(matches!(
        life.invoke(invocation("1")),
        Ok(Accepted::Deliver(A, _))
    ));
}

#[test]
fn init_errors_are_for_init() {
    let mut life = Lifecycle::new();
    life.configure(false).unwrap();
    assert_eq!(life.init_error(), Ok(()));
    assert!(life.init_error().is_err());
    assert_eq!(life.exited(Exit::Code(1)), Ended::AfterInitError);
    assert!(running("1").init_error().is_err());
}

#[test]
fn an_exit_names_the_invocation_it_left_unanswered() {
    assert_eq!(
        running("1").exited(Exit::Code(1)),
        Ended::InService {
            request_id: Some("1".into())
        }
    );
    let mut life = running("1");
    life.answer("1", "InvocationResponse").unwrap();
    life.invoke(invocation("2")).unwrap();
    assert_eq!(
        life.exited(Exit::Signal(9)),
        Ended::InService {
            request_id: Some("2".into())
        }
    );
    assert_eq!(
        ready().exited(Exit::Code(0)),
        Ended::InService { request_id: None }
    );
}

#[test]
fn an_exit_before_next_is_a_failed_init() {
    let mut life = Lifecycle::new();
    life.configure(false).unwrap();
    assert_eq!(life.exited(Exit::Code(1)), Ended::InInit);
}

#[test]
fn an_invocation_after_the_exit_is_answered_with_it() {
    let mut life = ready();
    life.exited(Exit::OutOfMemory);
    assert_eq!(
        life.invoke(invocation("1")),
        Ok(Accepted::Exited {
            request_id: "1".into(),
            exit: Exit::OutOfMemory
        })
    );
}

#[test]
fn the_host_must_keep_to_the_protocol() {
    assert_eq!(
        Lifecycle::new().invoke(invocation("1")),
        Err(HostError::NoFunction)
    );
    assert_eq!(running("1").invoke(invocation("2")), Err(HostError::Busy));
    assert_eq!(ready().configure(false), Err(HostError::ConfiguredTwice));
}

#[test]
fn the_lifecycle_follows_what_happens_at_the_mailbox() {
    // Answered at the mailbox: the agent can give the next event.
    let mut life = running("1");
    life.answered_at_mailbox();
    assert_eq!(life.running(), None);
    assert_eq!(life.invoke(invocation("2")), Ok(Accepted::Held));
    // An event from the mailbox, answered through the agent, or not at all.
    let mut life = running("1");
    life.answered_at_mailbox();
    life.works_at_mailbox("2".into());
    assert_eq!(life.running(), Some("2"));
    assert_eq!(life.answer("2", "InvocationResponse"), Ok(()));
    life.works_at_mailbox("2".into());
    assert_eq!(life.running(), None);
    life.works_at_mailbox("3".into());
    assert_eq!(
        life.exited(Exit::Code(1)),
        Ended::InService {
            request_id: Some("3".into())
        }
    );
}

#[test]
fn a_runtime_can_not_say_that_it_runs_or_has_answered_what_it_was_not_given() {
    let mut life = ready();
    life.answered_at_mailbox();
    life.works_at_mailbox("1".into());
    assert_eq!(life.running(), None);
    let mut life = running("1");
    life.works_at_mailbox("2".into());
    assert_eq!(life.running(), Some("1"));
}
