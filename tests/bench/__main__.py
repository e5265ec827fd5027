"""Measures one after another, prints a table, and with --json FILE writes the same as JSON.

Nothing here passes or fails: the figures are for people, and for comparing two commits on one host.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from . import crowded, density, history, host_facts, mailbox, measure, report, signatures


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--warm", type=int, default=300, help="warm invocations of each function")
    parser.add_argument("--cold", type=int, default=40, help="cold invocations of each function")
    parser.add_argument("--deploys", type=int, default=3, help="deploys of python-hello")
    parser.add_argument("--events", type=int, default=640, help="events of rust-echo")
    parser.add_argument("--calls", type=int, default=1000, help="warm calls of a quiet function")
    parser.add_argument("--idle", type=int, default=500, help="idle instances at once")
    parser.add_argument("--functions", type=int, default=1000, help="registered functions")
    parser.add_argument("--queued", type=int, default=100_000, help="events that wait")
    parser.add_argument(
        "--crowded-calls", type=int, default=200, help="warm calls beside functions and events"
    )
    parser.add_argument("--data", type=Path, help="keep the data directory here, for the next run")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        data = options.data or Path(scratch) / "data"
        figures = measure.everything(data, options, progress=say_progress)
        figures |= signatures.cost(data, Path(scratch), options.warm, progress=say_progress)
        if options.calls:
            figures |= mailbox.calls(Path(scratch), options.calls, progress=say_progress)
        if options.idle:
            figures |= density.density(data, options.idle, progress=say_progress)
        if options.crowded_calls:
            figures |= crowded.crowded(data, Path(scratch), options, progress=say_progress)
    facts = host_facts.of_this_host(figures.pop("status"))
    results = {"host": facts, "figures": figures}
    print(report.table(results))
    print(f"\n{history.append(results)}")
    history.main()
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def say_progress(what: str) -> None:
    print(f"… {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
