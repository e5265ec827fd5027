"""What the load benchmark calls: one function that behaves well or badly, as its event says."""

import os
import time


def handler(event, context):
    return globals()[event["op"]](event)


def echo(event):
    return event


def burn(event):
    """Keeps its vCPU busy, without a call into the guest's kernel for most of the time."""
    end = time.monotonic() + event["seconds"]
    rounds = 0
    while time.monotonic() < end:
        for _ in range(20_000):
            rounds += 1
    return rounds


def nap(event):
    time.sleep(event["seconds"])
    return event["seconds"]


def pour(event):
    """Writes lines of a kilobyte to the log."""
    for n in range(event["lines"]):
        os.write(1, f"{n} {'x' * 1000}\n".encode())
    return event["lines"]


def size(event):
    return "x" * (event["bytes"] - 2)
