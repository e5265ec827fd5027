"""C programs of tests/functions/unique_native, each with one library, for a guest."""

import shutil
import subprocess
from pathlib import Path

from . import layout

SOURCES = layout.FUNCTIONS / "unique_native"
FLAGS = ("-O2", "-s", "-Wall", "-Wextra", "-Werror")
#: Where the shared libraries are in the guest; the loader is among them, so that they fit each other
#: whatever this machine's are.
LIBRARIES = "/var/task/lib"
LOADER = Path("/lib64/ld-linux-x86-64.so.2")


def static(folder: Path, source: str, *options: str) -> None:
    """`bootstrap` with all that it needs inside."""
    _bootstrap(folder, source, "-static", options)


def shared(folder: Path, source: str, *options: str, beside: tuple[str, ...] = ()) -> None:
    """`bootstrap`, and the shared libraries that it is linked with; and those that they open by name,
    `beside` them on this machine."""
    loader = f"-Wl,--dynamic-linker={LIBRARIES}/{LOADER.name},-rpath,{LIBRARIES}"
    _bootstrap(folder, source, loader, options)
    needed = _needed(folder / "bootstrap")
    for pattern in beside:
        directories = {library.parent for library in needed}
        opened = [found for at in directories for found in at.glob(pattern)]
        assert opened, f"no {pattern} in {directories}"
        needed |= {*opened}
        needed |= {library for file in opened if file.suffix == ".so" for library in _needed(file)}
    (folder / "lib").mkdir()
    for library in needed:
        shutil.copy(library, folder / "lib")


def _needed(file: Path) -> set[Path]:
    """What this machine's loader maps for a program or a library, itself included."""
    told = _run(str(LOADER), "--list", str(file)).replace("=>", " ").split()
    return {LOADER, *(Path(word) for word in told if word.startswith("/") and ".so" in word)} - {
        Path(LIBRARIES, LOADER.name)
    }


def addon(folder: Path, source: str, *options: str) -> None:
    """`addon.node` with the libraries inside; it binds to them, not to what Node.js has of them."""
    _compile(
        folder / "addon.node",
        ("addon.c", "drawn.c", source),
        ("-shared", "-fPIC", "-Wl,-Bsymbolic,--exclude-libs,ALL"),
        options,
    )


def _bootstrap(folder: Path, source: str, link: str, options: tuple[str, ...]) -> None:
    name = f'-DLIBRARY="{Path(source).stem}"'
    _compile(folder / "bootstrap", ("bootstrap.c", "drawn.c", source), (name, link), options)


def _compile(
    out: Path, sources: tuple[str, ...], link: tuple[str, ...], options: tuple[str, ...]
) -> None:
    files = [str(SOURCES / source) for source in sources]
    # Warnings of the linker are about what a static program can't do; none of these does it.
    _run("gcc", *FLAGS, *link, *files, "-o", str(out), *options)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout
