"""The data directory that every test's controller starts from, kept between runs.

It lies in the artefact cache, named by the hash of what made it and what it was made of: the
programs, the kernel and images, the two functions. With any of these changed it is made anew.
"""

import contextlib
import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from . import layout

CACHE = layout.CACHE


def _key(*packages: bytes) -> str:
    hashed = hashlib.sha256()
    for program in ("hearthd", "hearth-sandbox"):
        hashed.update(hashlib.sha256((layout.BIN / program).read_bytes()).digest())
    for pointer in sorted(CACHE.glob("*/current-*")):
        hashed.update(f"{pointer.name} {pointer.read_text()}".encode())
    for packaged in packages:
        hashed.update(hashlib.sha256(packaged).digest())
    return hashed.hexdigest()[:16]


@contextlib.contextmanager
def held(*packages: bytes, make: Callable[[Path], None]) -> Iterator[Path]:
    """The directory for these packages; if there is none yet, `make` fills it, in one process while
    the others wait. It is not removed while it is held; those of other programs are, unless they are
    held by another run."""
    parent = CACHE / "test-data"
    parent.mkdir(parents=True, exist_ok=True)
    name = _key(*packages)
    folder = parent / name
    # Held by as many as use the directory.
    with (parent / f"{name}.lock").open("w") as used:
        with (parent / "lock").open("w") as making:
            fcntl.flock(making, fcntl.LOCK_EX)
            fcntl.flock(used, fcntl.LOCK_SH)
            _remove_others(parent, name)
            if not (folder / "complete").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder / "data")
                (folder / "complete").touch()
        yield folder / "data"


def _remove_others(parent: Path, name: str) -> None:
    for other in parent.iterdir():
        if not other.is_dir() or other.name == name:
            continue
        lock = parent / f"{other.name}.lock"
        with lock.open("w") as used:
            try:
                fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(other)
            lock.unlink()
