"""What a function is told, what it may use, and what an invocation reports."""

import base64
import json
import re
import uuid

import pytest
from harness.invocation import create, invoke, invoke_raw


def test_a_function_sees_lambdas_environment_and_its_own(controller, client):
    seen = invoke(client, "probe", {"op": "environment"}).ok()
    expected = {
        "TAG": "probe",
        "EMPTY": "",
        "SPACED": "a b=c",
        "_HANDLER": "app.handler",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.11",
        "AWS_LAMBDA_FUNCTION_NAME": "probe",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/probe",
        "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001",
        "LAMBDA_TASK_ROOT": "/var/task",
        "LAMBDA_RUNTIME_DIR": "/var/runtime",
        "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        "AWS_XRAY_DAEMON_ADDRESS": "127.0.0.1:2000",
        "TZ": ":UTC",
    }
    assert {name: seen.get(name) for name in expected} == expected
    assert re.fullmatch(
        r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", seen["AWS_LAMBDA_LOG_STREAM_NAME"]
    )


def test_a_handler_learns_about_its_invocation(controller, client):
    context = base64.b64encode(json.dumps({"custom": {"k": "v"}}).encode()).decode()
    answer = invoke(client, "probe", {"op": "about"}, ClientContext=context)
    seen = answer.ok()
    assert seen["request_id"] == answer.request_id
    assert uuid.UUID(seen["request_id"])
    assert seen["arn"] == "arn:aws:lambda:us-east-1:000000000000:function:probe"
    assert seen["version"] == "$LATEST"
    assert seen["memory"] == "128"
    # The guest's clock may be 10 ms off.
    assert 0 < seen["remaining_ms"] <= 60_000 + 10
    assert seen["client_context"] == {"k": "v"}


def test_the_log_tail_has_lambdas_lines_and_what_the_function_wrote(controller, client):
    answer = invoke(
        client, "probe", {"op": "say", "text": "to stdout", "error": "to stderr"}, LogType="Tail"
    )
    answer.ok()
    rid = re.escape(answer.request_id)
    for line in (
        rf"^START RequestId: {rid} Version: \$LATEST$",
        r"^to stdout$",
        r"^to stderr$",
        rf"^END RequestId: {rid}$",
        rf"^REPORT RequestId: {rid}\tDuration: \d+\.\d\d ms\tBilled Duration: \d+ ms\t"
        r"Memory Size: 128 MB\tMax Memory Used: \d+ MB\t?",
    ):
        assert re.search(line, answer.log, re.MULTILINE), f"{line} not in\n{answer.log}"


def test_no_log_is_sent_unless_asked_for(controller, client):
    assert "x-amz-log-result" not in invoke(client, "probe", {"op": "say"}).headers


def test_the_log_tail_is_the_last_four_kilobytes(controller, client):
    answer = invoke(client, "guest", {"op": "print", "n": 200, "m": 80}, LogType="Tail")
    answer.ok()
    assert len(answer.log.encode()) <= 4096
    assert "line 199 " in answer.log
    assert "line 0 " not in answer.log


def test_logs_are_kept_in_order_and_belong_to_their_invocation(controller, client):
    answer = invoke(client, "guest", {"op": "print", "n": 5, "m": 20})
    answer.ok()
    records = [r for r in controller.logs("guest") if r["request_id"] == answer.request_id]
    assert [r["kind"] for r in records] == ["platform", *["function"] * 5, "platform", "platform"]
    assert [r["message"].split(".")[0].strip() for r in records if r["kind"] == "function"] == [
        f"line {n}" for n in range(5)
    ]
    sequence = [r["seq"] for r in controller.logs("guest")]
    assert sequence == sorted(sequence)
    newest = controller.logs("guest", f"?after={records[-2]['seq']}")
    assert newest[0]["message"].startswith("REPORT")


@pytest.mark.alone
def test_every_answer_reports_what_was_used(controller, client):
    controller.end_instances("guest")
    cold = invoke(client, "guest", {"op": "spin", "n": 200})
    warm = invoke(client, "guest", {"op": "touch", "n": 6})
    assert (cold.start, warm.start) == ("cold", "warm")
    assert float(cold.headers["x-hearth-duration-ms"]) >= 200
    # It spins by the clock, on a host that has others to serve as well.
    assert float(cold.headers["x-hearth-cpu-ms"]) >= 100
    assert 6 <= int(warm.headers["x-hearth-max-memory-mib"]) <= 128
    for answer in (cold, warm):
        phases = json.loads(answer.headers["x-hearth-phases"])
        parts = [phases["queue_us"], phases["restore_us"], phases["run_us"]]
        assert all(part >= 0 for part in parts)
        assert sum(parts) <= phases["total_us"] + 1000
    assert json.loads(warm.headers["x-hearth-phases"])["restore_us"] == 0


