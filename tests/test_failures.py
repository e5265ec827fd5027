"""Each way a function can fail gets Lambda's own answer, and the next invocation works."""

import json
import re
import time

import pytest
from harness import layout, package
from harness.deadline import until
from harness.invocation import create, invoke, invoke_raw, lambda_client, wait_for


@pytest.fixture(scope="module")
def crash(shared):
    """python-crash, with time enough for the slowest way of failing."""
    client = lambda_client(shared.url)
    create(
        client,
        "crash",
        package.folder(layout.EXAMPLES / "python-crash"),
        Runtime="python3.11",
        Handler="app.handler",
        Timeout=240,
    )
    yield client
    client.delete_function(FunctionName="crash")


EXIT = "Runtime.ExitError"

#: What the event asks for, the error type, and the whole message (`{id}` is the request id).
WAYS = [
    ({"how": "exit", "status": 7}, EXIT, "RequestId: {id} Error: Runtime exited with error: exit status 7"),
    ({"how": "exit", "status": 127}, EXIT, "RequestId: {id} Error: Runtime exited with error: exit status 127"),
    ({"how": "exit0"}, EXIT, "RequestId: {id} Error: Runtime exited without providing a reason"),
    ({"how": "segfault"}, EXIT, "RequestId: {id} Error: Runtime exited with error: signal: segmentation fault"),
    ({"how": "abort"}, EXIT, "RequestId: {id} Error: Runtime exited with error: signal: aborted"),
    ({"how": "kill"}, EXIT, "RequestId: {id} Error: Runtime exited with error: signal: killed"),
    ({"how": "timeout"}, "Sandbox.Timedout", "RequestId: {id} Error: Task timed out after 3.00 seconds"),
    ({"how": "spin"}, "Sandbox.Timedout", "RequestId: {id} Error: Task timed out after 3.00 seconds"),
]  # fmt: skip


@pytest.mark.parametrize(("event", "kind", "message"), WAYS, ids=[str(w[0]) for w in WAYS])
def test_a_runtime_that_dies_has_lambdas_error_body(crash, controller, event, kind, message):
    # Only what never ends by itself is cut short: tearing an interpreter down takes an interpreted
    # kernel seconds, and then the timeout would be the answer.
    cut = {"X-Hearth-Timeout-Ms": "3000"} if kind == "Sandbox.Timedout" else {}
    answer = invoke_raw(controller, "crash", json.dumps(event).encode(), cut)
    body = answer.failed()
    assert body["errorType"] == kind
    assert body["errorMessage"] == message.replace("{id}", answer.request_id)
    assert answer.headers["x-amz-executed-version"] == "$LATEST"
    assert invoke(crash, "crash", {"how": "ok"}).ok()["ok"] is True


def test_an_exception_is_the_runtimes_body_and_the_instance_lives_on(crash, controller):
    invoke(crash, "crash", {"how": "ok"}).ok()
    answer = invoke(crash, "crash", {"how": "raise", "message": "on purpose"})
    body = answer.failed()
    assert body["errorType"] == "Unhappy"
    assert body["errorMessage"] == "on purpose"
    assert body["requestId"] == answer.request_id
    assert any("app.py" in line for line in body["stackTrace"])
    after = invoke(crash, "crash", {"how": "ok"})
    after.ok()
    assert after.start == "warm"


def test_memory_that_runs_out_is_reported_as_that(crash, controller):
    answer = invoke(crash, "crash", {"how": "oom"}, LogType="Tail")
    body = answer.failed()
    assert body["errorType"] == "Runtime.OutOfMemory"
    assert answer.request_id in body["errorMessage"]
    used = re.search(r"Max Memory Used: (\d+) MB", answer.log)
    assert used, answer.log
    assert 64 <= int(used.group(1)) <= 128
    assert invoke(crash, "crash", {"how": "ok"}).ok()["ok"] is True


def test_an_exit_by_sys_exit_is_an_error_and_the_next_works(crash, controller):
    body = invoke(crash, "crash", {"how": "sys-exit"}).failed()
    assert body["errorType"] == EXIT
    assert invoke(crash, "crash", {"how": "ok"}).ok()["ok"] is True


