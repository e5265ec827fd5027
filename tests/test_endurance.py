"""Two hundred invocations in a row cost the host nothing that stays."""

from harness import host
from harness.deadline import until
from harness.invocation import invoke

ROUNDS = 200
#: Invocations before the first look: caches fill, allocators reach their level.
WARM_UP = 30
#: What a heap may wander: a hundred invocations that kept as little as a kilobyte each show.
FLAT_KIB = 64


def figures(controller, instance):
    """Descriptors and private memory (KiB) of controller and sandbox."""
    return {
        "controller descriptors": len(host.open_files(controller.pid)),
        "sandbox descriptors": len(host.open_files(instance["pid"])),
        "controller KiB": host.private_kib(controller.pid),
        "sandbox KiB": host.private_kib(instance["pid"]),
    }


def test_two_hundred_invocations_in_a_row_leave_memory_and_descriptors_flat(controller, client):
    for n in range(WARM_UP):
        assert invoke(client, "guest", {"op": "echo", "n": n}).ok()["n"] == n
    instance = controller.idle("guest")
    before = figures(controller, instance)
    halfway = None
    for n in range(ROUNDS):
        assert invoke(client, "guest", {"op": "echo", "n": n}).ok()["n"] == n
        if n == ROUNDS // 2:
            halfway = figures(controller, controller.idle("guest"))
    after_instance = controller.idle("guest")
    after = figures(controller, after_instance)
    assert after_instance["pid"] == instance["pid"]
    assert after_instance["invocations"] == instance["invocations"] + ROUNDS
    for name in ("controller descriptors", "sandbox descriptors"):
        assert after[name] == before[name], f"{name}: {before} -> {after}"
    # Memory may settle in the first half; in the second it stands still.
    for name in ("controller KiB", "sandbox KiB"):
        grown = after[name] - halfway[name]
        assert grown <= FLAT_KIB, f"{name}: {before} -> {halfway} -> {after}"


def test_fifty_cold_starts_leave_no_process_and_no_descriptor_behind(controller, client):
    def cold():
        controller.end_instances("guest")
        answer = invoke(client, "guest", {"op": "echo"})
        answer.ok()
        assert answer.start == "cold"

    for _ in range(5):
        cold()
    controller.end_instances("guest")
    controller.shells_ready()
    before = held(controller)
    for _ in range(50):
        cold()
    controller.end_instances("guest")
    controller.shells_ready()
    # A file may be open for a moment: of a control group, for example.
    until("no more is held than before", lambda: at_most(held(controller), before), 20)


def held(controller):
    """Open files and sandboxes."""
    return len(host.open_files(controller.pid)), len(controller.sandboxes())


def at_most(now, before):
    return all(one <= other for one, other in zip(now, before, strict=True))
