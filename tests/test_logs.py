"""What functions wrote: found again by time, invocation, version and text, and followed live."""

import json
import os
import subprocess
from datetime import datetime, timedelta

import pytest
from harness import layout
from harness.command import hearth
from harness.deadline import until
from harness.invocation import invoke, lambda_client
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
    ["?limit=0", "?limit=10001", "?after=x", "?since=yesterday", "?contains=" + "x" * 1025],
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
