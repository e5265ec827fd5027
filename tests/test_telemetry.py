"""Telemetry: what extensions made with the crate `lambda_extension` are told, by its telemetry
processor in one and by its logs processor in the other (tests/functions/subscriber)."""

import json

import pytest
from harness import layout, package, packages
from harness.deadline import until
from harness.invocation import create, extensions_layer, invoke, lambda_client

APP = """
import sys

def handler(event, context):
    print(f"{event['say']} {context.aws_request_id}", file=sys.stderr)
    if event.get("fail"):
        raise ValueError("wanted")
    return event["say"]
"""
ALL = ["platform", "function", "extension"]


@pytest.fixture(scope="module")
def told(module_controller):
    """A controller with the function `told`, which has two extensions that have subscribed."""
    controller = module_controller("told")
    client = lambda_client(controller.url)
    program = packages.guest_program(layout.FUNCTIONS / "subscriber", "subscriber").read_bytes()
    layer = extensions_layer(client, "subscribers", logs=program, telemetry=program)
    create(
        client,
        "told",
        package.python(APP),
        Runtime="python3.11",
        Handler="app.handler",
        Timeout=30,
        Layers=[layer],
    )
    return controller


@pytest.fixture
def client(told):
    return lambda_client(told.url)


def what(messages, by):
    """What one of the two was told, in order, each event once: the agent sends a batch again that a
    listener has not acknowledged in five seconds, and on a busy host the listener may have read it."""
    lines = [json.loads(m) for m in dict.fromkeys(told_lines(messages))]
    return [line["what"] for line in lines if line["by"] == by]


def told_lines(messages):
    return (m.removeprefix("TOLD ") for m in messages if m.startswith("TOLD "))


def told_by(controller, by):
    return what([r["message"] for r in controller.logs("told", "?limit=10000")], by)


def of(events, kind, request_id=None):
    """The records of a kind: of one invocation, or all."""
    found = [e["record"] for e in events if e.get("type") == kind]
    return [r for r in found if request_id is None or r["requestId"] == request_id]


def thawed_until(controller, client, what, ask):
    """Waits for something of what the two are told. They are at work only while an invocation is."""

    def thaw():
        invoke(client, "told", {"say": "thaw"}).ok()
        controller.idle("told")
        return ask()

    return until(what, thaw, 60)


def reported(controller, client, event):
    """Runs an invocation, until its report has been told, too."""
    answer = invoke(client, "told", event)
    ours = answer.request_id
    thawed_until(
        controller,
        client,
        "both are told how it ended",
        lambda: (
            of(told_by(controller, "telemetry"), "platform.report", ours)
            and {"type": "platform.end", "record": ours} in told_by(controller, "logs")
        ),
    )
    return answer, told_by(controller, "telemetry")


def test_both_are_told_of_init_though_it_began_before_they_had_subscribed(told, client):
    _, events = reported(told, client, {"say": "first"})
    (start,) = of(events, "platform.initStart")
    assert (start["initializationType"], start["phase"]) == ("on-demand", "init")
    (subscribed,) = of(events, "platform.telemetrySubscription")
    assert subscribed == {"name": "telemetry", "state": "Subscribed", "types": ALL}
    assert of(events, "platform.initRuntimeDone")[0]["status"] == "success"
    assert {r["name"]: (r["state"], r["events"]) for r in of(events, "platform.extension")} == {
        "logs": ("Ready", ["INVOKE", "SHUTDOWN"]),
        "telemetry": ("Ready", ["INVOKE", "SHUTDOWN"]),
    }
    (report,) = of(events, "platform.initReport")
    assert report["metrics"]["durationMs"] > 0
    assert "/opt/extensions/logs is here" in of(events, "extension")[:2]
    kinds = [e["type"] for e in events if e.get("type", "").startswith("platform.init")]
    assert kinds == ["platform.initStart", "platform.initRuntimeDone", "platform.initReport"]

    logs = told_by(told, "logs")
    assert {"type": "platform.logsSubscription", "record": ["logs", ALL]} in logs
    assert {e["record"] for e in logs if e.get("type") == "platform.extension"} == {
        "logs",
        "telemetry",
    }
    # Nothing that its types do not know.
    assert not [e for e in logs if e.get("type") == "other"]


def test_an_invocation_is_told_of_from_its_start_to_its_report(told, client):
    first, events = reported(told, client, {"say": "hello"})
    first.ok()
    ours = first.request_id
    assert {"invoke": ours} in events
    kinds = [
        e["type"]
        for e in events
        if ours in str(e.get("record")) and e["type"] != "extension" and "time" in e
    ]
    assert kinds == ["platform.start", "function", "platform.runtimeDone", "platform.report"]
    assert f"hello {ours}" in of(events, "function")
    (start,) = of(events, "platform.start", ours)
    assert start["version"] == "$LATEST"
    (done,) = of(events, "platform.runtimeDone", ours)
    assert (done["status"], done["metrics"]["producedBytes"]) == ("success", len('"hello"'))
    assert [span["name"] for span in done["spans"]] == ["responseLatency", "responseDuration"]
    (report,) = of(events, "platform.report", ours)
    metrics = report["metrics"]
    assert report["status"] == "success"
    assert metrics["memorySizeMB"] == 128
    assert 1 <= metrics["maxMemoryUsedMB"] <= 128
    latency, duration = (span["durationMs"] for span in done["spans"])
    assert latency + duration == pytest.approx(done["metrics"]["durationMs"])
    # Extensions' time counts.
    assert metrics["durationMs"] >= done["metrics"]["durationMs"] > 0
    assert 0 <= metrics["billedDurationMs"] - metrics["durationMs"] < 1


def test_a_function_that_fails_is_told_of_as_that(told, client):
    first, events = reported(told, client, {"say": "oh", "fail": True})
    first.failed()
    for kind in ("platform.runtimeDone", "platform.report"):
        (record,) = of(events, kind, first.request_id)
        assert record["status"] == "error"
        assert record["errorType"].startswith("Function.")


def test_the_logs_processor_hears_the_same_in_the_words_of_the_logs_api(told, client):
    first, _ = reported(told, client, {"say": "logged"})
    ours = first.request_id
    about = [e for e in told_by(told, "logs") if ours in str(e.get("record"))]
    assert about == [
        {"type": "platform.start", "record": ours},
        {"type": "function", "record": f"logged {ours}"},
        {"type": "platform.runtimeDone", "record": [ours, "success"]},
        {"type": "platform.report", "record": ours},
        {"type": "platform.end", "record": ours},
    ]


def test_at_the_end_what_was_kept_back_is_told_before_the_end_is(told, client):
    """Last: the controller ends."""
    last = invoke(client, "told", {"say": "last"})
    last.ok()
    told.idle("told")
    assert told.stop() == 0
    log = "".join(path.read_text() for path in sorted((told.data / "logs/told").glob("*.jsonl")))
    messages = [json.loads(line)["message"] for line in log.splitlines()]
    telemetry = what(messages, "telemetry")
    assert telemetry[-1] == {"shutdown": "spindown"}
    assert of(telemetry, "platform.report", last.request_id)
    assert not of(telemetry, "platform.logsDropped")
    logs = what(messages, "logs")
    assert logs[-1] == {"shutdown": "spindown"}
    assert {"type": "platform.end", "record": last.request_id} in logs
