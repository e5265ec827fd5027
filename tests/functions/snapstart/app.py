"""A function whose generator is seeded when it is imported, and again after each restore."""

import os
import random

from snapshot_restore_py import register_after_restore, register_before_snapshot

#: Its own: the global generator is reseeded after every restore, hooks or not.
GENERATOR = random.Random(7)
SEEN = {"before": 0, "after": 0}
FAILING = os.environ.get("FAILING")


def before():
    SEEN["before"] += 1
    if FAILING == "before":
        raise ValueError("not in this state")


def after():
    SEEN["after"] += 1
    print("restored")
    if FAILING == "after":
        raise ValueError("not from this state")
    GENERATOR.seed(os.urandom(16))


register_before_snapshot(before)
register_after_restore(after)


def handler(event, context):
    kind = os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]
    return {"draw": GENERATOR.getrandbits(64), "kind": kind, **SEEN}
