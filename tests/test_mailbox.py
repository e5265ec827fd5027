"""Events and answers that go through memory: that a warm call needs nothing but its runtime's own
instructions, and that nothing else about a function is another with the mailbox than without it."""

import json
import os
import random
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import layout, package
from harness.deadline import until
from harness.invocation import create, invoke, invoke_raw, lambda_client

NAME = "mailbox"
#: With the mailbox; without it; and with it for a runtime that does not know of it, so that its agent
#: is at the mailbox in its place.
SETTINGS = ("on", "off", "agent")
WRAPPER = b"""#!/bin/sh
unset _HEARTH_MAILBOX_FD
exec "$@"
"""
#: What one invocation of `say` leaves in the log, between START and END, with its own word.
SAID = [
    "printed {0}",
    "to stderr {0}",
    "written raw {0}",
    "[ERROR]\t{1}\t{2}\tlogged {0}\nin two lines",
    "from a child {0}",
    "from a fork {0}",
    "unfinished {0}",
]


@pytest.fixture(scope="module")
def both(module_controller):
    """A controller for each setting, with the function."""
    controllers = {
        s: module_controller(s, env={"HEARTH_MAILBOX": "off" if s == "off" else "on"})
        for s in SETTINGS
    }
    with ThreadPoolExecutor(len(SETTINGS)) as pool:
        list(pool.map(deploy, controllers.values(), SETTINGS))
    return controllers


def deploy(controller, setting):
    files = {"app.py": (layout.FUNCTIONS / NAME / "app.py").read_bytes(), "wrapper": WRAPPER}
    wrapper = {"AWS_LAMBDA_EXEC_WRAPPER": "/var/task/wrapper"} if setting == "agent" else {}
    create(
        lambda_client(controller.url),
        NAME,
        package.archive(files),
        Runtime="python3.11",
        Handler="app.handler",
        Timeout=60,
        Environment={"Variables": wrapper},
    )


@pytest.fixture(params=SETTINGS)
def controller(both, request):
    return both[request.param]


@pytest.fixture
def client(controller):
    return lambda_client(controller.url)


@pytest.fixture
def with_mailbox(both):
    return both["on"]


def call(client, op, **event):
    return invoke(client, NAME, {"op": op, **event})


def switches(pid):
    """How often threads of a process gave up the CPU of their own accord."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


def switches_a_call(controller, function):
    """How often its sandbox gives up the CPU, at best: a busy host's calls take longer, and then there
    are the kernel's turns among them."""
    client = lambda_client(controller.url)
    invoke(client, function, {"op": "echo"}).ok()
    pid = controller.idle(function)["pid"]
    rounds, count = [], 50
    for _ in range(4):
        before = switches(pid)
        for _ in range(count):
            invoke(client, function, {"op": "echo"}).ok()
        rounds.append((switches(pid) - before) / count)
    return min(rounds)


@pytest.mark.alone
def test_a_warm_call_wakes_its_sandbox_once(both):
    """With the agent it is an interrupt, a few wake-ups of the event loop, and a freeze."""
    each = {setting: switches_a_call(controller, NAME) for setting, controller in both.items()}
    assert each["on"] < 2 and each["agent"] < 2, each
    assert each["off"] > 2 * max(each["on"], each["agent"]), each


@pytest.mark.alone
def test_what_was_deployed_without_the_mailbox_uses_it_once_it_is_on(both):
    """And the other way round: the snapshots of one setting are none for the other."""
    controller = both["off"]
    each = []
    for setting in ("off", "on", "off"):
        if controller.environment["HEARTH_MAILBOX"] != setting:
            controller.stop()
            controller.environment["HEARTH_MAILBOX"] = setting
            controller.start()
        each.append(switches_a_call(controller, NAME))
    assert each[1] < 2 and min(each[0], each[2]) > 2, each


def test_what_the_function_writes_is_told_in_order_and_as_its_invocations_own(controller, client):
    call(client, "echo").ok()
    answers = [
        call(client, "say", word=f"{word}-{n}") for n, word in enumerate(["one", "two", "six"])
    ]
    for n, answer in enumerate(answers):
        answer.ok()
        word = f"{['one', 'two', 'six'][n]}-{n}"
        records = controller.logs(NAME, f"?request_id={answer.request_id}")
        texts = [record["message"] for record in records]
        assert texts[0].startswith(f"START RequestId: {answer.request_id}")
        stamp = texts[4].split("\t")[1] if "\t" in texts[4] else ""
        assert texts[1:8] == [line.format(word, stamp, answer.request_id) for line in SAID]
        assert texts[8].startswith(f"END RequestId: {answer.request_id}")
        assert texts[9].startswith(f"REPORT RequestId: {answer.request_id}")
        assert len(texts) == 10


