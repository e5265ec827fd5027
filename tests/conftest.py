"""Fixtures of the whole-system tests.

A microVM boots once: one data directory is prepared in which both runtimes' snapshots and two
functions exist, and every controller that a test starts gets a copy of it. It is kept in the
artefact cache under the hash of everything it was made by and of (harness/prepared_data.py). `guest` is the
compiled program of tests/guest on the `provided` runtime, `probe` is tests/functions/probe on
`python3.11`.

After each test everything that it made is deleted, and the controller must be as it was: no
sandbox that it does not account for, no zombie, no control group, no file descriptor more. When a
controller ends, nothing of it may be left on the host.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import host, layout, package, prepared_data
from harness.command import AWS_CLIS
from harness.controller import Controller
from harness.deadline import TooLate, until
from harness.invocation import create, lambda_client

pytest_plugins = ("harness.order", "harness.workers", "harness.durations")


def pytest_sessionstart(session):
    """Stops the run, as a failure, where microVMs can't be started: nothing is skipped."""
    if session.config.option.collectonly:
        return
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.exit("/dev/kvm can't be used here; scripts/check-kvm says why", returncode=1)
    if layout.missing():
        pytest.exit(f"not built: {layout.missing()}; run: make build images", returncode=1)


@pytest.fixture(scope="session", autouse=True)
def nothing_left():
    """When the last test has ended, nothing is left of any."""
    before = host.Host.now()
    yield
    host.assert_nothing_left(before)


@pytest.fixture(scope="session")
def guest_package(tmp_path_factory):
    """The compiled guest program as a package."""
    program = package.compile_guest(tmp_path_factory.mktemp("guest") / "bootstrap")
    return package.archive({"bootstrap": program, "tag": b"guest"})


@pytest.fixture(scope="session")
def template(request, guest_package):
    """A data directory with both runtimes' snapshots and the functions `guest` and `probe`."""
    probe = package.folder(layout.FUNCTIONS / "probe")

    def make(data: Path) -> None:
        before = host.Host.now()
        try:
            _prepare(Controller(data), guest_package, probe)
        except Exception as error:
            # Every other test would fail the same way, some minutes later each.
            request.session.shouldfail = f"the first two functions can't be deployed: {error}"
            raise
        host.assert_nothing_left(before)

    with prepared_data.held(guest_package, probe, make=make) as data:
        yield data


def _prepare(controller, guest_package, probe):
    controller.start()
    client = lambda_client(controller.url)
    environments = {
        "guest": {"Variables": {"TAG": "guest"}},
        "probe": {"Variables": {"TAG": "probe", "EMPTY": "", "SPACED": "a b=c"}},
    }
    python = {"Runtime": "python3.11", "Handler": "app.handler"}
    try:
        # Each boots its runtime first: that is the time of one core.
        with ThreadPoolExecutor(2) as pool:
            made = [
                pool.submit(create, client, name, code, Environment=environments[name], **options)
                for name, code, options in (("guest", guest_package, {}), ("probe", probe, python))
            ]
            for function in made:
                function.result()
    except Exception:
        print(controller.log_text()[-6000:])
        raise
    finally:
        controller.stop()


@pytest.fixture(scope="session")
def start_controller(template):
    """Starts a controller on a copy of the template: `start_controller(folder, *arguments)`. What
    `prepare` does to the data directory is done before."""

    def start(
        folder: Path,
        *arguments: str,
        env: dict[str, str] | None = None,
        prepare: Callable[[Path], None] = lambda data: None,
    ) -> Controller:
        data = folder / "data"
        # cp knows holes and reflinks; the snapshots' memory files are mostly holes.
        subprocess.run(
            ["cp", "-a", "--sparse=always", "--reflink=auto", str(template), str(data)], check=True
        )
        prepare(data)
        return Controller(data, *arguments, env=env).start()

    return start


