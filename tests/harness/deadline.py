"""Waiting for something that has no event to wait for: ask often, give up at a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TooLate(AssertionError):
    """It did not happen in time."""


def until(what: str, ask: Callable[[], T], seconds: float = 30.0) -> T:
    """Returns the first truthy answer of `ask`; `what` names it in the failure. Where the time is part of
    the promise it is given; by default it is long enough for a machine that others use as well."""
    end = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > end:
            raise TooLate(f"not within {seconds:g} s: {what} (last answer: {answer!r})")
        time.sleep(0.02)
