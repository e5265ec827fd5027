"""What Hearth could leave behind on a host, and whether it did.

`Host.now()` takes stock; two of them are compared. Only what is Hearth's is looked at, so that a
busy machine does not disturb: processes that run our programs, mounts, control groups, network
devices and namespaces, Unix sockets, temporary files.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path

from . import layout
from .deadline import TooLate, until

_NAME = re.compile("hearth", re.IGNORECASE)


def processes() -> dict[int, str]:
    """Processes that run a program of this build: pid and command line."""
    ours = f"{layout.BIN}{os.sep}hearth"
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if not str((entry / "exe").readlink()).startswith(ours):
                continue
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended while we looked
        found[int(entry.name)] = " ".join(w.decode(errors="replace") for w in words if w)
    return found


def children(pid: int) -> list[int]:
    """Children of a process, zombies included."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def state(pid: int) -> str:
    """The process's state as one letter: R, S, D, Z …; X when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "X"


def open_files(pid: int) -> dict[int, str]:
    """File descriptors of a process and what they point at."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except OSError:
            continue
    return found


def private_kib(pid: int) -> int:
    """Memory that only this process has: anonymous pages, those that were swapped out too. Not pages of
    files, which the host drops and reads again as it likes."""
    figures = smaps(pid)
    return figures["Anonymous"] + figures["Swap"]


def smaps(pid: int) -> dict[str, int]:
    """`/proc/PID/smaps_rollup` in KiB."""
    figures = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        figures[name] = int(value.split()[0])
    return figures


def _mounts() -> set[str]:
    found = set()
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, point, kind, *_ = line.split(" ")
        if kind == "nsfs" or _NAME.search(device) or _NAME.search(point) or kind == "erofs":
            found.add(f"{device} on {point} ({kind})")
    return found


#: Folders of control groups that the controllers of this run may make, by name.
_group_folders: set[str] = set()


def watch(data: Path) -> None:
    """From now on the control groups of the controller on this data directory are looked at. Each
    controller names its folder after its directory, so another Hearth on this host is left out."""
    tag = hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:8]
    _group_folders.add(f"hearth-{tag}")


def cgroups() -> set[str]:
    """Control groups of this run's controllers, in any version's hierarchy."""
    found = set()
    for path, _, _ in os.walk("/sys/fs/cgroup"):
        if _group_folders.intersection(Path(path).parts):
            found.add(path)
    return found


def cgroups_of(pids: list[int]) -> set[str]:
    """The control groups that these processes are in, as directories."""
    ours = cgroups()
    found = set()
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            inside = line.split(":", 2)[2]
            found |= {path for path in ours if path.endswith(inside)}
    return found


def is_unused(group: str) -> bool:
    """Whether a control group is there and holds neither a process nor another group."""
    try:
        holds_groups = any(path.is_dir() for path in Path(group).iterdir())
        return not holds_groups and not (Path(group) / "cgroup.procs").read_text()
    except OSError:
        return False  # it was removed while we looked


def _network() -> set[str]:
    named = Path("/run/netns")
    namespaces = {f"namespace {p.name}" for p in named.iterdir()} if named.is_dir() else set()
    return namespaces | {f"device {p.name}" for p in Path("/sys/class/net").iterdir()}


def _sockets() -> set[str]:
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    paths = (line.split(maxsplit=7)[7] for line in lines if len(line.split(maxsplit=7)) == 8)
    return {path for path in paths if _NAME.search(path)}


def _temporary() -> set[str]:
    found = set()
    # /tmp is each controller's own: the harness sets TMPDIR and looks there.
    for parent in ("/dev/shm", "/run"):
        found |= {str(path) for path in Path(parent).iterdir() if _NAME.search(path.name)}
    return found


def _loops() -> set[str]:
    found = set()
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found.add(f"{path.parts[3]}: {path.read_text().strip()}")
        except OSError:
            continue
    return found


def _pid(line: str) -> int:
    """Of a process as `Host` keeps it."""
    return int(line.split(":", 1)[0])


def _parent(pid: int) -> int:
    """The process's parent; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


@dataclass(frozen=True)
class Host:
    """Everything of Hearth's that is on this host."""

    processes: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    network: frozenset[str]
    sockets: frozenset[str]
    temporary: frozenset[str]
    loops: frozenset[str]

    @classmethod
    def now(cls) -> Host:
        return cls(
            processes=frozenset(f"{pid}: {words}" for pid, words in processes().items()),
            mounts=frozenset(_mounts()),
            cgroups=frozenset(cgroups()),
            network=frozenset(_network()),
            sockets=frozenset(_sockets()),
            temporary=frozenset(_temporary()),
            loops=frozenset(_loops()),
        )

    def _pids(self) -> set[int]:
        return {_pid(line) for line in self.processes}

    def left_since(self, before: Host) -> dict[str, list[str]]:
        """What is here and was not there before, by kind.

        A controller that was there before goes on working: it builds a shell when one was used, say.
        What it starts is its own affair, and is missed at its own end if it stays."""
        left = {}
        for field in fields(self):
            new = getattr(self, field.name) - getattr(before, field.name)
            if field.name == "processes":
                new = {line for line in new if _parent(_pid(line)) not in before._pids()}
            if field.name == "cgroups":
                new = {
                    path
                    for path in new
                    if before.cgroups.isdisjoint(str(above) for above in Path(path).parents)
                }
            if new:
                left[field.name] = sorted(new)
        return left


def assert_nothing_left(before: Host, seconds: float = 10.0) -> None:
    """Fails with a list if something of ours outlives its controller by more than `seconds`."""
    try:
        until("nothing is left behind", lambda: not Host.now().left_since(before), seconds)
    except TooLate:
        left = Host.now().left_since(before)
        assert not left, f"left behind: {left}"
