"""HTTP by hand, for what no client would send, and for what a client library hides of an answer."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def connection(controller: Any, timeout: float = 60) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", controller.port), timeout=timeout) as peer:
        yield peer


def answer_of(peer: socket.socket) -> bytes:
    """What the server says until its headers are there, or it closes or is silent."""
    said = b""
    with contextlib.suppress(OSError):
        while chunk := peer.recv(65536):
            said += chunk
            if b"\r\n\r\n" in said:
                break
    return said


def status_of(said: bytes) -> int | None:
    is_answer = said.startswith((b"HTTP/1.0 ", b"HTTP/1.1 "))
    return int(said.split(b" ", 2)[1]) if is_answer else None


def whole_answer(peer: socket.socket) -> tuple[int | None, dict[str, str], bytes]:
    """Its status, its headers, and its body as long as it is announced to be."""
    said = answer_of(peer)
    head, _, body = said.partition(b"\r\n\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
    while len(body) < int(headers["content-length"]):
        more = peer.recv(65536)
        assert more, "the answer is cut short"
        body += more
    return status_of(said), headers, body
