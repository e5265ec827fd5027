"""Calling functions as boto3 users do, and what came back."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config

from . import package

#: Any will do on the loopback: clients insist on signing, the controller does not check.
CREDENTIALS = {
    "aws_access_key_id": "AKIDEXAMPLE",
    "aws_secret_access_key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    "region_name": "us-east-1",
}
ROLE = "arn:aws:iam::000000000000:role/any"


def lambda_client(url: str, attempts: int = 1, **credentials: str) -> Any:
    """A boto3 client that never tries again on its own, so that a test sees every answer."""
    return boto3.client(
        "lambda",
        endpoint_url=url,
        config=Config(
            retries={"total_max_attempts": attempts},
            read_timeout=300,
            max_pool_connections=64,
            parameter_validation=False,
        ),
        **{**CREDENTIALS, **credentials},
    )


@dataclass(frozen=True)
class Invocation:
    """An answer to Invoke."""

    status: int
    payload: bytes
    headers: dict[str, str]
    error: str | None
    log: str

    @property
    def value(self) -> Any:
        return json.loads(self.payload)

    @property
    def start(self) -> str:
        """`cold` or `warm`."""
        return self.headers["x-hearth-start"]

    @property
    def request_id(self) -> str:
        return self.headers["x-amzn-requestid"]

    def ok(self) -> Any:
        """The function's result; fails if it is an error."""
        assert self.status == 200, f"status {self.status}: {self.payload[:1000]!r}"
        assert self.error is None, f"{self.error}: {self.payload[:1000]!r}\n{self.log}"
        return self.value

    def failed(self) -> Any:
        """The function's error body; fails if there is none."""
        assert self.status == 200, f"status {self.status}: {self.payload[:1000]!r}"
        assert self.error == "Unhandled", f"no function error: {self.payload[:1000]!r}"
        return self.value


def invoke(client: Any, name: str, event: Any = None, **options: Any) -> Invocation:
    """Invoke through boto3. `event` is sent as JSON unless it is bytes."""
    if event is not None:
        # Without blanks: the guest program looks for names and values, it does not parse.
        options["Payload"] = (
            event if isinstance(event, bytes) else json.dumps(event, separators=(",", ":")).encode()
        )
    answer = client.invoke(FunctionName=name, **options)
    return Invocation(
        status=answer["StatusCode"],
        payload=answer["Payload"].read(),
        headers=answer["ResponseMetadata"]["HTTPHeaders"],
        error=answer.get("FunctionError"),
        log=base64.b64decode(answer.get("LogResult", "")).decode(errors="replace"),
    )


def invoke_raw(
    controller: Any, name: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> Invocation:
    """Invoke by plain HTTP, for what boto3 has no parameter for."""
    answer = controller.request(
        "POST", f"/2015-03-31/functions/{name}/invocations", body=body, headers=headers
    )
    lower = {key.lower(): value for key, value in answer.headers.items()}
    return Invocation(
        status=answer.status,
        payload=answer.data,
        headers=lower,
        error=lower.get("x-amz-function-error"),
        log=base64.b64decode(lower.get("x-amz-log-result", "")).decode(errors="replace"),
    )


def create(client: Any, name: str, package: bytes, seconds: int = 400, **options: Any) -> dict:
    """Creates a function and waits, with boto3's own waiter, until it is active."""
    settings = {
        "Runtime": "provided",
        "Handler": "bootstrap",
        "Role": ROLE,
        "MemorySize": 128,
        "Timeout": 60,
        **options,
    }
    client.create_function(FunctionName=name, Code={"ZipFile": package}, **settings)
    wait_for(client, "function_active_v2", name, seconds)
    return client.get_function(FunctionName=name)["Configuration"]


def wait_for(client: Any, waiter: str, name: str, seconds: int = 400, **options: Any) -> None:
    """Waits with boto3's own waiter, which asks more often than once in a second or five: a deploy
    takes some seconds, and most tests make one."""
    asked_each = 0.2
    client.get_waiter(waiter).wait(
        FunctionName=name,
        WaiterConfig={"Delay": asked_each, "MaxAttempts": int(seconds / asked_each)},
        **options,
    )


def extensions_layer(client: Any, name: str, mode: int = 0o755, **programs: bytes) -> str:
    """Publishes a layer with external extensions; its version's ARN."""
    content = package.archive({f"extensions/{n}": p for n, p in programs.items()}, mode)
    made = client.publish_layer_version(LayerName=name, Content={"ZipFile": content})
    return made["LayerVersionArn"]
