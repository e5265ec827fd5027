"""Functions are created, listed, changed and deleted as on Lambda, through boto3."""

import base64
import hashlib
import re

import pytest
from harness import package
from harness.invocation import ROLE, create, invoke, wait_for


def test_create_answers_pending_then_active_with_lambdas_configuration(
    controller, client, guest_package
):
    created = client.create_function(
        FunctionName="newborn",
        Runtime="provided",
        Handler="bootstrap",
        Role=ROLE,
        Code={"ZipFile": guest_package},
        Description="a description",
        Environment={"Variables": {"KEY": "V"}},
        Tags={"team": "blue"},
    )
    assert created["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert created["State"] == "Pending"
    assert created["StateReasonCode"] == "Creating"
    wait_for(client, "function_active_v2", "newborn")
    found = client.get_function(FunctionName="newborn")
    settings = found["Configuration"]
    expected = {
        "FunctionName": "newborn",
        "FunctionArn": "arn:aws:lambda:us-east-1:000000000000:function:newborn",
        "Runtime": "provided",
        "Handler": "bootstrap",
        "Role": ROLE,
        "Description": "a description",
        "Timeout": 3,
        "MemorySize": 128,
        "CodeSize": len(guest_package),
        "CodeSha256": base64.b64encode(hashlib.sha256(guest_package).digest()).decode(),
        "Version": "$LATEST",
        "Environment": {"Variables": {"KEY": "V"}},
        "PackageType": "Zip",
        "Architectures": ["x86_64"],
        "EphemeralStorage": {"Size": 512},
        "State": "Active",
        "LastUpdateStatus": "Successful",
    }
    assert {key: settings.get(key) for key in expected} == expected
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0000", settings["LastModified"])
    assert found["Tags"] == {"team": "blue"}


def test_a_function_that_is_still_being_created_is_a_conflict_to_invoke(
    controller, client, guest_package
):
    client.create_function(
        FunctionName="unready",
        Runtime="provided",
        Handler="bootstrap",
        Role=ROLE,
        Code={"ZipFile": guest_package},
    )
    try:
        # The deploy may be quicker than this call; then it simply works.
        assert invoke(client, "unready", {"op": "echo"}).ok() == {"op": "echo"}
    except client.exceptions.ResourceConflictException as refused:
        assert refused.response["ResponseMetadata"]["HTTPStatusCode"] == 409
    wait_for(client, "function_active_v2", "unready")


def test_a_name_that_is_taken_is_a_conflict(controller, client, guest_package):
    with pytest.raises(client.exceptions.ResourceConflictException) as refused:
        client.create_function(
            FunctionName="guest",
            Runtime="provided",
            Handler="bootstrap",
            Role=ROLE,
            Code={"ZipFile": guest_package},
        )
    assert refused.value.response["Error"]["Message"].startswith("Function already exist: guest")


def test_an_update_of_the_code_changes_what_answers_and_its_hash(controller, client, guest_package):
    create(client, "changing", guest_package)
    before = client.get_function_configuration(FunctionName="changing")
    program = package.compiled(guest_package)
    renewed = package.archive({"bootstrap": program, "tag": b"renewed"})
    updating = client.update_function_code(FunctionName="changing", ZipFile=renewed)
    assert updating["LastUpdateStatus"] == "InProgress"
    wait_for(client, "function_updated_v2", "changing")
    after = client.get_function_configuration(FunctionName="changing")
    assert after["CodeSha256"] == base64.b64encode(hashlib.sha256(renewed).digest()).decode()
    assert after["RevisionId"] != before["RevisionId"]
    assert invoke(client, "changing", {"op": "who"}).ok()["code"] == "renewed"


def test_an_update_of_the_configuration_takes_effect(controller, client, guest_package):
    create(client, "tuned", guest_package, Timeout=60)
    client.update_function_configuration(
        FunctionName="tuned", Timeout=1, Environment={"Variables": {"TAG": "tuned"}}
    )
    wait_for(client, "function_updated_v2", "tuned")
    assert invoke(client, "tuned", {"op": "who"}).ok()["env"] == "tuned"
    late = invoke(client, "tuned", {"op": "sleep", "n": 5000}).failed()
    assert late["errorType"] == "Sandbox.Timedout"
    assert late["errorMessage"].endswith("Task timed out after 1.00 seconds")


def test_a_failed_update_leaves_the_old_version_serving(controller, client, guest_package):
    create(client, "sturdy", guest_package)
    client.update_function_code(
        FunctionName="sturdy", ZipFile=package.archive({"readme": b"no bootstrap"})
    )
    with pytest.raises(Exception, match="terminal failure"):
        wait_for(client, "function_updated_v2", "sturdy")
    settings = client.get_function_configuration(FunctionName="sturdy")
    assert settings["LastUpdateStatus"] == "Failed"
    assert settings["LastUpdateStatusReason"]
    assert invoke(client, "sturdy", {"op": "echo"}).ok() == {"op": "echo"}


def test_an_update_with_a_stale_revision_is_refused(controller, client, guest_package):
    with pytest.raises(client.exceptions.PreconditionFailedException):
        client.update_function_configuration(
            FunctionName="guest",
            Timeout=9,
            RevisionId="00000000-0000-4000-8000-000000000000",
        )


def test_list_pages_through_all_functions(controller, client):
    pages = list(client.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 1}))
    names = [f["FunctionName"] for page in pages for f in page["Functions"]]
    assert sorted(names) == ["guest", "probe"]
    assert len(pages) >= 2


def test_a_deleted_function_is_not_found(controller, client, guest_package):
    create(client, "gone", guest_package)
    invoke(client, "gone", {"op": "echo"}).ok()
    answer = client.delete_function(FunctionName="gone")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    for call, missing in (
        (lambda: client.get_function(FunctionName="gone"), "gone"),
        (lambda: client.delete_function(FunctionName="gone"), "gone"),
        # Which version it is that can't be run.
        (lambda: invoke(client, "gone", {}), "gone:$LATEST"),
    ):
        with pytest.raises(client.exceptions.ResourceNotFoundException) as refused:
            call()
        assert refused.value.response["Error"]["Message"] == (
            f"Function not found: arn:aws:lambda:us-east-1:000000000000:function:{missing}"
        )


def test_a_dry_run_is_204_and_runs_nothing(controller, client):
    before = len(controller.logs("guest"))
    answer = invoke(client, "guest", {"op": "echo"}, InvocationType="DryRun")
    assert answer.status == 204
    assert len(controller.logs("guest")) == before


def test_both_generations_of_waiters_are_satisfied(controller, client):
    for waiter in ("function_active", "function_active_v2", "function_updated", "function_exists"):
        client.get_waiter(waiter).wait(
            FunctionName="guest", WaiterConfig={"Delay": 1, "MaxAttempts": 3}
        )