def test_more_output_than_a_pipe_holds_is_told_whole(controller, client):
    for lines in (150, 1500):
        answer = call(client, "pour", lines=lines)
        answer.ok()
        texts = [r["message"] for r in controller.all_logs(NAME, f"request_id={answer.request_id}")]
        assert texts[1:-2] == [f"{n} {'x' * 1000}" for n in range(lines)]


def test_what_a_call_writes_is_told_while_it_goes_on(controller, client):
    """Whether it is the first of its instance or not."""
    controller.end_instances(NAME)
    for _ in range(3):
        word = f"early-{uuid.uuid4()}"
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(call, client, "say_and_nap", word=word, seconds=5)
            until("its line is told", lambda: controller.logs(NAME, f"?contains={word}"), 4)  # noqa: B023
            assert not running.done(), "only with the answer"
            running.result().ok()


@pytest.mark.parametrize("filler", [0, 1, 65_000, 65_536, 131_072, 1 << 20, 6 << 20])
def test_payloads_of_every_size_go_both_ways_unchanged(client, filler):
    event = {"op": "echo", "filler": "y" * filler}
    for _ in range(2):
        assert invoke(client, NAME, event).ok() == event


def test_a_result_of_the_limit_is_delivered_and_one_byte_more_is_lambdas_error(client):
    call(client, "echo").ok()
    limit = 6_291_556
    assert len(call(client, "size", n=limit).payload) == limit
    refused = call(client, "size", n=limit + 1).failed()
    assert refused["errorType"] == "Function.ResponseSizeTooLarge"
    assert call(client, "echo").ok() == {"op": "echo"}


def test_context_is_the_invocations_own_each_time(client):
    for _ in range(3):
        answer = call(client, "who")
        request_id, arn, remaining = answer.ok()
        assert request_id == answer.request_id
        assert arn.endswith(f":function:{NAME}")
        # The guest's clock may be 5 ms behind before it is set anew.
        assert 55_000 < remaining <= 60_005 + 1


def test_threads_children_sleeps_and_event_loops_work_in_every_call(client):
    for _ in range(2):
        assert call(client, "threads").ok() == sum(n * n for n in range(100))
        assert call(client, "gather").ok() == [0, 1, 2, 3, 4]
        assert call(client, "processes").ok() == "from a child"
        for seconds in (0.0005, 0.003, 0.2):
            assert seconds <= call(client, "nap", seconds=seconds).ok() < seconds + 2


def test_a_background_thread_goes_on_in_a_call_that_takes_its_time(client):
    call(client, "begin_to_tick").ok()
    before = call(client, "ticked").ok()
    call(client, "nap", seconds=0.5).ok()
    assert call(client, "ticked").ok() >= before + 5


def test_a_background_thread_is_not_starved_by_short_calls(client):
    """The guest's kernel gets a turn after an answer, now and then."""
    call(client, "begin_to_tick").ok()
    before = call(client, "ticked").ok()
    until("it ticks", lambda: call(client, "ticked").ok() > before, 30)


def test_children_that_stay_do_not_disturb(client):
    call(client, "linger").ok()
    for n in range(20):
        assert call(client, "echo", n=n).ok() == {"op": "echo", "n": n}


def test_the_wall_clock_is_right_in_every_call(client):
    for _ in range(10):
        before = time.time()
        told = call(client, "wall_clock").ok()
        assert before - 0.01 <= told <= time.time() + 0.01


def test_errors_exits_and_timeouts_are_told_as_ever(controller, client):
    call(client, "echo").ok()
    failed = call(client, "fail").failed()
    assert (failed["errorType"], failed["errorMessage"]) == ("ValueError", "as it was asked to")
    assert call(client, "echo").start == "warm"
    left = call(client, "leave")
    assert left.failed()["errorType"] == "Runtime.ExitError"
    assert f"RequestId: {left.request_id}" in left.failed()["errorMessage"]
    assert call(client, "echo").start == "cold"
    slow = invoke_raw(controller, NAME, b'{"op":"spin"}', {"X-Hearth-Timeout-Ms": "700"})
    assert slow.failed()["errorType"] == "Sandbox.Timedout"
    assert call(client, "echo").start == "cold"


