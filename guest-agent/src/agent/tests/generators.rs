//! What a runtime reports of the random generators of its process.

use super::*;

const GENERATORS: &str = "/hearth/generators";

#[test]
fn a_runtime_may_report_its_generators_before_it_waits() {
    let guest = Guest::starting();
    let mut runtime = guest.connect();
    let reply = runtime.post(GENERATORS, b"process 12\nrandom 4096 2496\nshared a thread");
    assert!(reply.starts_with("HTTP/1.1 202 Accepted\r\n"), "{reply}");
    let (guest, _runtime) = guest.waits(runtime);
    guest.finish();
}

#[test]
fn a_report_that_can_not_be_understood_is_refused_and_ends_nothing() {
    let guest = Guest::starting();
    let mut runtime = guest.connect();
    for (body, status) in [
        (&b"process 12\nrandom 1"[..], "400 Bad Request"),
        (b"", "400 Bad Request"),
        (&[b'x'; 20_000], "413 Payload Too Large"),
    ] {
        let reply = runtime.post(GENERATORS, body);
        assert!(
            reply.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{reply}"
        );
    }
    runtime.get(GENERATORS);
    assert!(runtime.reply().starts_with("HTTP/1.1 405 "));
    let (guest, _runtime) = guest.waits(runtime);
    guest.finish();
}
