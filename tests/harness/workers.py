"""Several pytest workers side by side, and the tests that must run alone.

pytest-xdist starts the workers, each through `tests/worker` in namespaces of its own. Here is what
it lacks: modules are given out in the order in which they were collected (the longest first, see
order.py), a module always to one worker, so that its fixtures are made once; and tests with the
mark `alone` come last, all on one worker, when all others have ended. Without workers the order is
the same.
"""

from __future__ import annotations

import fcntl
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from xdist.scheduler import LoadScopeScheduling

#: Name of the scope that all tests with the mark are in.
ALONE = "alone"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "alone: needs the whole machine; runs when every other test has ended"
    )
    folder = getattr(config, "workerinput", {}).get("together")
    if folder:
        config.pluginmanager.register(_Worker(Path(folder)), "hearth-worker")
    elif config.getoption("dist") != "no":
        config.pluginmanager.register(_Workers(config), "hearth-workers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker(ALONE) is not None)


class _Workers:
    """What the process does that starts the workers."""

    def __init__(self, config: pytest.Config) -> None:
        #: Where workers leave files for each other.
        self.folder = tempfile.TemporaryDirectory(prefix="workers-")
        # By default the module with the most tests comes first.
        config.option.loadscopereorder = False

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node) -> None:
        node.workerinput["together"] = self.folder.name

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config, log) -> LoadScopeScheduling:
        return _Modules(Path(self.folder.name), config, log)

    def pytest_unconfigure(self) -> None:
        self.folder.cleanup()


class _Modules(LoadScopeScheduling):
    """Gives out whole modules, and at last all tests that run alone."""

    def __init__(self, folder: Path, config: pytest.Config, log) -> None:
        super().__init__(config, log)
        self.folder = folder
        self.alone: frozenset[str] = frozenset()

    def schedule(self) -> None:
        # By now every worker has collected.
        self.alone = frozenset(json.loads((self.folder / ALONE).read_text()))
        super().schedule()

    def remove_node(self, node) -> str | None:
        """A worker has ended; if it died in a test, that test has failed and is not run again."""
        units = self.assigned_work.pop(node)
        waiting = [(unit, test) for unit in units.values() for test in unit if not unit[test]]
        if not waiting:
            return None
        unit, died_in = waiting[0]
        unit[died_in] = True
        for scope, unit in units.items():
            if not all(unit.values()):
                self.workqueue[scope] = unit
                # Before modules that nobody has begun; but what runs alone stays the last.
                self.workqueue.move_to_end(scope, last=scope == ALONE)
        for other in self.nodes:
            self._reschedule(other)
        return died_in

    def _reschedule(self, node) -> None:
        # Another in the place of one that died is given something once it has collected.
        if node in self.registered_collections:
            super()._reschedule(node)

    def _split_scope(self, nodeid: str) -> str:
        return ALONE if nodeid in self.alone else nodeid.split("::", 1)[0]


class _Worker:
    """What a worker does: it holds a lock together with the others until its session ends. A test that
    runs alone takes the lock for itself, and so waits for all of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock: IO[str] | None = None
        self.is_alone = False

    def pytest_sessionstart(self) -> None:
        self.lock = (self.folder / "lock").open("w")
        fcntl.flock(self.lock, fcntl.LOCK_SH)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        alone = [item.nodeid for item in session.items if item.get_closest_marker(ALONE)]
        # Every worker collects the same; each writes all of it, in one step.
        with tempfile.NamedTemporaryFile("w", dir=self.folder, delete=False) as file:
            json.dump(alone, file)
        Path(file.name).rename(self.folder / ALONE)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        if not self.is_alone and item.get_closest_marker(ALONE):
            # Both would wait for ever if two workers asked for it while they hold it.
            fcntl.flock(self.lock, fcntl.LOCK_UN)
            fcntl.flock(self.lock, fcntl.LOCK_EX)
            self.is_alone = True
        return (yield)

    def pytest_sessionfinish(self) -> None:
        self.lock.close()