def test_limits_of_one_invocation_hold_and_the_next_has_none(controller, client):
    """They need the agent, or a pause: the runtime goes there and comes back. Many times, since the
    mailbox and the connection to the agent have no order between them."""
    call(client, "echo").ok()
    for header in ({"X-Hearth-Memory-MiB": "64"}, {"X-Hearth-Cpu-Ms": "5000"}) * 50:
        answer = invoke_raw(controller, NAME, b'{"op":"echo"}', header)
        assert (answer.ok(), answer.start) == ({"op": "echo"}, "warm")
        assert call(client, "echo").start == "warm"
    spent = invoke_raw(controller, NAME, b'{"op":"spin"}', {"X-Hearth-Cpu-Ms": "300"})
    assert spent.failed()["errorType"] == "Sandbox.CpuLimitExceeded", spent.payload
    assert call(client, "echo").start == "cold"


def test_many_at_once_each_get_their_own_answer(client):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: call(client, "echo", n=n).ok(), range(200)))
    assert [answer["n"] for answer in answers] == list(range(200))


def test_an_idle_instance_uses_no_cpu(with_mailbox):
    client = lambda_client(with_mailbox.url)
    with_mailbox.end_instances(NAME)
    call(client, "echo").ok()
    pid = with_mailbox.idle(NAME)["pid"]

    def used():
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def rests():
        before = used()
        time.sleep(0.5)
        return used() == before

    until("it rests", rests)


@pytest.fixture(scope="module")
def linked(both):
    """A `provided` function that has the mailbox by the crate, with the mailbox and without."""
    code = package.cargo(layout.FUNCTIONS / "linked")
    for setting in ("on", "off"):
        create(lambda_client(both[setting].url), "linked", code)
    return both


@pytest.mark.parametrize("setting", ["on", "off"])
def test_a_provided_function_serves_by_the_crate_with_the_mailbox_and_without(linked, setting):
    controller = linked[setting]
    client = lambda_client(controller.url)

    def call(op, **event):
        return invoke(client, "linked", {"op": op, **event})

    for n in range(3):
        event = {"op": "echo", "n": n, "filler": "y" * (n << 20)}
        assert invoke(client, "linked", event).ok() == event
    answer = call("who")
    request_id, arn, remaining, *_ = answer.ok()
    assert (request_id, arn.rsplit(":", 1)[1]) == (answer.request_id, "linked")
    # The guest's clock may be 5 ms behind.
    assert 30_000 < remaining <= 60_005 + 1
    answer = call("say", word="hello")
    answer.ok()
    records = controller.logs("linked", f"?request_id={answer.request_id}")
    assert [r["message"] for r in records][1:-2] == ['said "hello"', 'unfinished "hello"']
    failed, panicked = call("nonsense").failed(), call("panic").failed()
    assert (failed["errorType"], panicked["errorType"]) == ("NoSuchOp", "Panic")
    assert panicked["errorMessage"] == "as it was asked to"
    before = time.time()
    assert before - 0.01 <= call("wall_clock").ok() <= time.time() + 0.01
    answer = call("nap", ms=20)
    assert (answer.ok(), answer.start) == (None, "warm")


@pytest.mark.parametrize("setting", ["on", "off"])
def test_who_writes_for_long_in_every_call_keeps_its_instance(linked, setting):
    """Its agent has read some of what was written before the answer, so that comes to the agent, and
    so does the next event: of one call after the other, the agent has to know which is at work."""
    controller = linked[setting]
    client = lambda_client(controller.url)
    invoke(client, "linked", {"op": "echo"}).ok()
    for n in range(6):
        answer = invoke(client, "linked", {"op": "say", "word": n, "ms": 300})
        assert (answer.ok(), answer.start) == (None, "warm")
        records = controller.logs("linked", f"?request_id={answer.request_id}")
        assert [r["message"] for r in records][1:-2] == [f"said {n}", f"unfinished {n}"]
        controller.idle("linked")


#: What a call may be, and what is right as its answer.
CALLS = [
    ({"op": "echo", "n": 1}, lambda value: value == {"op": "echo", "n": 1}),
    ({"op": "say", "word": "x"}, lambda value: value is None),
    ({"op": "nap", "seconds": 0.15, "ms": 150}, lambda value: value is None or value >= 0.149),
]
#: Only the Python function does these.
PYTHON_CALLS = [
    ({"op": "size", "n": 300_000}, lambda value: len(value) == 299_998),
    ({"op": "say_and_nap", "word": "x", "seconds": 0.15}, lambda value: value >= 0.149),
    ({"op": "threads"}, lambda value: value == sum(n * n for n in range(100))),
    ({"op": "pour", "lines": 20}, lambda value: value is None),
]
HEADERS = [{}, {}, {"X-Hearth-Memory-MiB": "110"}, {"X-Hearth-Cpu-Ms": "8000"}]


