"""What tests take from the registries, pinned: npm and PyPI packages, programs of published crates.
All of it is kept in the artefact cache."""

import os
import subprocess
import sys
from pathlib import Path

from . import layout

#: What the guest's programs are compiled for, and how: they bring their C library with them.
TARGET = "x86_64-unknown-linux-gnu"
STATIC = "-C target-feature=+crt-static"


def npm(folder: Path) -> Path:
    """The folder with the `node_modules` that the package.json in `folder` asks for."""
    script = layout.REPOSITORY / "scripts" / "npm-packages"
    made = subprocess.run([script, folder], check=True, stdout=subprocess.PIPE)
    return Path(made.stdout.decode().strip())


def wheels(requirements: Path, target: Path) -> None:
    """Puts pinned wheels into `target`, as they are for the guest's `python3.11`."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--no-deps"]
        + ["--disable-pip-version-check", "--no-compile", "--only-binary=:all:"]
        + ["--implementation=cp", "--python-version=3.11", "--platform=manylinux2014_x86_64"]
        + ["--target", target, "--requirement", requirements],
        check=True,
    )


def build_environment() -> dict[str, str]:
    """For cargo: the guest's way of linking, and one folder for all that tests have compiled."""
    flags = f"{os.environ.get('RUSTFLAGS', '')} {STATIC}".strip()
    built = str(layout.CACHE / "test-functions")
    return {**os.environ, "RUSTFLAGS": flags, "CARGO_TARGET_DIR": built}


def guest_program(folder: Path, name: str = "bootstrap") -> Path:
    """A Rust program for a guest; the `bootstrap` of a function, mostly."""
    environment = build_environment()
    subprocess.run(
        ["cargo", "build", "--release", "--locked", "--target", TARGET],
        cwd=folder,
        env=environment,
        check=True,
    )
    return Path(environment["CARGO_TARGET_DIR"]) / TARGET / "release" / name


def program(folder: Path, name: str) -> Path:
    """A Rust program of the tests' own, compiled for this machine."""
    built = layout.CACHE / "test-clients"
    subprocess.run(
        ["cargo", "build", "--release", "--locked"],
        cwd=folder,
        env={**os.environ, "CARGO_TARGET_DIR": str(built)},
        check=True,
    )
    return built / "release" / name


def crate(name: str, version: str) -> tuple[Path, Path]:
    """A published crate: the folder of its programs, compiled for a guest with the dependencies of
    its own lock file, and that of its source."""
    root = layout.CACHE / "test-programs" / f"{name}-{version}"
    exact = ["--version", f"={version}"]
    if not (root / "complete").exists():
        subprocess.run(
            ["cargo", "install", "--locked", "--target", TARGET, "--root", root, *exact, name],
            env=build_environment(),
            check=True,
        )
        source, *_ = cargo_home().glob(f"registry/src/*/{name}-{version}")
        subprocess.run(["cp", "-aT", source, root / "source"], check=True)
        (root / "complete").touch()
    return root / "bin", root / "source"


def cargo_home() -> Path:
    return Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
