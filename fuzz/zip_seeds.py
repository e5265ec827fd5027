"""Writes the first packages of the ZIP corpus, by a tool that people pack their functions with.

`python3 zip_seeds.py corpus/zip`
"""

import io
import stat
import sys
import zipfile
from pathlib import Path


def entry(name, mode):
    info = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
    info.create_system = 3
    info.external_attr = mode << 16
    return info


def package(method, *, link=None, zip64=False, streamed=False):
    out = io.BytesIO()
    # A file that can't be sought makes the writer put sizes behind the data.
    target = Unseekable(out) if streamed else out
    with zipfile.ZipFile(target, "w", method) as archive:
        archive.writestr(entry("lib/", stat.S_IFDIR | 0o755), "")
        code = b"def handler(event, context):\n    return event\n"
        with archive.open(entry("app.py", stat.S_IFREG | 0o644), "w", force_zip64=zip64) as file:
            file.write(code)
        archive.writestr(entry("lib/run", stat.S_IFREG | 0o755), b"#!/bin/sh\n" + b"#" * 200)
        if link:
            archive.writestr(entry("lib/link", stat.S_IFLNK | 0o777), link)
        archive.comment = b"" if zip64 else b"a comment"
    return out.getvalue()


class Unseekable(io.RawIOBase):
    def __init__(self, out):
        self.out = out

    def writable(self):
        return True

    def write(self, data):
        return self.out.write(data)


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    packages = [
        package(zipfile.ZIP_STORED),
        package(zipfile.ZIP_DEFLATED),
        package(zipfile.ZIP_DEFLATED, link="../app.py"),
        package(zipfile.ZIP_STORED, zip64=True),
        package(zipfile.ZIP_DEFLATED, streamed=True),
        package(zipfile.ZIP_STORED, link="../../outside"),
    ]
    for number, data in enumerate(packages):
        (folder / f"seed-{number}").write_bytes(data)


if __name__ == "__main__":
    main()
