"""What a figure means nothing without: the host and the code it was measured on."""

import os
import platform
import subprocess
from pathlib import Path

from harness import layout


def of_this_host(status: dict) -> dict:
    commit = subprocess.run(
        ["git", "-C", layout.REPOSITORY, "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    cpu = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = Path("/proc/meminfo").read_text().split()[1]
    return {
        "kvm": status["host_kind"],
        "cpu_isolation": status["cpu_isolation"],
        "cpu": cpu[0] if cpu else "unknown",
        "cores": os.cpu_count(),
        "memory_mib": int(memory) // 1024,
        "kernel": platform.release(),
        "commit": commit.stdout.strip() or "unknown",
    }
