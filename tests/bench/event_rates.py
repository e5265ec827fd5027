"""How many events a second are accepted, each on disk before its answer, and how many are run.

The client writes prepared requests to connections that are open already, one to each, and then
reads the answers: as many events are under way at a time as there are connections, and the client
costs little of the CPUs that it shares with the controller.
"""

from __future__ import annotations

import socket
import time

from harness import events
from harness.controller import Controller

CONNECTIONS = 64


def event_rates(controller: Controller, name: str, body: bytes, count: int) -> dict:
    """Sends events for a function, and waits until all have run."""
    began = time.perf_counter()
    accepted = accepting(controller, name, body, count)
    events.drained(controller, 600)
    draining = time.perf_counter() - began
    return {
        "events accepted": accepted,
        f"events run {name}": rate(accepted["count"], draining),
    }


def accepting(controller: Controller, name: str, body: bytes, count: int) -> dict:
    """Sends events for a function; how many were accepted a second."""
    request = (
        f"POST /2015-03-31/functions/{name}/invocations HTTP/1.1\r\n"
        f"Host: {controller.address}\r\nX-Amz-Invocation-Type: Event\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    connections = [
        socket.create_connection(("127.0.0.1", controller.port)) for _ in range(CONNECTIONS)
    ]
    try:
        began = time.perf_counter()
        for _ in range(-(-count // CONNECTIONS)):
            for connection in connections:
                connection.sendall(request)
            for connection in connections:
                read_accepted(connection)
        seconds = time.perf_counter() - began
    finally:
        for connection in connections:
            connection.close()
    return rate(-(-count // CONNECTIONS) * CONNECTIONS, seconds)


def read_accepted(connection: socket.socket) -> None:
    """Reads one answer, which has no body."""
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        piece = connection.recv(4096)
        assert piece, "the connection was closed"
        answer += piece
    assert answer.startswith(b"HTTP/1.1 202 "), answer


def rate(count: int, seconds: float) -> dict:
    return {"unit": "1/s", "count": count, "rate": count / seconds}
