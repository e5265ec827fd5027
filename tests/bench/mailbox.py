"""Warm calls of a Python function, with the mailbox and without it: latency, rate, CPU, payloads.

The client is a socket and prepared bytes: one that takes longer for a request than the whole of
Hearth does would measure itself.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from harness import layout
from harness.command import hearth
from harness.controller import Controller

from .measure import times

NAME = "calls"
#: Instances that are called at once for the rate, and for how long.
AT_ONCE, SECONDS = 8, 5.0
BODY = json.dumps({"op": "echo", "filler": "x" * 36}).encode()
assert len(BODY) == 64


def calls(scratch: Path, count: int, progress: Callable[[str], None]) -> dict:
    """Figures of both settings, in data directories of their own."""
    figures = {}
    controllers = {}
    try:
        for setting in ("on", "off"):
            progress(f"deploying for the mailbox {setting}")
            data = scratch / f"mailbox-{setting}"
            controllers[setting] = Controller(data, env={"HEARTH_MAILBOX": setting}).start()
            deploy(controllers[setting])
        progress(f"{count} warm calls, by turns with the mailbox and without")
        samples = {"on": [], "off": []}
        for _ in range(10):
            for setting, controller in controllers.items():
                samples[setting] += one_after_another(controller, count // 10, BODY)
        figures["warm call python"] = times(samples["on"])
        figures["warm call python, agent"] = times(samples["off"])
        controllers.pop("off").stop()
        controller = controllers["on"]
        figures |= cpu(controller, count)
        large = json.dumps({"op": "echo", "filler": "x" * (1 << 20)}).encode()
        progress("warm calls with 1 MiB each way")
        one_after_another(controller, 3, large)
        figures["warm call python, 1 MiB"] = times(one_after_another(controller, 30, large))
        progress(f"{AT_ONCE} clients at once")
        figures["warm calls python"] = rate(controller)
        return figures
    finally:
        for controller in controllers.values():
            controller.stop()


def deploy(controller: Controller) -> None:
    hearth(
        controller,
        "deploy",
        layout.FUNCTIONS / "mailbox",
        *("--name", NAME, "--runtime", "python3.11", "--handler", "app.handler"),
    ).ok()


class Client:
    """One connection."""

    def __init__(self, controller: Controller) -> None:
        address, port = controller.address.rsplit(":", 1)
        self.socket = socket.create_connection((address, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def call(self, body: bytes) -> None:
        head = (
            f"POST /2015-03-31/functions/{NAME}/invocations HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.socket.sendall(head.encode() + body)
        answer = b""
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += self.socket.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200"), answer[:500]
        headers = answer[:end].lower()
        assert b"x-amz-function-error" not in headers, answer[:1000]
        length = int(headers.split(b"content-length: ")[1].split(b"\r\n")[0])
        missing = length - (len(answer) - end - 4)
        while missing > 0:
            missing -= len(self.socket.recv(1 << 20))


def one_after_another(controller: Controller, count: int, body: bytes) -> list[float]:
    samples = []
    with Client(controller) as client:
        client.call(body)
        for _ in range(count):
            began = time.perf_counter()
            client.call(body)
            samples.append((time.perf_counter() - began) * 1e3)
    return samples


def cpu(controller: Controller, count: int) -> dict:
    """CPU time of controller and sandbox for a call, guest included."""
    pid = controller.idle(NAME)["pid"]
    before = [run_ms(p) for p in (controller.pid, pid)]
    one_after_another(controller, count - 1, BODY)
    after = [run_ms(p) for p in (controller.pid, pid)]
    each = [(b - a) / count for a, b in zip(before, after, strict=True)]
    return {
        "CPU of a warm call, controller": constant(each[0], count),
        "CPU of a warm call, sandbox and guest": constant(each[1], count),
    }


def constant(value: float, count: int) -> dict:
    return {"unit": "ms", "count": count, "min": value, "p50": value, "p99": value, "max": value}


def run_ms(pid: int) -> float:
    """CPU time of all threads of a process."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e6


def rate(controller: Controller) -> dict:
    """Calls answered in a second, of as many clients as there are instances."""
    counts = [0] * AT_ONCE
    begin = threading.Barrier(AT_ONCE)

    def work(n: int) -> None:
        with Client(controller) as client:
            for _ in range(20):
                client.call(BODY)
            begin.wait()
            until = time.perf_counter() + SECONDS
            while time.perf_counter() < until:
                client.call(BODY)
                counts[n] += 1

    threads = [threading.Thread(target=work, args=(n,)) for n in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"unit": "1/s", "count": sum(counts), "rate": sum(counts) / SECONDS}
