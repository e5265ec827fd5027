//! Runtimes that act before their snapshot and after each restore.

use super::*;

const RESTORE_NEXT: &str = "/2018-06-01/runtime/restore/next";
const NEXT: &str = "/2018-06-01/runtime/invocation/next";

impl Guest {
    /// A guest whose runtime waits to be restored.
    fn restorable() -> (Self, Runtime) {
        let mut guest = Self::configured(true);
        let mut runtime = guest.connect();
        runtime.get(RESTORE_NEXT);
        assert!(matches!(guest.hear(), AgentMessage::Ready(ready) if ready.init_us.is_some()));
        (guest, runtime)
    }
}

fn thaw() -> HostMessage {
    let realtime_ns = now_ns();
    HostMessage::Thaw(Thaw { realtime_ns }, Bytes::from_static(&[7; 32]))
}

#[test]
fn a_restored_runtime_runs_its_hooks_before_its_first_event() {
    let (mut guest, mut runtime) = Guest::restorable();
    guest.say([thaw(), invoke("1", b"{}")]);
    assert!(runtime.reply().starts_with("HTTP/1.1 200 OK\r\n"));
    guest.output.write_all(b"hook\n").unwrap();
    runtime.get(NEXT);
    let event = runtime.reply();
    assert!(event.contains("\r\nLambda-Runtime-Aws-Request-Id: 1\r\n"));
    match guest.hear() {
        AgentMessage::Log(log, lines) => {
            assert_eq!((log.request_id, &lines[..]), (None, &b"hook\n"[..]));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(guest.hear(), AgentMessage::Thawed);
    runtime.respond("1", b"");
    assert!(matches!(guest.hear(), AgentMessage::Response(..)));
    runtime.get(NEXT);
    assert!(matches!(guest.hear(), AgentMessage::Ready(r) if r.init_us.is_none()));
    guest.finish();
}

#[test]
fn a_restored_runtime_without_an_event_is_announced_once_its_hooks_have_run() {
    let (mut guest, mut runtime) = Guest::restorable();
    guest.say([thaw(), HostMessage::Ping(Bytes::new())]);
    assert_eq!(guest.hear(), AgentMessage::Pong(Bytes::new()));
    runtime.reply();
    runtime.get(NEXT);
    assert_eq!(guest.hear(), AgentMessage::Thawed);
    guest.say([invoke("1", b"{}")]);
    assert!(runtime.reply().starts_with("HTTP/1.1 200 OK\r\n"));
    guest.finish();
}

#[test]
fn a_snap_start_runtime_without_hooks_serves_at_once() {
    let mut guest = Guest::configured(true);
    let mut runtime = guest.connect();
    runtime.get(NEXT);
    assert!(matches!(guest.hear(), AgentMessage::Ready(_)));
    guest.say([thaw()]);
    assert_eq!(guest.hear(), AgentMessage::Thawed);
    guest.finish();
}

/// The mailbox and the connection have no order between them.
#[test]
fn the_answer_after_a_reported_thaw_goes_by_the_connection_too() {
    let told = |hooks: bool, together: bool| {
        let (mut guest, mut runtime) = if hooks {
            Guest::restorable()
        } else {
            let mut guest = Guest::configured(true);
            let mut runtime = guest.connect();
            runtime.get(NEXT);
            assert!(matches!(guest.hear(), AgentMessage::Ready(_)));
            (guest, runtime)
        };
        guest.mailbox.set(VIA_AGENT, 0);
        guest.say(std::iter::once(thaw()).chain(together.then(|| invoke("1", b"{}"))));
        if hooks {
            runtime.reply();
            runtime.get(NEXT);
        }
        if !together {
            assert_eq!(guest.hear(), AgentMessage::Thawed);
            guest.say([invoke("1", b"{}")]);
        }
        runtime.reply();
        let first = guest.mailbox.get(VIA_AGENT);
        runtime.respond("1", b"");
        if together {
            assert_eq!(guest.hear(), AgentMessage::Thawed);
        }
        assert!(matches!(guest.hear(), AgentMessage::Response(..)));
        runtime.get(NEXT);
        assert!(matches!(guest.hear(), AgentMessage::Ready(_)));
        guest.say([invoke("2", b"{}")]);
        runtime.reply();
        let second = guest.mailbox.get(VIA_AGENT);
        runtime.respond("2", b"");
        assert!(matches!(guest.hear(), AgentMessage::Response(..)));
        guest.finish();
        (first, second)
    };
    for (hooks, together) in [(true, true), (true, false), (false, true), (false, false)] {
        assert_eq!(told(hooks, together), (1, 0), "{hooks} {together}");
    }
}

#[test]
fn an_answer_after_an_unreported_thaw_may_go_to_the_mailbox() {
    let mut guest = Guest::starting();
    // The restore of the runtime snapshot, when the function is deployed.
    guest.say([thaw()]);
    assert_eq!(guest.hear(), AgentMessage::Thawed);
    let mut runtime = guest.connect();
    runtime.get(NEXT);
    assert!(matches!(guest.hear(), AgentMessage::Ready(_)));
    guest.say([thaw(), invoke("1", b"{}")]);
    runtime.reply();
    assert_eq!(guest.mailbox.get(VIA_AGENT), 0);
    guest.finish();
}

#[test]
fn a_failure_after_a_restore_is_reported_once_in_place_of_the_thaw() {
    let (mut guest, mut runtime) = Guest::restorable();
    let error = "/2018-06-01/runtime/restore/error";
    assert!(
        guest
            .connect()
            .post(error, b"{}")
            .starts_with("HTTP/1.1 403 ")
    );
    guest.say([thaw(), invoke("1", b"{}")]);
    runtime.reply();
    assert!(
        runtime
            .post(error, b"{\"e\":1}")
            .starts_with("HTTP/1.1 202 ")
    );
    match guest.hear() {
        AgentMessage::RestoreFailed(failed, body) => {
            assert_eq!(failed.error_type, "Runtime.Unknown");
            assert_eq!(&body[..], b"{\"e\":1}");
        }
        other => panic!("{other:?}"),
    }
    assert!(runtime.post(error, b"{}").starts_with("HTTP/1.1 403 "));
    guest.finish();
}

#[test]
fn only_a_snap_start_runtime_may_wait_for_a_restore() {
    let (guest, _runtime) = Guest::ready();
    let mut other = guest.connect();
    other.get(RESTORE_NEXT);
    assert!(other.reply().starts_with("HTTP/1.1 403 "));
    guest.finish();
    let guest = Guest::starting();
    let mut runtime = guest.connect();
    runtime.get(RESTORE_NEXT);
    let refused = runtime.reply();
    assert!(refused.contains("State transition from Started to RestoreReady failed"));
    guest.finish();
}