@pytest.mark.parametrize("setting", ["on", "off"])
def test_calls_of_all_kinds_by_turns_are_answered_right_and_lose_no_instance(linked, setting):
    """Host, agent and runtime each have their own idea of who is at work; HEARTH_SOAK_CALLS=3000
    gives them more chances to disagree (with --timeout 0: it takes half an hour), and HEARTH_SOAK_SEED
    repeats an order."""
    controller = linked[setting]
    calls = int(os.environ.get("HEARTH_SOAK_CALLS", "20"))
    seed = int(os.environ.get("HEARTH_SOAK_SEED", str(random.randrange(1 << 32))))

    def caller(number):
        chance = random.Random(seed + number)
        for _ in range(calls):
            name = chance.choice([NAME, "linked"])
            event, right = chance.choice(CALLS + (PYTHON_CALLS if name == NAME else []))
            headers = chance.choice(HEADERS)
            answer = invoke_raw(controller, name, json.dumps(event).encode(), headers)
            assert right(answer.ok()), (seed, name, event, headers, answer)
            if chance.random() < 0.2:
                time.sleep(chance.random() * 0.2)

    def lost():
        metrics = controller.metrics()
        return {k: v for k, v in metrics.items() if k.startswith("hearth_instance_failures_total")}

    before = lost()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(caller, range(3)))
    assert lost() == before, seed
    # Other tests want to find one instance at most.
    for name in (NAME, "linked"):
        controller.end_instances(name)


@pytest.mark.alone
def test_a_provided_function_that_has_the_mailbox_wakes_its_sandbox_once(linked):
    assert switches_a_call(linked["on"], "linked") < 2


@pytest.mark.parametrize("setting", ["on", "agent"])
@pytest.mark.parametrize("seed", range(5))
def test_a_function_that_scribbles_over_its_mailbox_harms_nobody_else(both, setting, seed):
    hostile(both[setting], {"op": "scribble", "seed": seed})


@pytest.mark.parametrize("value", range(8))
def test_a_function_that_rings_for_ever_ends_with_its_time(with_mailbox, value):
    hostile(with_mailbox, {"op": "ring_for_ever", "value": value})


def test_a_function_without_the_mailbox_may_not_ring(both):
    """Its agent may, and starts it."""
    client = lambda_client(both["off"].url)
    call(client, "echo").ok()
    ended = call(client, "ring_for_ever", value=0).failed()
    assert ended["errorType"] == "Runtime.ExitError"
    assert "signal: segmentation fault" in ended["errorMessage"]


def hostile(controller, event):
    """The function may hit on an answer that is well formed. Otherwise the host finds it out, or
    its time ends. In each case its call ends within its time, every other function is answered
    right meanwhile and afterwards, and an instance that has failed serves nothing more."""
    client = lambda_client(controller.url)
    # Earlier tests may have left several instances, and the harmful call ends its own alone.
    controller.end_instances(NAME)
    call(client, "echo").ok()

    def one_is_idle():
        return [i["state"] for i in controller.instances(NAME)] == ["idle"]

    # Otherwise the harmful call may get an instance of its own, and this one stays.
    until("its only instance is idle", one_is_idle)
    limit = 1.5
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        harmful = pool.submit(
            invoke_raw,
            controller,
            NAME,
            json.dumps(event).encode(),
            {"X-Hearth-Timeout-Ms": str(int(limit * 1000))},
        )
        for n in range(3):
            other = {"op": "echo", "n": n}
            assert invoke(client, "guest", other).ok() == other
        answer = harmful.result()
        # The rest is what a machine with much to do needs to notice.
        assert time.monotonic() - began < limit + 30
    assert answer.status == 200, answer.payload
    if answer.error:
        assert answer.value["errorType"] in (
            "Sandbox.Failure",
            "Sandbox.Timedout",
            "Runtime.ExitError",
        ), answer.payload
        until("its instance has ended", lambda: controller.instances(NAME) == [])
    assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}
    # What it answers from now on is its own affair.
    controller.end_instances(NAME)
    assert call(client, "echo").ok() == {"op": "echo"}
