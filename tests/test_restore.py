"""A restored instance goes on exactly: its clocks, its timers, its generators, its connection; and
files that are not what they were made as are never started from."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import layout, package, snapshot_files
from harness.clones import drawn_by_clones
from harness.deadline import until
from harness.invocation import create, invoke, lambda_client
from harness.sandbox import Sandbox

MS = 1_000_000
#: How far an instance's wall clock may be off.
CLOCK = 10 * MS
#: Clones of one snapshot that must not be alike in anything.
CLONES = 100


@pytest.fixture(scope="module")
def restored(shared):
    client = lambda_client(shared.url)
    create(
        client,
        "restored",
        package.folder(layout.FUNCTIONS / "restored"),
        Runtime="python3.11",
        Handler="app.handler",
    )
    return "restored"


class Bracket:
    """What a guest's clock may differ from the host's: each call narrows it down. The guest reads
    its clock after the call was sent and before the answer came."""

    def __init__(self):
        self.least, self.most = -(1 << 62), 1 << 62

    def add(self, sent, read, came):
        self.least = max(self.least, read - came)
        self.most = min(self.most, read - sent)

    def __str__(self):
        return f"{self.least / MS:.1f} to {self.most / MS:.1f} ms"


def offset(who):
    """Between the guest's two clocks: it changes when the wall clock is set, and only then."""
    return who["realtime_ns"] - who["monotonic_ns"]


@pytest.fixture
def snapshot(template):
    """The snapshot of `guest`, as a sandbox wants to be told of it."""
    folder = snapshot_files.function_snapshot(template, "guest")
    image = template / "images" / f"{folder.name}.erofs"
    disks = [snapshot_files.runtime_image("provided"), image, None]
    return folder, disks, snapshot_files.fingerprint(folder)


def test_the_wall_clock_is_right_when_a_function_reads_it_first(snapshot):
    """One call can't tell: what it takes to reach the function and back may be more than the
    tolerance. The calls after it narrow down how far the clock is off *now*, as far as this machine
    is quick enough; and by how much it was set since then the guest's monotonic clock tells
    exactly. It fails when the clock was provably off by more than 10 ms."""
    for _ in range(3):
        with Sandbox() as sandbox:
            # Sent before the restore, as by a controller in a hurry: the time in it is old news.
            sandbox.thaw()
            sandbox.restore(*snapshot)
            first = sandbox.invoke({"op": "who"})
            settled, now = offset(first), Bracket()
            for _ in range(50):
                sent, who, came = sandbox.invoke_timed({"op": "who"})
                if abs(offset(who) - settled) > MS // 10:
                    settled, now = offset(who), Bracket()
                now.add(sent, who["realtime_ns"], came)
        moved = offset(first) - settled
        assert now.least + moved <= CLOCK and now.most + moved >= -CLOCK, (
            f"off by {now} now, and it was set by {-moved / MS:.1f} ms since it was first read"
        )


def test_timers_and_sleeps_that_were_pending_fire_and_none_too_early(controller, client, restored):
    controller.end_instances(restored)
    with ThreadPoolExecutor(2) as pool:
        clones = [pool.submit(invoke, client, restored, {"op": "pending"}) for _ in range(2)]
        for clone in clones:
            told = clone.result().ok()
            assert sorted(told["pending"]) == ["alarm", "sleep", "timer", "wait"], told
            assert sorted(told["fired"]) == sorted(told["pending"]), told
            assert told["early"] == []


@pytest.mark.timeout(1200)
def test_a_hundred_clones_draw_nothing_alike(controller, client, restored):
    drawn = drawn_by_clones(controller, client, restored, CLONES)
    assert len({d["drawn_in_init"] for d in drawn}) == 1, "clones of one snapshot"
    for what in ("random", "urandom", "uuid4", "secrets", "boot_id"):
        assert len({d[what] for d in drawn}) == CLONES, what
    # A generator that the function made itself is the function's to seed again: docs/compatibility.md says so.
    assert len({d["own"] for d in drawn}) == 1


def test_the_agents_connection_lives_through_a_hundred_generations(snapshot, tmp_path):
    """Each is a snapshot of a microVM that was restored from the one before."""
    folder, disks, fingerprint = snapshot
    monotonic, drawn = 0, set()
    for generation in range(1, 101):
        with Sandbox() as sandbox:
            sandbox.restore(folder, disks, fingerprint)
            sandbox.thaw()
            for _ in range(3):
                who = sandbox.invoke({"op": "who"})
                assert who["monotonic_ns"] > monotonic
                monotonic = who["monotonic_ns"]
                assert who["random"] not in drawn
                drawn.add(who["random"])
            assert who["count"] == 3 * generation
            parent, folder = folder, tmp_path / f"generation-{generation}"
            sandbox.snapshot(folder)
        if generation > 1:
            shutil.rmtree(parent)


@pytest.mark.parametrize("field", ["version", "kind", "cpu", "flags", "fingerprint"])
def test_a_snapshot_of_another_make_is_made_anew_without_a_failed_request(own_controller, field):
    """Of another version of the sandbox, kind of KVM, CPU, and kernel or image."""
    controller = own_controller()
    controller.stop()
    folder = snapshot_files.function_snapshot(controller.data, "guest")
    was = snapshot_files.made_elsewhere(folder, field, "something else")
    assert was != "something else"
    controller.start()
    answer = invoke(lambda_client(controller.url), "guest", {"op": "who"})
    assert answer.ok()["name"] == "guest"
    assert controller.metrics()["hearth_snapshot_rebuilds_total"] >= 1
    until("what could not be used is gone", lambda: not folder.exists())


@pytest.mark.parametrize("name", ["state", "memory", "seal", "image"])
def test_a_changed_byte_is_noticed_before_use_and_no_request_fails(own_controller, name):
    controller = own_controller()
    controller.stop()
    folder = snapshot_files.function_snapshot(controller.data, "guest")
    path = folder / name
    if name == "image":
        path = controller.data / "images" / f"{folder.name}.erofs"
    snapshot_files.flip(path, snapshot_files.a_byte_of_data(path))
    controller.start()
    answer = invoke(lambda_client(controller.url), "guest", {"op": "who"})
    assert answer.ok()["name"] == "guest"
    assert controller.metrics()["hearth_snapshot_rebuilds_total"] == 1
    assert str(path) in controller.log_text(), "the log says which file"


def test_a_byte_that_changes_under_a_running_controller_is_noticed(own_controller):
    controller = own_controller()
    client = lambda_client(controller.url)
    assert invoke(client, "guest", {"op": "who"}).start == "cold"
    controller.end_instances("guest")
    memory = snapshot_files.function_snapshot(controller.data, "guest") / "memory"
    snapshot_files.flip(memory, snapshot_files.a_byte_of_data(memory))
    answer = invoke(client, "guest", {"op": "who"})
    assert answer.ok()["name"] == "guest"
    assert controller.metrics()["hearth_snapshot_rebuilds_total"] == 1
