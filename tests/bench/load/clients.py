"""Clients in closed loops: each sends its next call when its last one was answered.

One thread drives all of them with prepared bytes and an epoll set, so that 256 clients cost hardly
more of the CPUs that they share with Hearth than one does. A client behaves as an SDK does: it keeps
its connection, gives a call up after its patience, and after a 429 it waits for as long as the answer
says. Every call that was sent is accounted for: answered, or an error of some kind.
"""

from __future__ import annotations

import heapq
import selectors
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

#: Kinds of errors besides statuses, which are kinds of their own.
TIMEOUT, CONNECTION, FUNCTION = "timeout", "connection", "function error"
#: The one that docs/limits.md announces.
THROTTLED = "429"
#: Seconds until a client whose call failed, other than by a 429, sends its next one.
AFTER_FAILURE = 0.1


@dataclass(frozen=True)
class Load:
    """Who calls what, and for how long."""

    port: int
    #: What a client sends, one after another; each begins at another one.
    requests: Sequence[bytes]
    clients: int
    #: For how long calls are sent after those of `settle`, which are not measured.
    seconds: float
    settle: float = 0.0
    #: Calls of each client, if not as many as it can.
    calls: int | None = None
    #: Seconds between an answer and the client's next call.
    think: float = 0.0
    #: Seconds until a client gives a call up.
    patience: float = 15.0
    #: A client reads so many bytes at most, and then none for `rest` seconds.
    gulp: int = 1 << 20
    rest: float = 0.0


@dataclass
class Tally:
    """What became of the calls."""

    sent: int = 0
    #: Good answers within the measured time, and how long that was.
    good: int = 0
    seconds: float = 0.0
    #: Milliseconds of the calls sent within the measured time that were answered well, and how many of
    #: them had an instance started for them.
    times: list[float] = field(default_factory=list)
    cold: int = 0
    #: Of all calls, also those that were not measured.
    errors: Counter[str] = field(default_factory=Counter)


