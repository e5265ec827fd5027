"""Node.js functions: CommonJS and modules, async and callbacks, errors, the environment, and that no
two instances of one snapshot draw the same random numbers.

`nodejs20.x` is shown here on a CommonJS function, `nodejs22.x` and modules by the example
node-hello (test_examples.py): starting Node.js is dear where the guest's kernel is interpreted.
"""

import base64
import json

import pytest
from harness import layout, package
from harness.clones import drawn_by_clones
from harness.invocation import create, invoke, lambda_client

CLONES = 4
NAME = "node"
STREAM = "node-stream"


@pytest.fixture(scope="module")
def node(shared):
    client = lambda_client(shared.url)
    configuration = create(
        client,
        NAME,
        package.folder(layout.FUNCTIONS / "node"),
        Runtime="nodejs20.x",
        Handler="app.handler",
        Environment={"Variables": {"AWS_LAMBDA_EXEC_WRAPPER": "/var/task/wrapper"}},
    )
    yield configuration
    client.delete_function(FunctionName=NAME)


@pytest.fixture(scope="module")
def stream(shared):
    client = lambda_client(shared.url)
    package_of_both = package.folder(layout.FUNCTIONS / "node")
    create(client, STREAM, package_of_both, Runtime="nodejs20.x", Handler="app.stream")
    client.create_function_url_config(
        FunctionName=STREAM, AuthType="NONE", InvokeMode="RESPONSE_STREAM"
    )
    yield client
    client.delete_function(FunctionName=STREAM)


def test_a_function_runs_in_128_megabytes(client, node):
    assert (node["State"], node["Runtime"], node["MemorySize"]) == ("Active", "nodejs20.x", 128)
    assert invoke(client, NAME, {"op": "count"}).ok() >= 1


def test_the_environment_is_lambdas(client, node):
    environment = invoke(client, NAME, {"op": "environment"}).ok()
    expected = {
        "_HANDLER": "app.handler",
        "AWS_EXECUTION_ENV": "AWS_Lambda_nodejs20.x",
        "LAMBDA_RUNTIME_DIR": "/var/runtime",
        "LAMBDA_TASK_ROOT": "/var/task",
        "NODE_PATH": "/opt/nodejs/node20/node_modules:/opt/nodejs/node_modules:"
        "/var/runtime/node_modules:/var/runtime:/var/task",
        "TZ": ":UTC",
    }
    assert {name: environment.get(name) for name in expected} == expected


def test_a_wrapper_gets_the_whole_command(client, node):
    environment = invoke(client, NAME, {"op": "environment"}).ok()
    first, count, *command = environment["WRAPPED"].split()
    assert first == command[0] == "/var/lang/bin/node"
    assert int(count) == len(command)
    assert command[-1] == "/var/runtime/index.mjs"


def test_the_context_is_lambdas(client, node):
    custom = base64.b64encode(json.dumps({"custom": {"a": 1}}).encode()).decode()
    answer = invoke(client, NAME, {"op": "about"}, ClientContext=custom)
    about = answer.ok()
    assert about["request"] == answer.request_id
    assert about["arn"] == node["FunctionArn"]
    assert about["version"] == "$LATEST"
    assert about["memory"] == "128"
    # The guest's clock may be 10 ms off.
    assert 0 < about["remaining"] <= 60_000 + 10
    assert about["node"].startswith("v20.")
    assert about["gc"] == "function"
    assert "--max-old-space-size=116" in about["arguments"]


def test_the_guest_knows_its_own_name(client, node):
    answer = invoke(client, NAME, {"op": "name"}).ok()
    assert answer == {"name": "sandbox", "address": "127.0.0.1", "family": 4}


def test_a_handler_answers_by_callback_or_not_at_all(client, node):
    assert invoke(client, NAME, {"op": "callback", "value": [1]}).ok() == {"called": [1]}
    assert invoke(client, NAME, {"op": "nothing"}).ok() is None


