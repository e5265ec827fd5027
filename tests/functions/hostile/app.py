"""A function that tries to get at what is not its own: host, agent, other invocations."""

import ctypes
import errno
import http.client
import os
import signal
import socket
import time

HOST_CID = 2
API = os.environ["AWS_LAMBDA_RUNTIME_API"]
LIBC = ctypes.CDLL(None, use_errno=True)
REMEMBERED = []
LEFT_OPEN = []


def name_of(error):
    return errno.errorcode.get(error.errno, str(error)) if error.errno else type(error).__name__


def post(path, body=b"{}", headers=None):
    connection = http.client.HTTPConnection(API, timeout=20)
    try:
        connection.request("POST", f"/2018-06-01/runtime/{path}", body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def vsock(event, context):
    """Calls the host on the agent's port, beside it and in numbers."""
    results = {}
    for port in event["ports"]:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as call:
            call.settimeout(3)
            try:
                call.connect((HOST_CID, port))
                call.sendall(b"\0" * 64)
                results[str(port)] = f"connected, {len(call.recv(64))} bytes"
            except OSError as error:
                results[str(port)] = name_of(error)
    return results


def vsock_flood(event, context):
    calls = []
    for _ in range(event["count"]):
        call = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        call.setblocking(False)
        call.connect_ex((HOST_CID, 1024))
        calls.append(call)
    for call in calls:
        call.close()
    return {"called": len(calls)}


def privileges(event, context):
    """Every line must be an error."""

    def attempt(function, *arguments):
        ctypes.set_errno(0)
        result = function(*arguments)
        return errno.errorcode.get(ctypes.get_errno(), "none") if result == -1 else "done"

    def opening(path, flags):
        try:
            os.close(os.open(path, flags))
        except OSError as error:
            return name_of(error)
        return "done"

    return {
        "kill the agent": attempt(LIBC.kill, 1, signal.SIGKILL),
        "become root": attempt(LIBC.setuid, 0),
        "mount": attempt(LIBC.mount, b"none", b"/tmp", b"tmpfs", 0, None),
        "reboot": attempt(LIBC.reboot, 0x4321FEDC),
        "the power-off port": attempt(LIBC.ioperm, 0x600, 1, 1),
        "all ports": attempt(LIBC.iopl, 3),
        "the clock": attempt(LIBC.settimeofday, ctypes.create_string_buffer(16), None),
        "its code": opening("/var/task/app.py", os.O_WRONLY),
        "the root": opening("/evil", os.O_WRONLY | os.O_CREAT),
        "a disk": opening("/dev/vda", os.O_RDWR),
        "kernel memory": opening("/dev/mem", os.O_RDWR),
        "sysctl": opening("/proc/sys/kernel/core_pattern", os.O_WRONLY),
        "the agent's environment": opening("/proc/1/environ", os.O_RDONLY),
        "the agent's memory": opening("/proc/1/mem", os.O_RDONLY),
        "cgroups": opening("/sys/fs/cgroup/cgroup.procs", os.O_WRONLY),
    }


def foreign_answer(event, context):
    """Answers invocations that are not there, or were."""
    REMEMBERED.append(context.aws_request_id)
    ids = ["00000000-0000-4000-8000-000000000000", "..", "x" * 5000, *REMEMBERED[:-1]]
    return {"statuses": [post(f"invocation/{i}/response", b'"forged"')[0] for i in ids]}


def two_answers(event, context):
    """Answers twice: itself, then by returning."""
    post(f"invocation/{context.aws_request_id}/response", b'"first"')
    return "second"


def api_noise(event, context):
    """Speaks to the Runtime API in every wrong way, and leaves connections open."""
    host, port = API.split(":")
    for noise in (
        b"\0" * 4096,
        b"GET " + b"x" * 70_000,
        b"POST /2018-06-01/runtime/init/error HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"PUT /2018-06-01/runtime/invocation/next HTTP/1.1\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=5) as line:
            try:
                line.sendall(noise)
                line.recv(100)
            except OSError:
                pass
    LEFT_OPEN.extend(socket.create_connection((host, int(port)), timeout=5) for _ in range(20))
    return {"noise": "made"}


def daemon(event, context):
    """Leaves a process behind that has cut all ties, and dies."""
    if os.fork() == 0:
        os.setsid()
        while True:
            print("still here", flush=True)
            time.sleep(0.01)
    os._exit(9)


WHAT = {
    f.__name__: f
    for f in (vsock, vsock_flood, privileges, foreign_answer, two_answers, api_noise, daemon)
}


def handler(event, context):
    return WHAT[event["op"]](event, context)
