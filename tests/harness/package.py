"""Function packages: ZIP archives in memory, and the compiled guest program."""

import io
import stat
import subprocess
import zipfile
from pathlib import Path

from . import layout, packages


def archive(files: dict[str, bytes], mode: int = 0o755) -> bytes:
    """A ZIP of these files, every one with `mode`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            info = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (stat.S_IFREG | mode) << 16
            out.writestr(info, content)
    return buffer.getvalue()


def folder(path: Path) -> bytes:
    """A ZIP of a folder's files."""
    files = {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }
    return archive(files)


def python(source: str) -> bytes:
    """A ZIP of one module, `app.py`."""
    return archive({"app.py": source.encode()})


def compile_guest(out: Path) -> bytes:
    """The static `provided` runtime of tests/guest."""
    sources = [str(layout.GUEST / "bootstrap.c"), str(layout.GUEST / "avx.c")]
    subprocess.run(
        ["gcc", "-O2", "-static", "-s", "-Wall", "-Werror", "-o", str(out), *sources], check=True
    )
    return out.read_bytes()


def compiled(guest: bytes) -> bytes:
    """The guest program out of its package."""
    with zipfile.ZipFile(io.BytesIO(guest)) as archived:
        return archived.read("bootstrap")


def cargo(folder: Path) -> bytes:
    """A ZIP of a Rust function, linked as `hearth deploy` links it."""
    return archive({"bootstrap": packages.guest_program(folder).read_bytes()})
