"""A sandbox without a controller: commands and frames by hand, for what no controller does."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import time
from pathlib import Path

from . import layout
from .deadline import until

#: Kinds of frames; protocol/src/agent/encoding.rs has them all.
PING, THAW, INVOKE, INSPECT = 0x01, 0x03, 0x04, 0x06
PONG, THAWED, READY, RESPONSE, LOG, INSPECTED = 0x82, 0x83, 0x84, 0x86, 0x88, 0x90
FRAME = struct.Struct("<BBHI")
#: Longest wait for a word.
SECONDS = 60


class Sandbox:
    """One process, one microVM."""

    def __init__(self, quiet: bool = False) -> None:
        self.control, control = socket.socketpair()
        self.agent, agent = socket.socketpair()
        for end in (self.control, self.agent):
            end.settimeout(SECONDS)
        self.process = subprocess.Popen(
            [
                str(layout.BIN / "hearth-sandbox"),
                "--control-fd",
                str(control.fileno()),
                "--vsock-fd",
                str(agent.fileno()),
            ],
            pass_fds=(control.fileno(), agent.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if quiet else None,
            stderr=subprocess.DEVNULL if quiet else None,
        )
        control.close()
        agent.close()
        self.commands = 0
        self.heard = b""

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        # It ends with its owner.
        self.control.close()
        self.agent.close()
        self.process.wait(SECONDS)

    def outcome(self, command: dict, files: list[int] = ()) -> object:
        """What the sandbox answers to a command."""
        self.commands += 1
        body = json.dumps({"id": self.commands, **command}).encode()
        message = struct.pack("<I", len(body)) + body
        if files:
            socket.send_fds(self.control, [message], list(files))
        else:
            self.control.sendall(message)
        while True:
            said = json.loads(exactly(self.control, *struct.unpack("<I", exactly(self.control, 4))))
            if "reply" in said and said["reply"]["id"] == self.commands:
                return said["reply"]["outcome"]

    def command(self, command: dict, files: list[int] = ()) -> None:
        outcome = self.outcome(command, files)
        assert outcome == "done", outcome

    def boot(
        self, kernel: Path, disks: list[Path | None], memory_mib: int, kernel_args: str
    ) -> None:
        files = [os.open(path, os.O_RDONLY) for path in (kernel, *(disk for disk in disks if disk))]
        command = {
            "command": "boot",
            "memory_mib": memory_mib,
            "vcpus": 1,
            "disks": [disk is not None for disk in disks],
            "kernel_args": kernel_args,
        }
        self.command(command, files)
        self.command({"command": "resume"})
        for file in files:
            os.close(file)

    def restore(self, folder: Path, disks: list[Path | None], fingerprint: str) -> None:
        paths = [folder / "state", folder / "memory", *(disk for disk in disks if disk)]
        files = [os.open(path, os.O_RDONLY) for path in paths]
        command = {
            "command": "restore",
            "disks": [disk is not None for disk in disks],
            "fingerprint": fingerprint,
            "resume": {},
        }
        self.command(command, files)
        for file in files:
            os.close(file)

    def inspect(self) -> dict:
        """What the agent says of the random generators in its guest."""
        self.say(INSPECT)
        return json.loads(self.hear_whole(INSPECTED)[0])

    def snapshot(self, folder: Path, inspected: dict | None = None) -> None:
        """Stops the guest once it rests, and saves it; clones differ in what the agent has said."""
        unique = {key: (inspected or {}).get(key, []) for key in ("zero_pages", "random_ranges")}
        folder.mkdir()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        files = [os.open(folder / name, flags) for name in ("state", "memory")]

        def saved() -> bool:
            self.command({"command": "freeze", "within_us": 2_000_000})
            outcome = self.outcome({"command": "snapshot", **unique}, files)
            if outcome == "done":
                return True
            assert outcome["refused"]["kind"] == "not_quiet", outcome
            self.command({"command": "resume"})
            return False

        until("the guest is quiet", saved)
        for file in files:
            os.close(file)

    def say(self, kind: int, meta: dict | None = None, payload: bytes = b"") -> None:
        words = b"" if meta is None else json.dumps(meta).encode()
        self.agent.sendall(FRAME.pack(kind, 1, len(words), len(payload)) + words + payload)

    def hear(self, kind: int) -> bytes:
        """The payload of the next frame of this kind."""
        return self.hear_whole(kind)[1]

    def hear_whole(self, kind: int) -> tuple[bytes, bytes]:
        """The next frame of this kind: its JSON and its payload."""
        while True:
            got, _, words, length = FRAME.unpack(exactly(self.agent, FRAME.size))
            meta = exactly(self.agent, words)
            payload = exactly(self.agent, length)
            if got == kind:
                return meta, payload
            # Log lines come when they like, and nobody waits for the thaw.
            assert got in (LOG, THAWED), f"frame of kind {got:#x}: {payload[:200]!r}"

    def thaw(self) -> None:
        """What comes before everything else after a restore; its answer need not be waited for."""
        self.say(THAW, {"realtime_ns": time.time_ns()}, os.urandom(32))

    def invoke(self, event: dict) -> dict:
        """What the function answers."""
        return self.invoke_timed(event)[1]

    def invoke_timed(self, event: dict) -> tuple[int, dict, int]:
        """When it was sent, the answer, when that came."""
        now = time.time_ns()
        meta = {
            "request_id": f"{self.commands}-{now}",
            "deadline_ms": now // 1_000_000 + 60_000,
            "function_arn": "arn:aws:lambda:us-east-1:000000000000:function:f",
            "realtime_ns": now,
        }
        self.say(INVOKE, meta, json.dumps(event, separators=(",", ":")).encode())
        answer = self.hear(RESPONSE)
        came = time.time_ns()
        self.hear(READY)
        return now, json.loads(answer), came


def exactly(end: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = end.recv(min(count, 1 << 16))
        assert part, "the sandbox has closed its end"
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
