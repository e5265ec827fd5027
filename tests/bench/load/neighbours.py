"""What noisy neighbours make of the latency of a function that behaves well.

One client calls `load`, one call after another with a pause between them, alone and beside the
clients of another function. Those are a process of their own: here they would delay the client whose
calls are measured. Alone is measured before the first and after the last noise.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.controller import Controller
from harness.deadline import until

from . import clients, functions
from .capacity import BODY
from .figures import load, ratio

#: Seconds between an answer and the next call of the client that behaves well.
PAUSE = 0.01
REQUESTS = [clients.invocation(functions.NAME, BODY)]


@dataclass(frozen=True)
class Noise:
    clients: int
    event: dict
    #: How they read: so many bytes at a time, and then a rest.
    gulp: int = 1 << 20
    rest: float = 0.0


LARGE = 6_000_000
NOISES = {
    "16 CPU burners": Noise(16, {"op": "burn", "seconds": 0.5}),
    "64 sleepers": Noise(64, {"op": "nap", "seconds": 3}),
    "4 log flooders": Noise(4, {"op": "pour", "lines": 3000}),
    "4 clients with 6 MB each way": Noise(4, {"op": "echo", "filler": "x" * LARGE}),
    "16 slow readers of 1 MB": Noise(
        16, {"op": "size", "bytes": 1_000_000}, gulp=1 << 16, rest=0.1
    ),
}
#: The one that a target is set for.
BURNERS = "16 CPU burners"


def beside(data: Path, options: Any, progress: Callable[[str], None]) -> dict[str, dict]:
    figures = {}
    progress("the function that behaves well, alone")
    alone = quiet(data, options.seconds)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        for name, noise in NOISES.items():
            progress(f"the same beside {name}")
            with functions.controller(data, REQUESTS) as controller:
                figures |= one(controller, process, name, noise, options)
    progress("the same alone again")
    again = quiet(data, options.seconds)
    alone.times += again.times
    alone.good += again.good
    alone.seconds += again.seconds
    alone.sent += again.sent
    alone.errors += again.errors
    figures["neighbour, alone"] = load(alone)
    base = figures["neighbour, alone"]["p99"]
    for name in NOISES:
        p99 = figures[f"neighbour, beside {name}"]["p99"]
        figures[f"beside {name}, to alone"] = ratio("p99", p99, base)
    return figures


def quiet(data: Path, seconds: float) -> clients.Tally:
    with functions.controller(data, REQUESTS) as controller:
        call(controller, 1.0)
        return call(controller, seconds)


def one(
    controller: Controller, process: ProcessPoolExecutor, name: str, noise: Noise, options: Any
) -> dict[str, dict]:
    """The figures of the neighbour and of the noise."""
    made = clients.Load(
        controller.port,
        [clients.invocation(functions.NOISE, json.dumps(noise.event).encode())],
        noise.clients,
        options.settle + options.seconds,
        patience=30.0,
        gulp=noise.gulp,
        rest=noise.rest,
    )
    before = controller.metrics().get(invoked(), 0)
    others = process.submit(clients.run, made)
    until("the noise is there", lambda: controller.metrics().get(invoked(), 0) > before)
    time.sleep(options.settle)
    measured = load(call(controller, options.seconds))
    instances = len(controller.instances(functions.NOISE))
    return {
        f"neighbour, beside {name}": measured,
        f"noise, {name}": {**load(others.result()), "instances": instances},
    }


def invoked() -> str:
    return f'hearth_invocations_total{{function="{functions.NOISE}"}}'


def call(controller: Controller, seconds: float) -> clients.Tally:
    return clients.run(clients.Load(controller.port, REQUESTS, 1, seconds, think=PAUSE))
