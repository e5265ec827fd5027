//! Telemetry of a whole agent: the test is host, runtime, extension and listener.

use std::time::Instant;

use hearth_protocol::agent::Leave;

use super::*;
use crate::telemetry::tests::{Listener, kinds};

const TELEMETRY: &str = "PUT /2022-07-01/telemetry";
const LOGS: &str = "PUT /2020-08-15/logs";
const ALL: [&str; 3] = ["platform", "function", "extension"];
const STRANGER: &str = "Lambda-Extension-Identifier: 01234567-89ab-cdef-0123-456789abcdef";

/// A guest whose extension has subscribed by `api`, and both wait for an event.
fn subscribed(api: &str, schema: &str) -> (Guest, Runtime, Runtime, String, Listener) {
    let mut guest = Guest::starting();
    let listener = Listener::new();
    let (mut runtime, mut extension) = (guest.connect(), guest.connect());
    let identifier = extension.register("inside");
    let wanted = listener.subscription(schema, &ALL, 25);
    let reply = extension.extension(api, &identifier, &wanted);
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
    assert!(reply.ends_with("\r\n\r\n\"OK\""), "{reply}");
    guest.output.write_all(b"starting\n").unwrap();
    extension.wait_for_event(&identifier);
    runtime.get(NEXT);
    assert!(matches!(guest.hear(), AgentMessage::Log(..)));
    assert!(matches!(guest.hear(), AgentMessage::Ready(_)));
    (guest, runtime, extension, identifier, listener)
}

#[test]
fn a_subscriber_receives_everything_in_order() {
    let (mut guest, mut runtime, mut extension, identifier, mut listener) =
        subscribed(TELEMETRY, "2022-12-13");
    let received = listener.until("platform.initReport");
    assert_eq!(
        kinds(&received),
        [
            "platform.initStart",
            "platform.telemetrySubscription",
            "platform.initRuntimeDone",
            "function",
            "platform.extension",
            "platform.initReport",
        ]
    );
    assert_eq!(received[3]["record"], "starting");
    assert_eq!(received[4]["record"]["state"], "Ready");
    assert_eq!(received[4]["record"]["events"][0], "INVOKE");
    guest.say([invoke("1", b"{}")]);
    extension.reply();
    runtime.reply();
    guest.output.write_all(b"working").unwrap();
    runtime.respond("1", b"done");
    let mut received = listener.until("platform.runtimeDone");
    assert!(
        !kinds(&received).contains(&"platform.report"),
        "{received:?}"
    );
    runtime.get(NEXT);
    extension.wait_for_event(&identifier);
    received.extend(listener.until("platform.report"));
    assert_eq!(
        kinds(&received),
        [
            "platform.start",
            "function",
            "platform.runtimeDone",
            "platform.report"
        ]
    );
    assert_eq!(received[1]["record"], "working");
    assert_eq!(received[2]["record"]["metrics"]["producedBytes"], 4);
    let metrics = |at: usize, name: &str| received[at]["record"]["metrics"][name].as_f64().unwrap();
    assert!(metrics(3, "durationMs") >= metrics(2, "durationMs"));
    assert!(metrics(3, "billedDurationMs") >= metrics(3, "durationMs"));
}

#[test]
fn the_logs_api_has_its_own_events() {
    let (mut guest, mut runtime, mut extension, identifier, mut listener) =
        subscribed(LOGS, "2021-03-18");
    guest.say([invoke("1", b"{}")]);
    extension.reply();
    runtime.reply();
    runtime.respond("1", b"done");
    runtime.get(NEXT);
    extension.wait_for_event(&identifier);
    let received = listener.until("platform.end");
    assert_eq!(
        kinds(&received),
        [
            "platform.logsSubscription",
            "function",
            "platform.extension",
            "platform.start",
            "platform.runtimeDone",
            "platform.report",
            "platform.end",
        ]
    );
}

#[test]
fn the_caller_does_not_wait_for_a_subscriber_that_reads_nothing() {
    let (mut guest, mut runtime, mut extension, identifier, mut listener) =
        subscribed(TELEMETRY, "2022-12-13");
    // The test never answers it.
    listener.batch();
    for id in ["1", "2", "3"] {
        guest.say([invoke(id, b"{}")]);
        extension.reply();
        runtime.reply();
        runtime.respond(id, b"");
        assert!(matches!(guest.hear(), AgentMessage::Response(..)));
        runtime.get(NEXT);
        extension.wait_for_event(&identifier);
        assert!(matches!(guest.hear(), AgentMessage::Ready(_)));
    }
    guest.finish();
}

