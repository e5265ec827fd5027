"""Hearth's sandbox beside Firecracker: one host, one kernel, one image, one run.

Each round restores a microVM with one, then with the other, and has it answer over vsock. Two
guests: a static C program (tests/guest/echo.c), which is the VMM and the kernel alone, and CPython
from Hearth's own image. Neither is Hearth's agent, which lives on a connection that a restore carries
over: Firecracker drops connections, so these guests connect again.

Hearth's process locks itself up before it does anything, but for the user and the process namespace
that a controller gives it; Firecracker runs without its jailer, with its filter of system calls. Both memory files are in the page cache after the first round, which is
not counted.

On a software-KVM host no VMM but Hearth's completes the instructions that KVM's interpreter lacks.
The kernel is the same there but for the five bytes of one breakpoint, with which it tests itself at
boot: they become the call that the test has the breakpoint's handler make. Firecracker's guest is
told in addition not to use XSAVE: two programs there would lose the upper halves of each other's
vector registers, but each of these guests is one program.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from harness import host, layout
from harness.firecracker import PORT, Firecracker
from harness.sandbox import Sandbox, exactly

from . import host_facts
from .measure import times

MEMORY_MIB = 128
#: Pages that a guest writes to before it answers, in the rows that say so: 1 MiB.
PAGES = 256

#: What Hearth tells every guest, said to Firecracker's as well.
COMMON = (
    "rootfstype=erofs panic=-1 reboot=k quiet loglevel=4 random.trust_cpu=on clocksource=kvm-clock"
    " no-kvmapf thp_anon=32K:always"
)
#: What a guest is told on a software-KVM host where nothing completes instructions for it.
UNASSISTED = (
    " nofsgsbase nopcid noxsave tsc=reliable no_timer_check lpj=1000000"
    " clearcpuid=smap,smep,umip,cx16,popcnt,invpcid,la57,pku,ospke,bmi1,bmi2,avx,erms,fsrm,"
    "rdseed,xsaves,x2apic,rdtscp"
)

#: CPython's part, in one line: the kernel hands it over as an argument of the first process.
ECHO = r"""exec('import socket,mmap
m=mmap.mmap(-1,4<<20)
for p in range(1024):m[p*4096]=1
while 1:
 try:
  s=socket.socket(40,1);s.connect((2,%d))
  while 1:
   d=s.recv(4)
   if not d:break
   for p in range(int.from_bytes(d,"little")):m[p*4096]=2
   s.sendall(d)
 except OSError:pass')"""


@dataclass
class Guest:
    """What runs in the microVM."""

    image: Path
    kernel_args: str


@dataclass
class Figures:
    """Of one VMM with one guest."""

    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, what: str, *values: float) -> None:
        self.samples.setdefault(what, []).extend(values)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/side-by-side", description=__doc__.splitlines()[0]
    )
    parser.add_argument("firecracker", type=Path, help="Firecracker's binary, from its releases")
    parser.add_argument("--rounds", type=int, default=40, help="restores of each kind")
    parser.add_argument("--warm", type=int, default=20, help="messages after each restore")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()

    firecracker = options.firecracker.resolve()
    version = subprocess.run([firecracker, "--version"], capture_output=True, text=True, check=True)
    with Sandbox(quiet=True) as shell:
        kind = shell.outcome({"command": "status"})["status"]["host_kind"]
    with tempfile.TemporaryDirectory(prefix="side-by-side-") as scratch:
        kernel = bootable(layout.newest("kernel", "vmlinux"), Path(scratch), kind)
        figures = {}
        for name, guest in guests(Path(scratch)).items():
            folder = Path(scratch) / name
            folder.mkdir()
            figures[name] = compare(firecracker, kernel, guest, kind, folder, options, name)
    results = {
        "host": host_facts.of_this_host({"host_kind": kind, "cpu_isolation": "none"}),
        "firecracker": version.stdout.split()[1],
        "figures": {
            guest: {vmm: summary(of.samples) for vmm, of in pair.items()}
            for guest, pair in figures.items()
        },
    }
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def guests(scratch: Path) -> dict[str, Guest]:
    root = scratch / "root"
    (root / "dev").mkdir(parents=True)
    subprocess.run(
        ["gcc", "-O2", "-static", "-s", "-o", root / "init", layout.GUEST / "echo.c"], check=True
    )
    image = scratch / "echo.erofs"
    subprocess.run(["mkfs.erofs", "--quiet", "-x-1", image, root], check=True)
    python = ECHO % PORT
    line = python.replace("\n", r"\n").replace('"', r"\'")
    return {
        "C": Guest(image, "init=/init"),
        "CPython": Guest(
            layout.newest("images", "python3.11.erofs"),
            f'init=/usr/bin/python3.11 -- -I -S -c "{line}"',
        ),
    }


