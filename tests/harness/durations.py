"""What a run says of its time at its end: the slowest tests, the sum of each module, how busy the
machine was, and a warning when all of it took longer than the budget."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from pathlib import Path

import pytest

from . import order
from .workers import ALONE

#: Longest that unit tests and whole-system tests together may take on two cores, in minutes.
BUDGET_MINUTES = 25
#: Tests that are listed.
SLOWEST = 20
PHASES = ("setup", "call", "teardown")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--store-durations",
        action="store_true",
        help="write what each module took to durations.csv, which orders the next runs",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Workers send their reports to the process that started them.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Durations(config), "hearth-durations")


class _Durations:
    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.began = time.time()
        self.busy_before = _busy_and_all()
        self.seconds: dict[str, dict[str, float]] = defaultdict(dict)
        #: Tests that ran when all others had ended.
        self.alone: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid][report.when] = report.duration
        if ALONE in report.keywords:
            self.alone.add(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter) -> None:
        if not self.seconds:
            return
        say = terminalreporter.write_line
        terminalreporter.section(f"slowest {SLOWEST} tests (seconds: setup, call, teardown)")
        total = {test: sum(phases.values()) for test, phases in self.seconds.items()}
        for test in sorted(total, key=total.get, reverse=True)[:SLOWEST]:
            phases = (f"{self.seconds[test].get(phase, 0):6.1f}" for phase in PHASES)
            say(f"{total[test]:6.1f} = {' + '.join(phases)}  {test}")
        terminalreporter.section("modules by time (seconds)")
        modules: dict[str, float] = defaultdict(float)
        side_by_side: dict[str, float] = defaultdict(float)
        for test, seconds in total.items():
            module = test.split("::", 1)[0]
            modules[module] += seconds
            if test not in self.alone:
                side_by_side[module] += seconds
        for module in sorted(modules, key=modules.get, reverse=True):
            alone = modules[module] - side_by_side[module]
            say(f"{modules[module]:6.1f}  {module}" + (f" (alone: {alone:.1f})" if alone else ""))
        if self.config.getoption("store_durations"):
            order.store(side_by_side)
        self._say_all(say)

    def _say_all(self, say) -> None:
        busy, passed = (
            now - before for now, before in zip(_busy_and_all(), self.busy_before, strict=True)
        )
        now = time.time()
        say(
            f"whole-system tests: {_minutes(now - self.began)}; the machine's {os.cpu_count()} cores"
            f" were busy for {busy / max(passed, 1):.0%} of it"
        )
        began = os.environ.get("HEARTH_TESTS_BEGAN")
        if not began:
            return
        took = now - float(began)
        say(f"unit tests and whole-system tests: {_minutes(took)} of {BUDGET_MINUTES} min")
        if took > BUDGET_MINUTES * 60:
            say(
                f"warning: the budget of {BUDGET_MINUTES} min for two cores is exceeded;"
                " tests/README.md says what it is for",
                yellow=True,
            )


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)} min {seconds % 60:02.0f} s"


def _busy_and_all() -> tuple[int, int]:
    """Time that the machine's cores were busy and that passed on all of them, in ticks."""
    user, nice, system, idle, iowait, irq, softirq, steal, *_ = (
        int(ticks) for ticks in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    busy = user + nice + system + irq + softirq + steal
    return busy, busy + idle + iowait