def test_a_fork_bomb_ends_with_its_invocation_and_the_next_works(crash, controller):
    # An interpreter's pages are copied for each child: memory and time are out before the limit on
    # processes is met.
    limit = {"X-Hearth-Timeout-Ms": "20000"}
    body = invoke_raw(controller, "crash", b'{"how": "fork-bomb"}', limit).failed()
    assert body["errorType"] in ("Sandbox.Timedout", "Runtime.OutOfMemory")
    assert invoke(crash, "crash", {"how": "ok"}).ok()["ok"] is True


def test_processes_left_behind_hold_nothing_up(crash, controller):
    answer = invoke(crash, "crash", {"how": "fork", "count": 3})
    assert len(answer.ok()["children"]) == 3
    assert invoke(crash, "crash", {"how": "ok"}).ok()["ok"] is True


def test_a_flood_on_stdout_is_cut_and_harms_nobody(crash, controller):
    lines = 2048
    answer = invoke(crash, "crash", {"how": "stdout-flood", "lines": lines}, LogType="Tail")
    assert answer.ok()["written"] == lines * 1024
    assert len(answer.log) <= 4096
    assert f"END RequestId: {answer.request_id}" in answer.log
    assert invoke(crash, "crash", {"how": "ok"}).ok()["ok"] is True


def test_a_function_error_counts_in_the_metrics(crash, controller):
    def errors():
        return sum(
            value
            for series, value in controller.metrics().items()
            if series.startswith("hearth_") and "error" in series and 'function="crash"' in series
        )

    before = errors()
    invoke(crash, "crash", {"how": "raise"}).failed()
    assert errors() == before + 1


IMPORT_ERROR = "import no_such_module\n\ndef handler(event, context):\n    return 1\n"


def test_each_call_of_a_handler_that_can_not_be_imported_gets_the_error(controller, client):
    client.create_function(
        FunctionName="unimportable",
        Runtime="python3.11",
        Handler="app.handler",
        Role="arn:aws:iam::000000000000:role/any",
        Code={"ZipFile": package.python(IMPORT_ERROR)},
    )
    wait_for(client, "function_active_v2", "unimportable")
    for _ in range(2):
        answer = invoke(client, "unimportable", {}, LogType="Tail")
        body = answer.failed()
        assert body["errorType"] == "Runtime.ImportModuleError"
        assert "no_such_module" in body["errorMessage"]
        assert "Error Type: Runtime.ImportModuleError" in answer.log
    failed = hearths_own(controller, "unimportable")["InitFailed"]
    assert failed["Reason"].startswith("Runtime.ImportModuleError: ")
    assert failed["ReasonCode"] == "FunctionError.RuntimeInitError"
    assert invoke(client, "unimportable", {}, InvocationType="Event").status == 202


def hearths_own(controller, function):
    """What a configuration says beside Lambda's members."""
    configuration = f"/2015-03-31/functions/{function}/configuration"
    return controller.get(configuration).json().get("Hearth", {})


def test_an_init_that_failed_is_tried_again_and_once_it_works_there_is_a_snapshot(
    controller, client
):
    """By its clock: before that, it is a machine that is too slow, or a neighbour that is not there."""
    works_from = time.time() + 45
    source = (
        "import os, time\n"
        f"if time.time() < {works_from}:\n"
        "    raise RuntimeError('not yet')\n"
        "SEEN = os.urandom(8).hex()\n"
        "def handler(event, context):\n"
        "    return SEEN\n"
    )
    create(client, "early", package.python(source), Runtime="python3.11", Handler="app.handler")
    assert invoke(client, "early", {}).failed()["errorMessage"] == "not yet"
    until("init works", lambda: invoke(client, "early", {}).error is None, 180)
    until("there is a snapshot", lambda: not hearths_own(controller, "early"), 180)
    drawn = set()
    for _ in range(2):
        controller.end_instances("early")
        answer = invoke(client, "early", {})
        assert answer.start == "cold"
        drawn.add(answer.ok())
    assert len(drawn) == 1, "init has run once for both"


def test_a_package_without_a_bootstrap_says_so_in_each_call(controller, client):
    client.create_function(
        FunctionName="empty",
        Runtime="provided",
        Handler="bootstrap",
        Role="arn:aws:iam::000000000000:role/any",
        Code={"ZipFile": package.archive({"readme": b"nothing to run"})},
    )
    wait_for(client, "function_active_v2", "empty")
    body = invoke(client, "empty", {}).failed()
    assert body["errorType"] == "Runtime.InvalidEntrypoint"
    assert "bootstrap" in body["errorMessage"]
