"""Sandboxes are killed at random while many callers and events need them: nothing is lost, nothing
is left, nothing is wrong.

Twelve seconds by default; HEARTH_KILL_SECONDS=600 makes it ten minutes, and HEARTH_KILL_SEED repeats
the choices of an earlier run, as far as processes repeat.
"""

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import events, host
from harness.deadline import until
from harness.invocation import invoke, invoke_raw, lambda_client

SECONDS = float(os.environ.get("HEARTH_KILL_SECONDS", "12"))
SEED = int(os.environ.get("HEARTH_KILL_SEED", str(random.randrange(1 << 32))))
CALLERS = 5
#: Answers between two kills, at most. Who waits for one longer than this many seconds kills.
ANSWERS, PATIENCE = 5, 1.0
#: Answers that say that the function did not run, and what they are called.
DID_NOT_RUN = {429: "TooManyRequestsException", 500: "ServiceException"}


def call(controller, caller, number):
    """One invocation of a caller's: what came of it. Raises when that is no answer at all."""
    event = {"op": "echo", "caller": caller, "number": number, "filler": "x" * (number * 97 % 3000)}
    if number % 4 == caller % 4:
        event = {"op": "sleep", "n": 300, "caller": caller, "number": number}
    body = json.dumps(event, separators=(",", ":")).encode()
    answer = invoke_raw(controller, "guest", body)
    if answer.status != 200:
        kind = answer.headers["x-amzn-errortype"]
        assert kind.startswith(DID_NOT_RUN[answer.status]), f"{answer.status} {kind}"
        return f"status {answer.status}", answer.request_id
    if answer.error is not None:
        told = answer.failed()
        assert told["errorType"] == "Sandbox.Failure", told
        assert answer.request_id in told["errorMessage"]
        return "killed", answer.request_id
    right = {"slept": 300} if event["op"] == "sleep" else event
    assert answer.value == right, f"{event} was answered with {answer.payload!r}"
    return "right", answer.request_id


def at_rest(controller):
    """As it is when nobody has used it for a while: descriptors and processes."""

    def settled():
        return all(instance["state"] == "idle" for instance in controller.instances("guest"))

    # The host may have much else to do.
    until("the instances are idle", settled, 60)
    controller.end_instances("guest")
    controller.shells_ready()
    return len(host.open_files(controller.pid)), len(controller.sandboxes())


@pytest.mark.alone
@pytest.mark.timeout(SECONDS * 2 + 300)
def test_sandboxes_killed_at_random_under_load_lose_leak_and_spoil_nothing(own_controller):
    # Events are tried again soon, and by then nobody kills any more.
    controller = own_controller("--event-retry-base-ms", "1000")
    client = lambda_client(controller.url)
    chance = random.Random(SEED)
    for _ in range(2):
        invoke(client, "guest", {"op": "echo"}).ok()
        at_rest(controller)
    before = at_rest(controller)
    end = time.monotonic() + SECONDS
    over = threading.Event()
    answered = threading.Semaphore(0)

    def callers(caller):
        answers, number = [], 0
        while time.monotonic() < end:
            answers.append(call(controller, caller, number))
            answered.release()
            number += 1
        return answers

    def sender():
        # As many as can be run again in a moment.
        sent = []
        while time.monotonic() < end and len(sent) < 200:
            sent.append(events.send(client, "guest", {"op": "echo", "event": len(sent)}))
            over.wait(0.5)
        return sent

    killed = 0
    with ThreadPoolExecutor(CALLERS + 1) as pool:
        calling = [pool.submit(callers, caller) for caller in range(CALLERS)]
        sending = pool.submit(sender)
        while time.monotonic() < end:
            for _ in range(chance.randint(1, ANSWERS)):
                answered.acquire(timeout=PATIENCE)
            alive = sorted(pid for pid in controller.sandboxes() if host.state(pid) not in "ZX")
            if alive:
                # A shell, an idle one, one that starts, one at work: whoever it hits.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(alive), signal.SIGKILL)
                    killed += 1
        over.set()
        answers = [answer for future in calling for answer in future.result()]
        sent = sending.result()

    outcomes = Counter(outcome for outcome, _ in answers)
    print(f"seed {SEED}: {killed} killed, {dict(outcomes)}, {len(sent)} events")
    assert killed >= SECONDS / (2 * ANSWERS * PATIENCE), "hardly anything was killed"
    assert outcomes["right"] > 0, outcomes
    assert len({request_id for _, request_id in answers}) == len(answers)

    # Events that were accepted have all run, those that were killed again.
    events.drained(controller, 120)
    runs = events.runs(controller, "guest")
    assert not [request_id for request_id in sent if runs[request_id] == 0], "events were lost"

    # And the controller is as it was.
    for number in range(10):
        assert invoke(client, "guest", {"op": "echo", "after": number}).ok()["after"] == number
    until("it rests as it did before", lambda: at_rest(controller) == before, 60)
    assert not [pid for pid in controller.sandboxes() if host.state(pid) == "Z"]
    groups = host.cgroups_of(controller.sandboxes())
    assert not [group for group in host.cgroups() - groups if host.is_unused(group)]
