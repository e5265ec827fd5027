"""A function that leaves things under way in its init: timers that are due later, generators that
are seeded, random numbers that were drawn. What it says afterwards tells what a restore did."""

import os
import random
import secrets
import signal
import threading
import time
import uuid

#: The global generator and one of the function's own, both seeded by the function itself.
random.seed(20)
OWN = random.Random(20)
DRAWN = random.random()

#: Seconds from init until everything is due: far behind the snapshot.
DUE = 6.0
BEGAN = time.monotonic()
#: When each was over, on the monotonic clock.
FIRED: dict[str, float] = {}
ALL = ("sleep", "timer", "wait", "alarm")


def fired(name):
    FIRED[name] = time.monotonic()


def sleeper():
    time.sleep(BEGAN + DUE - time.monotonic())
    fired("sleep")


def waiter():
    threading.Event().wait(BEGAN + DUE - time.monotonic())
    fired("wait")


for body in (sleeper, waiter):
    threading.Thread(target=body, daemon=True).start()
TIMER = threading.Timer(DUE, fired, ["timer"])
TIMER.daemon = True
TIMER.start()
signal.signal(signal.SIGALRM, lambda *_: fired("alarm"))
signal.setitimer(signal.ITIMER_REAL, DUE)


def draws(event, context):
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot_id = file.read().strip()
    return {
        "random": random.getrandbits(128),
        "urandom": os.urandom(16).hex(),
        "uuid4": str(uuid.uuid4()),
        "secrets": secrets.token_hex(16),
        "boot_id": boot_id,
        "own": OWN.random(),
        "drawn_in_init": DRAWN,
    }


def pending(event, context):
    """What is still to come, then waits for it."""
    before = [name for name in ALL if name not in FIRED]
    end = time.monotonic() + 30
    while len(FIRED) < len(ALL) and time.monotonic() < end:
        time.sleep(0.01)
    return {
        "pending": before,
        "early": [n for n in FIRED if FIRED[n] < BEGAN + DUE],
        "fired": FIRED,
    }


WHAT = {"draws": draws, "pending": pending}


def handler(event, context):
    return WHAT[event["op"]](event, context)
