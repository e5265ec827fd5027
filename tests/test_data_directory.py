"""What is wrong with one file takes down what the file belongs to, and nothing else."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time

import pytest
from harness import layout
from harness.controller import Controller
from harness.deadline import until
from harness.invocation import create, invoke, invoke_raw, lambda_client


def refused(controller):
    """The error of a start that is refused."""
    done = subprocess.run(
        [layout.HEARTHD, "--listen", "127.0.0.1:0", "--data-dir", controller.data],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0, done.stderr
    return done.stderr


def files(controller):
    """Everything that belongs to functions."""
    folders = ("packages", "images", "snapshots", "logs")
    found = [path for folder in folders for path in (controller.data / folder).rglob("*")]
    return sorted(str(path) for path in found if path.is_file())


def execute(path, statement, *values):
    with contextlib.closing(sqlite3.connect(path)) as database:
        changed = database.execute(statement, values).rowcount
        database.commit()
    assert changed == 1, statement


def without_wal(controller):
    """The registry as a copy of its file alone would be, restored."""
    for end in ("db-wal", "db-shm"):
        controller.data.joinpath(f"registry.{end}").unlink(missing_ok=True)


def test_an_empty_or_older_registry_deletes_nothing_and_says_what_to_do(
    own_controller, guest_package
):
    controller = own_controller()
    client = lambda_client(controller.url)
    invoke(client, "guest", {"op": "echo"}).ok()
    controller.stop()
    registry = controller.data / "registry.db"
    older = registry.read_bytes()
    controller.start()
    create(lambda_client(controller.url), "newer", guest_package)
    controller.stop()
    newest, before = registry.read_bytes(), files(controller)

    registry.write_bytes(b"")
    without_wal(controller)
    error = refused(controller)
    assert "registry.db" in error and "packages" in error, error
    assert files(controller) == before

    registry.write_bytes(older)
    without_wal(controller)
    error = refused(controller)
    assert "registry.mark" in error, error
    assert files(controller) == before

    registry.write_bytes(newest)
    without_wal(controller)
    controller.start()
    client = lambda_client(controller.url)
    for name in ("guest", "newer"):
        assert invoke(client, name, {"op": "echo"}).ok() == {"op": "echo"}
    controller.stop()

    # Who goes on with the older one loses nothing either: what it does not have is set aside.
    registry.write_bytes(older)
    without_wal(controller)
    (controller.data / "registry.mark").unlink()
    controller.start()
    assert invoke(lambda_client(controller.url), "guest", {"op": "echo"}).ok() == {"op": "echo"}
    kept = [path.name for path in (controller.data / "lost+found").glob("*/*")]
    assert "snapshots" in kept or "images" in kept, kept


def test_a_copy_of_the_registrys_file_alone_is_complete_after_a_stop(own_controller, guest_package):
    controller = own_controller()
    create(lambda_client(controller.url), "last", guest_package)
    controller.stop()
    without_wal(controller)
    controller.start()
    assert invoke(lambda_client(controller.url), "last", {"op": "echo"}).ok() == {"op": "echo"}


def test_a_deleted_functions_call_does_not_write_into_its_successors_log(
    own_controller, guest_package
):
    controller = own_controller()
    client = lambda_client(controller.url)
    create(client, "again", guest_package, Timeout=60)
    old = invoke_raw(controller, "again", b'{"op":"echo"}').request_id
    process = subprocess.Popen(
        [layout.HEARTH, "invoke", "again", "-d", '{"op":"sleep","n":12000}'],
        env={**os.environ, "HEARTH_ENDPOINT": controller.url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(
        "the old one runs", lambda: any(i["state"] == "busy" for i in controller.instances("again"))
    )
    client.delete_function(FunctionName="again")
    create(client, "again", guest_package)
    assert invoke(client, "again", {"op": "echo"}).ok() == {"op": "echo"}
    process.wait(60)
    until("the old instance has ended", lambda: len(controller.instances("again")) == 1, 60)
    lines = [record["message"] for record in controller.all_logs("again")]
    # Of the old call, START came before the deletion; END and REPORT after it.
    assert sum(line.startswith("REPORT") for line in lines) == 1, lines
    assert not any(old in line for line in lines), lines
    counted = controller.metrics()['hearth_invocations_total{function="again"}']
    assert counted == 1


def test_a_damaged_record_takes_down_its_own_function_alone(own_controller, guest_package):
    controller = own_controller()
    client = lambda_client(controller.url)
    for name in ("cut", "sealed", "versioned"):
        create(client, name, guest_package)
    controller.stop()
    registry = controller.data / "registry.db"
    before = files(controller)
    execute(registry, "UPDATE functions SET document = '{' WHERE name = 'cut'")
    execute(
        registry,
        "UPDATE functions SET document = json_set(document, '$.config.environment', 'x')"
        " WHERE name = 'sealed'",
    )
    execute(registry, "INSERT INTO versions VALUES ('versioned', 1, '{')")
    controller.start()
    client = lambda_client(controller.url)
    for name in ("guest", "probe", "versioned"):
        assert invoke(client, name, {"op": "echo"}).ok() == {"op": "echo"}
    for name in ("cut", "sealed"):
        found = client.get_function_configuration(FunctionName=name)
        assert found["State"] == "Failed" and "damaged" in found["StateReason"], found
        assert invoke_raw(controller, name, b"{}").status != 200
    found = client.get_function_configuration(FunctionName="versioned", Qualifier="1")
    assert found["State"] == "Failed", found
    # Nobody knows what the damaged records refer to, so everything stays.
    assert set(before) <= set(files(controller))
    with pytest.raises(client.exceptions.ResourceConflictException):
        client.update_function_configuration(FunctionName="cut", Description="x")
    client.delete_function(FunctionName="cut")
    create(client, "cut", guest_package)
    assert invoke(client, "cut", {"op": "echo"}).ok() == {"op": "echo"}


def test_a_damaged_event_queue_is_set_aside_and_the_controller_serves(own_controller):
    controller = own_controller()
    controller.stop()
    events = controller.data / "events.db"
    events.write_bytes(b"\x55" * 8192)
    for end in ("db-wal", "db-shm"):
        events.with_name(f"events.{end}").unlink(missing_ok=True)
    controller.start()
    client = lambda_client(controller.url)
    assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}
    accepted = client.invoke(FunctionName="guest", InvocationType="Event", Payload=b'{"op":"echo"}')
    assert accepted["StatusCode"] == 202
    aside = list((controller.data / "lost+found").glob("*/events.db"))
    assert [path.read_bytes()[:4] for path in aside] == [b"\x55" * 4]


def test_a_damaged_log_line_does_not_end_the_logs_of_other_functions(own_controller):
    controller = own_controller()
    client = lambda_client(controller.url)
    invoke(client, "guest", {"op": "echo"}).ok()
    controller.logs("guest")
    controller.stop()
    (newest,) = sorted((controller.data / "logs" / "guest").glob("*.jsonl"))[-1:]
    line = json.loads(newest.read_text().splitlines()[-1])
    with newest.open("a") as log:
        log.write(json.dumps({**line, "seq": 2**64 - 1}) + "\n")
    controller.start()
    client = lambda_client(controller.url)
    for name in ("guest", "probe"):
        answer = invoke_raw(controller, name, b'{"op":"echo"}')
        assert answer.ok() == {"op": "echo"}
        found = controller.logs(name, f"?request_id={answer.request_id}")
        assert any(record["message"].startswith("REPORT") for record in found), found
    assert controller.get("/readyz").status == 200


def test_runtime_snapshots_that_no_function_uses_are_removed(own_controller, guest_package):
    controller = own_controller()
    client = lambda_client(controller.url)
    folder = controller.data / "snapshots" / "runtime"
    before = {path.name for path in folder.iterdir()}
    # As five memory sizes that were used once would have left them, each of which takes a boot.
    of_guest = next(path for path in folder.iterdir() if path.name.startswith("provided-128-"))
    for n in range(5):
        shutil.copytree(of_guest, folder / f"provided-{200 + n}-0000000000000000")
    create(client, "sized", guest_package, MemorySize=129)
    client.delete_function(FunctionName="sized")
    # A few stay, for a function that is created again.
    left = {path.name for path in folder.iterdir()}
    assert before < left and len(left - before) <= 4
    assert any(name.startswith("provided-129-") for name in left), left
    controller.stop()
    controller.start()
    assert {path.name for path in folder.iterdir()} <= before
    assert invoke(lambda_client(controller.url), "guest", {"op": "echo"}).ok() == {"op": "echo"}


def test_below_the_floor_of_free_space_deploys_and_events_are_refused_and_calls_go_on(
    own_controller, guest_package
):
    controller = own_controller("--min-free-mib", str(1 << 29))
    client = lambda_client(controller.url)
    ready = controller.get("/readyz")
    assert ready.status == 200 and b"--min-free-mib" in ready.data
    found = controller.metrics()
    assert (
        found["hearth_data_directory_free_bytes"] < found["hearth_data_directory_free_floor_bytes"]
    )
    assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}
    with pytest.raises(client.exceptions.CodeStorageExceededException):
        create(client, "more", guest_package)
    event = controller.request(
        "POST",
        "/2015-03-31/functions/guest/invocations",
        body=b"{}",
        headers={"X-Amz-Invocation-Type": "Event"},
    )
    assert event.status == 503, event.data
    client.delete_function(FunctionName="probe")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 192 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(192 << 20)
    folder.mkdir()
    made = subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], capture_output=True, check=False)
    mounted = made.returncode == 0 and subprocess.run(
        ["mount", "-o", "loop", image, folder], capture_output=True, check=False
    )
    if not mounted or mounted.returncode != 0:
        pytest.skip("no loop device can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder):
    """Takes every block that is free."""
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 12))


def test_a_full_disk_starts_serves_and_lets_functions_be_deleted(small_disk, guest_package):
    controller = Controller(small_disk / "data", log=small_disk.with_name("log"))
    controller.temporary = small_disk.with_name("temporary")
    controller.start()
    try:
        client = lambda_client(controller.url)
        create(client, "one", guest_package)
        create(client, "two", guest_package)
        invoke(client, "one", {"op": "echo"}).ok()
        fill(small_disk)
        assert b"refused" in controller.get("/readyz").data
        lost = controller.metrics()["hearth_log_batches_lost_total"]
        for _ in range(20):
            assert invoke(client, "one", {"op": "echo"}).ok() == {"op": "echo"}
        until(
            "lost lines are counted",
            lambda: controller.metrics()["hearth_log_batches_lost_total"] > lost,
        )
        listen = controller.address
        controller.kill()
        controller.arguments = ("--listen", listen)
        controller.launch()
        controller.address = listen
        until("it serves", controller._ready, 60)
        client = lambda_client(controller.url)
        assert invoke(client, "one", {"op": "echo"}).ok() == {"op": "echo"}
        client.delete_function(FunctionName="two")
        found = [function["FunctionName"] for function in client.list_functions()["Functions"]]
        assert found == ["one"]
    finally:
        controller.stop()


def test_a_backup_of_a_controller_under_load_is_restored_and_serves(
    own_controller, guest_package, tmp_path
):
    controller = own_controller()
    client = lambda_client(controller.url)
    create(client, "kept", guest_package, Environment={"Variables": {"TAG": "kept"}})
    client.publish_version(FunctionName="kept")
    stop = time.monotonic() + 5
    load = subprocess.Popen(
        [
            "sh",
            "-c",
            'while :; do "$0" invoke kept -d \'{"op":"echo"}\' >/dev/null 2>&1; done',
            layout.HEARTH,
        ],
        env={**os.environ, "HEARTH_ENDPOINT": controller.url},
        start_new_session=True,
    )
    backups = []
    try:
        while time.monotonic() < stop or not backups:
            client.update_function_configuration(FunctionName="guest", Description=str(stop))
            backups.append(tmp_path / f"backup{len(backups)}")
            subprocess.run(
                [layout.HEARTH, "backup", backups[-1], "--data-dir", controller.data], check=True
            )
            client.get_waiter("function_updated_v2").wait(FunctionName="guest")
    finally:
        os.killpg(load.pid, signal.SIGKILL)
        load.wait()
    controller.stop()
    shutil.rmtree(controller.data)
    subprocess.run(
        [layout.HEARTH, "restore", backups[-1], "--data-dir", controller.data], check=True
    )
    controller.start()
    client = lambda_client(controller.url)
    for name in ("kept", "kept:1"):
        assert invoke(client, name, {"op": "who"}).ok()["env"] == "kept"
    assert any(r["message"].startswith("REPORT") for r in controller.all_logs("kept"))
    assert not (controller.data / "lost+found").exists()
