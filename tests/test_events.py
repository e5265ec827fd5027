"""Asynchronous invocations: accepted once they are stored, run in the background, tried again."""

import contextlib
import json
import os
import random
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import botocore.exceptions
import pytest
from harness import events
from harness.deadline import until
from harness.invocation import create, invoke, lambda_client

MAX_EVENT = 1 << 20


def post_event(controller, name, body, path="/2015-03-31/functions/{}/invocations"):
    return controller.request(
        "POST", path.format(name), body=body, headers={"X-Amz-Invocation-Type": "Event"}
    )


def seconds(earlier, later):
    return (moment(later) - moment(earlier)).total_seconds()


def moment(text):
    """A log record's time; its fraction may have any number of digits."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    micros = int(fraction[:6].ljust(6, "0"))
    return datetime.fromisoformat(whole + "+00:00").replace(microsecond=micros)


def test_an_event_is_accepted_with_202_and_nothing_else_and_runs_once(controller, client):
    request_id = events.send(client, "probe", {"op": "about"})
    events.drained(controller)
    until("it ran", lambda: events.runs(controller, "probe")[request_id] == 1)
    again = events.send(client, "guest:$LATEST", {"op": "echo"})
    events.drained(controller)
    assert events.runs(controller, "guest")[again] == 1
    assert events.runs(controller, "probe")[request_id] == 1


def test_the_function_sees_the_event_the_request_id_and_the_trace_as_a_caller_sent_them(
    controller, client
):
    answer = controller.request(
        "POST",
        "/2015-03-31/functions/probe/invocations?Qualifier=$LATEST",
        body=b'{"op":"say","text":"heard","error":"it"}',
        headers={"X-Amz-Invocation-Type": "Event", "X-Amzn-Trace-Id": "Root=1-2-3"},
    )
    assert (answer.status, answer.data) == (202, b"")
    request_id = answer.headers["x-amzn-requestid"]
    events.drained(controller)
    lines = [r["message"] for r in controller.logs("probe") if r["request_id"] == request_id]
    assert lines[0] == f"START RequestId: {request_id} Version: $LATEST"
    assert "heard" in lines
    assert lines[-1].startswith(f"REPORT RequestId: {request_id}")


def test_the_legacy_path_accepts_the_same(controller, client):
    answer = client.invoke_async(FunctionName="guest", InvokeArgs=b'{"op":"echo"}')
    assert answer["Status"] == 202
    request_id = answer["ResponseMetadata"]["RequestId"]
    until("it ran", lambda: events.runs(controller, "guest")[request_id] == 1)


def test_a_payload_of_one_megabyte_is_accepted_and_one_byte_more_is_413(controller, client):
    largest = b'"' + b"a" * (MAX_EVENT - 2) + b'"'
    assert post_event(controller, "guest", largest).status == 202
    refused = post_event(controller, "guest", largest + b" ")
    assert refused.status == 413
    assert refused.headers["x-amzn-errortype"] == "RequestEntityTooLargeException"
    assert json.loads(refused.data)["message"] == (
        f"{MAX_EVENT + 1} byte payload is too large for the Event invocation type"
        f" (limit {MAX_EVENT} bytes)"
    )
    events.drained(controller)


@pytest.mark.parametrize(
    ("name", "body", "status", "kind"),
    [
        ("guest", b"{", 400, "InvalidRequestContentException"),
        ("nobody", b"{}", 404, "ResourceNotFoundException"),
        ("guest:nowhere", b"{}", 404, "ResourceNotFoundException"),
    ],
)
def test_what_can_not_be_run_is_refused_at_once(controller, client, name, body, status, kind):
    for path in (
        "/2015-03-31/functions/{}/invocations",
        "/2014-11-13/functions/{}/invoke-async/",
    ):
        refused = post_event(controller, name, body, path)
        assert (refused.status, refused.headers["x-amzn-errortype"]) == (status, kind)
    assert sum(events.queue(controller).values()) == 0


def test_a_function_error_is_retried_twice_later_and_later_with_the_same_request_id(own_controller):
    controller = own_controller("--event-retry-base-ms", "400")
    client = lambda_client(controller.url)
    request_id = events.send(client, "probe", {"op": "no such operation"})
    events.drained(controller)
    begun = [at for seen, at in events.starts(controller, "probe") if seen == request_id]
    assert len(begun) == 3
    assert seconds(begun[0], begun[1]) >= 0.4
    assert seconds(begun[1], begun[2]) >= 0.8
    metrics = controller.metrics()
    retried = 'hearth_async_retries_total{function="probe",reason="function_error"}'
    dropped = 'hearth_async_events_dropped_total{function="probe",reason="retries_exhausted"}'
    assert (metrics[retried], metrics[dropped]) == (2, 1)


def test_a_retry_is_taken_up_after_a_restart(own_controller):
    controller = own_controller("--event-retry-base-ms", "3000")
    client = lambda_client(controller.url)
    request_id = events.send(client, "probe", {"op": "no such operation"})
    until("it has failed once", lambda: events.queue(controller) == {"waiting": 1, "running": 0})
    assert controller.stop() == 0
    assert events.stored(controller.data) == {request_id}
    controller.start()
    events.drained(controller)
    assert events.runs(controller, "probe")[request_id] == 3


def test_an_event_that_finds_no_instance_is_dropped_at_its_greatest_age(own_controller):
    controller = own_controller(
        *("--max-instances-per-function", "1", "--throttle-wait-ms", "100"),
        *("--event-max-age", "2"),
    )
    client = lambda_client(controller.url)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(invoke, client, "guest", {"op": "sleep", "n": 8000})
        until("it runs", lambda: controller.instances("guest"))
        request_id = events.send(client, "guest", {"op": "echo"})
        events.drained(controller)
        assert not running.done(), "the function was busy until the event was too old"
        assert events.runs(controller, "guest")[request_id] == 0
        dropped = 'hearth_async_events_dropped_total{function="guest",reason="age_exceeded"}'
        assert controller.metrics()[dropped] == 1
        running.result().ok()


def test_a_throttled_event_runs_when_there_is_room_and_it_cost_no_attempt(own_controller):
    controller = own_controller(
        *("--max-instances-per-function", "1", "--throttle-wait-ms", "100"),
    )
    client = lambda_client(controller.url)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(invoke, client, "guest", {"op": "sleep", "n": 3000})
        until("it runs", lambda: controller.instances("guest"))
        request_id = events.send(client, "guest", {"op": "echo"})
        throttled = 'hearth_async_retries_total{function="guest",reason="throttle"}'
        until("it was throttled", lambda: controller.metrics().get(throttled, 0) > 0)
        running.result().ok()
    events.drained(controller)
    assert events.runs(controller, "guest")[request_id] == 1


def test_callers_that_wait_are_served_while_events_queue_up(own_controller):
    controller = own_controller("--max-instances-per-function", "3")
    client = lambda_client(controller.url)
    with ThreadPoolExecutor(8) as pool:
        sent = list(
            pool.map(lambda _: events.send(client, "guest", {"op": "sleep", "n": 300}), range(60))
        )
    served = 0
    while events.queue(controller)["waiting"] > 10:
        assert invoke(client, "guest", {"op": "echo", "n": served}).ok()["n"] == served
        served += 1
    assert served > 0
    events.drained(controller)
    counted = events.runs(controller, "guest")
    assert [counted[request_id] for request_id in sent] == [1] * len(sent)


def test_a_full_queue_is_429_and_takes_events_again_when_it_has_drained(own_controller):
    controller = own_controller("--event-queue-events", "3", "--event-concurrency", "1")
    client = lambda_client(controller.url)
    for _ in range(3):
        events.send(client, "guest", {"op": "sleep", "n": 2000})
    with pytest.raises(client.exceptions.TooManyRequestsException) as refused:
        events.send(client, "guest", {"op": "echo"})
    response = refused.value.response
    assert response["Error"]["Message"].startswith("The event queue is full: it holds 3 events")
    assert response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1"
    events.drained(controller)
    events.send(client, "guest", {"op": "echo"})
    events.drained(controller)


def test_the_events_of_a_deleted_function_go_with_it(own_controller, guest_package):
    controller = own_controller("--event-concurrency", "1")
    client = lambda_client(controller.url)
    create(client, "doomed", guest_package)
    sent = [events.send(client, "doomed", {"op": "sleep", "n": 1000}) for _ in range(5)]
    kept = events.send(client, "guest", {"op": "echo"})
    until("the first runs", lambda: events.runs(controller, "doomed")[sent[0]] == 1)
    client.delete_function(FunctionName="doomed")
    create(client, "doomed", guest_package)
    events.drained(controller)
    assert not events.runs(controller, "doomed"), "the new one has nothing of the old one's"
    assert events.runs(controller, "guest")[kept] == 1
    assert controller.stop() == 0
    assert events.stored(controller.data) == set()


def test_an_event_is_not_accepted_that_can_not_be_stored(own_controller):
    controller = own_controller()
    client = lambda_client(controller.url)
    with contextlib.closing(
        sqlite3.connect(controller.data / "events.db", isolation_level=None)
    ) as intruder:
        intruder.execute("BEGIN EXCLUSIVE")
        refused = post_event(controller, "guest", b'{"op":"echo"}')
        assert refused.status == 500
        assert refused.headers["x-amzn-errortype"] == "ServiceException"
        assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}
        intruder.execute("ROLLBACK")
    request_id = events.send(client, "guest", {"op": "echo"})
    events.drained(controller)
    assert events.runs(controller, "guest")[request_id] == 1


def test_sigterm_lets_running_events_end_and_keeps_the_others(own_controller):
    controller = own_controller("--event-concurrency", "1")
    client = lambda_client(controller.url)
    sent = [events.send(client, "guest", {"op": "sleep", "n": 1500}) for _ in range(3)]
    until("the first runs", lambda: events.runs(controller, "guest")[sent[0]] == 1)
    assert controller.stop() == 0
    left = events.stored(controller.data)
    assert left == set(sent[1:])
    controller.start()
    events.drained(controller)
    counted = events.runs(controller, "guest")
    assert [counted[request_id] for request_id in sent] == [1, 1, 1]


#: HEARTH_EVENT_KILLS=50 gives chance more moments to hit.
KILLS = int(os.environ.get("HEARTH_EVENT_KILLS", "15"))
#: Events that are sent between two kills, about.
EVENTS_AT_ONCE = 10


@pytest.mark.timeout(30 * KILLS + 600)
def test_sigkills_under_load_lose_nothing_and_run_nothing_again_that_was_recorded(
    own_controller,
):
    """After each kill the queue's file says which events are not over. Of all that were accepted
    before it, every other one must have run; and none of those may ever run again."""
    concurrency = 4
    controller = own_controller("--event-concurrency", str(concurrency))
    accepted: set[str] = set()
    #: Request ids that were over at a kill, and when it was.
    over: dict[str, datetime] = {}
    for _ in range(KILLS):
        accepted |= load_until_killed(controller)
        killed_at = datetime.now(timezone.utc)
        for request_id in accepted - events.stored(controller.data):
            over.setdefault(request_id, killed_at)
        controller.start()
    events.drained(controller, 600)
    begun: dict[str, list[str]] = {}
    for request_id, at in events.starts(controller, "guest"):
        begun.setdefault(request_id, []).append(at)
    assert len(accepted) > KILLS
    lost = [request_id for request_id in accepted if request_id not in begun]
    assert not lost, f"{len(lost)} of {len(accepted)} never ran"
    for request_id, killed_at in over.items():
        late = [at for at in begun[request_id] if moment(at) > killed_at]
        assert not late, f"{request_id} was over at {killed_at} and ran again at {late}"
        assert len(begun[request_id]) >= 1
    repeated = sum(len(times) - 1 for times in begun.values())
    assert repeated <= KILLS * concurrency, "only what was in flight at a kill runs again"


def load_until_killed(controller):
    """Sends events from several clients until the controller is killed under them: in one half of
    the cases while it accepts, in the other while it runs them. Returns the ids of those that were
    accepted."""
    accepted, stop = [], threading.Event()

    def send():
        client = lambda_client(controller.url)
        while not stop.is_set() and len(accepted) < EVENTS_AT_ONCE:
            with contextlib.suppress(
                botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError
            ):
                accepted.append(events.send(client, "guest", {"op": "echo"}))

    def ran():
        return controller.metrics().get('hearth_invocations_total{function="guest"}', 0)

    with ThreadPoolExecutor(3) as pool:
        senders = [pool.submit(send) for _ in range(3)]
        if random.random() < 0.5:
            enough = random.randrange(1, EVENTS_AT_ONCE)
            until("events were accepted", lambda: len(accepted) >= enough, 60)
        else:
            enough = random.randrange(1, EVENTS_AT_ONCE)
            until("events were run", lambda: ran() >= enough, 60)
        # Any moment of what goes on then.
        time.sleep(random.random() * 0.02)
        controller.kill()
        stop.set()
        for sender in senders:
            sender.result()
    return set(accepted)
