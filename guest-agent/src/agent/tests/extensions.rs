//! Internal extensions, in the runtime's process. External ones need PID 1 and `/opt`: they are tested in
//! microVMs.

use hearth_protocol::agent::Leave;

use super::*;

const API: &str = "/2020-01-01/extension";

impl Runtime {
    pub(super) fn extension(&mut self, request: &str, header: &str, body: &str) -> String {
        let text = format!(
            "{request} HTTP/1.1\r\nHost: x\r\n{header}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.write_all(text.as_bytes()).unwrap();
        if request.ends_with("next") {
            return String::new();
        }
        self.reply()
    }

    /// Registers. The header by which it identifies itself from then on.
    pub(super) fn register(&mut self, name: &str) -> String {
        let header = format!("Lambda-Extension-Name: {name}");
        let body = r#"{"events":["INVOKE"]}"#;
        let reply = self.extension(&format!("POST {API}/register"), &header, body);
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
        let identifier = "Lambda-Extension-Identifier: ";
        let line = reply.lines().find(|line| line.starts_with(identifier));
        line.unwrap().to_owned()
    }

    pub(super) fn wait_for_event(&mut self, identifier: &str) {
        self.extension(&format!("GET {API}/event/next"), identifier, "");
    }
}

#[test]
fn the_host_receives_ready_when_the_last_extension_waits() {
    let mut guest = Guest::starting();
    let (mut runtime, mut extension) = (guest.connect(), guest.connect());
    let identifier = extension.register("inside");
    runtime.get(NEXT);
    // If the runtime's request were enough, `Ready` would arrive before this.
    let mut other = guest.connect();
    other.get("/2018-06-01/ping");
    other.reply();
    guest.say([HostMessage::Ping(Bytes::new())]);
    assert_eq!(guest.hear(), AgentMessage::Pong(Bytes::new()));
    extension.wait_for_event(&identifier);
    match guest.hear() {
        AgentMessage::Ready(ready) => {
            assert!(ready.init_us.is_some());
            assert_eq!(ready.extensions_us, Some(0));
        }
        other => panic!("{other:?}"),
    }
    guest.say([invoke("1", b"{}")]);
    let event = extension.reply();
    assert!(event.contains("Lambda-Extension-Event-Identifier: "));
    assert!(event.contains(r#""eventType":"INVOKE""#) && event.contains(r#""requestId":"1""#));
    runtime.reply();
    // The caller's answer does not wait for extensions; the next invocation does.
    runtime.respond("1", b"");
    assert!(matches!(guest.hear(), AgentMessage::Response(..)));
    runtime.get(NEXT);
    extension.wait_for_event(&identifier);
    match guest.hear() {
        AgentMessage::Ready(ready) => assert!(ready.extensions_us.is_some()),
        other => panic!("{other:?}"),
    }
    let late = other.extension(
        &format!("POST {API}/register"),
        "Lambda-Extension-Name: late",
        "{}",
    );
    assert!(late.starts_with("HTTP/1.1 403 ") && late.contains("Extension.RegistrationClosed"));
    guest.finish();
}

#[test]
fn an_extension_that_fails_ends_the_invocation_and_the_runtimes_answer_is_refused() {
    let mut guest = Guest::starting();
    let (mut runtime, mut extension) = (guest.connect(), guest.connect());
    let identifier = extension.register("inside");
    extension.wait_for_event(&identifier);
    runtime.get(NEXT);
    assert!(matches!(guest.hear(), AgentMessage::Ready(_)));
    guest.say([invoke("1", b"{}")]);
    extension.reply();
    runtime.reply();
    let reply = extension.extension(&format!("POST {API}/exit/error"), &identifier, "{}");
    assert!(reply.starts_with("HTTP/1.1 202 "), "{reply}");
    match guest.hear() {
        AgentMessage::RuntimeExited(exited) => {
            assert_eq!(exited.request_id.as_deref(), Some("1"));
            assert_eq!(exited.error_type.as_deref(), Some("Extension.ExitError"));
        }
        other => panic!("{other:?}"),
    }
    assert!(runtime.respond("1", b"").starts_with("HTTP/1.1 400 "));
    guest.finish();
}

#[test]
fn a_guest_that_shuts_down_reports_when_it_has() {
    let (mut guest, _runtime) = Guest::ready();
    guest.output.write_all(b"last words").unwrap();
    guest.say([HostMessage::Leave(Leave {
        reason: "spindown".into(),
        realtime_ns: now_ns(),
    })]);
    match guest.hear() {
        AgentMessage::Log(_, lines) => assert_eq!(&lines[..], b"last words\n"),
        other => panic!("{other:?}"),
    }
    assert_eq!(guest.hear(), AgentMessage::Left);
}
