"""A function that says what its interpreter can import, itself and in a process of its own, and who it
takes itself for."""

import importlib.util
import json
import socket
import subprocess
import sys
from distutils.util import strtobool
from pathlib import Path

#: Of other systems, or with a display: CPython lists them for all.
ELSEWHERE = {
    *("_msi", "_osx_support", "_overlapped", "_scproxy", "_winapi", "msilib", "msvcrt", "nt"),
    *("winreg", "winsound", "_tkinter", "idlelib", "tkinter", "turtle", "turtledemo"),
}
ASK = "import importlib, json, sys; print(json.dumps([importlib.import_module(n).__file__ for n in sys.argv[1:]]))"


def missing(event, context):
    """Of the whole library."""
    assert strtobool("yes")
    return [
        name
        for name in sorted(sys.stdlib_module_names - ELSEWHERE)
        if name not in sys.builtin_module_names and importlib.util.find_spec(name) is None
    ]


def imported(event, context):
    """Where modules come from, here and in a child."""
    here = [importlib.import_module(name).__file__ for name in event["names"]]
    child = subprocess.run([sys.executable, "-c", ASK, *event["names"]], capture_output=True)
    return {
        "here": here,
        "child": json.loads(child.stdout or "null"),
        "error": child.stderr.decode(),
    }


def path(event, context):
    return sys.path


def name(event, context):
    own = socket.gethostname()
    return {
        "names": {own, socket.getfqdn().split(".")[0], Path("/etc/hostname").read_text().strip()},
        "addresses": {socket.gethostbyname(n) for n in (own, socket.getfqdn(), "localhost")},
    }


def handler(event, context):
    result = globals()[event["op"]](event, context)
    return json.loads(json.dumps(result, default=sorted))
