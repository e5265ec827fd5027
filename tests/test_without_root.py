"""A whole controller of a user without privileges: it works, says which parts of the jail it could
not have, and does not start where all of them are wanted."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from harness import host
from harness.controller import Controller
from harness.deadline import until
from harness.invocation import create, invoke, lambda_client
from harness.unprivileged import USER, Unprivileged

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to become somebody else")


@pytest.fixture(scope="module")
def unprivileged():
    place = Unprivileged()
    yield place
    place.remove()


@pytest.fixture(scope="module")
def controller(template, unprivileged):
    before = host.Host.now()
    data = unprivileged.folder / "data"
    subprocess.run(
        ["cp", "-a", "--sparse=always", "--reflink=auto", str(template), str(data)], check=True
    )
    controller = Controller(
        data, env=unprivileged.environment, command=unprivileged.command("hearthd")
    )
    unprivileged.own(data, controller.temporary)
    controller.start()
    yield controller
    sandboxes = controller.sandboxes()
    assert controller.stop() == 0
    until("no sandbox is left", lambda: all(host.state(pid) == "X" for pid in sandboxes))
    host.assert_nothing_left(before)
    assert list(controller.temporary.iterdir()) == [], "temporary files left behind"


def users(pid):
    [line] = [
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("Uid:")
    ]
    return {int(user) for user in line.split()[1:]}


def capabilities(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {int(line.split()[1], 16) for line in lines if line.startswith(("CapPrm", "CapEff"))}


def test_it_deploys_and_runs_functions_with_nothing_that_is_roots(controller, guest_package):
    client = lambda_client(controller.url)
    # A deploy of its own, and one whose snapshot root's controller has made.
    create(client, "unprivileged", guest_package, Environment={"Variables": {"TAG": "mine"}})
    for name, tag in (("unprivileged", "mine"), ("guest", "guest")):
        assert invoke(client, name, {"op": "echo"}).ok() == {"op": "echo"}
        assert invoke(client, name, {"op": "who"}).ok()["env"] == tag
    processes = [controller.pid, *controller.sandboxes()]
    assert len(processes) > 2
    for pid in processes:
        assert users(pid) == {USER}
        assert capabilities(pid) == {0}
    assert {path.stat().st_uid for path in controller.data.rglob("*")} == {USER}


def test_it_says_which_parts_of_the_jail_are_missing(controller):
    missing = {part["part"] for part in controller.status()["jail"]["missing"]}
    assert {"user", "processes"} <= missing
    metrics = controller.metrics()
    for part in missing:
        assert metrics[f'hearth_jail{{part="{part}"}}'] == 0
    assert metrics['hearth_jail{part="seccomp"}'] == 1
    assert "the jail of sandboxes is incomplete: without" in controller.log_text()


def test_doctor_says_which_parts_of_the_jail_are_missing_and_what_to_do(controller, unprivileged):
    controller_says = {part["part"] for part in controller.status()["jail"]["missing"]}
    done = unprivileged.run(
        "hearth",
        "--json",
        "--endpoint-url",
        controller.url,
        "doctor",
        "--data-dir",
        controller.data,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["kvm"]["verdict"] == "ok"
    assert checks["jail"]["verdict"] == "warn"
    for part in controller_says:
        assert part in checks["jail"]["found"]
    assert "root" in checks["jail"]["advice"]


def test_it_does_not_start_where_the_whole_jail_is_required(unprivileged):
    data = unprivileged.folder / "required"
    unprivileged.own(data)
    done = unprivileged.run(
        "hearthd", "--listen", "127.0.0.1:0", "--data-dir", data, "--require-jail"
    )
    assert done.returncode not in (0, None)
    assert "the jail is not complete: without" in done.stdout + done.stderr
