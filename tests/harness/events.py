"""Asynchronous invocations, and what can be known of them from outside.

A function has no network, so what it ran with is told by its log: each run begins with a line
`START RequestId: …`. What the queue holds is told by its file, of which a copy is read: opening
the file itself would do the recovery that the controller has to do.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from .deadline import until


def send(client: Any, name: str, event: Any, **options: Any) -> str:
    """Invokes with `Event` through boto3; returns the request id."""
    answer = client.invoke(
        FunctionName=name,
        InvocationType="Event",
        Payload=json.dumps(event, separators=(",", ":")).encode(),
        **options,
    )
    assert answer["StatusCode"] == 202, answer
    assert answer["Payload"].read() == b""
    return answer["ResponseMetadata"]["RequestId"]


def queue(controller: Any) -> dict[str, int]:
    """How many events wait and run."""
    metrics = controller.metrics()
    return {
        state: int(metrics[f'hearth_async_events{{state="{state}"}}'])
        for state in ("waiting", "running")
    }


def drained(controller: Any, seconds: float = 60.0) -> None:
    """Waits until no event is left."""
    until("the event queue is empty", lambda: sum(queue(controller).values()) == 0, seconds)


def starts(controller: Any, function: str) -> list[tuple[str, str]]:
    """Every run in the function's log, oldest first: request id and time."""
    return [
        (record["request_id"], record["time"])
        for record in controller.all_logs(function)
        if record["kind"] == "platform" and record["message"].startswith("START ")
    ]


def runs(controller: Any, function: str) -> Counter[str]:
    """How often the function ran with each request id."""
    return Counter(request_id for request_id, _ in starts(controller, function))


def stored(data: Path) -> set[str]:
    """Request ids of the events in the queue's file; the controller must have ended."""
    with tempfile.TemporaryDirectory() as copy:
        for file in data.glob("events.db*"):
            shutil.copy(file, copy)
        with contextlib.closing(sqlite3.connect(Path(copy) / "events.db")) as rows:
            return {request_id for (request_id,) in rows.execute("SELECT request_id FROM events")}
