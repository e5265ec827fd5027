"""What checking a signature costs: two controllers on the same data, one that checks and one that
does not, asked in turns with the same signed requests. What the host does meanwhile, both feel.

The client signs before its clock starts: what is compared is the controller's work alone.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from harness import layout, signatures
from harness.command import run
from harness.controller import Controller

from .measure import FUNCTIONS, times

NAME = "rust-echo"
INVOKE = f"/2015-03-31/functions/{NAME}/invocations"
#: What is asked: method, path, body. The first takes no guest: the check is most of it.
REQUESTS = {
    "get configuration": ("GET", f"/2015-03-31/functions/{NAME}/configuration", b""),
    f"warm {NAME}": ("POST", INVOKE, FUNCTIONS[NAME]),
    f"warm {NAME} 64 KiB": ("POST", INVOKE, b'{"n":"' + b"x" * (64 << 10) + b'"}'),
}


def cost(data: Path, scratch: Path, count: int, progress: Callable[[str], None]) -> dict:
    """Times of both and their ratios. `data` is that of a controller that has ended."""
    copy = scratch / "signed"
    subprocess.run(
        ["cp", "-a", "--sparse=always", "--reflink=auto", str(data), str(copy)], check=True
    )
    words = ("keys", "create", "bench", "--admin", "--data-dir", copy, "--json")
    made = run(layout.HEARTH, *words).json()
    key = (made["access_key_id"], made["secret_access_key"])
    unsigned = Controller(data)
    signed = Controller(copy, "--require-signatures", log=scratch / "signed.log")
    signed.key = key
    figures = {}
    try:
        for controller in (unsigned, signed):
            controller.start()
        for what, request in REQUESTS.items():
            progress(f"{count} times {what}, by turns unchecked and with its signature checked")
            pair = (f"{what}, unchecked", f"{what}, checked")
            samples = in_turns((unsigned, signed), request, key, count)
            figures |= {name: times(taken) for name, taken in zip(pair, samples, strict=True)}
            ratio = figures[pair[1]]["p50"] / figures[pair[0]]["p50"]
            figures[f"signature, {what}"] = {"unit": "ratio", "p50": ratio}
    finally:
        unsigned.stop()
        signed.stop()
    return figures


def in_turns(
    controllers: tuple[Controller, Controller],
    request: tuple[str, str, bytes],
    key: tuple[str, str],
    count: int,
) -> tuple[list[float], list[float]]:
    """Milliseconds of `count` requests to each. The first ten are not counted."""
    samples = ([], [])
    for n in range(count + 10):
        for controller, taken in zip(controllers, samples, strict=True):
            elapsed = timed(controller, request, key)
            if n >= 10:
                taken.append(elapsed)
    return samples


def timed(controller: Controller, request: tuple[str, str, bytes], key: tuple[str, str]) -> float:
    method, path, body = request
    invokes = method == "POST"
    if invokes and controller.instances(NAME):
        controller.idle(NAME)
    prepared = signatures.signed(
        method, controller.url + path, {}, body, key=key, region="us-east-1"
    ).prepare()
    headers = dict(prepared.headers.items())
    began = time.perf_counter()
    answer = controller.http.request(method, prepared.url, body=body or None, headers=headers)
    elapsed = (time.perf_counter() - began) * 1e3
    assert answer.status == 200, answer.data[:1000]
    assert "x-amz-function-error" not in answer.headers, answer.data[:1000]
    return elapsed
