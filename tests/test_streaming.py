"""Streamed results: sent on as the function writes them, whoever reads them and however it ends."""

import base64
import json
import os
import signal
import time
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from harness import host
from harness.command import curl
from harness.deadline import until
from harness.invocation import invoke

PATH = "/2021-11-15/functions/guest/response-streaming-invocations"


def chunks(n, m):
    """What the guest program writes."""
    return b"".join(b"%07d" % i + b"." * (m - 7) for i in range(n))


class Streamed:
    """A streamed invocation through boto3, read bit by bit."""

    def __init__(self, client, event, timeout_ms=None, **options):
        def limit(params, **_):
            if timeout_ms:
                params["headers"]["X-Hearth-Timeout-Ms"] = str(timeout_ms)

        name = "before-call.lambda.InvokeWithResponseStream"
        client.meta.events.register(name, limit)
        try:
            self.answer = client.invoke_with_response_stream(
                FunctionName="guest",
                Payload=json.dumps(event, separators=(",", ":")).encode(),
                **options,
            )
        finally:
            client.meta.events.unregister(name, limit)
        self.events = iter(self.answer["EventStream"])
        self.end = None

    def chunk(self):
        """The next chunk; None at the end."""
        event = next(self.events)
        if "PayloadChunk" in event:
            return event["PayloadChunk"]["Payload"]
        self.end = event["InvokeComplete"]
        assert next(self.events, None) is None, "something came after the end"
        return None

    def rest(self):
        return b"".join(iter(self.chunk, None))

    def details(self):
        """The error that ended it."""
        details = json.loads(self.end["ErrorDetails"])
        assert self.end["ErrorCode"] == details["errorType"]
        return details

    def close(self):
        self.answer["EventStream"].close()


def errors(controller, kind):
    series = f'hearth_errors_total{{error="{kind}",function="guest"}}'
    return controller.metrics().get(series, 0)


def test_a_result_arrives_whole_with_its_log(controller, client):
    before = controller.metrics().get('hearth_invocations_total{function="guest"}', 0)
    stream = Streamed(client, {"op": "stream", "n": 5, "m": 100}, LogType="Tail")
    assert stream.answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert stream.answer["ExecutedVersion"] == "$LATEST"
    assert stream.rest() == chunks(5, 100)
    assert set(stream.end) == {"LogResult"}
    log = base64.b64decode(stream.end["LogResult"]).decode()
    assert log.startswith("START RequestId: ")
    assert "streaming\n" in log
    assert "\nREPORT RequestId: " in log
    assert "Status:" not in log
    after = controller.metrics()['hearth_invocations_total{function="guest"}']
    assert after == before + 1
    assert set(_end(Streamed(client, {"op": "stream", "n": 1}))) == set()


def _end(stream):
    stream.rest()
    return stream.end


def test_chunks_arrive_before_the_function_ends_and_a_timeout_is_told(controller, client):
    timeouts = errors(controller, "timeout")
    event = {"op": "stream", "n": 2, "m": 10, "end": "hang"}
    stream = Streamed(client, event, timeout_ms=3000)
    seen = b""
    while len(seen) < 20:
        seen += stream.chunk()
    # It never ends by itself.
    assert [i["state"] for i in controller.instances("guest")] == ["busy"]
    assert seen == chunks(2, 10)
    assert stream.rest() == b""
    assert stream.details()["errorType"] == "Sandbox.Timedout"
    assert "Task timed out after 3.00 seconds" in stream.details()["errorMessage"]
    assert errors(controller, "timeout") == timeouts + 1


def test_a_failure_half_way_is_told_after_what_was_written(controller, client):
    failures = errors(controller, "function")
    event = {"op": "stream", "n": 3, "m": 10, "end": "fail"}
    stream = Streamed(client, event, LogType="Tail")
    assert stream.rest() == chunks(3, 10)
    assert stream.details() == {"errorType": "Function.Broken", "errorMessage": "half-way"}
    log = base64.b64decode(stream.end["LogResult"]).decode()
    assert "Status: error\tError Type: Function.Broken" in log
    assert errors(controller, "function") == failures + 1
    controller.idle("guest")
    assert invoke(client, "guest", {"op": "echo"}).start == "warm", "the runtime lives on"


