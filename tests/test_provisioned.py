"""Provisioned concurrency: real instances are there before anybody invokes, and stay."""

import os
import signal

import pytest
from harness.deadline import until
from harness.invocation import create, invoke, lambda_client, wait_for

ARN = "arn:aws:lambda:us-east-1:000000000000:function"


def error_of(refused):
    error = refused.value.response["Error"]
    return error["Code"], error["Message"]


@pytest.fixture(scope="module", autouse=True)
def ready(shared, guest_package):
    """A function with versions 1 and 2 and an alias to the first, before any test begins."""
    client = lambda_client(shared.url)
    create(client, "ready", guest_package, Publish=True)
    wait_for(client, "published_version_active", "ready", Qualifier="1")
    client.update_function_configuration(FunctionName="ready", Description="changed")
    wait_for(client, "function_updated_v2", "ready")
    client.publish_version(FunctionName="ready")
    wait_for(client, "published_version_active", "ready", Qualifier="2")
    client.create_alias(FunctionName="ready", Name="live", FunctionVersion="1")
    yield
    client.delete_function(FunctionName="ready")


@pytest.fixture
def provision(controller, client):
    """Puts configurations that are gone after the test, with their instances."""
    qualifiers = set()

    def put(qualifier, count, name="ready"):
        qualifiers.add(qualifier)
        return client.put_provisioned_concurrency_config(
            FunctionName=name, Qualifier=qualifier, ProvisionedConcurrentExecutions=count
        )

    yield put
    for qualifier in qualifiers:
        client.delete_provisioned_concurrency_config(FunctionName="ready", Qualifier=qualifier)
    controller.end_instances("ready")


def status(client, qualifier):
    return client.get_provisioned_concurrency_config(FunctionName="ready", Qualifier=qualifier)


def becomes(client, qualifier, wanted="READY"):
    def ask():
        found = status(client, qualifier)
        return found if found["Status"] == wanted else None

    return until(f"{qualifier} is {wanted}", ask, 60)


def idle(controller, version=None):
    return [
        i
        for i in controller.instances("ready")
        if i["state"] == "idle" and version in (None, i["version"])
    ]


