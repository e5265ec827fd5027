"""The data directory that every test's controller starts from, kept between runs.

It lies in the artefact cache, named by the hash of what made it and what it was made of: the
programs, the kernel and images, the two functions. With any of these changed it is made anew.
"""

import contextlib
import fcntl
import hashlib
import shutil
from collections.abc import Iterator
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
def held(*packages: bytes) -> Iterator[tuple[Path, bool]]:
    """The directory for these packages, and whether it is complete; an incomplete one is empty.

    Nobody else makes or removes one meanwhile.
    """
    parent = CACHE / "test-data"
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = parent / _key(*packages)
        for other in parent.iterdir():
            if other.is_dir() and other != folder:
                shutil.rmtree(other)
        complete = (folder / "complete").exists()
        if not complete:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        yield folder / "data", complete


def mark_complete(data: Path) -> None:
    (data.parent / "complete").touch()
