"""Server-sent events as a browser reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    id: str | None
    kind: str
    data: Any


def events(answer: Any) -> Iterator[Event]:
    """The events of a streamed answer, as they come."""
    fields: dict[str, str] = {}
    for line in lines(answer):
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            kind = fields.get("event", "message")
            yield Event(fields.get("id"), kind, json.loads(fields["data"]))
            fields = {}


def lines(answer: Any) -> Iterator[str]:
    rest = b""
    for piece in answer.stream(1):
        rest += piece
        *whole, rest = rest.split(b"\n")
        yield from (line.decode() for line in whole)
