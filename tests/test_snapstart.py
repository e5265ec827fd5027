"""SnapStart: hooks run before a version's snapshot and after each restore, and may fail."""

import json

import pytest
from botocore.exceptions import ClientError
from harness import layout, package
from harness.command import curl
from harness.deadline import until
from harness.invocation import create, invoke, lambda_client, wait_for

SNAP_START = {"ApplyOn": "PublishedVersions"}


def publish(client, name):
    """A new version of `$LATEST`, once its deploy has come to something."""
    number = client.publish_version(FunctionName=name)["Version"]

    def settled():
        found = client.get_function_configuration(FunctionName=name, Qualifier=number)
        return found if found["State"] != "Pending" else None

    return until(f"version {number} of {name} is deployed", settled, 120)


def with_variables(client, name, **variables):
    """Changes the environment, and waits until `$LATEST` has it."""
    client.update_function_configuration(FunctionName=name, Environment={"Variables": variables})
    wait_for(client, "function_updated_v2", name)


def cold(controller, client, name, qualifier="$LATEST"):
    """What a new instance answers to its first invocation."""
    controller.end_instances(name)
    answer = invoke(client, name, {}, Qualifier=qualifier, LogType="Tail")
    assert answer.start == "cold"
    return answer


@pytest.fixture(scope="module")
def python(shared):
    """The Python function, published; what its version says of itself."""
    client = lambda_client(shared.url)
    code = package.folder(layout.FUNCTIONS / "snapstart")
    create(client, "snap", code, Runtime="python3.11", Handler="app.handler", SnapStart=SNAP_START)
    return publish(client, "snap")


def test_only_a_published_version_is_optimized(python, client):
    assert python["State"] == "Active", python.get("StateReason")
    assert python["SnapStart"] == {**SNAP_START, "OptimizationStatus": "On"}
    latest = client.get_function_configuration(FunctionName="snap")
    assert latest["SnapStart"] == {**SNAP_START, "OptimizationStatus": "Off"}


def test_hooks_run_once_for_each_restored_instance_before_its_first_event(
    python, controller, client
):
    # The seed is in the snapshot: without a hook every instance draws the same.
    latest = [cold(controller, client, "snap").ok() for _ in range(2)]
    assert latest[0] == latest[1]
    assert (latest[0]["kind"], latest[0]["after"]) == ("on-demand", 0)
    first = cold(controller, client, "snap", "1")
    assert {**first.ok(), "draw": 0} == {"draw": 0, "kind": "snap-start", "before": 1, "after": 1}
    assert first.log.startswith("START RequestId: "), "what a hook writes is not the invocation's"
    assert "\tRestore Duration: " in first.log
    controller.idle("snap")
    warm = invoke(client, "snap", {}, Qualifier="1")
    assert (warm.start, warm.ok()["after"]) == ("warm", 1)
    second = cold(controller, client, "snap", "1").ok()
    assert second["after"] == 1
    draws = {latest[0]["draw"], first.ok()["draw"], warm.ok()["draw"], second["draw"]}
    assert len(draws) == 4
    records = controller.logs("snap")
    assert {"restored"} <= {r["message"] for r in records if r["request_id"] is None}
    reports = [r["message"] for r in records if r["message"].startswith("RESTORE_REPORT ")]
    assert len(reports) == 2
    assert "Status" not in reports[0]


def test_an_instance_that_is_kept_ready_has_run_its_hooks(python, controller, client):
    controller.end_instances("snap")
    wanted = {"FunctionName": "snap", "Qualifier": "1"}
    client.put_provisioned_concurrency_config(**wanted, ProvisionedConcurrentExecutions=1)

    def status():
        return client.get_provisioned_concurrency_config(**wanted)["Status"] == "READY"

    until("an instance is ready", status, 60)
    answer = invoke(client, "snap", {}, Qualifier="1")
    assert (answer.start, answer.ok()["after"]) == ("warm", 1)
    client.delete_provisioned_concurrency_config(**wanted)


def test_a_hook_that_fails_before_the_snapshot_fails_the_version_with_its_reason(python, client):
    with_variables(client, "snap", FAILING="before")
    failed = publish(client, "snap")
    assert failed["State"] == "Failed"
    assert "not in this state" in failed["StateReason"]
    assert invoke(client, "snap", {}, Qualifier="1").ok()["before"] == 1, "the others serve on"


def test_what_fails_after_a_restore_is_lambdas_error(controller, client, guest_package):
    variables = {"Variables": {"HOOK": "fail"}}
    create(client, "hooked", guest_package, SnapStart=SNAP_START, Environment=variables)
    for hook, code, status, reported in (
        ("fail", "SnapStartException", 400, "Status: error\tError Type: Runtime.Stale"),
        ("exit", "SnapStartException", 400, "Status: error\tError Type: Runtime.ExitError"),
        ("hang", "SnapStartTimeoutException", 408, "Status: timeout"),
    ):
        if hook != "fail":
            with_variables(client, "hooked", HOOK=hook)
        version = publish(client, "hooked")
        assert version["State"] == "Active", version
        with pytest.raises(ClientError) as refused:
            invoke(client, "hooked", {"op": "echo"}, Qualifier=version["Version"])
        response = refused.value.response
        assert response["Error"]["Code"] == code, hook
        assert response["ResponseMetadata"]["HTTPStatusCode"] == status
        assert response["Error"]["Message"]
        last = [r["message"] for r in controller.logs("hooked")][-1]
        assert last.startswith("RESTORE_REPORT Restore Duration: ")
        assert last.endswith(reported)
        gone = f"the instance of version {version['Version']} is gone"
        until(gone, lambda: not controller.instances("hooked"))
    assert invoke(client, "hooked", {"op": "echo"}).ok() == {"op": "echo"}


def test_the_rust_runtime_streams_and_runs_its_hooks(controller, client):
    code = package.cargo(layout.FUNCTIONS / "rust")
    create(client, "rust", code, SnapStart=SNAP_START)
    assert publish(client, "rust")["State"] == "Active"
    draws = set()
    for _ in range(2):
        answer = client.invoke_with_response_stream(
            FunctionName="rust", Qualifier="1", Payload=b'{"chunks": 3}'
        )
        events = list(answer["EventStream"])
        assert events[-1] == {"InvokeComplete": {}}
        payload = b"".join(e["PayloadChunk"]["Payload"] for e in events[:-1])
        prelude, body = payload.split(b"\0" * 8)
        assert json.loads(prelude)["statusCode"] == 200
        drawn, *chunks = body.decode().splitlines()
        assert chunks == ["chunk 0", "chunk 1", "chunk 2"]
        drawn = json.loads(drawn)
        assert (drawn["kind"], drawn["before"], drawn["after"]) == ("snap-start", 1, 1)
        draws.add(drawn["draw"])
        controller.end_instances("rust")
    assert len(draws) == 2
    client.create_function_url_config(
        FunctionName="rust", AuthType="NONE", InvokeMode="RESPONSE_STREAM"
    )
    out = curl("--no-buffer", "--fail", f"{controller.url}/fn/rust/").ok()
    assert json.loads(out)["kind"] == "on-demand"
