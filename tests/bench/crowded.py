"""What many functions and a long event queue make of the latency of one function.

Two controllers on copies of one data directory are called by turns, each call of the one beside a
call of the other. One of them has the functions and the events as well, and all through the API. The
events wait because their function may run one at a time, and that one takes long. The functions
share one package and are registered as any is, and their deploys wait for the turn of a deploy that
takes long: a deploy takes seconds of both CPUs where the guest's kernel is interpreted.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness import events, layout, package
from harness.command import hearth
from harness.controller import SHELLS, Controller
from harness.deadline import until
from harness.invocation import ROLE, lambda_client

from .event_rates import accepting
from .measure import cold_starts, times, warm_calls, warm_up

NEIGHBOUR = "python-hello"
QUEUED = "queued"
SLOW = "slow"
#: A deploy whose end nobody waits for: longer than everything here takes.
SLOW_INIT = b"import time\ntime.sleep(800)\n"
#: Calls of one controller before it is the other's turn.
WARM_TURN, COLD_TURN = 20, 4
#: Threads that register functions.
REGISTRARS = 4
#: Sandboxes that are neither shells nor instances, while the slow deploy is at work.
DEPLOYING = 1


def crowded(
    data: Path, scratch: Path, options: Any, progress: Callable[[str], None]
) -> dict[str, dict]:
    """Latencies with and without, and their ratios. `data` is that of a controller that has ended,
    in which the function is deployed that is measured."""
    functions, queued = options.functions, options.queued
    copy = scratch / "crowded"
    subprocess.run(
        ["cp", "-a", "--sparse=always", "--reflink=auto", str(data), str(copy)], check=True
    )
    plain = Controller(data)
    full = Controller(
        copy,
        *("--max-deploys", "1", "--init-timeout", "900", "--drain-timeout", "1"),
        log=scratch / "crowded.log",
    )
    figures = {}
    try:
        for controller in (plain, full):
            controller.start()
        client = lambda_client(full.url)
        progress(f"{functions} functions")
        figures["functions registered"] = register(full, client, functions)
        progress(f"{queued} events that wait")
        figures["events accepted behind others"] = enqueue(full, client, queued)
        pages = client.get_paginator("list_functions").paginate()
        there = sum(len(page["Functions"]) for page in pages)
        assert there > functions, f"{there} functions"
        progress(f"{NEIGHBOUR} by turns, alone and beside {functions} functions and the events")
        samples = by_turns((plain, full), options.crowded_calls)
        first = client.get_function_configuration(FunctionName=registered(0))
        assert first["State"] == "Pending", "deploys did not wait for the measurement's end"
        waiting = events.queue(full)["waiting"]
        assert waiting >= queued, f"{waiting} events wait"
        figures["crowded"] = {"unit": "crowd", "functions": there, "events": waiting}
    finally:
        plain.stop()
        full.stop()
    for kind, (alone, beside) in samples.items():
        pair = times(alone), times(beside)
        figures[f"{kind} {NEIGHBOUR}, alone"] = pair[0]
        figures[f"{kind} {NEIGHBOUR}, beside functions and events"] = pair[1]
        figures[f"{kind} beside functions and events, to alone"] = {
            "unit": "times",
            "p50": pair[1]["p50"] / pair[0]["p50"],
        }
    return figures


def registered(number: int) -> str:
    return f"registered-{number}"


def register(controller: Controller, client: Any, count: int) -> dict:
    """Creates functions whose deploys wait; how many a second."""
    hearth(
        controller,
        *("deploy", layout.FUNCTIONS / "crowd", "--name", QUEUED, "--runtime", "python3.11"),
        *("--handler", "app.handler", "--timeout", "900"),
    ).ok()

    def create(name: str, content: bytes) -> None:
        client.create_function(
            FunctionName=name,
            Runtime="python3.11",
            Handler="app.handler",
            Role=ROLE,
            Code={"ZipFile": content},
        )

    create(SLOW, package.archive({"app.py": SLOW_INIT}))
    until("the slow deploy has begun", lambda: len(controller.sandboxes()) > SHELLS)
    shared = package.folder(layout.FUNCTIONS / "crowd")
    began = time.perf_counter()
    with ThreadPoolExecutor(REGISTRARS) as registrars:
        list(registrars.map(lambda n: create(registered(n), shared), range(count)))
    return {"unit": "1/s", "count": count, "rate": count / (time.perf_counter() - began)}


def enqueue(controller: Controller, client: Any, count: int) -> dict:
    """Sends events for a function that is at work on one already; how many a second."""
    client.put_function_concurrency(FunctionName=QUEUED, ReservedConcurrentExecutions=1)
    event = {"until": time.time() + 850}
    events.send(client, QUEUED, event)
    until("the first event runs", lambda: events.queue(controller)["running"] == 1)
    return accepting(controller, QUEUED, json.dumps(event).encode(), count)


def by_turns(controllers: tuple[Controller, Controller], count: int) -> dict:
    """Milliseconds of calls to each, by kind; `count` warm ones, and a fifth as many cold ones."""
    samples = {kind: ([], []) for kind in ("warm", "cold")}
    turns = count // WARM_TURN
    for _ in range(turns):
        for at, controller in enumerate(controllers):
            warm_up(controller, NEIGHBOUR)
            samples["warm"][at].extend(warm_calls(controller, NEIGHBOUR, WARM_TURN))
    for _ in range(turns):
        for at, controller in enumerate(controllers):
            taken, _ = cold_starts(controller, NEIGHBOUR, COLD_TURN, others=at * DEPLOYING)
            samples["cold"][at].extend(taken)
    return samples
