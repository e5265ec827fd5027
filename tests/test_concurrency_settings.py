"""Reserved concurrency and the account's limit: whom they refuse, whom they leave room."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.deadline import until
from harness.invocation import invoke, lambda_client, wait_for

ARN = "arn:aws:lambda:us-east-1:000000000000:function"
LONG = {"op": "sleep", "n": 30_000}


def error_of(refused):
    error = refused.value.response["Error"]
    return error["Code"], error["Message"]


def running(controller, name):
    return [i for i in controller.instances(name) if i["state"] == "busy"]


@pytest.fixture
def reserve(controller, client):
    """Reserves concurrency until the test ends."""
    names = set()

    def put(name, count):
        names.add(name)
        return client.put_function_concurrency(
            FunctionName=name, ReservedConcurrentExecutions=count
        )

    yield put
    for name in names:
        client.delete_function_concurrency(FunctionName=name)


def test_a_reservation_is_put_read_and_deleted(client, reserve):
    assert "ReservedConcurrentExecutions" not in client.get_function_concurrency(
        FunctionName="guest"
    )
    assert reserve("guest", 7)["ReservedConcurrentExecutions"] == 7
    found = client.get_function_concurrency(FunctionName="guest")
    assert found["ReservedConcurrentExecutions"] == 7
    function = client.get_function(FunctionName="guest")
    assert function["Concurrency"] == {"ReservedConcurrentExecutions": 7}
    answer = client.delete_function_concurrency(FunctionName="guest")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert "Concurrency" not in client.get_function(FunctionName="guest")


def test_an_invocation_beyond_the_reservation_is_throttled_at_once_and_told_why(
    controller, client, reserve
):
    reserve("guest", 1)
    throttles = 'hearth_throttles_total{function="guest"}'
    before = controller.metrics().get(throttles, 0)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(invoke, client, "guest", {"op": "sleep", "n": 3000})
        until("it runs", lambda: running(controller, "guest"))
        with pytest.raises(client.exceptions.TooManyRequestsException) as refused:
            invoke(client, "guest", {"op": "echo"})
        assert first.result().ok() == {"slept": 3000}
    response = refused.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 429
    assert response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert error_of(refused)[1] == "Rate Exceeded."
    assert int(response["ResponseMetadata"]["HTTPHeaders"]["retry-after"]) >= 1
    assert controller.metrics()[throttles] == before + 1
    # One after another is never more than one.
    for _ in range(5):
        assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}


def test_nothing_runs_of_a_function_with_nothing_reserved_until_that_is_deleted(
    controller, client, reserve
):
    reserve("guest", 0)
    before = len(controller.logs("guest"))
    with pytest.raises(client.exceptions.TooManyRequestsException) as refused:
        invoke(client, "guest", {"op": "echo"})
    assert refused.value.response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert len(controller.logs("guest")) == before
    assert invoke(client, "guest", {"op": "echo"}, InvocationType="DryRun").status == 204
    assert invoke(client, "probe", {"op": "echo"}).ok() == {"op": "echo"}
    client.delete_function_concurrency(FunctionName="guest")
    assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}


def test_a_reservation_holds_for_all_versions_together(controller, client, reserve):
    client.publish_version(FunctionName="guest")
    wait_for(client, "published_version_active", "guest", Qualifier="1")
    reserve("guest", 1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(invoke, client, "guest:1", {"op": "sleep", "n": 3000})
        until("it runs", lambda: running(controller, "guest"))
        with pytest.raises(client.exceptions.TooManyRequestsException):
            invoke(client, "guest", {"op": "echo"})
        first.result().ok()
    client.delete_function(FunctionName="guest", Qualifier="1")


def test_what_is_reserved_is_taken_from_what_is_left_for_all(client, reserve):
    before = client.get_account_settings()
    limit = before["AccountLimit"]
    assert (limit["ConcurrentExecutions"], limit["UnreservedConcurrentExecutions"]) == (1000, 1000)
    assert limit["CodeSizeZipped"] == 52_428_800
    assert limit["CodeSizeUnzipped"] == 262_144_000
    assert before["AccountUsage"]["FunctionCount"] == 2
    assert before["AccountUsage"]["TotalCodeSize"] > 0
    reserve("guest", 300)
    reserve("probe", 200)
    after = client.get_account_settings()["AccountLimit"]
    assert after["UnreservedConcurrentExecutions"] == 500
    for count in (701, 2_000_000_000, 99_999_999_999):
        with pytest.raises(client.exceptions.InvalidParameterValueException) as refused:
            client.put_function_concurrency(
                FunctionName="guest", ReservedConcurrentExecutions=count
            )
        assert error_of(refused)[1] == (
            "Specified ReservedConcurrentExecutions for function decreases account's "
            "UnreservedConcurrentExecution below its minimum value of [100]."
        )
    found = client.get_function_concurrency(FunctionName="guest")
    assert found["ReservedConcurrentExecutions"] == 300
    reserve("guest", 700)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ReservedConcurrentExecutions":"1"}', b"[]"])
def test_a_body_that_reserves_nothing_is_refused(controller, client, body):
    path = "/2017-10-31/functions/guest/concurrency"
    answer = controller.request("PUT", path, body=body)
    assert answer.status == 400, answer.data
    assert "ReservedConcurrentExecutions" not in client.get_function_concurrency(
        FunctionName="guest"
    )


def test_a_negative_reservation_and_a_function_that_is_not_there_are_refused(client):
    with pytest.raises(client.exceptions.ClientError) as refused:
        client.put_function_concurrency(FunctionName="guest", ReservedConcurrentExecutions=-1)
    assert error_of(refused)[0] == "ValidationException"
    for call, missing in (
        (
            lambda: client.put_function_concurrency(
                FunctionName="no", ReservedConcurrentExecutions=1
            ),
            "no:$LATEST",
        ),
        (lambda: client.get_function_concurrency(FunctionName="no"), "no"),
        (lambda: client.delete_function_concurrency(FunctionName="no"), "no"),
    ):
        with pytest.raises(client.exceptions.ResourceNotFoundException) as refused:
            call()
        assert error_of(refused)[1] == f"Function not found: {ARN}:{missing}"


@pytest.mark.parametrize("qualifier", ["$LATEST", "1", "live"])
def test_concurrency_is_reserved_for_whole_functions(client, qualifier):
    name = f"guest:{qualifier}"
    for call in (
        lambda: client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1),
        lambda: client.get_function_concurrency(FunctionName=name),
        lambda: client.delete_function_concurrency(FunctionName=name),
    ):
        with pytest.raises(client.exceptions.InvalidParameterValueException) as refused:
            call()
        assert error_of(refused)[1].startswith("This operation is permitted on Lambda functions")


def test_the_accounts_limit_throttles_all_but_those_who_have_reserved(own_controller):
    controller = own_controller("--account-concurrency", "101", "--idle-timeout", "600")
    client = lambda_client(controller.url)
    client.put_function_concurrency(FunctionName="probe", ReservedConcurrentExecutions=1)
    limit = client.get_account_settings()["AccountLimit"]
    assert (limit["ConcurrentExecutions"], limit["UnreservedConcurrentExecutions"]) == (101, 100)
    controller.stop()
    # A reservation from before outlives a smaller limit: it leaves the others one.
    controller.arguments = ("--account-concurrency", "2")
    controller.start()
    client = lambda_client(controller.url)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(invoke, client, "guest", {"op": "sleep", "n": 4000})
        until("it runs", lambda: running(controller, "guest"))
        answer = controller.request(
            "POST", "/2015-03-31/functions/guest/invocations", body=b'{"op":"echo"}'
        )
        assert answer.status == 429
        assert json.loads(answer.data)["Reason"] == "ConcurrentInvocationLimitExceeded"
        assert invoke(client, "probe", {"op": "echo"}).ok() == {"op": "echo"}
        first.result().ok()
    assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}
