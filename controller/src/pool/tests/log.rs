//! What the controller's log says about invocations and instances.

use super::*;
use crate::process_log::capture::{Captured, field};
use crate::process_log::{LogFormat, capture};

/// Runs an event, and returns its request id.
async fn run_with_id(fixture: &Fixture, version: &Arc<Version>, event: &str) -> String {
    let invocation = invocation(version.clone(), event.into());
    let id = invocation.request_id.clone();
    // Invocations that fail have a result too.
    let _ = fixture.pool.submit(invocation).await;
    id
}

fn assert_of(captured: &Captured, message: &str, ids: &[&str]) {
    let lines = captured.lines(message);
    let own: Vec<_> = lines.iter().map(|line| field(line, "request_id")).collect();
    assert_eq!(own, ids, "{message}: {}", captured.text());
    for line in &lines {
        assert_eq!(field(line, "function"), "f", "{line}");
        assert_eq!(field(line, "version"), "$LATEST", "{line}");
        assert!(
            field(line, "id").is_u64() && field(line, "pid").is_u64(),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_line_about_an_invocation_has_its_request_id_and_function_at_the_usual_level() {
    let captured = capture::log(LogFormat::Json, "info");
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    let cold = run_with_id(&fixture, &f, "hang").await;
    run_with_id(&fixture, &f, "fine").await;
    let warm = run_with_id(&fixture, &f, "hang").await;
    assert_of(&captured, "an instance ends", &[&cold, &warm]);
    fixture.stage.stale.store(true, Ordering::SeqCst);
    let stale = run_with_id(&fixture, &f, "fine").await;
    assert_of(&captured, "could not begin its invocation", &[&stale]);
    let rebuilds = captured.lines("rebuilds the snapshot of a function");
    assert_eq!(
        (rebuilds.len(), field(&rebuilds[0], "function")),
        (1, &"f".into())
    );
}

#[tokio::test]
async fn at_debug_the_log_says_which_instance_serves_which_invocation() {
    let captured = capture::log(LogFormat::Json, "debug");
    let fixture = Fixture::new(SETTINGS);
    let f = fixture.version("f");
    let cold = run_with_id(&fixture, &f, "one").await;
    let warm = run_with_id(&fixture, &f, "two").await;
    let message = "an instance begins an invocation";
    assert_of(&captured, message, &[&cold, &warm]);
    let lines = captured.lines(message);
    assert_eq!(field(&lines[0], "id"), field(&lines[1], "id"));
    assert_eq!(field(&lines[0], "start"), "Cold");
    assert_eq!(field(&lines[1], "start"), "Warm");
}
