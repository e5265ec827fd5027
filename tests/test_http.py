"""Clients that are slow, endless or wrong hold nobody up."""

import contextlib
import socket

from harness.invocation import invoke
from harness.raw_http import answer_of, connection, status_of

PATH = "/2015-03-31/functions/guest/invocations"


def send_until_refused(peer, chunk, most):
    """Sends until the peer has had enough; returns how many bytes were taken."""
    sent = 0
    with contextlib.suppress(OSError):
        while sent < most:
            peer.sendall(chunk)
            sent += len(chunk)
    return sent


def serves(client):
    assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}


def test_a_hundred_clients_that_never_finish_their_headers_hold_nobody_up(controller, client):
    with contextlib.ExitStack() as peers:
        for _ in range(100):
            peer = peers.enter_context(connection(controller))
            peer.sendall(b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        serves(client)


def test_headers_that_do_not_come_end_the_connection(controller, client):
    with connection(controller, timeout=60) as peer:
        peer.sendall(b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: localhost\r\n")
        # Without an answer: there is no request yet. If it stayed open, this would time out.
        assert peer.recv(65536) == b""


def test_a_body_that_does_not_come_ends_the_request(controller, client):
    with connection(controller, timeout=120) as peer:
        peer.sendall(
            f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{".encode()
        )
        serves(client)
        said = answer_of(peer)
        assert status_of(said) == 408, said
        assert b"RequestTimeoutException" in said


def test_a_body_over_the_limit_is_refused_by_its_length_alone(controller, client):
    for path in (PATH, "/2015-03-31/functions"):
        with connection(controller) as peer:
            peer.sendall(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n".encode()
            )
            assert status_of(answer_of(peer)) == 413
    serves(client)


def test_a_chunked_body_without_end_is_cut_at_the_limit(controller, client):
    for path, limit in ((PATH, 6_291_556), ("/2015-03-31/functions", 70_167_211)):
        with connection(controller) as peer:
            peer.sendall(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            )
            chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
            sent = send_until_refused(peer, chunk, limit * 2)
            # What was refused, less what socket buffers can hold on the way.
            assert sent < limit + (16 << 20)
    serves(client)


def test_requests_that_are_no_http_are_refused(controller, client):
    for nonsense in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST " + PATH.encode() + b" HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST "
        + PATH.encode()
        + b" HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST " + PATH.encode() + b" HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n",
        b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ):
        with connection(controller, timeout=90) as peer:
            with contextlib.suppress(OSError):
                peer.sendall(nonsense)
                peer.shutdown(socket.SHUT_WR)
            status = status_of(answer_of(peer))
            assert status is None or 400 <= status < 500, (nonsense[:60], status)
    serves(client)


def test_a_chunked_payload_is_an_ordinary_payload(controller, client):
    with connection(controller) as peer:
        peer.sendall(
            f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            + b'6\r\n{"op":\r\n7\r\n"echo"}\r\n0\r\n\r\n'
        )
        said = answer_of(peer)
        assert status_of(said) == 200
        while not said.endswith(b'{"op":"echo"}'):
            more = peer.recv(65536)
            assert more, said
            said += more


def test_expect_continue_is_answered(controller, client):
    with connection(controller) as peer:
        peer.sendall(
            f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n"
            "Expect: 100-continue\r\n\r\n".encode()
        )
        assert status_of(answer_of(peer)) == 100
        peer.sendall(b'{"op":"echo"}')
        assert status_of(answer_of(peer)) == 200


def test_health_and_readiness_answer_and_metrics_are_prometheus(controller, client):
    assert controller.get("/healthz").status == 200
    assert controller.get("/readyz").status == 200
    answer = controller.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert any(series.startswith("hearth_") for series in controller.metrics())
