"""Fails in the way that the event names: {"how": "raise"}."""

import ctypes
import os
import signal
import sys
import time


class Unhappy(Exception):
    """An error type of the function's own."""


def ok(event):
    return {"ok": True, "pid": os.getpid()}


def raise_(event):
    raise Unhappy(event.get("message", "this function was asked to fail"))


def exit_(event):
    """The process ends at once with a status, no exception handler in between."""
    os._exit(int(event.get("status", 7)))


def exit0(event):
    os._exit(0)


def sys_exit(event):
    sys.exit(3)


def abort(event):
    os.abort()


def kill(event):
    os.kill(os.getpid(), signal.SIGKILL)


def segfault(event):
    ctypes.string_at(0)


def oom(event):
    """Takes memory, and touches it, until there is no more."""
    hoard = []
    while True:
        hoard.append(b"\xa5" * (4 << 20))


def timeout(event):
    """Waits without using the CPU."""
    time.sleep(3600)


def spin(event):
    """Uses all the CPU there is, for ever."""
    while True:
        pass


def fork(event):
    """Leaves processes behind that outlive the answer."""
    children = []
    for _ in range(int(event.get("count", 3))):
        pid = os.fork()
        if pid == 0:
            time.sleep(3600)
            os._exit(0)
        children.append(pid)
    return {"children": children}


def fork_bomb(event):
    """Starts processes until the kernel says no."""
    children = 0
    while True:
        try:
            pid = os.fork()
        except OSError as error:
            return {"children": children, "error": os.strerror(error.errno)}
        if pid == 0:
            time.sleep(3600)
            os._exit(0)
        children += 1


def stdout_flood(event):
    """Writes far more than anybody will read."""
    line = "x" * 1023 + "\n"
    lines = int(event.get("lines", 8192))
    for _ in range(lines):
        sys.stdout.write(line)
    sys.stdout.flush()
    return {"written": lines * len(line)}


def recursion(event):
    return recursion(event)


def big_response(event):
    """One byte too many: 6 MiB and 100 bytes are the limit, quotes included."""
    return "x" * int(event.get("bytes", 6 * 1024 * 1024 + 100 - 1))


def unserializable(event):
    return {"set": {1, 2, 3}}


def full_disk(event):
    """Fills /tmp until there is no space."""
    written = 0
    block = b"\0" * (1 << 20)
    with open("/tmp/full", "wb", buffering=0) as file:
        while True:
            written += file.write(block)


def leave_file(event):
    """Leaves a file in /tmp; says whether an earlier invocation left one."""
    path = "/tmp/left-behind"
    found = os.path.exists(path)
    with open(path, "w", encoding="utf-8") as file:
        file.write("still here")
    return {"found": found}


WAYS = {
    "ok": ok,
    "raise": raise_,
    "exit": exit_,
    "exit0": exit0,
    "sys-exit": sys_exit,
    "abort": abort,
    "kill": kill,
    "segfault": segfault,
    "oom": oom,
    "timeout": timeout,
    "spin": spin,
    "fork": fork,
    "fork-bomb": fork_bomb,
    "stdout-flood": stdout_flood,
    "recursion": recursion,
    "big-response": big_response,
    "unserializable": unserializable,
    "full-disk": full_disk,
    "leave-file": leave_file,
}


def handler(event, context):
    how = event.get("how", "ok") if isinstance(event, dict) else "ok"
    if how not in WAYS:
        raise ValueError(f"how is {how!r}, expected one of: {', '.join(WAYS)}")
    return WAYS[how](event)
