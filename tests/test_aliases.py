"""Aliases point to versions, are moved in one step, and share invocations out as they were told."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import package
from harness.invocation import create, invoke, lambda_client, wait_for

ARN = "arn:aws:lambda:us-east-1:000000000000:function"


def error_of(refused):
    error = refused.value.response["Error"]
    return error["Code"], error["Message"]


def executed(client, name, **options):
    answer = invoke(client, name, {"op": "who"}, **options)
    answer.ok()
    return answer.headers["x-amz-executed-version"]


@pytest.fixture(scope="module", autouse=True)
def signpost(shared, guest_package):
    """A function with versions 1 and 2, told apart by their code, before any test begins."""
    client = lambda_client(shared.url)
    for tag in ("one", "two"):
        program = package.compiled(guest_package)
        code = package.archive({"bootstrap": program, "tag": tag.encode()})
        if tag == "one":
            create(client, "signpost", code, Publish=True)
        else:
            client.update_function_code(FunctionName="signpost", ZipFile=code, Publish=True)
    for waiter, options in (
        ("function_updated_v2", {}),
        ("published_version_active", {"Qualifier": "1"}),
        ("published_version_active", {"Qualifier": "2"}),
    ):
        wait_for(client, waiter, "signpost", **options)
    yield
    client.delete_function(FunctionName="signpost")


@pytest.fixture
def alias(client):
    """Makes aliases of `signpost` that are gone after the test."""
    made = []

    def make(name, version, **options):
        made.append(name)
        return client.create_alias(
            FunctionName="signpost", Name=name, FunctionVersion=version, **options
        )

    yield make
    for name in made:
        client.delete_alias(FunctionName="signpost", Name=name)


def test_an_alias_is_answered_as_on_lambda_and_found_by_every_call(client, alias):
    made = alias("live", "1", Description="what customers see")
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    expected = {
        "AliasArn": f"{ARN}:signpost:live",
        "Name": "live",
        "FunctionVersion": "1",
        "Description": "what customers see",
        "RevisionId": made["RevisionId"],
    }
    found = client.get_alias(FunctionName="signpost", Name="live")
    listed = client.list_aliases(FunctionName="signpost")
    for answer in (made, found):
        assert {k: v for k, v in answer.items() if k != "ResponseMetadata"} == expected
    assert listed["Aliases"] == [expected]
    for call in (client.get_function_configuration, lambda **o: client.get_function(**o)):
        shown = call(FunctionName="signpost:live")
        shown = shown.get("Configuration", shown)
        assert (shown["Version"], shown["FunctionArn"]) == ("1", f"{ARN}:signpost:live")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("signpost:live", {}),
        ("signpost", {"Qualifier": "live"}),
        ("000000000000:function:signpost:live", {}),
        (f"{ARN}:signpost:live", {}),
    ],
)
def test_an_invocation_by_alias_runs_and_names_the_version_behind_it(client, alias, name, options):
    alias("live", "1")
    answer = invoke(client, name, {"op": "who"}, **options)
    assert answer.ok()["code"] == "one"
    assert answer.headers["x-amz-executed-version"] == "1"


def test_moving_an_alias_changes_what_answers_from_the_next_invocation_on(client, alias):
    before = alias("live", "1")
    assert executed(client, "signpost:live") == "1"
    moved = client.update_alias(FunctionName="signpost", Name="live", FunctionVersion="2")
    assert executed(client, "signpost:live") == "2"
    assert moved["FunctionVersion"] == "2"
    assert moved["RevisionId"] != before["RevisionId"]
    assert moved["Description"] == before["Description"]


def test_an_alias_may_point_to_latest(client, alias):
    alias("edge", "$LATEST")
    answer = invoke(client, "signpost:edge", {"op": "who"})
    assert answer.ok()["code"] == "two"
    assert answer.headers["x-amz-executed-version"] == "$LATEST"


def test_weights_share_invocations_out_and_each_answer_names_the_version_that_ran(client, alias):
    made = alias("canary", "1", RoutingConfig={"AdditionalVersionWeights": {"2": 0.5}})
    assert made["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 0.5}}

    def once(_):
        answer = invoke(client, "signpost:canary", {"op": "who"})
        return answer.headers["x-amz-executed-version"], answer.ok()["code"]

    with ThreadPoolExecutor(2) as pool:
        seen = list(pool.map(once, range(60)))
    # All on one side: one in 2^59.
    assert set(seen) == {("1", "one"), ("2", "two")}
    for weight, always in ((0.0, "1"), (1.0, "2")):
        client.update_alias(
            FunctionName="signpost",
            Name="canary",
            RoutingConfig={"AdditionalVersionWeights": {"2": weight}},
        )
        assert {executed(client, "signpost:canary") for _ in range(5)} == {always}


@pytest.mark.parametrize("nothing", [{}, {"AdditionalVersionWeights": {}}])
def test_an_empty_routing_configuration_takes_the_weights_away(client, alias, nothing):
    alias("canary", "1", RoutingConfig={"AdditionalVersionWeights": {"2": 1.0}})
    assert executed(client, "signpost:canary") == "2"
    kept = client.update_alias(FunctionName="signpost", Name="canary", Description="d")
    assert kept["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 1.0}}
    cleared = client.update_alias(FunctionName="signpost", Name="canary", RoutingConfig=nothing)
    assert "RoutingConfig" not in cleared
    assert executed(client, "signpost:canary") == "1"


def test_an_update_with_a_stale_revision_is_refused_and_changes_nothing(client, alias):
    first = alias("live", "1")
    second = client.update_alias(
        FunctionName="signpost", Name="live", Description="d", RevisionId=first["RevisionId"]
    )
    with pytest.raises(client.exceptions.PreconditionFailedException) as refused:
        client.update_alias(
            FunctionName="signpost",
            Name="live",
            FunctionVersion="2",
            RevisionId=first["RevisionId"],
        )
    assert error_of(refused)[1] == (
        "The Revision Id provided does not match the latest Revision Id. Call the "
        "GetFunction/GetAlias API to retrieve the latest Revision Id"
    )
    found = client.get_alias(FunctionName="signpost", Name="live")
    assert (found["FunctionVersion"], found["RevisionId"]) == ("1", second["RevisionId"])


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({"Name": "1"}, "ValidationException", "at 'name' failed to satisfy constraint"),
        ({"Name": "a b"}, "ValidationException", "at 'name' failed to satisfy constraint"),
        ({"FunctionVersion": "one"}, "ValidationException", "(\\$LATEST|[0-9]+)"),
        (
            {"FunctionVersion": "9"},
            "ResourceNotFoundException",
            f"Function not found: {ARN}:signpost:9",
        ),
        (
            {"RoutingConfig": {"AdditionalVersionWeights": {"9": 0.1}}},
            "ResourceNotFoundException",
            f"Function not found: {ARN}:signpost:9",
        ),
        (
            {"RoutingConfig": {"AdditionalVersionWeights": {"1": 0.1, "2": 0.1}}},
            "InvalidParameterValueException",
            "Number of items in AdditionalVersionWeights cannot be greater than 1",
        ),
        (
            {"RoutingConfig": {"AdditionalVersionWeights": {"1": 0.1}}},
            "InvalidParameterValueException",
            "Invalid function version 1. Function version 1 is already included in routing "
            "configuration.",
        ),
        (
            {"RoutingConfig": {"AdditionalVersionWeights": {"2": 1.5}}},
            "ValidationException",
            "Value '{2=1.5}' at 'routingConfig.additionalVersionWeights' failed to satisfy",
        ),
        (
            {"RoutingConfig": {"AdditionalVersionWeights": {"$LATEST": 0.5}}},
            "ValidationException",
            "Map keys must satisfy constraint",
        ),
        (
            {
                "FunctionVersion": "$LATEST",
                "RoutingConfig": {"AdditionalVersionWeights": {"1": 0.5}},
            },
            "InvalidParameterValueException",
            "$LATEST is not supported for an alias pointing to more than 1 version",
        ),
    ],
)
def test_an_alias_out_of_the_rules_is_refused_in_lambdas_words(client, options, code, message):
    settings = {"FunctionName": "signpost", "Name": "bad", "FunctionVersion": "1", **options}
    with pytest.raises(client.exceptions.ClientError) as refused:
        client.create_alias(**settings)
    assert error_of(refused)[0] == code
    assert message in error_of(refused)[1]
    assert client.list_aliases(FunctionName="signpost")["Aliases"] == []


def test_a_name_that_is_taken_is_a_conflict(client, alias):
    alias("live", "1")
    with pytest.raises(client.exceptions.ResourceConflictException) as refused:
        client.create_alias(FunctionName="signpost", Name="live", FunctionVersion="2")
    assert error_of(refused)[1] == f"Alias already exists: {ARN}:signpost:live"


def test_an_alias_that_is_not_there_is_not_found_and_may_be_deleted(client):
    for call in (
        lambda: client.get_alias(FunctionName="signpost", Name="gone"),
        lambda: client.update_alias(FunctionName="signpost", Name="gone", Description="d"),
    ):
        with pytest.raises(client.exceptions.ResourceNotFoundException) as refused:
            call()
        assert error_of(refused)[1] == f"Cannot find alias arn: {ARN}:signpost:gone"
    with pytest.raises(client.exceptions.ResourceNotFoundException) as refused:
        invoke(client, "signpost:gone", {})
    assert error_of(refused)[1] == f"Function not found: {ARN}:signpost:gone"
    answer = client.delete_alias(FunctionName="signpost", Name="gone")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204


def test_aliases_are_listed_in_pages_and_by_version(client, alias):
    for name, version in (("a", "1"), ("b", "2"), ("c", "1")):
        alias(name, version)
    pages = list(
        client.get_paginator("list_aliases").paginate(
            FunctionName="signpost", PaginationConfig={"PageSize": 1}
        )
    )
    assert [a["Name"] for page in pages for a in page["Aliases"]] == ["a", "b", "c"]
    assert len(pages) == 3
    of_one = client.list_aliases(FunctionName="signpost", FunctionVersion="1")
    assert [a["Name"] for a in of_one["Aliases"]] == ["a", "c"]


def test_a_version_that_an_alias_points_to_can_not_be_deleted(client, alias):
    alias("live", "1", RoutingConfig={"AdditionalVersionWeights": {"2": 0.1}})
    for version in ("1", "2"):
        with pytest.raises(client.exceptions.ResourceConflictException) as refused:
            client.delete_function(FunctionName="signpost", Qualifier=version)
        assert "live" in error_of(refused)[1]
    with pytest.raises(client.exceptions.InvalidParameterValueException) as refused:
        client.delete_function(FunctionName="signpost", Qualifier="live")
    assert error_of(refused)[1] == "Deletion of aliases is not currently supported."
    assert executed(client, "signpost:live") in ("1", "2")


def test_aliases_survive_a_restart(own_controller):
    controller = own_controller()
    client = lambda_client(controller.url)
    client.create_alias(FunctionName="guest", Name="edge", FunctionVersion="$LATEST")
    before = client.get_alias(FunctionName="guest", Name="edge")
    controller.kill()
    controller.start()
    client = lambda_client(controller.url)
    after = client.get_alias(FunctionName="guest", Name="edge")
    assert after["RevisionId"] == before["RevisionId"]
    assert invoke(client, "guest:edge", {"op": "who"}).ok()["name"] == "guest"