#[test]
fn what_was_not_delivered_before_a_pause_is_delivered_when_the_next_invocation_begins() {
    let mut guest = Guest::starting();
    let mut listener = Listener::new();
    let (mut runtime, mut extension) = (guest.connect(), guest.connect());
    let identifier = extension.register("inside");
    let wanted = listener.subscription("2022-12-13", &ALL, 30_000);
    extension.extension(TELEMETRY, &identifier, &wanted);
    extension.wait_for_event(&identifier);
    runtime.get(NEXT);
    assert!(matches!(guest.hear(), AgentMessage::Ready(_)));
    let began = Instant::now();
    guest.say([invoke("1", b"{}")]);
    let received = listener.batch();
    assert!(
        began.elapsed() < DEADLINE,
        "it was delivered when its time was over"
    );
    assert_eq!(kinds(&received).last(), Some(&"platform.start"));
    assert!(kinds(&received).contains(&"platform.initReport"));
    guest.finish();
}

#[test]
fn at_shutdown_everything_is_delivered_before_the_host_is_told() {
    let (mut guest, mut runtime, mut extension, _, mut listener) =
        subscribed(TELEMETRY, "2022-12-13");
    listener.until("platform.initReport");
    guest.say([invoke("1", b"{}")]);
    extension.reply();
    runtime.reply();
    guest.output.write_all(b"cut o").unwrap();
    guest.say([HostMessage::Leave(Leave {
        reason: "timeout".into(),
        realtime_ns: now_ns(),
    })]);
    let received = listener.until("platform.report");
    let done = received
        .iter()
        .find(|e| e["type"] == "platform.runtimeDone");
    assert_eq!(done.unwrap()["record"]["status"], "timeout");
    while guest.hear() != AgentMessage::Left {}
}

#[test]
fn a_subscription_that_is_not_allowed_or_not_valid_is_refused_as_lambda_does() {
    let (guest, _runtime, mut extension, _, listener) = subscribed(TELEMETRY, "2022-07-01");
    let wanted = listener.subscription("2022-07-01", &ALL, 25);
    let mut other = guest.connect();
    for (api, expected) in [
        (TELEMETRY, "Extension.UnknownExtensionIdentifier"),
        (LOGS, "Extension.UnknownExtensionIdentifier"),
    ] {
        let reply = other.extension(api, STRANGER, &wanted);
        assert!(
            reply.starts_with("HTTP/1.1 403 ") && reply.contains(expected),
            "{reply}"
        );
    }
    let nobody = other.extension(TELEMETRY, "X: y", &wanted);
    assert!(nobody.contains("Extension.MissingExtensionIdentifier"));
    guest.finish();
    drop(extension);

    let guest = Guest::starting();
    extension = guest.connect();
    let identifier = extension.register("inside");
    for (wanted, expected) in [
        ("{}".to_owned(), "not a subscription"),
        (
            wanted.replace("sandbox.localdomain", "example.com"),
            "example.com",
        ),
        (wanted.replace("25", "24"), "timeoutMs is 24"),
    ] {
        let reply = extension.extension(TELEMETRY, &identifier, &wanted);
        assert!(reply.starts_with("HTTP/1.1 400 "), "{reply}");
        assert!(
            reply.contains("\"errorType\":\"ValidationError\""),
            "{reply}"
        );
        assert!(reply.contains(expected), "{reply}");
    }
    guest.finish();
}

#[test]
fn after_init_no_extension_may_subscribe() {
    let mut guest = Guest::starting();
    let listener = Listener::new();
    let (mut runtime, mut extension) = (guest.connect(), guest.connect());
    let identifier = extension.register("inside");
    extension.wait_for_event(&identifier);
    runtime.get(NEXT);
    assert!(matches!(guest.hear(), AgentMessage::Ready(_)));
    // Not even where another extension has subscribed in time.
    let (other, _runtime, _extension, others, _listener) = subscribed(TELEMETRY, "2022-07-01");
    for (guest, identifier) in [(guest, identifier), (other, others)] {
        let mut late = guest.connect();
        for (api, kind, schema) in [
            (TELEMETRY, "Telemetry.SubscriptionClosed", "2022-07-01"),
            (LOGS, "Logs.SubscriptionClosed", "2021-03-18"),
        ] {
            let wanted = listener.subscription(schema, &ALL, 25);
            let reply = late.extension(api, &identifier, &wanted);
            assert!(reply.starts_with("HTTP/1.1 403 "), "{reply}");
            assert!(reply.contains(kind), "{reply}");
        }
        guest.finish();
    }
}