def invocation(function: str, body: bytes) -> bytes:
    return (
        f"POST /2015-03-31/functions/{function}/invocations HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def run(load: Load) -> Tally:
    """Sends all calls, and waits until the last one is answered or given up."""
    return _Loop(load).run()


class _Client:
    """One connection, and the call that is under way on it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.next = number
        self.called = 0
        self.socket: socket.socket | None = None
        self.unsent = memoryview(b"")
        #: What has come of the answer, and how much of it there is to be; unknown before its headers end.
        self.answer = bytearray()
        self.length: int | None = None
        self.head = b""
        #: 0 between two calls.
        self.began = 0.0

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None


class _Loop:
    def __init__(self, load: Load) -> None:
        self.load = load
        self.tally = Tally()
        self.selector = selectors.DefaultSelector()
        #: Clients that do something at a time: when, which, and whether it is to read on.
        self.alarms: list[tuple[float, int, bool]] = []
        self.clients = [_Client(number) for number in range(load.clients)]
        #: Calls in the order in which they will be given up.
        self.deadlines: deque[tuple[float, _Client, int]] = deque()
        self.under_way = 0

    def run(self) -> Tally:
        for client in self.clients:
            self.connect(client)
        began = time.perf_counter()
        self.measured_from = began + self.load.settle
        self.ends = self.measured_from + self.load.seconds
        for client in self.clients:
            self.send(client)
        last = began
        while self.under_way or self.alarms:
            for key, events in self.selector.select(self.pause()):
                self.ready(key.data, events)
            now = last = time.perf_counter()
            self.give_up(now)
            while self.alarms and self.alarms[0][0] <= now:
                _, number, reads_on = heapq.heappop(self.alarms)
                client = self.clients[number]
                if not reads_on:
                    self.send(client)
                elif client.began and client.socket.fileno() not in self.selector.get_map():
                    self.selector.register(client.socket, selectors.EVENT_READ, client)
        for client in self.clients:
            client.close()
        self.selector.close()
        self.tally.seconds = min(last, self.ends) - self.measured_from
        return self.tally

    def pause(self) -> float:
        """Until something other than a connection needs attention."""
        due = self.alarms[0][0] if self.alarms else float("inf")
        if self.deadlines:
            due = min(due, self.deadlines[0][0])
        return min(max(0.0, due - time.perf_counter()), 1.0)

    def connect(self, client: _Client) -> None:
        client.socket = socket.create_connection(("127.0.0.1", self.load.port))
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.socket.setblocking(False)
        self.selector.register(client.socket, selectors.EVENT_READ, client)

    def send(self, client: _Client) -> None:
        """Sends the client's next call, if it has one."""
        now = time.perf_counter()
        if now >= self.ends or client.called == self.load.calls:
            return
        if client.socket is None:
            try:
                self.connect(client)
            except OSError:
                self.tally.errors[CONNECTION] += 1
                self.later(client, AFTER_FAILURE)
                return
        request = self.load.requests[client.next % len(self.load.requests)]
        client.next += 1
        client.called += 1
        client.unsent, client.answer, client.length = memoryview(request), bytearray(), None
        client.began = now
        self.deadlines.append((now + self.load.patience, client, client.called))
        self.tally.sent += 1
        self.under_way += 1
        self.write(client)

    def later(self, client: _Client, seconds: float, reads_on: bool = False) -> None:
        alarm = (time.perf_counter() + seconds, client.number, reads_on)
        heapq.heappush(self.alarms, alarm)

    def ready(self, client: _Client, events: int) -> None:
        if client.socket is None:
            return
        if events & selectors.EVENT_WRITE:
            self.write(client)
        if events & selectors.EVENT_READ and client.socket is not None:
            self.read(client)

    def write(self, client: _Client) -> None:
        try:
            sent = client.socket.send(client.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.failed(client, CONNECTION)
            return
        client.unsent = client.unsent[sent:]
        wanted = selectors.EVENT_READ
        if client.unsent:
            wanted |= selectors.EVENT_WRITE
        if self.selector.get_key(client.socket).events != wanted:
            self.selector.modify(client.socket, wanted, client)

    def read(self, client: _Client) -> None:
        try:
            piece = client.socket.recv(self.load.gulp)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self.failed(client, CONNECTION)
            return
        client.answer += piece
        if client.length is None and (end := client.answer.find(b"\r\n\r\n")) >= 0:
            client.head = bytes(client.answer[:end]).lower()
            client.length = end + 4 + int(_header(client.head, b"content-length") or 0)
        if client.length is not None and len(client.answer) >= client.length:
            self.answered(client)
        elif self.load.rest:
            self.selector.unregister(client.socket)
            self.later(client, self.load.rest, reads_on=True)

    def answered(self, client: _Client) -> None:
        now = time.perf_counter()
        status = client.head[9:12].decode(errors="replace")
        wait = self.load.think
        if status != "200":
            self.tally.errors[status] += 1
            if status == THROTTLED:
                wait = float(_header(client.head, b"retry-after") or 1)
        elif _header(client.head, b"x-amz-function-error"):
            self.tally.errors[FUNCTION] += 1
        else:
            if self.measured_from <= now < self.ends:
                self.tally.good += 1
            if client.began >= self.measured_from:
                self.tally.times.append((now - client.began) * 1e3)
                self.tally.cold += _header(client.head, b"x-hearth-start") == b"cold"
        self.ended(client, wait)

    def failed(self, client: _Client, kind: str) -> None:
        if client.socket.fileno() in self.selector.get_map():
            self.selector.unregister(client.socket)
        client.close()
        # Between two calls the controller may close a connection.
        if client.began:
            self.tally.errors[kind] += 1
            self.ended(client, max(self.load.think, AFTER_FAILURE))

    def ended(self, client: _Client, wait: float) -> None:
        client.began = 0.0
        self.under_way -= 1
        if wait:
            self.later(client, wait)
        else:
            self.send(client)

    def give_up(self, now: float) -> None:
        while self.deadlines:
            deadline, client, call = self.deadlines[0]
            if client.began and client.called == call:
                if deadline > now:
                    return
                self.failed(client, TIMEOUT)
            self.deadlines.popleft()


def _header(head: bytes, name: bytes) -> bytes | None:
    at = head.find(b"\r\n" + name + b": ")
    if at < 0:
        return None
    return head[at + len(name) + 4 :].split(b"\r\n", 1)[0]
