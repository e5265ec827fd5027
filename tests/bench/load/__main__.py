"""Measures Hearth under more load than the host can carry, and prints a table with the targets.

It takes about six minutes on two cores, `--quick` about one, and with a new data directory the
deploys before that. Nothing here passes or fails: the figures are for people, and for comparing two
commits on one host.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from harness.controller import Controller

from .. import history, host_facts
from ..__main__ import say_progress
from . import capacity, figures, functions, neighbours, report

FOLDER = Path(__file__).parent
TABLE = FOLDER / "history.csv"
PICTURE = FOLDER / "history.svg"

#: A column's name, the figure it is taken from, and which number of that.
COLUMNS = {
    "warm 8 clients 1/s": ("warm, 8 clients", "goodput"),
    "warm 64 to 8": ("warm, 64 clients to 8", "goodput"),
    "warm 256 to 8": ("warm, 256 clients to 8", "goodput"),
    "warm 256 p99 ms": ("warm, 256 clients", "p99"),
    "cold 8 clients 1/s": ("cold, 8 clients", "goodput"),
    "cold 64 to 8": ("cold, 64 clients to 8", "goodput"),
    "cold 256 to 8": ("cold, 256 clients to 8", "goodput"),
    "burst answered": ("burst", "answered"),
    "burst p99 ms": ("burst", "p99"),
    "neighbour alone p99 ms": ("neighbour, alone", "p99"),
    **{
        f"p99 beside {name}, to alone": (f"beside {name}, to alone", "p99")
        for name in neighbours.NOISES
    },
    "errors that no limit announces": ("errors that no limit announces", "count"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="make bench-load", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--quick", action="store_true", help="a look in a minute; kept nowhere")
    parser.add_argument("--seconds", type=float, default=12, help="of each measurement")
    parser.add_argument("--settle", type=float, default=4, help="seconds of load before each")
    parser.add_argument("--functions", type=int, default=20, help="functions that are called cold")
    parser.add_argument("--burst", type=int, default=500, help="calls of the burst")
    parser.add_argument("--data", type=Path, help="keep the data directory here, for the next run")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.settle, options.functions, options.burst = 2.5, 1, 5, 125

    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        data = options.data or Path(scratch) / "data"
        controller = Controller(data).start()
        try:
            functions.deploy(controller, options.functions, say_progress)
            status = controller.status()
        finally:
            controller.stop()
        measured = capacity.cold(data, options, say_progress)
        measured |= capacity.warm(data, options, say_progress)
        measured |= neighbours.beside(data, options, say_progress)
    facts = host_facts.of_this_host(status)
    measured["errors that no limit announces"] = figures.unannounced(measured)
    results = {"host": facts, "figures": measured}
    print(report.table(results))
    if not options.quick:
        print(f"\n{history.append(results, TABLE, columns=COLUMNS)}")
        PICTURE.write_text(history.picture(history.read(TABLE), COLUMNS))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
