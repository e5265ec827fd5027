"""Extensions: programs of a layer beside the runtime, and threads in it, told of every invocation
and of the end."""

import json

import pytest
from harness import layout, package
from harness.deadline import until
from harness.invocation import create, extensions_layer, invoke, lambda_client

PYTHON = {"Runtime": "python3.11", "Handler": "app.handler"}


@pytest.fixture(scope="module")
def extended(module_controller):
    """A controller with the function `extended`, which has an extension of either kind."""
    controller = module_controller("extended")
    client = lambda_client(controller.url)
    watcher = (layout.FUNCTIONS / "extension/watcher").read_bytes()
    create(
        client,
        "extended",
        package.folder(layout.FUNCTIONS / "extended"),
        **PYTHON,
        Timeout=30,
        Layers=[extensions_layer(client, "watcher", watcher=watcher)],
    )
    return controller


@pytest.fixture
def client(extended):
    return lambda_client(extended.url)


def seen(controller):
    """What the external extension has told, oldest first."""
    records = controller.logs("extended", "?limit=10000")
    return [json.loads(r["message"][8:]) for r in records if r["message"].startswith("WATCHER ")]


def events(controller, kind):
    return [e["event"] for e in seen(controller) if e.get("event", {}).get("eventType") == kind]


def test_an_extension_registers_before_the_runtime_starts_and_without_what_is_the_runtimes(
    extended, client
):
    told = next(e for e in seen(extended) if "registered" in e)
    assert told["registered"] == 200
    assert told["function"] == {
        "functionName": "extended",
        "functionVersion": "$LATEST",
        "handler": "app.handler",
    }
    assert told["refused"] == [
        403,
        "Extension.InvalidExtensionState",
        403,
        "Extension.UnknownExtensionIdentifier",
    ]
    # What extensions call their own listeners.
    assert told["addresses"] == ["127.0.0.1", "127.0.0.1"]
    names = told["environment"]
    assert {"AWS_LAMBDA_RUNTIME_API", "AWS_LAMBDA_FUNCTION_NAME", "PATH"} <= set(names)
    assert not [n for n in names if n.startswith("_") and n != "__CF_USER_TEXT_ENCODING"]
    assert "LAMBDA_TASK_ROOT" not in names


def test_both_kinds_hear_of_every_invocation_and_go_on_after_a_restore(extended, client):
    extended.end_instances("extended")
    first = invoke(client, "extended", {})
    extended.idle("extended")
    second = invoke(client, "extended", {})
    assert (first.start, second.start) == ("cold", "warm")
    # 403: an internal one may not ask for SHUTDOWN. Its thread may run after the handler.
    assert first.ok()[0] == 403
    assert set(second.ok()[1:]) >= {first.request_id}
    until("it is told", lambda: len(events(extended, "INVOKE")) >= 2)
    told = events(extended, "INVOKE")[-2:]
    assert [e["requestId"] for e in told] == [first.request_id, second.request_id]
    assert told[0]["invokedFunctionArn"].endswith(":function:extended")
    assert told[0]["tracing"]["type"] == "X-Amzn-Trace-Id"
    assert told[0]["deadlineMs"] > 1_700_000_000_000
    assert len({e["life"] for e in seen(extended) if "life" in e}) == 1


def test_an_instance_is_not_frozen_before_its_extensions_wait_again(extended, client):
    answer = invoke(client, "extended", {"linger": 1})
    answer.ok()
    assert {"done": answer.request_id} not in seen(extended), "the caller waited for an extension"
    extended.idle("extended")
    assert {"done": answer.request_id} in seen(extended)
    series = 'hearth_post_runtime_extensions_duration_seconds_sum{function="extended"}'
    assert extended.metrics()[series] >= 0.9


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("crash", "Extension.Crash", "exit status 9"),
        ("give up", "Extension.ExitError", "exit status 1"),
    ],
)
def test_an_extension_that_fails_fails_the_invocation_and_the_next_one_works(
    extended, client, how, kind, text
):
    answer = invoke(client, "extended", {"how": how, "sleep": 20})
    assert answer.failed() == {
        "errorType": kind,
        "errorMessage": f"RequestId: {answer.request_id} Error: {text}",
    }
    invoke(client, "extended", {}).ok()


def test_after_a_timeout_extensions_hear_why_it_ends(extended, client):
    before = len(events(extended, "SHUTDOWN"))
    late = extended.request(
        "POST",
        "/2015-03-31/functions/extended/invocations",
        body=json.dumps({"sleep": 20}),
        headers={"X-Hearth-Timeout-Ms": "1500"},
    )
    assert json.loads(late.data)["errorType"] == "Sandbox.Timedout"
    until("it is told", lambda: len(events(extended, "SHUTDOWN")) > before)
    assert events(extended, "SHUTDOWN")[-1]["shutdownReason"] == "timeout"


def test_a_program_that_is_none_fails_each_init_and_says_so(extended, client):
    broken = extensions_layer(client, "broken", 0o644, broken=b"#!/usr/bin/python3.11\n")
    create(client, "broken", package.python("def handler(e, c): pass"), **PYTHON, Layers=[broken])
    body = invoke(client, "broken", {}).failed()
    assert body["errorType"] == "Extension.LaunchError"
    assert "fork/exec /opt/extensions/broken: permission denied" in body["errorMessage"]


def test_at_the_end_of_an_idle_instance_extensions_get_their_time(extended, client):
    """Last: the controller ends."""
    invoke(client, "extended", {}).ok()
    extended.idle("extended")
    assert extended.stop() == 0
    log = "".join(
        path.read_text() for path in sorted((extended.data / "logs/extended").glob("*.jsonl"))
    )
    last = [json.loads(line)["message"] for line in log.splitlines()][-1]
    assert last.startswith("WATCHER "), last
    assert json.loads(last.removeprefix("WATCHER "))["event"]["shutdownReason"] == "spindown"
