"""Many idle instances of one function: that each of them answers, what they cost, and what they
make of the latency of another function.

They come by provisioned concurrency, a group at a time. Each group answers as soon as it is there:
as many invocations as it has instances wait in the guest for a moment that all of them are told, so
that no instance can answer twice. A group has to be small, since a guest that runs costs CPU time
even asleep, and a frozen one costs none. That the calls reach the new ones rests on nothing: each
instance has a name of its own, the names are counted, and so is what the controller says that each
has run.

The other function is called alone before the crowd comes and after it has gone, and beside it in
between, always in the same way: a guest that rested for longer has more to do at its next call.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness import host, layout
from harness.command import hearth
from harness.controller import Controller
from harness.deadline import until
from harness.invocation import invoke_raw, lambda_client

from .measure import cold_starts, times, warm_calls, warm_up

CROWD = "crowd"
#: Its published version: only such are provisioned.
VERSION = "1"
NEIGHBOUR = "python-hello"
#: Instances that answer at a time.
GROUP = 20
#: From the first call of a group to the moment at which it answers, in seconds; if that was too
#: early for some, longer and longer ones are tried.
MOMENTS = (2, 5, 10)
#: Of the neighbour, each time.
WARM, COLD = 100, 30


def density(data: Path, count: int, progress: Callable[[str], None]) -> dict:
    """Figures with `count` idle instances, in a data directory where the neighbour is deployed."""
    budget = (count + 10) * 128
    controller = Controller(
        data,
        *("--max-instances", str(count + 10), "--memory-budget-mib", str(budget)),
        *("--max-instances-per-function", str(count + 10)),
        *("--idle-timeout", "3600"),
    ).start()
    client = lambda_client(controller.url)
    try:
        publish(controller, client)
        progress(f"{NEIGHBOUR} alone")
        alone = neighbour(controller)
        before = available_kib()
        progress(f"{count} instances of {CROWD}, {GROUP} at a time")
        provisioning = fill(controller, client, count)
        controller.shells_ready()
        used = before - available_kib()
        rollups = [host.smaps(pid) for pid in all_have_answered(controller, count)]
        progress(f"{NEIGHBOUR} beside {count} idle instances")
        beside = neighbour(controller)
        all_have_answered(controller, count)
        progress(f"{NEIGHBOUR} alone again")
        client.delete_provisioned_concurrency_config(FunctionName=CROWD, Qualifier=VERSION)
        controller.end_instances(CROWD)
        controller.shells_ready()
        for kind, samples in neighbour(controller).items():
            alone[kind] += samples
    finally:
        controller.stop()
    figures = {
        "idle crowd": {"unit": "instances", "count": count},
        "provisioning, each of the crowd": times(provisioning),
        "memory crowd, each": {"unit": "KiB"}
        | {
            name: sum(rollup[of] for rollup in rollups) // count
            for name, of in (("pss", "Pss"), ("private_dirty", "Private_Dirty"), ("rss", "Rss"))
        },
        "host's memory for each of the crowd": {"unit": "KiB of the host", "kib": used // count},
    }
    for kind, samples in beside.items():
        pair = times(alone[kind]), times(samples)
        figures[f"{kind} {NEIGHBOUR} alone"], figures[f"{kind} {NEIGHBOUR} beside crowd"] = pair
        ratio = pair[1]["p50"] / pair[0]["p50"]
        figures[f"{kind} beside crowd, to alone"] = {"unit": "times", "p50": ratio}
    return figures


def publish(controller: Controller, client: Any) -> None:
    """Deploys the crowd's function, unless the data directory has it from an earlier run."""
    there = {f["FunctionName"] for f in client.list_functions()["Functions"]}
    if CROWD not in there:
        hearth(
            controller,
            *("deploy", layout.FUNCTIONS / CROWD, "--runtime", "python3.11"),
            *("--handler", "app.handler"),
        ).ok()
    assert client.publish_version(FunctionName=CROWD)["Version"] == VERSION
    waiter = client.get_waiter("published_version_active")
    waiter.wait(FunctionName=CROWD, Qualifier=VERSION)


def fill(controller: Controller, client: Any, count: int) -> list[float]:
    """Has `count` instances come and answer; milliseconds that one of each group took to come."""
    names, took = set(), []
    there = 0
    while there < count:
        group = min(GROUP, count - there)
        began = time.perf_counter()
        provision(client, there + group)
        took.append((time.perf_counter() - began) * 1e3 / group)
        until("the guests are frozen", lambda: running(controller) == 0)
        for seconds in MOMENTS:
            names |= answers(controller, group, seconds)
            if len(names) == there + group:
                break
        there += group
        assert len(names) == there, f"{there} instances and {len(names)} names"
    return took


def provision(client: Any, count: int) -> None:
    client.put_provisioned_concurrency_config(
        FunctionName=CROWD, Qualifier=VERSION, ProvisionedConcurrentExecutions=count
    )

    def ready() -> bool:
        found = client.get_provisioned_concurrency_config(FunctionName=CROWD, Qualifier=VERSION)
        assert found["Status"] != "FAILED", found["StatusReason"]
        return found["Status"] == "READY"

    until(f"{count} are ready", ready, 600)


def answers(controller: Controller, group: int, seconds: float) -> set[str]:
    """The names with which so many invocations at once are answered."""
    event = json.dumps({"until": time.time() + seconds}).encode()
    with ThreadPoolExecutor(group) as callers:
        called = [
            callers.submit(invoke_raw, controller, f"{CROWD}:{VERSION}", event)
            for _ in range(group)
        ]
        return {answer.result().ok() for answer in called}


def running(controller: Controller) -> float:
    """Instances that are not idle."""
    metrics = controller.metrics()
    states = ("starting", "busy", "finishing")
    return sum(metrics[f'hearth_instances{{state="{state}"}}'] for state in states)


def all_have_answered(controller: Controller, count: int) -> list[int]:
    """The crowd's processes, if each of them is idle and has run its function."""
    crowd = controller.instances(CROWD)
    assert len(crowd) == count, f"{len(crowd)} instances, not {count}"
    for instance in crowd:
        assert instance["state"] == "idle" and instance["invocations"] > 0, instance
    return [instance["pid"] for instance in crowd]


def neighbour(controller: Controller) -> dict[str, list[float]]:
    warm_up(controller, NEIGHBOUR)
    return {
        "warm": warm_calls(controller, NEIGHBOUR, WARM),
        "cold": cold_starts(controller, NEIGHBOUR, COLD)[0],
    }


def available_kib() -> int:
    """Memory that programs could get without anything being swapped out."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, value = line.split(":")
        if name == "MemAvailable":
            return int(value.split()[0])
    raise AssertionError("/proc/meminfo without MemAvailable")
