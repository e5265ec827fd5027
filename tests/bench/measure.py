"""The measurements, each one a list of samples in milliseconds or KiB.

Times are a client's: from before the request is written to a connection that is already open, to
the last byte of the answer. The same run measures agent pings, the unit that makes figures of two
hosts comparable: one frame from the controller to the agent in the guest and back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness import host, layout
from harness.command import hearth
from harness.controller import Controller
from harness.invocation import invoke_raw, lambda_client

from .event_rates import event_rates

#: What is invoked: an example, and its event.
FUNCTIONS = {"rust-echo": b'{"n":1}', "python-hello": b'{"name":"bench"}'}


def everything(data: Path, options: SimpleNamespace, progress: Callable[[str], None]) -> dict:
    """All figures, and the controller's status under `status`."""
    controller = Controller(data).start()
    try:
        figures = deploys(controller, options.deploys, progress)
        for name in FUNCTIONS:
            warm_up(controller, name)
            progress(f"{options.warm} warm invocations of {name}")
            figures[f"warm {name}"] = warm(controller, name, options.warm)
            progress(f"agent pings of {name}")
            figures[f"agent ping {name}"] = agent_pings(controller, name)
            figures[f"memory {name}"] = memory(controller, name)
            progress(f"{options.cold} cold invocations of {name}")
            figures |= cold(controller, name, options.cold)
        progress(f"{options.events} events of rust-echo")
        figures |= event_rates(controller, "rust-echo", FUNCTIONS["rust-echo"], options.events)
        figures["status"] = controller.status()
        return figures
    finally:
        controller.stop()


def deploys(controller: Controller, count: int, progress: Callable[[str], None]) -> dict:
    """The first deploys boot a kernel for their runtime's snapshot; the others do not."""
    client = lambda_client(controller.url)
    there = {f["FunctionName"] for f in client.list_functions()["Functions"]}
    figures = {}
    for name in FUNCTIONS:
        if name not in there:
            progress(f"first deploy of {name} (kernel boot, then its snapshot)")
            figures[f"first deploy {name}"] = times([timed_deploy(controller, name)])
    progress(f"{count} deploys of python-hello (its runtime's snapshot exists)")
    again = [timed_deploy(controller, "python-hello", f"ROUND={n}") for n in range(count)]
    figures["deploy python-hello"] = times(again)
    return figures


def timed_deploy(controller: Controller, name: str, variable: str = "ROUND=first") -> float:
    """Milliseconds until `hearth deploy` returns; another variable makes it another snapshot."""
    began = time.perf_counter()
    hearth(controller, "deploy", layout.EXAMPLES / name, "--env", variable).ok()
    return (time.perf_counter() - began) * 1e3


def invoke_once(controller: Controller, name: str) -> tuple[float, Any]:
    """Milliseconds at the client, and the answer."""
    began = time.perf_counter()
    answer = invoke_raw(controller, name, FUNCTIONS[name])
    elapsed = (time.perf_counter() - began) * 1e3
    answer.ok()
    return elapsed, answer


def warm_up(controller: Controller, name: str) -> None:
    for _ in range(10):
        invoke_once(controller, name)


def warm(controller: Controller, name: str, count: int) -> dict:
    return times(warm_calls(controller, name, count))


def warm_calls(controller: Controller, name: str, count: int) -> list[float]:
    """One client, one invocation after another. The next starts when the instance is idle again:
    a client that is quicker than the runtime's return to `next` would measure its waiting."""
    samples = []
    for _ in range(count):
        controller.idle(name)
        elapsed, answer = invoke_once(controller, name)
        assert answer.start == "warm", "another instance answered: the figure would be wrong"
        samples.append(elapsed)
    return samples


def agent_pings(controller: Controller, name: str, count: int = 500) -> dict:
    controller.idle(name)
    answer = controller.request(
        "POST", f"/hearth/v1/bench/agent-ping?function={name}&count={count}"
    )
    assert answer.status == 200, answer.data
    return times([micros / 1e3 for micros in json.loads(answer.data)["micros"]])


def cold(controller: Controller, name: str, count: int) -> dict:
    samples, phases = cold_starts(controller, name, count)
    return {f"cold {name}": times(samples)} | {
        f"cold {name}, {phase}": times(values) for phase, values in phases.items()
    }


def cold_starts(
    controller: Controller, name: str, count: int, others: int = 0
) -> tuple[list[float], dict[str, list[float]]]:
    """No instance of the function exists; a shell, as always, may. The first start of all is not
    counted: it brings the snapshot into the page cache. With what each phase took. `others` are
    sandboxes of deploys at work."""
    samples, phases = [], {"queue": [], "restore": [], "run": []}
    for n in range(count + 1):
        controller.end_instances(name)
        controller.shells_ready(others)
        elapsed, answer = invoke_once(controller, name)
        assert answer.start == "cold"
        if n > 0:
            samples.append(elapsed)
            took = json.loads(answer.headers["x-hearth-phases"])
            for phase, values in phases.items():
                values.append(took[f"{phase}_us"] / 1e3)
    return samples, phases


def memory(controller: Controller, name: str) -> dict:
    """What an idle instance that has served keeps for itself."""
    smaps = host.smaps(controller.idle(name)["pid"])
    return {
        "unit": "KiB",
        "pss": smaps["Pss"],
        "private_dirty": smaps["Private_Dirty"],
        "rss": smaps["Rss"],
    }


def times(samples: list[float]) -> dict:
    """Percentiles of samples in milliseconds."""
    ordered = sorted(samples)

    def percentile(p: float) -> float:
        return ordered[min(len(ordered) - 1, int(p * len(ordered)))]

    return {
        "unit": "ms",
        "count": len(ordered),
        "min": ordered[0],
        "p50": percentile(0.50),
        "p99": percentile(0.99),
        "max": ordered[-1],
    }
