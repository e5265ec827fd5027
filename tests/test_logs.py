"""What functions wrote: found again by time, invocation, version and text, and followed live."""

import json
import os
import subprocess
from datetime import datetime, timedelta

import botocore.exceptions
import pytest
from harness import layout, package
from harness.command import hearth
from harness.deadline import until
from harness.invocation import create, invoke, lambda_client
from harness.sse import events

LOGS = "/hearth/v1/functions/{}/logs"


def said(client, text):
    """Lets `probe` say it; the invocation's request id."""
    answer = invoke(client, "probe", {"op": "say", "text": text})
    answer.ok()
    return answer.request_id


def messages(records):
    return [record["message"] for record in records]


def follow(controller, function, query="", **headers):
    """The records that come, each an event."""
    answer = controller.get(
        LOGS.format(function) + "/follow" + query, headers=headers, preload_content=False
    )
    assert answer.status == 200, answer.read()
    assert answer.headers["content-type"] == "text/event-stream"
    return answer, events(answer)


def test_records_are_found_by_invocation_time_text_and_version(controller, client):
    first = said(client, "the red fox")
    second = said(client, "a blue whale")
    own = controller.logs("probe", f"?request_id={first}")
    assert {r["request_id"] for r in own} == {first}
    assert messages(own)[1:3] == ["the red fox", "hello, stderr"]
    assert {r["version"] for r in own} == {"$LATEST"}
    found = controller.logs("probe", "?contains=blue%20wh&since=15m")
    assert [(r["request_id"], r["message"]) for r in found] == [(second, "a blue whale")]
    assert controller.logs("probe", "?Qualifier=%24LATEST&contains=blue") == found
    # Up to a moment, and from it on: no record is in both, or in neither.
    moment = controller.logs("probe", f"?request_id={second}")[0]["time"]
    before = controller.logs("probe", f"?until={moment}")
    since = controller.logs("probe", f"?since={moment}")
    assert first in {r["request_id"] for r in before}
    assert {r["request_id"] for r in since} >= {second}
    assert second not in {r["request_id"] for r in before}
    assert before + since == controller.logs("probe")
    soon = (datetime.fromisoformat(moment) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert controller.logs("probe", f"?since={soon}") == []


def test_pages_are_bounded_and_lead_to_the_next(controller, client):
    invoke(client, "guest", {"op": "print", "n": 60, "m": 20}).ok()
    everything = controller.logs("guest")
    found, more, last = [], "true", 0
    while more == "true":
        answer = controller.get(LOGS.format("guest") + f"?after={last}&limit=7")
        more = answer.headers["x-hearth-more"]
        page = [json.loads(line) for line in answer.data.decode().splitlines()]
        assert 0 < len(page) <= 7
        last = page[-1]["seq"]
        found += page
    assert found == everything
    newest = controller.logs("guest", "?limit=7")
    assert newest == everything[-7:]
    assert controller.logs("guest", f"?limit=7&before={newest[0]['seq']}") == everything[-14:-7]


@pytest.mark.parametrize(
    "query",
    [
        "?limit=0",
        "?limit=10001",
        "?after=x",
        "?since=yesterday",
        "?contains=" + "x" * 1025,
        "?text=misspelt",
    ],
)
def test_a_query_that_makes_no_sense_is_refused(controller, query):
    answer = controller.get(LOGS.format("probe") + query)
    assert answer.status == 400
    assert answer.headers["x-amzn-errortype"] == "InvalidParameterValueException"


def test_the_log_of_what_is_not_there_is_not_found(controller):
    for path in (LOGS.format("nobody"), LOGS.format("nobody") + "/follow"):
        assert controller.get(path).status == 404
    assert controller.get(LOGS.format("probe") + "?Qualifier=7").status == 404


def test_a_follower_sees_records_as_they_come_and_comes_back_without_loss_or_repeat(
    controller, client
):
    # A follower sees nothing of what was before; an event's id is the record's number.
    said(client, "before")
    answer, stream = follow(controller, "probe")
    said(client, "one")
    seen = [next(stream) for _ in range(3)]
    answer.close()
    # It went away in the middle of an invocation's records, and others came meanwhile.
    said(client, "two")
    answer, stream = follow(controller, "probe", **{"Last-Event-ID": seen[-1].id})
    said(client, "three")
    while "three" not in (event.data["message"] for event in seen):
        seen.append(next(stream))
    answer.close()
    stored = controller.logs("probe", f"?after={int(seen[0].id) - 1}")
    assert [event.data for event in seen] == stored[: len(seen)]
    assert [event.id for event in seen] == [str(r["seq"]) for r in stored[: len(seen)]]
    assert [m for m in messages(stored) if m in ("before", "one", "two", "three")] == [
        "one",
        "two",
        "three",
    ]


def test_a_follower_can_wait_for_a_text_alone(controller, client):
    answer, stream = follow(controller, "probe", "?contains=needle")
    said(client, "hay")
    said(client, "a needle")
    assert next(stream).data["message"] == "a needle"
    answer.close()


def test_hearth_logs_searches_and_follows_over_a_restart_of_the_controller(
    own_controller, tmp_path
):
    controller = own_controller()
    client = lambda_client(controller.url)
    request = said(client, "first words")
    shown = hearth(controller, "logs", "probe", "--contains", "words").ok().splitlines()
    assert len(shown) == 1 and shown[0].endswith("first words")
    shown = hearth(controller, "logs", "probe", "--since", "1h", "--request-id", request, "--json")
    assert [json.loads(r)["request_id"] for r in shown.ok().splitlines()] == [request] * 5
    out = tmp_path / "followed"
    with (
        out.open("w") as file,
        subprocess.Popen(
            [str(layout.HEARTH), "logs", "-f", "probe", "--contains", "words"],
            stdout=file,
            env={**os.environ, "HEARTH_ENDPOINT": controller.url},
        ) as process,
    ):
        try:
            until("what was there is shown", lambda: "first words" in out.read_text())
            said(client, "second words")
            until("what comes is shown", lambda: "second words" in out.read_text())
            assert controller.stop() == 0, "a follower kept the controller from ending"
            listen = ("--listen", controller.address)
            controller.arguments = (*controller.arguments, *listen)
            controller.start()
            said(client, "third words")
            until("it goes on", lambda: "third words" in out.read_text(), 30)
        finally:
            process.terminate()
    lines = [line.split("  ", 1)[1] for line in out.read_text().splitlines()]
    assert lines == ["first words", "second words", "third words"]


#: Logs as Python does, with a traceback among it.
STRUCTURED = b"""
import logging
import os

log = logging.getLogger()


def handler(event, context):
    print("plain")
    log.info("with an id")
    log.debug("not at this level")
    try:
        event["missing"]
    except KeyError:
        log.exception("it broke")
    return {name: os.environ.get(name) for name in ("AWS_LAMBDA_LOG_FORMAT", "AWS_LAMBDA_LOG_LEVEL")}
"""


def test_a_traceback_is_one_record_and_stays_in_its_place(controller, client):
    failed = invoke(client, "probe", {"op": "no such thing"})
    failed.failed()
    records = controller.logs("probe", f"?request_id={failed.request_id}")
    assert [r["kind"] for r in records] == ["platform", "function", "platform", "platform"]
    lines = records[1]["message"].splitlines()
    assert lines[0].startswith("[ERROR] KeyError: 'no such thing'")
    assert len(lines) > 2 and "app.py" in records[1]["message"]


def test_json_is_what_platform_and_runtime_write_when_it_is_configured(controller, client):
    create(
        client,
        "structured",
        package.archive({"app.py": STRUCTURED}),
        Runtime="python3.11",
        Handler="app.handler",
        LoggingConfig={"LogFormat": "JSON", "SystemLogLevel": "DEBUG"},
    )
    configured = client.get_function_configuration(FunctionName="structured")["LoggingConfig"]
    assert configured == {
        "LogFormat": "JSON",
        "ApplicationLogLevel": "INFO",
        "SystemLogLevel": "DEBUG",
        "LogGroup": "/aws/lambda/structured",
    }
    answer = invoke(client, "structured", {}, LogType="Tail")
    assert answer.ok() == {"AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_LAMBDA_LOG_LEVEL": "INFO"}
    records = controller.logs("structured")
    init = json.loads(records[0]["message"])
    assert (init["type"], init["record"]["status"]) == ("platform.initReport", "success")
    own = [r for r in records if r["request_id"] == answer.request_id]
    assert messages(own)[1] == "plain"
    start, info, error, done, report = (json.loads(m) for m in messages(own) if m != "plain")
    assert (start["type"], start["record"]["version"]) == ("platform.start", "$LATEST")
    assert (info["level"], info["message"]) == ("INFO", "with an id")
    assert info["requestId"] == answer.request_id
    assert (error["level"], error["errorType"]) == ("ERROR", "KeyError")
    assert (done["type"], done["record"]["status"]) == ("platform.runtimeDone", "success")
    assert report["type"] == "platform.report"
    assert report["record"]["metrics"]["memorySizeMB"] == 128
    assert json.loads(answer.log.splitlines()[-1]) == report


@pytest.mark.parametrize(
    ("logging", "text"),
    [
        (
            {"ApplicationLogLevel": "INFO"},
            'LogLevel is not supported when LogFormat is set to "Text". Remove LogLevel from your '
            'request or change the LogFormat to "Json" and try again.',
        ),
        (
            {"LogFormat": "XML"},
            "1 validation error detected: Value 'XML' at 'loggingConfig.logFormat' failed to satisfy "
            "constraint: Member must satisfy enum value set: [JSON, Text]",
        ),
    ],
)
def test_a_logging_configuration_that_makes_no_sense_is_refused(client, logging, text):
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        client.update_function_configuration(FunctionName="probe", LoggingConfig=logging)
    assert refused.value.response["Error"]["Message"] == text
