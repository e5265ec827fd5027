"""The functions that are called: `load` and `noise`, in Python, and a row of small compiled ones."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import layout, package
from harness.controller import Controller
from harness.invocation import create, lambda_client

from . import clients

#: The one that behaves well, and the one beside it that does not.
NAME, NOISE = "load", "noise"
#: As many deploys at a time as a controller runs.
DEPLOYS = 2


def rare(number: int) -> str:
    """One of the functions that are called rarely: none of them has an instance when it is called."""
    return f"rare-{number}"


def deploy(controller: Controller, rare_ones: int, progress: Callable[[str], None]) -> None:
    """Deploys those that are not there from an earlier run."""
    client = lambda_client(controller.url)
    pages = client.get_paginator("list_functions").paginate()
    there = {found["FunctionName"] for page in pages for found in page["Functions"]}
    python = {"Runtime": "python3.11", "Handler": "app.handler"}
    source = package.folder(layout.FUNCTIONS / "load")
    with tempfile.TemporaryDirectory() as scratch:
        guest = package.archive({"bootstrap": package.compile_guest(Path(scratch) / "bootstrap")})
    wanted = [(NAME, source, python), (NOISE, source, python)]
    # Alternating, so that both runtimes boot at the same time.
    wanted[1:1] = [(rare(number), guest, {}) for number in range(rare_ones)]
    missing = [each for each in wanted if each[0] not in there]
    if not missing:
        return
    progress(f"{len(missing)} deploys; the first ones boot a kernel")
    with ThreadPoolExecutor(DEPLOYS) as deploying:
        made = [
            deploying.submit(create, client, name, code, **options)
            for name, code, options in missing
        ]
        for function in made:
            function.result()


@contextlib.contextmanager
def controller(data: Path, requests: Sequence[bytes], *arguments: str) -> Iterator[Controller]:
    """A controller for one measurement: what an earlier one has left running would be a load as well.
    Each request has been answered once, since the first start of a function after the controller's own
    compares its files with their seal. At the end nothing is waited for."""
    running = Controller(data, "--drain-timeout", "1", *arguments).start()
    try:
        once = clients.Load(running.port, requests, 1, 600.0, calls=len(requests), patience=300.0)
        first = clients.run(once)
        assert not first.errors, f"the functions do not answer: {first.errors}"
        yield running
    finally:
        running.stop()