def test_a_runtime_that_ends_half_way_is_told_as_that(client):
    stream = Streamed(client, {"op": "stream", "n": 3, "m": 10, "end": "exit"})
    assert stream.rest() == chunks(3, 10)
    assert stream.details()["errorType"] == "Runtime.ExitError"
    assert "exit status 3" in stream.details()["errorMessage"]


def test_a_result_that_breaks_off_is_a_truncated_response(controller, client):
    stream = Streamed(client, {"op": "stream", "n": 3, "m": 10, "end": "cut"})
    assert stream.rest() == chunks(3, 10)
    assert stream.details()["errorType"] == "Runtime.TruncatedResponse"
    controller.idle("guest")
    assert invoke(client, "guest", {"op": "echo"}).start == "warm", "the runtime lives on"


def test_a_function_that_does_not_stream_is_answered_too(client):
    stream = Streamed(client, {"op": "size", "n": 300_000})
    assert stream.rest() == b'"' + b"a" * 299_998 + b'"'
    assert stream.end == {}
    stream = Streamed(client, {"op": "exit", "n": 4})
    assert stream.rest() == b""
    assert "exit status 4" in stream.details()["errorMessage"]


def test_what_does_not_run_is_refused_with_lambdas_error(controller, client):
    for wanted, code in (
        ({"FunctionName": "no-such"}, "ResourceNotFoundException"),
        ({"FunctionName": "guest", "Payload": b"{"}, "InvalidRequestContentException"),
        ({"FunctionName": "guest", "InvocationType": "Event"}, "ValidationException"),
        ({"FunctionName": "guest", "LogType": "All"}, "ValidationException"),
    ):
        with pytest.raises(ClientError) as refused:
            client.invoke_with_response_stream(**wanted)
        assert refused.value.response["Error"]["Code"] == code
    dry = controller.request("POST", PATH, headers={"X-Amz-Invocation-Type": "DryRun"})
    assert (dry.status, dry.data) == (204, b"")


def test_a_plain_invocation_gets_a_streamed_result_whole(controller, client):
    whole = invoke(client, "guest", {"op": "stream", "n": 100, "m": 1000})
    assert (whole.payload, whole.error) == (chunks(100, 1000), None)
    failed = invoke(client, "guest", {"op": "stream", "n": 3, "end": "fail"})
    assert failed.failed() == {"errorType": "Function.Broken", "errorMessage": "half-way"}
    large = invoke(client, "guest", {"op": "stream", "n": 13, "m": 500_000})
    assert large.failed()["errorType"] == "Function.ResponseSizeTooLarge"
    controller.idle("guest")
    assert invoke(client, "guest", {"op": "echo"}).start == "warm"


def _at_rest(pid):
    """Waits until a sandbox does next to nothing: an idle kernel's timer still ticks."""

    def used():
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    last = [used(), time.monotonic()]

    def quiet():
        passed = time.monotonic() - last[1]
        if passed < 1:
            return False
        share = (used() - last[0]) / passed
        last[:] = [used(), time.monotonic()]
        return share < 0.15

    until(f"process {pid} is at rest", quiet, 50)


def test_a_slow_client_makes_the_function_wait_and_nobody_holds_the_result(controller, client):
    invoke(client, "guest", {"op": "echo"}).ok()
    sandbox = controller.idle("guest")["pid"]
    before = {pid: host.private_kib(pid) for pid in (controller.pid, sandbox)}
    n, m = 96, 256 * 1024
    stream = Streamed(client, {"op": "stream", "n": n, "m": m})
    seen = len(stream.chunk())
    _at_rest(sandbox)
    assert [i["state"] for i in controller.instances("guest")] == ["busy"]
    # 24 MiB are on their way. The guest's kernel has buffers of its own, in the guest's memory.
    grown = {pid: host.private_kib(pid) - before[pid] for pid in before}
    assert grown[controller.pid] < 4 * 1024, grown
    assert grown[sandbox] < 12 * 1024, grown
    while (chunk := stream.chunk()) is not None:
        seen += len(chunk)
    assert (seen, stream.end) == (n * m, {})
    grown = host.private_kib(controller.pid) - before[controller.pid]
    assert grown < 4 * 1024


