"""A snapshot's files, changed as an accident or another machine would have changed them."""

import hashlib
import json
import os
import struct
import zlib
from pathlib import Path

from . import layout

PAGE = 4096
#: Of the state file: magic, format version, length and checksum of the body.
HEADER = struct.Struct("<8sIII")


def function_snapshot(data: Path, name: str) -> Path:
    """The folder of a function's one snapshot."""
    [folder] = (data / "snapshots" / "function").glob(f"{name}-*")
    return folder


def flip(path: Path, at: int) -> None:
    """Changes one byte where it lies."""
    os.chmod(path, 0o600)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x40]))


def a_byte_of_data(path: Path) -> int:
    """Where a sparse file has something in it."""
    with path.open("rb") as file:
        return os.lseek(file.fileno(), 0, os.SEEK_DATA) + 8


def made_elsewhere(folder: Path, field: str, value: str) -> str:
    """Makes a snapshot one that says so of its maker: what is right about it but `field` (version,
    fingerprint, kind, cpu or flags) stays right, its seal included. Returns what was there."""
    state = folder / "state"
    raw = state.read_bytes()
    body = raw[HEADER.size :]
    start, end, was = places(body)[field]
    if field == "kind":
        new = bytes([1 - was[0]])
    else:
        text = value.encode()
        new = to_varint(len(text)) + text
    body = body[:start] + new + body[end:]
    header = HEADER.pack(raw[:8], HEADER.unpack_from(raw)[1], len(body), zlib.crc32(body))
    replace(state, header + body)
    reseal(folder)
    return was.decode(errors="replace")


def places(body: bytes) -> dict[str, tuple[int, int, bytes]]:
    """Where in a state file's body the fields that tell its maker lie, and what they are."""
    at, found = 0, {}
    for name in ("version", "fingerprint", "kind", "cpu", "flags"):
        start = at
        length, at = (1, at) if name == "kind" else varint(body, at)
        found[name] = (start, at + length, body[at : at + length])
        at += length
    return found


def fingerprint(folder: Path) -> str:
    """Of what a snapshot's microVM was booted from."""
    body = (folder / "state").read_bytes()[HEADER.size :]
    return places(body)["fingerprint"][2].decode()


def runtime_image(runtime: str) -> Path:
    """The image that the newest snapshots of this runtime were booted from."""
    return layout.newest("images", f"{runtime}.erofs")


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def to_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def reseal(folder: Path) -> None:
    """Writes the seal as the state file's maker would have."""
    seal = json.loads((folder / "seal").read_bytes())
    seal["sums"][0] = page_sum((folder / "state").read_bytes())
    replace(folder / "seal", json.dumps(seal).encode())


def page_sum(content: bytes) -> str:
    """Length, and each page that is not zero with its number."""
    hashed = hashlib.sha256(struct.pack("<Q", len(content)))
    for number in range(-(-len(content) // PAGE)):
        page = content[number * PAGE : (number + 1) * PAGE]
        if any(page):
            hashed.update(struct.pack("<Q", number) + page)
    return hashed.hexdigest()


def replace(path: Path, content: bytes) -> None:
    beside = path.with_suffix(".new")
    beside.write_bytes(content)
    beside.replace(path)
