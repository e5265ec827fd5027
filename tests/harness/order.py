"""The order of the modules: those that took longest when they were measured come first, so that no
worker begins with a long one when the other has nothing left to do.

`tests/durations.csv` has the seconds that each module took; `--store-durations` writes it after a
whole run. A module that is not in it comes before all others.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[1] / "durations.csv"


def stored() -> dict[str, float]:
    """Seconds by module, as they are in the file."""
    if not FILE.exists():
        return {}
    with FILE.open(newline="") as file:
        return {row["module"]: float(row["seconds"]) for row in csv.DictReader(file)}


def store(seconds: dict[str, float]) -> None:
    with FILE.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("module", "seconds"))
        for module, took in sorted(seconds.items(), key=lambda row: -row[1]):
            rows.writerow((module, f"{took:.0f}"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seconds = stored()
    # A stable sort: tests of one module stay in their order.
    items.sort(
        key=lambda item: (-seconds.get(item.path.name, math.inf), item.path.name),
    )
