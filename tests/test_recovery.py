"""Whatever is killed, whatever the data directory does: nothing is left, and it serves again."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import host, layout
from harness.controller import Controller
from harness.deadline import until
from harness.invocation import create, invoke, invoke_raw, lambda_client, wait_for


def busy(controller, name="guest"):
    return [i for i in controller.instances(name) if i["state"] == "busy"]


def is_stopped(pid):
    """Whether every thread is: the signal reaches them one after the other."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    states = [(thread / "stat").read_text().rsplit(")", 1)[1].split()[0] for thread in threads]
    return set(states) == {"T"}


def on_cpu_ns(pid):
    """What all threads of a process have run so far."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)


def test_sigkill_in_mid_invocation_leaves_nothing_and_the_next_start_serves(own_controller):
    controller = own_controller()
    client = lambda_client(controller.url)
    invoke(client, "probe", {"op": "who"}).ok()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(invoke, client, "guest", {"op": "sleep", "n": 20_000})
        until("it runs", lambda: busy(controller))
        sandboxes = controller.sandboxes()
        assert len(sandboxes) >= 2
        controller.kill()
        with pytest.raises(Exception):  # noqa: B017 - whatever botocore calls a broken connection
            running.result()
    until("no sandbox outlives it", lambda: not any(map(alive, sandboxes)), 5)
    controller.start()
    client = lambda_client(controller.url)
    for name in ("guest", "probe"):
        answer = invoke(client, name, {"op": "who"})
        answer.ok()
        assert answer.start == "cold"
    assert no_strays(controller)


def alive(pid):
    return host.state(pid) not in ("Z", "X")


def no_strays(controller):
    """Every control group of ours has a living process of this controller in it, or below it."""
    mine = host.cgroups_of([controller.pid, *controller.sandboxes()])
    empty = {g for g in host.cgroups() - mine if host.is_unused(g)}
    return not empty


def test_sigkill_in_mid_deploy_is_cleaned_up_by_the_next_start(own_controller, guest_package):
    controller = own_controller()
    client = lambda_client(controller.url)
    client.create_function(
        FunctionName="unfinished",
        Runtime="provided",
        Handler="bootstrap",
        Role="arn:aws:iam::000000000000:role/any",
        Code={"ZipFile": guest_package},
    )
    controller.kill()
    controller.start()
    client = lambda_client(controller.url)

    # What was accepted is not lost: it is taken up again, or says that it failed.
    def settled():
        state = client.get_function_configuration(FunctionName="unfinished")["State"]
        return state if state != "Pending" else None

    assert until("the deploy is decided", settled, 120) in ("Active", "Failed")
    client.delete_function(FunctionName="unfinished")
    create(client, "unfinished", guest_package)
    assert invoke(client, "unfinished", {"op": "who"}).ok()["name"] == "unfinished"


def test_sigterm_lets_a_running_invocation_end_and_leaves_nothing(own_controller):
    controller = own_controller()
    client = lambda_client(controller.url)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(invoke, client, "guest", {"op": "sleep", "n": 3000})
        until("it runs", lambda: busy(controller))
        sandboxes = controller.sandboxes()
        process = controller.process
        process.send_signal(signal.SIGTERM)
        assert running.result().ok() == {"slept": 3000}
        assert process.wait(30) == 0
    assert not any(map(alive, sandboxes))


def test_sigterm_ends_an_invocation_that_outlasts_the_drain(own_controller):
    controller = own_controller("--drain-timeout", "1")
    client = lambda_client(controller.url)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(invoke, client, "guest", {"op": "sleep", "n": 50_000})
        until("it runs", lambda: busy(controller))
        began = time.monotonic()
        controller.stop(20)
        with pytest.raises(Exception):  # noqa: B017 - an error answer or a broken connection
            running.result().ok()
    assert time.monotonic() - began < 20


def test_a_sandbox_killed_in_mid_invocation_is_a_clear_error_and_the_next_works(controller, client):
    # One that is there already: a restore that fails is tried again elsewhere, and nobody hears of it.
    # Nor of one that was not let run: the function has to have its event, and that takes CPU time.
    invoke(client, "guest", {"op": "echo"}).ok()
    pid = controller.idle("guest")["pid"]
    before = on_cpu_ns(pid)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            invoke_raw, controller, "guest", b'{"op":"sleep","n":20000}', {"x-note": "doomed"}
        )
        until("it runs", lambda: on_cpu_ns(pid) > before + 3_000_000)
        os.kill(pid, signal.SIGKILL)
        answer = running.result()
    # The function had started, so clients must not try again: no 5xx, no 429.
    body = answer.failed()
    assert body["errorType"]
    assert answer.request_id in body["errorMessage"]
    after = invoke(client, "guest", {"op": "echo"})
    assert after.ok() == {"op": "echo"}
    assert after.start == "cold"


def test_an_idle_sandbox_that_dies_is_noticed_and_never_used(controller, client):
    invoke(client, "guest", {"op": "echo"}).ok()
    os.kill(controller.idle("guest")["pid"], signal.SIGKILL)
    assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}


def test_an_event_that_a_dying_sandbox_did_not_read_runs_on_another(controller, client):
    """Stopped, it reads nothing; killed, it never will: the function has provably not seen its event."""
    for _ in range(5):
        invoke(client, "guest", {"op": "echo"}).ok()
        pid = controller.idle("guest")["pid"]
        os.kill(pid, signal.SIGSTOP)
        until("it is stopped", lambda pid=pid: is_stopped(pid))
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(invoke, client, "guest", {"op": "echo"})
            until("it has its event", lambda: busy(controller))
            os.kill(pid, signal.SIGKILL)
            answer = running.result()
        assert answer.ok() == {"op": "echo"}
        assert answer.start == "cold"


def test_shells_that_die_are_replaced(controller, client):
    controller.end_instances("guest")
    controller.end_instances("probe")
    controller.shells_ready()
    for pid in controller.sandboxes():
        os.kill(pid, signal.SIGKILL)
    assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}
    controller.shells_ready()


def test_a_sandbox_that_is_stopped_does_not_hold_up_others(controller, client):
    """SIGSTOP, at whatever point of its start: it neither answers nor ends."""
    controller.end_instances("guest")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            invoke_raw,
            controller,
            "guest",
            b'{"op":"sleep","n":60000}',
            {"X-Hearth-Timeout-Ms": "2000"},
        )
        until("it runs", lambda: controller.instances("guest"))
        pid = until("it has a process", lambda: controller.instances("guest")[0]["pid"])
        os.kill(pid, signal.SIGSTOP)
        assert invoke(client, "probe", {"op": "echo"}).ok() == {"op": "echo"}
        answer = running.result()
        if alive(pid):
            os.kill(pid, signal.SIGCONT)
    assert answer.failed()["errorType"] == "Sandbox.Timedout"
    assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}


def test_everything_deployed_survives_a_restart(own_controller):
    controller = own_controller()
    before = lambda_client(controller.url).get_function(FunctionName="probe")["Configuration"]
    controller.stop()
    controller.start()
    client = lambda_client(controller.url)
    assert client.get_function(FunctionName="probe")["Configuration"] == before
    assert invoke(client, "probe", {"op": "environment"}).ok()["TAG"] == "probe"


def test_a_second_controller_on_the_same_data_directory_is_refused(own_controller):
    controller = own_controller()
    done = second(controller.data)
    assert done.returncode != 0
    assert str(controller.data) in done.stderr, done.stderr
    assert invoke(lambda_client(controller.url), "guest", {"op": "echo"}).ok() == {"op": "echo"}


def second(data):
    return subprocess.run(
        [layout.HEARTHD, "--listen", "127.0.0.1:0", "--data-dir", data],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_data_directory_that_can_not_be_written_is_refused_with_its_name(tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a directory")
    done = second(in_the_way / "data")
    assert done.returncode != 0
    assert str(in_the_way) in done.stderr, done.stderr


def test_a_port_that_is_taken_is_refused_with_its_name(own_controller, tmp_path):
    controller = own_controller()
    done = subprocess.run(
        [layout.HEARTHD, "--listen", controller.address, "--data-dir", tmp_path / "other"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
    assert controller.address in done.stderr, done.stderr


def test_snapshots_deleted_under_a_running_controller_are_rebuilt_within_the_call(
    own_controller, guest_package
):
    controller = own_controller()
    client = lambda_client(controller.url)
    invoke(client, "guest", {"op": "echo"}).ok()
    controller.end_instances("guest")
    subprocess.run(["find", controller.data / "snapshots", "-type", "f", "-delete"], check=True)
    # The controller sees that the files are gone before anything runs, and makes them again while
    # the caller waits.
    answer = invoke_raw(controller, "guest", b'{"op":"echo"}')
    assert answer.ok() == {"op": "echo"}
    assert answer.start == "cold"
    # What it made is whole: the function serves as soon as the controller has started again.
    controller.stop()
    controller.start()
    assert invoke_raw(controller, "guest", b'{"op":"echo"}').ok() == {"op": "echo"}


def test_a_truncated_snapshot_is_refused_and_rebuilt(own_controller):
    controller = own_controller()
    controller.stop()
    for path in (controller.data / "snapshots").rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)
    controller.start()

    def serves():
        again = invoke_raw(controller, "guest", b'{"op":"echo"}')
        return again.status == 200 and again.error is None

    until("it serves again from rebuilt snapshots", serves, 240)


def test_a_disk_without_room_fails_a_deploy_clearly_and_what_is_deployed_serves_on(
    own_controller, guest_package
):
    """No file may grow beyond 8 MiB, so a snapshot's memory can't be written."""
    controller = own_controller()
    controller.stop()
    controller.file_limit = 8 << 20
    controller.start()
    client = lambda_client(controller.url)
    before = stored(controller)
    client.create_function(
        FunctionName="unwritable",
        Runtime="provided",
        Handler="bootstrap",
        Role="arn:aws:iam::000000000000:role/any",
        Code={"ZipFile": guest_package},
    )

    def settled():
        found = client.get_function_configuration(FunctionName="unwritable")
        return found if found["State"] != "Pending" else None

    assert until("the deploy is decided", settled, 120)["State"] == "Failed"
    assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}
    client.delete_function(FunctionName="unwritable")
    until("nothing of it stays", lambda: stored(controller) == before)


def stored(controller):
    """Files in the data directory, less those that change by themselves."""
    return sorted(
        str(path.relative_to(controller.data))
        for path in controller.data.rglob("*")
        if path.is_file() and not any(word in path.name for word in ("log", "wal", "shm"))
    )


def test_a_registry_that_is_locked_holds_up_no_invocation(own_controller):
    controller = own_controller()
    client = lambda_client(controller.url)
    file = controller.data / "registry.db"
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as intruder:
        intruder.execute("BEGIN EXCLUSIVE")
        assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}
        with pytest.raises(client.exceptions.ClientError) as refused:
            client.update_function_configuration(FunctionName="guest", Description="locked")
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
        intruder.execute("ROLLBACK")
    client.update_function_configuration(FunctionName="guest", Description="free")
    wait_for(client, "function_updated_v2", "guest")
    assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}


def test_a_controller_whose_sandbox_program_is_missing_says_so(tmp_path):
    done = subprocess.run(
        [
            layout.HEARTHD,
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
            tmp_path / "data",
            "--sandbox-bin",
            tmp_path / "nothing-here",
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
    assert "nothing-here" in done.stderr


def test_a_fresh_data_directory_is_ready_without_any_snapshot(tmp_path):
    before = host.Host.now()
    controller = Controller(tmp_path / "data").start()
    assert lambda_client(controller.url).list_functions()["Functions"] == []
    assert controller.stop() == 0
    host.assert_nothing_left(before)