def test_instances_are_there_before_anybody_invokes_and_the_first_call_is_warm(
    controller, client, provision
):
    put = provision("1", 2)
    assert put["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert (put["Status"], put["RequestedProvisionedConcurrentExecutions"]) == ("IN_PROGRESS", 2)
    found = becomes(client, "1")
    assert found["AllocatedProvisionedConcurrentExecutions"] == 2
    assert found["AvailableProvisionedConcurrentExecutions"] == 2
    assert found["LastModified"]
    instances = idle(controller, "1")
    assert len(instances) == 2
    assert all(i["pid"] in controller.sandboxes() for i in instances)
    assert all(i["invocations"] == 0 for i in instances)
    answer = invoke(client, "ready:1", {"op": "who"})
    assert answer.ok()["count"] == 1
    assert answer.start == "warm"
    # Only what was asked for is kept ready.
    assert invoke(client, "ready:2", {"op": "who"}).start == "cold"


def test_each_instance_has_its_own_random_numbers(controller, client, provision):
    provision("1", 2)
    becomes(client, "1")
    seen = set()
    for _ in range(2):
        answer = invoke(client, "ready:1", {"op": "who"}).ok()
        seen.add(answer["random"])
        # The one that served goes; the other is next.
        for instance in controller.instances("ready"):
            if instance["invocations"]:
                os.kill(instance["pid"], signal.SIGKILL)
        until("the next is ready", lambda: len(idle(controller, "1")) == 2, 30)
    assert len(seen) == 2


def test_many_start_a_few_at_a_time_and_all_become_ready(controller, client, provision):
    count = 2 * os.cpu_count() + 4
    provision("1", count)
    most = 0

    def ready():
        nonlocal most
        states = [i["state"] for i in controller.instances("ready")]
        most = max(most, states.count("starting"))
        return status(client, "1")["Status"] == "READY"

    until("all are ready", ready, 120)
    assert 0 < most <= os.cpu_count()
    until("all are idle", lambda: len(idle(controller, "1")) == count)


def test_an_instance_that_dies_is_replaced(controller, client, provision):
    provision("1", 1)
    becomes(client, "1")
    [before] = until("one is idle", lambda: idle(controller, "1"))
    os.kill(before["pid"], signal.SIGKILL)
    [after] = until(
        "another is ready",
        lambda: [i for i in idle(controller, "1") if i["pid"] != before["pid"]],
        30,
    )
    assert after["invocations"] == 0
    assert invoke(client, "ready:1", {"op": "echo"}).start == "warm"


def test_an_alias_is_provisioned_and_takes_its_instances_along_when_it_moves(
    controller, client, provision
):
    provision("live", 1)
    becomes(client, "live")
    assert [i["version"] for i in idle(controller)] == ["1"]
    assert invoke(client, "ready:live", {"op": "who"}).start == "warm"
    client.update_alias(FunctionName="ready", Name="live", FunctionVersion="2")
    becomes(client, "live")
    until("one of the new version is ready", lambda: idle(controller, "2"), 30)
    answer = invoke(client, "ready:live", {"op": "who"})
    assert (answer.start, answer.headers["x-amz-executed-version"]) == ("warm", "2")
    client.update_alias(FunctionName="ready", Name="live", FunctionVersion="1")


def test_configurations_are_listed_and_a_deleted_one_is_not_found(client, provision):
    provision("live", 1)
    provision("2", 1)
    becomes(client, "live")
    becomes(client, "2")
    pages = client.get_paginator("list_provisioned_concurrency_configs").paginate(
        FunctionName="ready", PaginationConfig={"PageSize": 1}
    )
    listed = [c for page in pages for c in page["ProvisionedConcurrencyConfigs"]]
    assert [(c["FunctionArn"], c["Status"]) for c in listed] == [
        (f"{ARN}:ready:2", "READY"),
        (f"{ARN}:ready:live", "READY"),
    ]
    answer = client.delete_provisioned_concurrency_config(FunctionName="ready", Qualifier="2")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    with pytest.raises(client.exceptions.ProvisionedConcurrencyConfigNotFoundException) as refused:
        status(client, "2")
    assert error_of(refused)[1] == "No Provisioned Concurrency Config found for this function"
    # Again is as good as once.
    client.delete_provisioned_concurrency_config(FunctionName="ready", Qualifier="2")


def test_a_version_is_provisioned_by_its_number_or_by_an_alias_not_by_both(client, provision):
    provision("live", 1)
    with pytest.raises(client.exceptions.ResourceConflictException) as refused:
        provision("1", 1)
    assert error_of(refused)[1] == "Version is pointed by a Provisioned Concurrency alias"
    client.delete_provisioned_concurrency_config(FunctionName="ready", Qualifier="live")
    provision("1", 1)
    with pytest.raises(client.exceptions.ResourceConflictException) as refused:
        provision("live", 1)
    assert error_of(refused)[1] == (
        "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned "
        "version"
    )


def test_what_is_provisioned_is_reserved(client, provision):
    provision("1", 3)
    limit = client.get_account_settings()["AccountLimit"]
    assert limit["UnreservedConcurrentExecutions"] == 997
    with pytest.raises(client.exceptions.InvalidParameterValueException) as refused:
        client.put_function_concurrency(FunctionName="ready", ReservedConcurrentExecutions=2)
    assert error_of(refused)[1] == (
        " ReservedConcurrentExecutions  2 should not be lower than function's total provisioned "
        "concurrency [3]."
    )
    client.put_function_concurrency(FunctionName="ready", ReservedConcurrentExecutions=4)
    for count, message in (
        (5, "Requested Provisioned Concurrency should not be greater than the reserved"),
    ):
        with pytest.raises(client.exceptions.InvalidParameterValueException) as refused:
            provision("1", count)
        assert error_of(refused)[1].startswith(message)
    client.delete_function_concurrency(FunctionName="ready")
    for count, message in (
        (901, "Specified ConcurrentExecutions for function decreases account's Unreserved"),
        (1001, "Specified ConcurrentExecutions for function is greater than account's unreserved"),
    ):
        with pytest.raises(client.exceptions.InvalidParameterValueException) as refused:
            provision("1", count)
        assert error_of(refused)[1].startswith(message)
    assert status(client, "1")["RequestedProvisionedConcurrentExecutions"] == 3


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"Qualifier": "$LATEST"}, "InvalidParameterValueException"),
        ({"Qualifier": "9"}, "ResourceNotFoundException"),
        ({"Qualifier": "nowhere"}, "ResourceNotFoundException"),
        ({"FunctionName": "nobody"}, "ResourceNotFoundException"),
        ({"ProvisionedConcurrentExecutions": 0}, "ValidationException"),
        ({"ProvisionedConcurrentExecutions": -1}, "ValidationException"),
    ],
)
def test_what_can_not_be_provisioned_is_refused(controller, client, options, code):
    settings = {"FunctionName": "ready", "Qualifier": "1", "ProvisionedConcurrentExecutions": 1}
    with pytest.raises(client.exceptions.ClientError) as refused:
        client.put_provisioned_concurrency_config(**{**settings, **options})
    assert error_of(refused)[0] == code
    path = "/2019-09-30/functions/ready/provisioned-concurrency"
    body = b'{"ProvisionedConcurrentExecutions":1}'
    assert controller.request("PUT", path, body=body).status == 400


def test_instances_outlive_the_idle_time_and_come_back_with_the_controller(own_controller):
    controller = own_controller("--idle-timeout", "1")
    client = lambda_client(controller.url)
    client.publish_version(FunctionName="guest")
    wait_for(client, "published_version_active", "guest", Qualifier="1")
    client.put_provisioned_concurrency_config(
        FunctionName="guest", Qualifier="1", ProvisionedConcurrentExecutions=1
    )

    def kept():
        return [
            i for i in controller.instances("guest") if i["state"] == "idle" and i["version"] == "1"
        ]

    [first] = until("it is ready", kept, 60)
    # Another that nobody wants kept shows that the time has passed, for both.
    invoke(client, "guest", {"op": "echo"}).ok()
    until(
        "the other has ended",
        lambda: {i["version"] for i in controller.instances("guest")} == {"1"},
        30,
    )
    until("it was idle for longer", lambda: kept()[0]["idle_seconds"] > 2, 30)
    assert kept()[0]["pid"] == first["pid"]
    controller.kill()
    controller.start()
    client = lambda_client(controller.url)
    until("it is ready again", kept, 60)
    assert invoke(client, "guest:1", {"op": "echo"}).start == "warm"


def test_what_there_is_no_room_for_is_told(own_controller):
    controller = own_controller("--max-instances", "1")
    client = lambda_client(controller.url)
    client.publish_version(FunctionName="guest")
    wait_for(client, "published_version_active", "guest", Qualifier="1")
    client.put_provisioned_concurrency_config(
        FunctionName="guest", Qualifier="1", ProvisionedConcurrentExecutions=2
    )

    def failed():
        found = client.get_provisioned_concurrency_config(FunctionName="guest", Qualifier="1")
        done = found["AllocatedProvisionedConcurrentExecutions"] == 1
        return found if found["Status"] == "FAILED" and done else None

    found = until("one is there and one can't be", failed, 60)
    assert "no room" in found["StatusReason"]
