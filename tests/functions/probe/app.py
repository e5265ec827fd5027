"""A function that tells what it sees: environment, clocks, random bytes, its own identity."""

import os
import secrets
import ssl
import subprocess
import sys
import time
import uuid

#: What the process drew before its snapshot was taken. Every instance has the same; what matters
#: is what they draw after it.
DRAWN_IN_INIT = (os.urandom(16).hex(), str(uuid.uuid4()))
INVOCATIONS = 0
TRACE = "_X_AMZN_TRACE_ID"


def who(event, context):
    return {
        "urandom": os.urandom(32).hex(),
        "uuid4": str(uuid.uuid4()),
        "secrets": secrets.token_hex(32),
        "tls": ssl.RAND_bytes(32).hex(),
        "realtime_ns": time.time_ns(),
        "monotonic_ns": time.monotonic_ns(),
        "drawn_in_init": DRAWN_IN_INIT,
        "count": INVOCATIONS,
        "uid": os.getuid(),
        "cwd": os.getcwd(),
    }


def environment(event, context):
    return dict(os.environ)


def trace(event, context):
    """As Python and as a program that it starts see it. Then the function sets it itself."""
    child = subprocess.run(["/bin/sh", "-c", f"echo ${TRACE}"], capture_output=True, check=True)
    seen = [os.environ[TRACE], child.stdout.decode().strip()]
    os.environ[TRACE] = "the function's own"
    return seen


def about(event, context):
    return {
        "request_id": context.aws_request_id,
        "arn": context.invoked_function_arn,
        "version": context.function_version,
        "memory": context.memory_limit_in_mb,
        "remaining_ms": context.get_remaining_time_in_millis(),
        "client_context": getattr(context.client_context, "custom", None),
    }


def say(event, context):
    print(event.get("text", "hello"))
    print(event.get("error", "hello, stderr"), file=sys.stderr)
    return {"said": True}


def sleep(event, context):
    time.sleep(event["ms"] / 1000)
    return {"slept": event["ms"]}


def touch(event, context):
    """Uses that many MiB and lets go of them."""
    hoard = bytearray(event["mib"] << 20)
    hoard[:: os.sysconf("SC_PAGESIZE")] = b"\1" * len(hoard[:: os.sysconf("SC_PAGESIZE")])
    return {"touched": len(hoard) >> 20}


def echo(event, context):
    return event


WHAT = {f.__name__: f for f in (who, environment, trace, about, say, sleep, touch, echo)}


def handler(event, context):
    global INVOCATIONS
    INVOCATIONS += 1
    return WHAT[event["op"]](event, context)
