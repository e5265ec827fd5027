"""CPU shares: what instances of several functions get of CPUs that all of them want."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import host
from harness.deadline import until
from harness.invocation import create, invoke_raw, lambda_client

#: Busy instances of the greedy function, and for how many seconds they are watched.
BURNERS, SECONDS = 6, 5.0
#: Longer than the test: the controller's end ends it.
SPIN = b'{"op":"spin","n":600000}'


@contextmanager
def one_cpu():
    """Programs that are started meanwhile have one CPU, so that they contend for it on any host."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pid):
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def busy(controller, function):
    return [i["pid"] for i in controller.instances(function) if i["state"] == "busy"]


@pytest.mark.alone
def test_many_busy_instances_of_one_function_have_the_cpu_share_of_one(
    own_controller, guest_package
):
    with one_cpu():
        controller = own_controller("--start-wait-ms", "120000", "--drain-timeout", "1")
    if controller.status()["cpu_isolation"] == "none":
        pytest.skip("this host has no usable cpu cgroup")
    create(lambda_client(controller.url), "modest", guest_package)
    wanted = {"modest": 1, "guest": BURNERS}
    with ThreadPoolExecutor(BURNERS + 1) as callers:
        for function, count in wanted.items():
            for _ in range(count):
                callers.submit(invoke_raw, controller, function, SPIN)
        until(
            "all of them are busy",
            lambda: all(len(busy(controller, name)) == n for name, n in wanted.items()),
            90,
        )
        pids = {name: busy(controller, name) for name in wanted}
        before = {name: sum(map(cpu_seconds, pids[name])) for name in wanted}
        time.sleep(SECONDS)
        used = {name: sum(map(cpu_seconds, pids[name])) - before[name] for name in wanted}
        groups = {name: host.cgroups_of(pids[name]) for name in wanted}
        controller.stop()
    # With a share for each instance it would be one to six.
    assert 0.5 < used["modest"] / used["guest"] < 2.0, used
    for name, paths in groups.items():
        assert len(paths) == wanted[name]
        assert {Path(path).parent.name for path in paths} == {f"function-{name}"}


def test_the_group_of_a_function_goes_with_its_last_instance(controller, client):
    def groups():
        return {path for path in host.cgroups() if Path(path).name == "function-guest"}

    isolated = controller.status()["cpu_isolation"] != "none"
    for _ in range(2):
        invoke_raw(controller, "guest", b'{"op":"who"}').ok()
        until("its group is there", lambda: bool(groups()) == isolated)
        controller.end_instances("guest")
        until("its group is gone", lambda: not groups())
