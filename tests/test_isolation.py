"""Clones of one snapshot are different machines, and a snapshot serves its own function alone."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import package
from harness.deadline import until
from harness.invocation import create, invoke

#: How far an instance's wall clock may be off while it serves.
CLOCK_NS = 10_000_000


def clones(controller, client, name, count):
    """Answers to `who` of that many instances that run at the same time, each on its first call."""
    controller.end_instances(name)

    def ask(_):
        return invoke(client, name, {"op": "who"}).ok()

    answers = []
    # A few more callers than clones: an instance that answers quickly may serve twice.
    with ThreadPoolExecutor(count) as pool:
        while len([a for a in answers if a["count"] == 1]) < count:
            controller.end_instances(name)
            answers += pool.map(ask, range(count))
    return answers


@pytest.mark.parametrize(
    ("name", "draws"),
    [("guest", ("random", "uuid")), ("probe", ("urandom", "uuid4", "secrets"))],
)
def test_no_two_clones_draw_the_same_random_bytes_or_uuids(controller, client, name, draws):
    answers = clones(controller, client, name, 4)
    for draw in draws:
        drawn = [answer[draw] for answer in answers]
        assert len(set(drawn)) == len(drawn), f"{draw}: {drawn}"


def test_no_two_clones_draw_the_same_bytes_from_openssl(controller, client):
    drawn = [answer["tls"] for answer in clones(controller, client, "probe", 4)]
    assert len(set(drawn)) == len(drawn), drawn


@pytest.mark.parametrize("name", ["guest", "probe"])
def test_a_restored_instance_has_the_right_wall_time_before_it_serves(controller, client, name):
    for _ in range(3):
        controller.end_instances(name)
        before = time.time_ns()
        answer = invoke(client, name, {"op": "who"})
        after = time.time_ns()
        assert answer.start == "cold"
        assert before - CLOCK_NS <= answer.ok()["realtime_ns"] <= after + CLOCK_NS


def test_a_warm_instance_has_the_right_wall_time_however_long_it_was_paused(controller, client):
    invoke(client, "guest", {"op": "who"}).ok()
    idle = controller.idle("guest")
    until(
        "it was paused for three seconds",
        lambda: (controller.idle("guest")["idle_seconds"] or 0) > 3,
    )
    before = time.time_ns()
    answer = invoke(client, "guest", {"op": "who"})
    after = time.time_ns()
    assert answer.start == "warm"
    assert controller.idle("guest")["pid"] == idle["pid"]
    assert before - CLOCK_NS <= answer.ok()["realtime_ns"] <= after + CLOCK_NS


def test_monotonic_time_never_goes_back(controller, client):
    last = 0
    for _ in range(20):
        now = invoke(client, "guest", {"op": "who"}).ok()["monotonic_ns"]
        assert now > last
        last = now


def test_monotonic_time_does_not_jump_by_the_snapshots_age(controller, client):
    """Each clone goes on from the snapshot's monotonic time, however much later it is restored."""

    def first_words():
        controller.end_instances("guest")
        answer = invoke(client, "guest", {"op": "who"})
        assert answer.start == "cold"
        return answer.ok()["monotonic_ns"]

    began = time.monotonic_ns()
    first = last = first_words()
    while time.monotonic_ns() - began < 3_000_000_000:
        last = first_words()
    assert abs(last - first) < (time.monotonic_ns() - began) // 2


def test_a_snapshot_of_one_function_never_serves_another(controller, client, guest_package):
    """Two functions whose code and environment differ, cold and warm, alone and at once."""
    program = package.compiled(guest_package)
    colours = ("red", "blue")
    for colour in colours:
        create(
            client,
            colour,
            package.archive({"bootstrap": program, "tag": f"code of {colour}".encode()}),
            Environment={"Variables": {"TAG": f"env of {colour}"}},
        )

    def ask(colour):
        return colour, invoke(client, colour, {"op": "who"}).ok()

    order = [colours[n % 2] for n in range(60)]
    random.Random(20).shuffle(order)
    for start in range(0, len(order), 12):
        for colour in colours:
            controller.end_instances(colour)
        with ThreadPoolExecutor(4) as pool:
            for colour, answer in pool.map(ask, order[start : start + 12]):
                assert answer["code"] == f"code of {colour}"
                assert answer["env"] == f"env of {colour}"
                assert answer["name"] == colour


def test_a_deploy_of_the_same_name_never_serves_the_deleted_ones_code(
    controller, client, guest_package
):
    program = package.compiled(guest_package)
    for generation in ("one", "two"):
        create(
            client,
            "phoenix",
            package.archive({"bootstrap": program, "tag": generation.encode()}),
        )
        assert invoke(client, "phoenix", {"op": "who"}).ok()["code"] == generation
        client.delete_function(FunctionName="phoenix")


def test_what_an_instance_wrote_is_gone_with_it(controller, client):
    """/tmp is the instance's own: a clone does not see what another wrote."""
    source = (
        "import os\n"
        "def handler(event, context):\n"
        "    found = os.path.exists('/tmp/left')\n"
        "    open('/tmp/left', 'w').close()\n"
        "    return {'found': found, 'task': os.access('/var/task', os.W_OK)}\n"
    )
    create(client, "writer", package.python(source), Runtime="python3.11", Handler="app.handler")
    assert invoke(client, "writer", {}).ok() == {"found": False, "task": False}
    assert invoke(client, "writer", {}).ok() == {"found": True, "task": False}
    controller.end_instances("writer")
    assert invoke(client, "writer", {}).ok() == {"found": False, "task": False}


def test_a_function_runs_as_lambdas_user(controller, client):
    assert invoke(client, "guest", {"op": "who"}).ok()["uid"] == 993
    answer = invoke(client, "probe", {"op": "who"}).ok()
    assert answer["uid"] == 993
    assert answer["cwd"] == "/var/task"