def bootable(kernel: Path, scratch: Path, kind: str) -> Path:
    """The kernel, without its breakpoint where that can't be executed."""
    if kind == "hardware":
        return kernel
    symbols = subprocess.run(["nm", kernel], capture_output=True, text=True, check=True).stdout
    address = {
        name: int(value, 16)
        for value, _, name in (line.rsplit(" ", 2) for line in symbols.splitlines())
    }
    patched = scratch / "vmlinux"
    shutil.copy(kernel, patched)
    at, called = address["int3_selftest_ip"], address["int3_magic"]
    with patched.open("r+b") as file:
        file.seek(offset_in(file, at))
        assert file.read(5) == b"\xcc" + b"\x90" * 4, "not the breakpoint that was looked for"
        file.seek(-5, os.SEEK_CUR)
        file.write(b"\xe8" + struct.pack("<i", called - (at + 5)))
    return patched


def offset_in(file, address: int) -> int:
    """Where in an ELF file an address of the kernel is."""
    file.seek(0)
    header = file.read(64)
    (table_at,) = struct.unpack_from("<Q", header, 32)
    size, count = struct.unpack_from("<HH", header, 54)
    for n in range(count):
        file.seek(table_at + n * size)
        kind, _, offset, start, _, length = struct.unpack("<IIQQQQ", file.read(40))
        if kind == 1 and start <= address < start + length:
            return offset + address - start
    raise AssertionError(f"{address:#x} is in no segment")


def compare(
    firecracker: Path,
    kernel: Path,
    guest: Guest,
    kind: str,
    folder: Path,
    options: argparse.Namespace,
    name: str,
) -> dict[str, Figures]:
    vmms = {
        "Firecracker": FirecrackerRun(firecracker, kernel, guest, kind, folder),
        "Hearth": HearthRun(kernel, guest, folder),
    }
    found = {vmm: Figures() for vmm in vmms}
    for vmm, run in vmms.items():
        say_progress(f"{name} in {vmm}: boot, then a snapshot")
        found[vmm].add("boot to the first answer, ms", run.boot())
    say_progress(f"{name}: {options.rounds} rounds of three restores each")
    for n in range(options.rounds + 1):
        for vmm, run in vmms.items():
            figures = found[vmm] if n else Figures()
            one_round(run, figures, options.warm)
    return found


def one_round(run: Run, figures: Figures, warm: int) -> None:
    began = time.perf_counter()
    with run.process() as process:
        run.restore(process)
        answer(run.connected(process), 0)
        figures.add("from nothing to the first answer, ms", since(began))
    with run.process() as process:
        run.ready(process)
        faults = page_faults(process.process.pid)
        began = time.perf_counter()
        run.restore(process)
        reported = since(began)
        end = run.connected(process)
        connected = since(began)
        answer(end, 0)
        figures.add("from a process that is ready, ms", since(began))
        figures.add("  until it says that it is restored", reported)
        figures.add("  until the guest is connected", connected)
        figures.add("page faults until then", page_faults(process.process.pid) - faults)
        for _ in range(warm):
            began = time.perf_counter()
            answer(end, 0)
            figures.add("warm, ms", since(began))
        memory = host.smaps(process.process.pid)
        figures.add("unique memory after that, KiB", memory["Private_Dirty"])
        figures.add("its share of all, KiB (PSS)", memory["Pss"])
    with run.process() as process:
        run.ready(process)
        began = time.perf_counter()
        run.restore(process)
        answer(run.connected(process), PAGES)
        figures.add("from a process that is ready, 1 MiB written, ms", since(began))


