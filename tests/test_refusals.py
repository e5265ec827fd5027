"""Requests that are answered before their bodies are read: the client hears the answer, whenever it
reads it, and never takes a connection that has ended for one that goes on."""

import shutil
import time

import pytest
from harness import host, layout
from harness.command import run
from harness.raw_http import connection, whole_answer

FUNCTIONS = "/2015-03-31/functions"
#: No such function, no such path, no such method, too long.
REFUSED = [
    (f"POST {FUNCTIONS}/nobody/invocations", 6_000_000, 404),
    ("POST /2015-03-31/no/such/path", 6_000_000, 404),
    (f"DELETE {FUNCTIONS}", 6_000_000, 405),
    (f"POST {FUNCTIONS}", 100_000_000, 413),
]


@pytest.fixture(scope="module")
def guarded(start_controller, tmp_path_factory):
    """A controller that looks at signatures, and has a key."""
    before = host.Host.now()
    folder = tmp_path_factory.mktemp("guarded")

    def prepare(data):
        run(layout.HEARTH, "keys", "create", "anna", "--admin", "--data-dir", data).ok()

    controller = start_controller(folder, "--require-signatures", prepare=prepare)
    yield controller
    assert controller.stop() == 0
    host.assert_nothing_left(before)
    shutil.rmtree(folder)


def ask(peer, line, length, *headers):
    head = [f"{line} HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *headers]
    peer.sendall("\r\n".join([*head, "", ""]).encode())


def hears_it_after_sending(peer, line, length, status):
    ask(peer, line, length)
    for _ in range(length // 500_000):
        peer.sendall(bytes(500_000))
    answered, headers, body = whole_answer(peer)
    assert (answered, headers["connection"]) == (status, "close")
    assert b"essage" in body
    assert peer.recv(1) == b"", "an end, and no reset"


@pytest.mark.parametrize("line, length, status", REFUSED)
def test_who_sends_all_of_a_large_body_first_hears_the_refusal_and_that_the_connection_ends(
    controller, line, length, status
):
    with connection(controller) as peer:
        hears_it_after_sending(peer, line, length, status)


def test_a_large_body_without_a_signature_is_refused_so_that_its_sender_hears_it(guarded):
    with connection(guarded) as peer:
        hears_it_after_sending(peer, f"POST {FUNCTIONS}/guest/invocations", 6_000_000, 403)


def test_a_connection_goes_on_after_the_refusal_of_a_small_body(controller):
    with connection(controller) as peer:
        for line, _, status in REFUSED[:3]:
            ask(peer, line, 2)
            # On its own: it need not be there with its headers.
            peer.sendall(b"{}")
            answered, headers, _ = whole_answer(peer)
            assert answered == status
            assert "connection" not in headers
        ask(peer, "GET /healthz", 0)
        assert whole_answer(peer)[0] == 200


def test_who_asks_before_sending_a_body_is_refused_and_need_not_send_it(controller):
    line, length, status = REFUSED[0]
    with connection(controller) as peer:
        ask(peer, line, length, "Expect: 100-continue")
        answered, headers, _ = whole_answer(peer)
        assert (answered, headers["connection"]) == (status, "close")
        assert peer.recv(1) == b""


def test_who_is_refused_and_sends_no_body_hears_it_at_once_and_is_let_go(controller):
    line, length, status = REFUSED[0]
    with connection(controller) as peer:
        began = time.monotonic()
        ask(peer, line, length)
        assert whole_answer(peer)[0] == status
        assert time.monotonic() - began < 3, "the answer waited for the body"
        assert peer.recv(1) == b""
        assert time.monotonic() - began < 20, "the connection was kept for a body"
