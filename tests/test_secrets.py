"""Environment variables are encrypted in the registry with a key of their own, and never logged."""

import base64
import os
import shutil
import stat
import subprocess

import pytest
from harness import layout
from harness.invocation import create, invoke, lambda_client, wait_for

SECRET = "correct-horse-battery-staple"
NAME = "NOBODY_ELSE_KNOWS_THIS_NAME"


def holders(controller, *texts):
    """Files of the data directory that have one of the texts in them, snapshots aside: those are
    the guest's memory, with whatever the function holds in it."""
    return [
        str(path.relative_to(controller.data))
        for path in [*controller.data.rglob("*"), controller.log]
        if path.is_file()
        and "snapshots" not in path.parts
        and any(text.encode() in path.read_bytes() for text in texts)
    ]


def key_of(controller):
    return controller.data / "secrets.key"


def with_secret(client, guest_package):
    create(client, "keeper", guest_package, Environment={"Variables": {"TAG": SECRET, NAME: "v"}})


def test_no_file_has_a_variable_in_the_clear_and_no_log_either(own_controller, guest_package):
    controller = own_controller(env={"RUST_LOG": "trace"})
    client = lambda_client(controller.url)
    with_secret(client, guest_package)
    client.publish_version(FunctionName="keeper")
    wait_for(client, "published_version_active", "keeper", Qualifier="1")
    assert invoke(client, "keeper:1", {"op": "who"}).ok()["env"] == SECRET
    assert holders(controller, SECRET, NAME) == []
    controller.stop()
    assert holders(controller, SECRET, NAME) == []


def test_the_variables_are_the_functions_again_after_a_restart(own_controller, guest_package):
    controller = own_controller()
    client = lambda_client(controller.url)
    with_secret(client, guest_package)
    controller.kill()
    controller.start()
    client = lambda_client(controller.url)
    found = client.get_function_configuration(FunctionName="keeper")
    assert found["Environment"] == {"Variables": {"TAG": SECRET, NAME: "v"}}
    assert invoke(client, "keeper", {"op": "who"}).ok()["env"] == SECRET


def test_the_key_is_the_owners_alone(own_controller):
    controller = own_controller()
    key = key_of(controller)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(base64.b64decode(key.read_text())) == 32


def refused(controller, *arguments):
    """Starts it, which must fail; what it says."""
    started = subprocess.Popen(
        [layout.HEARTHD, "--listen", "127.0.0.1:0", "--data-dir", controller.data, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=controller.environment,
    )
    try:
        said = started.communicate(timeout=60)[1]
    except subprocess.TimeoutExpired:
        # It runs: let it clean up after itself.
        started.terminate()
        started.communicate()
        pytest.fail("it started")
    assert started.returncode != 0
    return said


def test_without_its_key_or_with_another_it_does_not_start_and_changes_nothing(
    own_controller, tmp_path
):
    controller = own_controller()
    controller.stop()
    key, kept = key_of(controller), tmp_path / "kept.key"
    shutil.move(key, kept)
    said = refused(controller)
    assert str(key) in said
    assert not key.exists(), "a new key would open nothing"
    key.write_text(base64.b64encode(os.urandom(32)).decode())
    key.chmod(0o600)
    assert "key" in refused(controller)
    kept.chmod(0o644)
    assert str(kept) in refused(controller, "--key-file", str(kept))
    # It may lie elsewhere, and with it everything is there again.
    kept.chmod(0o600)
    controller.arguments = ("--key-file", str(kept))
    controller.start()
    client = lambda_client(controller.url)
    assert invoke(client, "guest", {"op": "who"}).ok()["env"] == "guest"