class HearthRun:
    def __init__(self, kernel: Path, guest: Guest, folder: Path) -> None:
        self.kernel, self.guest = kernel, guest
        self.snapshot = folder / "hearth"

    def boot(self) -> float:
        began = time.perf_counter()
        with self.process() as sandbox:
            sandbox.boot(self.kernel, self._disks(), MEMORY_MIB, self.guest.kernel_args)
            answer(sandbox.agent, 0)
            took = since(began)
            sandbox.snapshot(self.snapshot)
        return took

    def process(self) -> Sandbox:
        return Sandbox(quiet=True)

    def ready(self, sandbox: Sandbox) -> None:
        assert sandbox.outcome({"command": "status"})["status"]["state"] == "shell"

    def restore(self, sandbox: Sandbox) -> None:
        sandbox.restore(self.snapshot, self._disks(), "")

    def connected(self, sandbox: Sandbox) -> socket.socket:
        return sandbox.agent  # it never was anything else

    def _disks(self) -> list[Path | None]:
        return [self.guest.image, None, None]


class FirecrackerRun:
    def __init__(self, program: Path, kernel: Path, guest: Guest, kind: str, folder: Path) -> None:
        self.program, self.kernel, self.guest = program, kernel, guest
        self.kernel_args = f"{COMMON}{'' if kind == 'hardware' else UNASSISTED} {guest.kernel_args}"
        self.folder = folder
        self.snapshot = folder / "firecracker"
        self.count = 0

    def boot(self) -> float:
        began = time.perf_counter()
        with self.process() as vmm:
            vmm.boot(self.kernel, self.guest.image, MEMORY_MIB, self.kernel_args)
            answer(vmm.connected(), 0)
            took = since(began)
            vmm.snapshot(self.snapshot)
        return took

    def process(self) -> Firecracker:
        self.count += 1
        return Firecracker(self.program, self.folder / str(self.count))

    def ready(self, vmm: Firecracker) -> None:
        vmm.ready()

    def restore(self, vmm: Firecracker) -> None:
        vmm.restore(self.snapshot)

    def connected(self, vmm: Firecracker) -> socket.socket:
        return vmm.connected()


Run = HearthRun | FirecrackerRun


def answer(end: socket.socket, pages: int) -> None:
    message = struct.pack("<I", pages)
    end.sendall(message)
    assert exactly(end, len(message)) == message


def since(began: float) -> float:
    return (time.perf_counter() - began) * 1e3


def page_faults(pid: int) -> int:
    """Of all its threads, without those that had to wait for a disk."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[7])


def summary(samples: dict[str, list[float]]) -> dict[str, dict]:
    return {what: times(values) | {"unit": ""} for what, values in samples.items()}


def table(results: dict) -> str:
    facts = results["host"]
    lines = [
        "",
        f"{facts['kvm']} KVM, {facts['cores']} cores, {facts['cpu']}, Linux {facts['kernel']},"
        f" commit {facts['commit']}, Firecracker {results['firecracker']}",
    ]
    for guest, pair in results["figures"].items():
        lines += [
            "",
            f"{guest + ' guest':<50}{'Firecracker':>20}{'Hearth':>20}",
            f"{'':<50}{'p50':>10}{'p99':>10}{'p50':>10}{'p99':>10}",
        ]
        for what, theirs in pair["Firecracker"].items():
            ours = pair["Hearth"][what]
            numbers = [of[p] for of in (theirs, ours) for p in ("p50", "p99")]
            lines.append(f"{what:<50}" + "".join(f"{number:>10,.1f}" for number in numbers))
    return "\n".join(lines)


def say_progress(what: str) -> None:
    print(f"… {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