@pytest.mark.parametrize(
    ("op", "kind", "message"),
    [
        ("throw", "TypeError", "thrown"),
        ("reject", "OwnError", "rejected"),
        ("callback_error", "RangeError", "by callback"),
        ("uncaught", "Error", "too late"),
    ],
)
def test_an_error_has_its_type_message_and_trace(client, node, op, kind, message):
    body = invoke(client, NAME, {"op": op, "text": message}).failed()
    assert (body["errorType"], body["errorMessage"]) == (kind, message)
    assert body["trace"][0] == f"{kind}: {message}" or body["trace"][0] == f"Error: {message}"
    assert any("/var/task/app.js" in line for line in body["trace"])
    # `uncaught` ends the process; the next call starts another.
    assert invoke(client, NAME, {"op": "count"}).ok() >= 1


@pytest.mark.parametrize("kind", ["function", "class", "symbol", "nothing"])
def test_a_result_without_json_is_the_clients_error_and_the_process_lives_on(client, node, kind):
    while invoke(client, NAME, {"op": "count"}).start != "warm":
        pass
    body = invoke(client, NAME, {"op": "without_json", "kind": kind}).failed()
    assert (body["errorType"], body["errorMessage"]) == ("TypeError", "Wrong arguments")
    after = invoke(client, NAME, {"op": "count"})
    after.ok()
    assert after.start == "warm"


def test_what_it_writes_is_in_the_log_in_order(client, node):
    answer = invoke(client, NAME, {"op": "say", "text": "two\nlines"}, LogType="Tail")
    answer.ok()
    assert f"\t{answer.request_id}\tINFO\ttwo" in answer.log
    assert f"\t{answer.request_id}\tERROR\tan error {{ of: 'objects' }}" in answer.log
    assert answer.log.index("two") < answer.log.index("an error")
    assert answer.log.index("an error") < answer.log.index("without a console")


def test_clones_of_one_snapshot_draw_nothing_alike(controller, client, node):
    drawn = drawn_by_clones(controller, client, NAME, CLONES)
    assert len({str(draws["drawnInInit"]) for draws in drawn}) == 1, "clones of one snapshot"
    for what in ("kept", "math", "bytes", "uuid", "int", "web", "key"):
        assert len({draws[what] for draws in drawn}) == CLONES, (what, drawn)


def streamed(client, event):
    answer = client.invoke_with_response_stream(
        FunctionName=STREAM, Payload=json.dumps(event).encode()
    )
    *chunks, end = answer["EventStream"]
    return b"".join(chunk["PayloadChunk"]["Payload"] for chunk in chunks), end["InvokeComplete"]


def test_a_streamified_handler_streams_and_may_fail_midway(stream):
    text, end = streamed(stream, {"pieces": ["one ", "two ", "drei"]})
    assert text == b"one two drei"
    assert "ErrorCode" not in end
    text, end = streamed(stream, {"pieces": ["half"], "fail": "midway"})
    assert text == b"half"
    assert end["ErrorCode"] == "Unhandled"
    details = json.loads(end["ErrorDetails"])
    assert (details["errorType"], details["errorMessage"]) == ("RangeError", "midway")
    assert any("/var/task/app.js" in line for line in details["trace"])


def test_a_streamified_handler_sets_status_headers_and_cookies_of_its_url(controller, stream):
    answer = controller.http.request("PUT", f"{controller.url}/fn/{STREAM}/some/where")
    assert answer.status == 203
    assert answer.headers["x-made-by"] == "node"
    assert answer.headers.getlist("set-cookie") == ["a=1", "b=2"]
    assert answer.data == b"PUT /some/where"


def test_other_versions_of_the_family_are_refused_by_name(client):
    for runtime in ("nodejs18.x", "nodejs24.x", "python3.12"):
        with pytest.raises(client.exceptions.InvalidParameterValueException) as refused:
            create(client, "other", b"", Runtime=runtime)
        message = refused.value.response["Error"]["Message"]
        assert f"Value {runtime} at 'runtime'" in message
        assert "nodejs20.x, nodejs22.x" in message
