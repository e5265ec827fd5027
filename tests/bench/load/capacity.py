"""Goodput: how many calls a second are answered well, by the number of clients, warm and cold.

Warm: all clients call one function of a controller with the default settings, which starts as many
instances as it thinks fit.

Cold: the controller runs with `--idle-timeout 0`, as an operator has it who wants no instance to
outlive the calls that wait for it, and the clients call twenty functions in turn. So no call finds an
idle instance. A call that waits while another one runs on its function may still be given that
instance; the table says how many calls had an instance started for them.

The burst is many clients at once that send one call each to the same functions, none of which has an
instance.

Each measurement has a controller of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import clients, functions
from .figures import load, ratio

#: Numbers of clients, and the one that the others are compared with.
CLIENTS = (1, 8, 64, 256)
FEW = 8
#: The settings with which no call finds an idle instance.
NO_IDLE = ("--idle-timeout", "0")
BODY = b'{"op":"echo","filler":"' + b"x" * 36 + b'"}'


def cold(data: Path, options: Any, progress: Callable[[str], None]) -> dict[str, dict]:
    rare = [functions.rare(number) for number in range(options.functions)]
    requests = [clients.invocation(name, BODY) for name in rare]
    progress(f"a burst of {options.burst} cold calls over {len(rare)} functions")
    with functions.controller(data, requests, *NO_IDLE) as controller:
        burst = clients.Load(controller.port, requests, options.burst, 60.0, calls=1)
        figures = {"burst": load(clients.run(burst))}
    return figures | closed_loops("cold", data, requests, NO_IDLE, options, progress)


def warm(data: Path, options: Any, progress: Callable[[str], None]) -> dict[str, dict]:
    requests = [clients.invocation(functions.NAME, BODY)]
    return closed_loops("warm", data, requests, (), options, progress)


def closed_loops(
    kind: str,
    data: Path,
    requests: Sequence[bytes],
    arguments: Sequence[str],
    options: Any,
    progress: Callable[[str], None],
) -> dict[str, dict]:
    figures = {}
    for count in CLIENTS:
        progress(name(kind, count))
        with functions.controller(data, requests, *arguments) as controller:
            made = clients.Load(controller.port, requests, count, options.seconds, options.settle)
            figures[name(kind, count)] = load(clients.run(made))
    few = figures[name(kind, FEW)]["goodput"]
    for count in CLIENTS:
        if count > FEW:
            goodput = figures[name(kind, count)]["goodput"]
            figures[f"{kind}, {count} clients to {FEW}"] = ratio("goodput", goodput, few)
    return figures


def name(kind: str, count: int) -> str:
    return f"{kind}, {count} client{'s' if count > 1 else ''}"