@pytest.fixture(scope="module")
def shared(start_controller, tmp_path_factory):
    """The controller that a module's tests share; when it ends, nothing of it is left."""
    before = host.Host.now()
    folder = tmp_path_factory.mktemp("controller")
    controller = start_controller(folder)
    yield controller
    status = controller.stop()
    host.assert_nothing_left(before)
    assert list(controller.temporary.iterdir()) == [], "temporary files left behind"
    assert status == 0, (
        f"hearthd ended with {status}; its log says\n{controller.log_text()[-4000:]}"
    )
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def module_controller(start_controller, tmp_path_factory):
    """Starts controllers for one module alone, by the name of their folder: `shared` without what is
    deployed in all of them, and without the look at it after each test."""
    before = host.Host.now()
    started = []

    def start(name: str, **options) -> Controller:
        started.append(start_controller(tmp_path_factory.mktemp(name), **options))
        return started[-1]

    yield start
    for controller in started:
        if controller.process is not None:
            controller.stop()
    host.assert_nothing_left(before)


@pytest.fixture
def controller(shared):
    """The module's controller; checks after the test that the test left nothing in it."""
    functions = _functions(shared)
    yield shared
    client = lambda_client(shared.url)
    for name in _functions(shared) - functions:
        client.delete_function(FunctionName=name)
    _assert_accounted_for(shared)


@pytest.fixture
def client(controller):
    return lambda_client(controller.url)


@pytest.fixture(params=AWS_CLIS, ids=lambda version: f"cli{version}")
def aws(request):
    """The AWS CLI, in both versions."""
    return AWS_CLIS[request.param]


@pytest.fixture
def layer(client):
    """Publishes versions of layers that are gone after the test."""
    made = []

    def publish(name, files, **options):
        archive = files if isinstance(files, bytes) else package.archive(files)
        version = client.publish_layer_version(
            LayerName=name, Content={"ZipFile": archive}, **options
        )
        made.append((name, version["Version"]))
        return version

    yield publish
    for name, version in made:
        client.delete_layer_version(LayerName=name, VersionNumber=version)


@pytest.fixture
def own_controller(start_controller, tmp_path):
    """Starts controllers for one test alone, which may do to them what it likes."""
    before = host.Host.now()
    started = []

    def start(*arguments: str, env: dict[str, str] | None = None) -> Controller:
        folder = tmp_path / f"controller{len(started)}"
        folder.mkdir()
        started.append(start_controller(folder, *arguments, env=env))
        return started[-1]

    yield start
    for controller in started:
        if controller.process is not None:
            controller.stop()
    host.assert_nothing_left(before)
    for controller in started:
        assert list(controller.temporary.iterdir()) == [], "temporary files left behind"
    shutil.rmtree(tmp_path)


def _functions(controller: Controller) -> set[str]:
    pages = lambda_client(controller.url).get_paginator("list_functions").paginate()
    return {function["FunctionName"] for page in pages for function in page["Functions"]}


def _assert_accounted_for(controller: Controller) -> None:
    """Every process, control group and descriptor of the controller belongs to what it lists."""

    def surplus() -> dict[str, str]:
        instances = controller.instances()
        status = controller.status()
        children = controller.sandboxes()
        wrong = {}
        busy = [i for i in instances if i["state"] not in ("idle", "finishing")]
        if busy:
            wrong["instances"] = f"still at work: {busy}"
        zombies = [pid for pid in children if host.state(pid) == "Z"]
        if zombies:
            wrong["zombies"] = str(zombies)
        if len(children) != len(instances) + status["shells"]:
            wrong["processes"] = f"{children} for {instances} and {status['shells']} shells"
        groups = host.cgroups_of(children)
        strays = {g for g in host.cgroups() - groups if host.is_unused(g)}
        if strays:
            wrong["cgroups"] = str(sorted(strays))
        return wrong

    try:
        until("the controller is at rest", lambda: not surplus(), 20)
    except TooLate:
        wrong = surplus()
        assert not wrong, f"not accounted for: {wrong}"
