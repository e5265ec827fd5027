"""Payloads: carried byte for byte up to Lambda's limit, refused beyond it. And the trace that goes
with them."""

import json
import re

import pytest
from harness.invocation import invoke, invoke_raw

#: 6 MiB and 100 bytes: the figure in Lambda's own error text.
LIMIT = 6_291_556


def filled(event: dict, size: int) -> bytes:
    """The event as JSON of exactly `size` bytes."""
    bare = json.dumps({**event, "filler": ""}).encode()
    return json.dumps({**event, "filler": "x" * (size - len(bare))}).encode()


def test_the_largest_payload_goes_both_ways_unchanged(controller, client):
    event = filled({"op": "echo"}, LIMIT)
    assert len(event) == LIMIT
    answer = invoke(client, "guest", event)
    assert answer.status == 200
    assert answer.error is None, answer.payload[:500]
    assert answer.payload == event


def test_six_megabytes_go_both_ways_through_python(controller, client):
    event = {"op": "echo", "filler": "x" * (6 << 20)}
    assert invoke(client, "probe", event).ok() == event


def test_a_payload_one_byte_over_the_limit_is_413(controller, client):
    with pytest.raises(client.exceptions.RequestTooLargeException) as refused:
        invoke(client, "guest", filled({"op": "echo"}, LIMIT + 1))
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413
    assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}


def test_a_response_of_exactly_the_limit_is_delivered(controller, client):
    answer = invoke(client, "guest", {"op": "size", "n": LIMIT})
    assert answer.error is None, answer.payload[:500]
    assert len(answer.payload) == LIMIT


@pytest.mark.parametrize("size", [LIMIT + 1, 7 << 20])
def test_a_response_over_the_limit_is_lambdas_error(controller, client, size):
    answer = invoke(client, "guest", {"op": "size", "n": size})
    assert answer.failed() == {
        "errorType": "Function.ResponseSizeTooLarge",
        "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
    }
    assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}


def test_bytes_are_carried_and_never_re_encoded(controller, client):
    for event in (
        b'{ "op" : 1.0e2,\t"k":"\\u00e9 \xc3\xa9" }',
        b"[1,2 ,3]",
        b'"text"',
        b"17",
        b"null",
    ):
        assert invoke(client, "guest", event).payload == event


def test_no_payload_is_an_empty_object(controller, client):
    answer = invoke(client, "guest")
    assert answer.ok() == {}
    assert answer.payload == b"{}"


@pytest.mark.parametrize("body", [b"{", b"not json", b'{"a":1} x', b"\xff\xfe", b"\x00"])
def test_a_payload_that_is_no_json_is_refused_before_the_function_runs(controller, client, body):
    answer = invoke_raw(controller, "guest", body)
    assert answer.status == 400
    assert answer.headers["x-amzn-errortype"].startswith("InvalidRequestContentException")
    message = {key.lower(): value for key, value in answer.value.items()}["message"]
    assert message.startswith("Could not parse request body into json")


def test_deeply_nested_json_harms_nobody(controller, client):
    answer = invoke_raw(controller, "guest", b"[" * 100_000 + b"]" * 100_000)
    assert answer.status in (200, 400)
    assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}


#: As the tracing libraries read it.
BEGUN = re.compile(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0")


def test_a_callers_trace_goes_on_in_the_function_and_each_call_without_one_begins_its_own(
    controller, client
):
    def told(**headers):
        answer = invoke_raw(controller, "probe", b'{"op":"trace"}', headers)
        seen, by_a_child = answer.ok()
        assert seen == by_a_child
        return seen

    sent = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
    begun = [told(), told()]
    assert told(**{"X-Amzn-Trace-Id": sent}) == sent
    assert told(**{"X-Amzn-Trace-Id": sent[:-12]}) == sent[:-12]
    begun.append(told())
    assert all(BEGUN.fullmatch(trace) for trace in begun) and len(set(begun)) == 3, begun
