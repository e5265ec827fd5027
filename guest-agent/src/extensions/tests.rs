//! What each request and event does to the extensions.

use super::*;

const ID: &str = "01234567-89ab-cdef-0123-456789abcdef";
const OTHER: &str = "11234567-89ab-cdef-0123-456789abcdef";
const BOTH: &[u8] = br#"{"events":["INVOKE","SHUTDOWN"]}"#;
const EVENT: Bytes = Bytes::from_static(b"event");

fn with_external() -> Extensions {
    let mut extensions = Extensions::default();
    extensions.launched("ext".into(), Pid::from_raw(7));
    extensions
}

fn registered() -> Extensions {
    let mut extensions = with_external();
    extensions.register(Some("ext"), BOTH, ID.into()).unwrap();
    extensions
}

fn kind<T: std::fmt::Debug>(result: Result<T, Refusal>) -> &'static str {
    result.unwrap_err().kind
}

#[test]
fn an_external_extension_registers_waits_and_receives_every_event() {
    let mut extensions = with_external();
    assert!(!extensions.all_registered());
    let id = extensions.register(Some("ext"), BOTH, ID.into());
    assert_eq!(id.as_deref(), Ok(ID));
    assert!(extensions.all_registered() && !extensions.all_ready());
    let connection = ConnectionId(3);
    assert_eq!(extensions.next(Some(ID), connection), Ok(None));
    assert!(extensions.all_ready());
    assert_eq!(extensions.invoke(&EVENT), [(connection, EVENT)]);
    assert!(!extensions.all_ready());
    // An event that arrives while it works on another is returned at its next request.
    assert_eq!(extensions.shutdown(&EVENT), []);
    assert_eq!(extensions.next(Some(ID), connection), Ok(Some(EVENT)));
    assert_eq!(
        extensions.exited(Pid::from_raw(7)),
        Some(("ext".into(), false))
    );
    assert_eq!(extensions.running().count(), 0);
}

#[test]
fn what_breaks_the_rules_is_refused_as_lambda_does() {
    let mut extensions = registered();
    let here = ConnectionId(0);
    for (name, body, expected) in [
        (None, BOTH, "Extension.InvalidExtensionName"),
        (Some(""), BOTH, "Extension.InvalidExtensionName"),
        (Some("ext"), BOTH, "Extension.InvalidExtensionState"),
        (Some("in"), BOTH, "Extension.InvalidEventType"),
        (Some("in"), b"{", "InvalidRequestFormat"),
        (
            Some("in"),
            br#"{"events":["RESTART"]}"#,
            "Extension.InvalidEventType",
        ),
    ] {
        let refused = extensions.register(name, body, OTHER.into());
        assert_eq!(kind(refused), expected, "{name:?}");
    }
    for (id, expected) in [
        (None, "Extension.MissingExtensionIdentifier"),
        (Some("7"), "Extension.InvalidExtensionIdentifier"),
        (Some(OTHER), "Extension.UnknownExtensionIdentifier"),
    ] {
        assert_eq!(kind(extensions.next(id, here)), expected);
        assert_eq!(kind(extensions.error(id, ErrorPhase::Exit)), expected);
    }
    extensions.next(Some(ID), here).unwrap();
    let twice = extensions.next(Some(ID), here).unwrap_err();
    assert_eq!(
        twice.message,
        "State transition from Ready to Ready failed for extension ext. Error: State \
         transition is not allowed"
    );
    let late = extensions.error(Some(ID), ErrorPhase::Init);
    assert_eq!(kind(late), "Extension.InvalidExtensionState");
    extensions.connection_closed(here);
    assert_eq!(extensions.next(Some(ID), here), Ok(None));
}

#[test]
fn internal_extensions_register_while_the_runtime_starts_and_are_ten_at_most() {
    let mut extensions = registered();
    let invoke = br#"{"events":["INVOKE"]}"#;
    for n in 1..MAX_EXTENSIONS {
        let id = format!("0123456{n}-89ab-cdef-0123-456789abcdea");
        let name = format!("in{n}");
        extensions.register(Some(&name), invoke, id).unwrap();
    }
    let over = extensions.register(Some("more"), invoke, OTHER.into());
    assert_eq!(kind(over), "Extension.TooManyExtensions");
    let mut extensions = registered();
    extensions.close_registration();
    let late = extensions.register(Some("in"), invoke, OTHER.into());
    assert_eq!(kind(late), "Extension.RegistrationClosed");
}

#[test]
fn an_extension_that_asks_for_no_events_gets_none() {
    let mut extensions = with_external();
    extensions
        .register(Some("ext"), br#"{"events":[]}"#, ID.into())
        .unwrap();
    extensions.next(Some(ID), ConnectionId(0)).unwrap();
    assert_eq!(extensions.invoke(&EVENT), []);
    assert!(extensions.all_ready());
    assert_eq!(extensions.shutdown(&EVENT), []);
    assert_eq!(extensions.without_shutdown_event(), [Pid::from_raw(7)]);
}

#[test]
fn events_have_lambdas_shape() {
    let invoke = hearth_protocol::agent::Invoke {
        request_id: "r".into(),
        deadline_ms: 5,
        function_arn: "arn".into(),
        trace_id: Some("Root=1".into()),
        ..Default::default()
    };
    assert_eq!(
        invoke_event(&invoke),
        r#"{"eventType":"INVOKE","deadlineMs":5,"requestId":"r","invokedFunctionArn":"arn","tracing":{"type":"X-Amzn-Trace-Id","value":"Root=1"}}"#
    );
    assert_eq!(
        shutdown_event("spindown", 7),
        r#"{"eventType":"SHUTDOWN","shutdownReason":"spindown","deadlineMs":7}"#
    );
}