def test_a_client_that_leaves_does_not_keep_the_instance(controller, client):
    event = {"op": "stream", "n": 40, "m": 256 * 1024}
    stream = Streamed(client, event)
    stream.chunk()
    stream.close()
    # Back-pressure would hold it for ever; what nobody wants is thrown away.
    controller.idle("guest")
    assert invoke(client, "guest", {"op": "echo"}).start == "warm"


# Function URLs.


@pytest.fixture
def url(controller, client):
    """Makes a URL of the guest program with a mode; answers its address with a query."""

    def make(mode):
        config = client.create_function_url_config(
            FunctionName="guest", AuthType="NONE", InvokeMode=mode
        )
        assert config["InvokeMode"] == mode
        return lambda query: f"{controller.by_path('guest')}?{query}"

    yield make
    client.delete_function_url_config(FunctionName="guest")


def test_a_url_streams_status_headers_cookies_and_body(controller, client, url, tmp_path):
    address = url("RESPONSE_STREAM")
    wanted = address("op=stream&n=3&m=100&prelude=1")
    head = tmp_path / "head"
    out = curl("--no-buffer", "--dump-header", str(head), wanted).ok()
    assert out.encode() == chunks(3, 100)
    lines = [line.strip().lower() for line in head.read_text().splitlines()]
    assert lines[0].startswith("http/1.1 201")
    for line in (
        "content-type: text/plain",
        "x-from: guest",
        "set-cookie: a=1",
        "set-cookie: b=2",
        "transfer-encoding: chunked",
    ):
        assert line in lines
    plain = controller.http.request("GET", address("op=stream&n=2&m=10"))
    assert (plain.status, plain.data) == (200, chunks(2, 10))
    assert plain.headers["content-type"] == "text/x-guest"
    config = client.update_function_url_config(FunctionName="guest", InvokeMode="BUFFERED")
    assert config["InvokeMode"] == "BUFFERED"
    whole = controller.http.request("GET", wanted)
    assert (whole.status, whole.data) == (201, chunks(3, 100))
    assert whole.headers["x-from"] == "guest"
    assert whole.headers["content-length"] == "300"


def test_a_urls_body_arrives_before_the_function_ends_and_breaks_off_with_it(controller, url):
    address = url("RESPONSE_STREAM")
    for prelude in ("", "&prelude=1"):
        ran = controller.http.request(
            "GET",
            address("op=stream&n=2&m=10&end=fail" + prelude),
            preload_content=False,
        )
        assert ran.status == (201 if prelude else 200)
        with pytest.raises(Exception, match="IncompleteRead|broken"):
            ran.read()
    waiting = controller.http.request(
        "GET", address("op=stream&n=2&m=10&end=hang"), preload_content=False
    )
    assert waiting.read(20) == chunks(2, 10)
    (instance,) = (i for i in controller.instances("guest") if i["state"] == "busy")
    waiting.close()
    # Its time is a minute; the test's end should not have to wait for it.
    os.kill(instance["pid"], signal.SIGKILL)


def test_a_url_answers_502_for_what_fails_before_its_first_byte(controller, url):
    address = url("RESPONSE_STREAM")
    for query in ("op=exit&n=1", "op=stream&n=0&end=exit", "op=stream&n=0&end=fail"):
        answer = controller.http.request("GET", address(query))
        assert (answer.status, answer.data) == (502, b"Internal Server Error"), query
    answer = controller.http.request("GET", address("op=size&n=10"))
    assert (answer.status, answer.data) == (200, b'"aaaaaaaa"')
