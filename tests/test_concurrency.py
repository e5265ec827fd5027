"""Many invocations at once: as many instances as needed, up to the limit, then 429."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from harness.deadline import until
from harness.invocation import create, invoke, invoke_raw, lambda_client, wait_for


@pytest.mark.alone
def test_twenty_concurrent_invocations_use_as_many_instances_and_all_answer_right(
    controller, client
):
    events = [{"op": "sleep", "n": 6000, "which": n} for n in range(20)]
    most = 0
    with ThreadPoolExecutor(len(events)) as pool:
        running = [pool.submit(invoke, client, "guest", event) for event in events]
        while wait(running, timeout=0.1).not_done:
            most = max(most, len(controller.instances("guest")))
    for answer in (future.result() for future in running):
        assert answer.ok() == {"slept": 6000}
    assert len({answer.result().request_id for answer in running}) == len(events)
    assert most == len(events), f"at most {most} instances at the same time"


@pytest.mark.alone
def test_a_burst_of_cold_invocations_is_answered_and_another_function_beside_it(own_controller):
    # A slow host answers all of them too, if it is given the time.
    controller = own_controller("--max-starts", "2", "--start-wait-ms", "30000")
    most = 0
    with ThreadPoolExecutor(50) as pool:
        events = [b'{"op":"echo","n":%d}' % n for n in range(48)]
        burst = [pool.submit(invoke_raw, controller, "guest", event) for event in events]
        beside = pool.submit(invoke_raw, controller, "probe", b'{"op":"environment"}')
        while wait([*burst, beside], timeout=0.05).not_done:
            most = max(most, controller.metrics()["hearth_starts_under_way"])
    for n, answer in enumerate(future.result() for future in burst):
        assert answer.ok() == {"op": "echo", "n": n}
    beside.result().ok()
    assert most <= 2
    until(
        "no start is left under way",
        lambda: controller.metrics()["hearth_starts_under_way"] == 0,
    )
    metrics = controller.metrics()
    assert metrics["hearth_invocations_waiting"] == 0
    assert metrics["hearth_start_wait_duration_seconds_count"] >= 2


@pytest.mark.alone
def test_beyond_the_bound_of_waiting_invocations_429_at_once(own_controller):
    controller = own_controller(
        *("--max-instances", "1", "--max-waiting-per-function", "1"),
        *("--throttle-wait-ms", "60000"),
    )
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(invoke_raw, controller, "guest", b'{"op":"sleep","n":8000}')
        until("it runs", lambda: [i["state"] for i in controller.instances()] == ["busy"])
        waiting = pool.submit(invoke_raw, controller, "guest", b'{"op":"echo"}')
        until("one waits", lambda: controller.metrics()["hearth_invocations_waiting"] == 1)
        refused = invoke_raw(controller, "guest", b'{"op":"echo"}')
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert not waiting.done()
        running.result().ok()
        assert waiting.result().ok() == {"op": "echo"}


def test_reserved_concurrency_has_instances_whatever_another_function_takes(own_controller):
    controller = own_controller(
        *("--max-instances", "4", "--max-instances-per-function", "4"),
        *("--throttle-wait-ms", "200"),
    )
    client = lambda_client(controller.url)
    client.put_function_concurrency(FunctionName="probe", ReservedConcurrentExecutions=2)
    with ThreadPoolExecutor(2) as pool:
        running = [
            pool.submit(invoke, client, "guest", {"op": "sleep", "n": 8000}) for _ in range(2)
        ]
        until(
            "two busy instances",
            lambda: [i["state"] for i in controller.instances("guest")] == ["busy", "busy"],
        )
        assert invoke_raw(controller, "guest", b'{"op":"echo"}').status == 429
        invoke(client, "probe", {"op": "environment"}).ok()
        for future in running:
            future.result().ok()


def test_one_function_has_at_most_half_of_the_host_by_default(own_controller):
    controller = own_controller("--max-instances", "2", "--throttle-wait-ms", "200")
    client = lambda_client(controller.url)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(invoke, client, "guest", {"op": "sleep", "n": 8000})
        until("it runs", lambda: [i["state"] for i in controller.instances("guest")] == ["busy"])
        assert invoke_raw(controller, "guest", b'{"op":"echo"}').status == 429
        invoke(client, "probe", {"op": "environment"}).ok()
        running.result().ok()


def test_concurrent_answers_are_never_mixed_up(controller, client):
    def ask(n):
        event = {"op": "echo", "which": n, "filler": "x" * (n * 97 % 5000)}
        return event, invoke(client, "guest", event).ok()

    with ThreadPoolExecutor(10) as pool:
        for event, answer in pool.map(ask, range(100)):
            assert answer == event


def test_beyond_the_limit_waits_briefly_then_429_with_retry_after(own_controller):
    controller = own_controller("--max-instances-per-function", "2", "--throttle-wait-ms", "200")
    client = lambda_client(controller.url)
    with ThreadPoolExecutor(2) as pool:
        running = [
            pool.submit(invoke, client, "guest", {"op": "sleep", "n": 8000}) for _ in range(2)
        ]
        until(
            "two busy instances",
            lambda: [i["state"] for i in controller.instances("guest")] == ["busy", "busy"],
        )
        refused = invoke_raw(controller, "guest", b'{"op":"echo"}')
        assert refused.status == 429
        assert refused.headers["x-amzn-errortype"].startswith("TooManyRequestsException")
        assert int(refused.headers["retry-after"]) >= 1
        body = refused.value
        assert body["message"] == "Rate Exceeded."
        # The function has no concurrency reserved, so this is not what has run out.
        assert body["Reason"] == "ConcurrentInvocationLimitExceeded"
        for future in running:
            future.result().ok()
    assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}


def test_an_invocation_at_the_limit_gets_the_instance_that_comes_free(own_controller):
    controller = own_controller("--max-instances-per-function", "1", "--throttle-wait-ms", "30000")
    client = lambda_client(controller.url)
    with ThreadPoolExecutor(3) as pool:
        answers = list(
            pool.map(lambda n: invoke(client, "guest", {"op": "sleep", "n": 300 + n}), range(3))
        )
    assert sorted(answer.ok()["slept"] for answer in answers) == [300, 301, 302]
    assert [answer.start for answer in answers].count("cold") == 1


def test_the_limit_of_all_functions_ends_idle_instances_before_it_refuses(own_controller):
    controller = own_controller("--max-instances", "1")
    client = lambda_client(controller.url)
    for _ in range(2):
        for name, event in (("guest", {"op": "who"}), ("probe", {"op": "who"})):
            answer = invoke(client, name, event)
            answer.ok()
            assert answer.start == "cold", "the other function's instance had to make room"
            assert len(controller.instances()) == 1


def test_idle_instances_end_after_the_idle_timeout(own_controller):
    controller = own_controller("--idle-timeout", "1")
    invoke(lambda_client(controller.url), "guest", {"op": "echo"}).ok()
    until("the idle instance has ended", lambda: controller.instances() == [], 15)


def test_two_deploys_of_one_name_at_once_leave_one_function_that_works(
    controller, client, guest_package
):
    def deploy(_):
        try:
            client.create_function(
                FunctionName="twice",
                Runtime="provided",
                Handler="bootstrap",
                Role="arn:aws:iam::000000000000:role/any",
                Code={"ZipFile": guest_package},
            )
            return 201
        except client.exceptions.ResourceConflictException:
            return 409

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(deploy, range(2))) == [201, 409]
    wait_for(client, "function_active_v2", "twice")
    assert invoke(client, "twice", {"op": "who"}).ok()["name"] == "twice"


def test_two_functions_deployed_at_once_both_work(controller, client, guest_package):
    names = ["left", "right"]
    with ThreadPoolExecutor(2) as pool:
        list(
            pool.map(lambda name: create(lambda_client(controller.url), name, guest_package), names)
        )
    for name in names:
        assert invoke(client, name, {"op": "who"}).ok()["name"] == name


def test_a_delete_lets_an_invocation_finish_and_leaves_nothing_of_the_function(
    controller, client, guest_package
):
    create(client, "doomed", guest_package)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(invoke_raw, controller, "doomed", b'{"op":"sleep","n":5000}')
        until("it runs", lambda: [i["state"] for i in controller.instances("doomed")] == ["busy"])
        client.delete_function(FunctionName="doomed")
        answer = running.result()
    assert answer.ok() == {"slept": 5000}
    until("its instances are gone", lambda: controller.instances("doomed") == [])
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        invoke(client, "doomed", {"op": "echo"})


def test_an_update_during_invocations_never_answers_with_old_code_once_it_is_successful(
    controller, client, guest_package
):
    create(client, "renewed", guest_package, Environment={"Variables": {"TAG": "old"}})
    stop = threading.Event()
    seen, failures = [], []

    def ask():
        asking = lambda_client(controller.url)
        while not stop.is_set():
            try:
                seen.append(invoke(asking, "renewed", {"op": "who"}).ok()["env"])
            except Exception as error:  # collected here, asserted below
                failures.append(error)
                return

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        until("it answers", lambda: seen or failures)
        client.update_function_configuration(
            FunctionName="renewed", Environment={"Variables": {"TAG": "new"}}
        )
        wait_for(client, "function_updated_v2", "renewed")
        assert invoke(client, "renewed", {"op": "who"}).ok()["env"] == "new"
        many = len(seen)
        until("more answers", lambda: len(seen) > many + 3 or failures)
    finally:
        stop.set()
        asker.join()
    assert not failures
    assert seen[0] == "old"
    assert set(seen[many + 1 :]) == {"new"}


def test_a_client_that_disconnects_in_mid_invocation_costs_nobody_else(controller, client):
    body = b'{"op":"sleep","n":2000}'
    with socket.create_connection(("127.0.0.1", controller.port)) as hasty:
        hasty.sendall(
            b"POST /2015-03-31/functions/guest/invocations HTTP/1.1\r\nHost: localhost\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        until(
            "it runs",
            lambda: [i for i in controller.instances("guest") if i["state"] == "busy"],
        )
    assert invoke(client, "guest", {"op": "echo", "n": 1}).ok() == {"op": "echo", "n": 1}
    until(
        "nothing is busy",
        lambda: all(i["state"] == "idle" for i in controller.instances("guest")),
    )


def test_a_package_is_shared_by_functions_and_survives_one_of_them(
    controller, client, guest_package
):
    for name in ("first", "second"):
        create(client, name, guest_package)
    client.delete_function(FunctionName="first")
    assert invoke(client, "second", {"op": "who"}).ok()["name"] == "second"
