"""A Firecracker process: the part of its API that a comparison needs.

Its binary is its project's; nothing here depends on one release. It runs in a folder of its own, in
which the paths that a snapshot names are its own too: the guest's connection to the host's port 1024
arrives at the socket `vsock_1024` there.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from pathlib import Path

#: Longest wait for an answer, of the API as of a guest that boots.
SECONDS = 120
PORT = 1024


class Firecracker:
    """One process, one microVM."""

    def __init__(self, program: Path, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / f"vsock_{PORT}"))
        self.listener.listen()
        self.listener.settimeout(SECONDS)
        self.agent: socket.socket | None = None
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            [str(program), "--api-sock", "api"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )

    def __enter__(self) -> Firecracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(SECONDS)
        self.listener.close()
        if self.agent:
            self.agent.close()
        self.log.close()

    def ready(self) -> None:
        """The process has set itself up and listens for commands."""
        self._connect().close()

    def boot(self, kernel: Path, image: Path, memory_mib: int, kernel_args: str) -> None:
        source = {"kernel_image_path": str(kernel), "boot_args": kernel_args}
        self.command("PUT", "/boot-source", source)
        drive = {
            "drive_id": "image",
            "path_on_host": str(image),
            "is_root_device": True,
            "is_read_only": True,
        }
        self.command("PUT", "/drives/image", drive)
        self.command("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": memory_mib})
        self.command("PUT", "/vsock", {"guest_cid": 3, "uds_path": "vsock"})
        self.command("PUT", "/actions", {"action_type": "InstanceStart"})

    def snapshot(self, folder: Path) -> None:
        folder.mkdir()
        self.command("PATCH", "/vm", {"state": "Paused"})
        files = {
            "snapshot_type": "Full",
            "snapshot_path": str(folder / "state"),
            "mem_file_path": str(folder / "memory"),
        }
        self.command("PUT", "/snapshot/create", files)

    def restore(self, folder: Path) -> None:
        memory = {"backend_type": "File", "backend_path": str(folder / "memory")}
        snapshot = {
            "snapshot_path": str(folder / "state"),
            "mem_backend": memory,
            "resume_vm": True,
        }
        self.command("PUT", "/snapshot/load", snapshot)

    def connected(self) -> socket.socket:
        """The guest's connection, once it has made it."""
        try:
            self.agent = self.listener.accept()[0]
        except TimeoutError as late:
            raise AssertionError(f"the guest made no connection: {self.said()}") from late
        self.agent.settimeout(SECONDS)
        return self.agent

    def command(self, method: str, path: str, body: dict) -> None:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = self._connect()
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        assert answer.status == 204, f"{method} {path}: {answer.status} {text!r}; {self.said()}"

    def said(self) -> str:
        """The end of its log and of the guest's console."""
        return (self.folder / "log").read_text(errors="replace")[-2000:]

    def _connect(self) -> socket.socket:
        """To its API, as soon as it listens there."""
        limit = time.monotonic() + SECONDS
        while True:
            end = socket.socket(socket.AF_UNIX)
            end.settimeout(SECONDS)
            try:
                end.connect(str(self.folder / "api"))
                return end
            except OSError:
                end.close()
                assert self.process.poll() is None and time.monotonic() < limit, self.said()
                time.sleep(0.0002)