def test_a_timeout_for_one_invocation_ends_it_and_the_next_has_the_functions_own(
    controller, client
):
    body = b'{"op":"sleep","n":20000}'
    answer = invoke_raw(controller, "guest", body, {"X-Hearth-Timeout-Ms": "700"})
    assert answer.failed() == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": f"RequestId: {answer.request_id} Error: Task timed out after 0.70 seconds",
    }
    assert 700 <= float(answer.headers["x-hearth-duration-ms"]) < 10_000
    assert invoke(client, "guest", {"op": "sleep", "n": 900}).ok() == {"slept": 900}


#: MiB that a test touches beyond a limit of 16. A first touch of a page costs milliseconds where the
#: guest's kernel is interpreted, so it is not much.
BEYOND = 18


def test_memory_for_one_invocation_ends_it_and_the_next_has_the_functions_own(controller, client):
    event = json.dumps({"op": "touch", "n": BEYOND}, separators=(",", ":")).encode()
    answer = invoke_raw(controller, "guest", event, {"X-Hearth-Memory-MiB": "16"})
    assert answer.failed()["errorType"] == "Runtime.OutOfMemory"
    assert invoke(client, "guest", event).ok() == {"touched": BEYOND}


def test_memory_for_one_invocation_does_not_stay_on_the_instance(controller, client):
    invoke_raw(controller, "guest", b'{"op":"echo"}', {"X-Hearth-Memory-MiB": "16"}).ok()
    after = invoke(client, "guest", {"op": "touch", "n": BEYOND})
    assert after.start == "warm"
    assert after.ok() == {"touched": BEYOND}


def test_a_function_has_lambdas_742_processes_and_not_one_more(client, guest_package):
    # Each costs the guest's kernel so much that a busy host may take minutes.
    create(client, "many", guest_package, Timeout=300)
    # The runtime is one of them.
    answer = {"started": 741, "refused_with": "EAGAIN"}
    assert invoke(client, "many", {"op": "multiply"}).ok() == answer
    assert invoke(client, "many", {"op": "echo"}).ok() == {"op": "echo"}


def test_cpu_time_for_one_invocation_ends_it(controller, client):
    answer = invoke_raw(controller, "guest", b'{"op":"spin","n":30000}', {"X-Hearth-Cpu-Ms": "400"})
    body = answer.failed()
    assert answer.request_id in body["errorMessage"]
    assert "cpu" in body["errorMessage"].lower()
    assert 400 <= float(answer.headers["x-hearth-cpu-ms"]) < 5000
    assert invoke(client, "guest", {"op": "spin", "n": 500}).ok() == {"spun": 500}


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Hearth-Timeout-Ms", "0"),
        ("X-Hearth-Timeout-Ms", "60001"),
        ("X-Hearth-Timeout-Ms", "-1"),
        ("X-Hearth-Timeout-Ms", "1.5"),
        ("X-Hearth-Timeout-Ms", "soon"),
        ("X-Hearth-Timeout-Ms", ""),
        ("X-Hearth-Timeout-Ms", "18446744073709551616"),
        ("X-Hearth-Memory-MiB", "15"),
        ("X-Hearth-Memory-MiB", "129"),
        ("X-Hearth-Memory-MiB", "1e2"),
        ("X-Hearth-Cpu-Ms", "0"),
        ("X-Hearth-Cpu-Ms", "60001"),
        ("X-Hearth-Cpu-Ms", "0x10"),
    ],
)
def test_a_limit_out_of_range_is_refused_and_nothing_runs(controller, client, header, value):
    answer = invoke_raw(controller, "guest", b'{"op":"echo"}', {header: value})
    assert answer.status == 400
    assert answer.headers["x-amzn-errortype"].startswith("InvalidParameterValueException")
    assert header.lower() in answer.value["message"].lower()


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Hearth-Timeout-Ms", "60000"),
        ("X-Hearth-Memory-MiB", "128"),
        ("X-Hearth-Cpu-Ms", "60000"),
    ],
)
def test_a_limit_as_high_as_the_functions_own_is_taken(controller, client, header, value):
    assert invoke_raw(controller, "guest", b'{"op":"echo"}', {header: value}).ok() == {"op": "echo"}


def test_a_functions_environment_is_not_in_the_controllers_log(controller, client, guest_package):
    create(
        client,
        "secretive",
        guest_package,
        Environment={"Variables": {"TAG": "hush-5d1f2c", "PASSWORD": "hush-5d1f2c"}},
    )
    assert invoke(client, "secretive", {"op": "who"}).ok()["env"] == "hush-5d1f2c"
    assert "hush-5d1f2c" not in controller.log_text()
