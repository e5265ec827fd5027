"""What a function does after its answer and before its runtime's client asks for the next event: the
caller has the answer all the same, and at once, as with the clients on Lambda. There the client posts an
answer before anything else can run. Here it may go with the call for the next event.

One table for both languages, with the mailbox and without it."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import layout, package
from harness.deadline import until
from harness.invocation import create, invoke, lambda_client

RUNTIMES = {"node": "nodejs22.x", "python": "python3.11"}
SETTINGS = ("on", "off")
#: How long the function runs on after its answer, and how long its caller may wait for that.
SPIN_MS, AT_ONCE = 8000, 5
#: More than the mailbox's pages hold.
LARGE = 100_000

#: The runtime, the event, and what has become of the process when it is called again.
LIVES, IS_GONE, IS_BUSY = "lives", "is gone", "is busy"
BOTH = [
    ({"then": "nothing"}, LIVES),
    ({"then": "throw"}, LIVES),
    ({"then": "exit"}, IS_GONE),
    ({"then": "abort"}, IS_GONE),
    ({"then": "kill"}, IS_GONE),
    ({"then": "spin", "ms": SPIN_MS}, IS_BUSY),
    ({"then": "kill", "size": LARGE}, IS_GONE),
    ({"then": "nothing", "size": LARGE}, LIVES),
]
TABLE = [(runtime, *case) for runtime in RUNTIMES for case in BOTH] + [
    ("node", {"then": "second answer"}, LIVES),
    ("node", {"then": "second error"}, LIVES),
    ("node", {"unawaited": "nothing"}, LIVES),
    ("node", {"unawaited": "rejection"}, IS_GONE),
    ("node", {"unawaited": "tick"}, IS_GONE),
    ("node", {"unawaited": "immediate", "ms": SPIN_MS}, IS_BUSY),
]


@pytest.fixture(scope="module")
def controllers(module_controller):
    """A controller for each setting, with the functions."""
    controllers = {s: module_controller(s, env={"HEARTH_MAILBOX": s}) for s in SETTINGS}
    clients = {setting: lambda_client(controllers[setting].url) for setting in SETTINGS}
    code = package.folder(layout.FUNCTIONS / "after_answer")

    def deploy(setting, name):
        create(clients[setting], name, code, Runtime=RUNTIMES[name], Handler="app.handler")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(deploy, *zip(*[(s, n) for s in SETTINGS for n in RUNTIMES], strict=True)))
    return controllers


@pytest.fixture(params=SETTINGS)
def controller(controllers, request):
    return controllers[request.param]


@pytest.fixture
def client(controller):
    return lambda_client(controller.url)


def settled(controller, name):
    """The processes of the function's instances, as soon as all of them wait for an event."""

    def ask():
        instances = controller.instances(name)
        waiting = all(instance["state"] == "idle" for instance in instances)
        return {instance["pid"] for instance in instances} if waiting else None

    return until("every instance waits", ask, 60)


def warm(client, name):
    """Calls until an instance waits: its next event comes the way that it takes most often."""
    while invoke(client, name, {"then": "nothing"}).start != "warm":
        pass


@pytest.mark.parametrize(("name", "event", "then"), TABLE, ids=[f"{n} {e}" for n, e, _ in TABLE])
def test_the_caller_has_the_answer_whatever_the_function_does_next(
    controller, client, name, event, then
):
    warm(client, name)
    before = settled(controller, name) if then == LIVES else set()
    began = time.monotonic()
    answer = invoke(client, name, event)
    took = time.monotonic() - began
    assert answer.ok() == ("x" * event["size"] if "size" in event else "result")
    assert took < AT_ONCE
    # What it does next may take long, a traceback for one.
    assert then != LIVES or before <= settled(controller, name)
    after = invoke(client, name, {"then": "nothing"})
    assert after.ok() == "result"
    if then == LIVES:
        assert after.start == "warm"


def test_the_first_answer_of_an_instance_is_no_other(client):
    # Each call ends its instance, so those that wait are used up.
    for name, event in [("node", {"unawaited": "rejection"}), ("python", {"then": "kill"})]:
        for _ in range(8):
            answer = invoke(client, name, event)
            assert answer.ok() == "result"
            if answer.start == "cold":
                break
        assert answer.start == "cold"
