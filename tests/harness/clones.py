"""Clones of one snapshot, one after another."""

from __future__ import annotations

import os
import signal
from typing import Any

from .controller import Controller
from .deadline import until
from .invocation import invoke


def drawn_by_clones(controller: Controller, client: Any, name: str, count: int) -> list[dict]:
    """What the function's `draws` answers in `count` instances, each restored for it alone."""
    controller.end_instances(name)
    drawn = []
    for _ in range(count):
        answer = invoke(client, name, {"op": "draws"})
        assert answer.start == "cold"
        drawn.append(answer.ok())
        for instance in controller.instances(name):
            os.kill(instance["pid"], signal.SIGKILL)
        until("it is gone", lambda: not controller.instances(name))
    return drawn
