"""Many idle instances of one function: that each of them answers, what they cost, and what they
make of the latency of another function.

All of them are busy at the same time, or they would not be as many: the function waits until a
moment that all its invocations are told, and that lies after the last start.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import host, layout
from harness.command import hearth
from harness.controller import Controller
from harness.deadline import until
from harness.invocation import invoke_raw

from .measure import cold, warm, warm_up

CROWD = "crowd"
NEIGHBOUR = "python-hello"
#: Seconds that one start may take, with everything that has to be done for it.
SECONDS_EACH = 0.4
#: Of the neighbour, without and with the crowd.
WARM, COLD = 100, 30


def density(data: Path, count: int, progress: Callable[[str], None]) -> dict:
    """Figures with `count` idle instances, in a data directory where the neighbour is deployed."""
    budget = (count + 10) * 128
    controller = Controller(
        data,
        "--max-instances",
        str(count + 10),
        "--memory-budget-mib",
        str(budget),
        "--idle-timeout",
        "3600",
    )
    # Each is called long before it answers.
    controller.http.connection_pool_kw["timeout"] = 1800
    controller.start()
    try:
        hearth(
            controller,
            "deploy",
            layout.REPOSITORY / "tests" / "functions" / CROWD,
            *("--timeout", "900", "--runtime", "python3.11", "--handler", "app.handler"),
        ).ok()
        progress(f"{NEIGHBOUR} alone")
        alone = neighbour(controller)
        before = available_kib()
        progress(f"{count} instances of {CROWD} at once")
        fill(controller, count)
        pids = [instance["pid"] for instance in controller.instances(CROWD)]
        used = before - available_kib()
        assert len(pids) == count, f"{len(pids)} idle instances, not {count}"
        rollups = [host.smaps(pid) for pid in pids]
        progress(f"{NEIGHBOUR} beside {count} idle instances")
        beside = neighbour(controller)
    finally:
        controller.stop()
    crowd = {
        "unit": "KiB",
        "pss": sum(r["Pss"] for r in rollups) // count,
        "private_dirty": sum(r["Private_Dirty"] for r in rollups) // count,
        "rss": sum(r["Rss"] for r in rollups) // count,
    }
    figures = {
        "idle crowd": {"unit": "instances", "count": count},
        "memory crowd, each": crowd,
        "host's memory for each of the crowd": {"unit": "KiB of the host", "kib": used // count},
    }
    for kind, samples in beside.items():
        figures[f"{kind} {NEIGHBOUR} beside crowd"] = samples
        ratio = samples["p50"] / alone[kind]["p50"]
        figures[f"{kind} beside crowd, to alone"] = {"unit": "times", "p50": ratio}
    return figures


def fill(controller: Controller, count: int) -> None:
    """Starts `count` instances, each as soon as there is a shell for it, and lets all of them answer."""
    meet = time.time() + 30 + SECONDS_EACH * count
    event = json.dumps({"until": meet}).encode()
    with ThreadPoolExecutor(count) as callers:
        answers = []
        for _ in range(count):
            until("a shell is there", lambda: controller.status()["shells"] > 0)
            answers.append(callers.submit(invoke_raw, controller, CROWD, event))
        assert time.time() < meet, "this host takes too long for so many starts"
        names = {answer.result().ok() for answer in answers}
    assert len(names) == count, f"{count} answers with {len(names)} different identifiers"
    until("all are idle", lambda: len(idle(controller)) == count)


def idle(controller: Controller) -> list[dict]:
    return [i for i in controller.instances(CROWD) if i["state"] == "idle"]


def neighbour(controller: Controller) -> dict[str, dict]:
    warm_up(controller, NEIGHBOUR)
    return {
        "warm": warm(controller, NEIGHBOUR, WARM),
        "cold": cold(controller, NEIGHBOUR, COLD)[f"cold {NEIGHBOUR}"],
    }


def available_kib() -> int:
    """Memory that programs could get without anything being swapped out."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, value = line.split(":")
        if name == "MemAvailable":
            return int(value.split()[0])
    raise AssertionError("/proc/meminfo without MemAvailable")
