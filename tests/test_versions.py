"""Published versions are kept as they were, and every client finds them as on Lambda."""

import base64
import hashlib
import json

import pytest
from harness import package
from harness.deadline import until
from harness.invocation import ROLE, create, invoke, lambda_client, wait_for

ARN = "arn:aws:lambda:us-east-1:000000000000:function"


def tagged(guest_package, tag):
    """The guest program with another tag: other code."""
    return package.archive({"bootstrap": package.compiled(guest_package), "tag": tag.encode()})


def sha256(archive):
    return base64.b64encode(hashlib.sha256(archive).digest()).decode()


def wait(client, waiter, name, **options):
    wait_for(client, waiter, name, **options)


def error_of(refused):
    error = refused.value.response["Error"]
    return error["Code"], error["Message"]


@pytest.fixture(scope="module")
def story(shared, guest_package):
    """A function that was published twice, with other code and another TAG each time, and whose
    $LATEST went on after that. One for all tests that only look at it."""
    client = lambda_client(shared.url)
    name = "story"
    one, two = tagged(guest_package, "one"), tagged(guest_package, "two")
    create(client, name, one, Environment={"Variables": {"TAG": "first"}}, Description="d")
    first = client.publish_version(FunctionName=name, Description="the first")
    wait(client, "published_version_active", name, Qualifier="1")
    client.update_function_configuration(
        FunctionName=name, Environment={"Variables": {"TAG": "second"}}, Timeout=17
    )
    wait(client, "function_updated_v2", name)
    second = client.update_function_code(FunctionName=name, ZipFile=two, Publish=True)
    wait(client, "function_updated_v2", name)
    wait(client, "published_version_active", name, Qualifier="2")
    client.update_function_configuration(
        FunctionName=name, Environment={"Variables": {"TAG": "latest"}}
    )
    wait(client, "function_updated_v2", name)
    yield {"name": name, "one": one, "two": two, "first": first, "second": second}
    client.delete_function(FunctionName=name)


@pytest.fixture(autouse=True)
def _story_is_there_before_the_test_begins(story):
    """Or the controller's checks would take it for something that a test left."""


def test_a_version_is_answered_pending_with_its_own_arn_and_becomes_active(client, story):
    first = story["first"]
    assert first["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert first["FunctionArn"] == f"{ARN}:story:1"
    assert (first["Version"], first["Description"]) == ("1", "the first")
    assert (first["State"], first["StateReasonCode"]) == ("Pending", "Creating")
    assert first["StateReason"] == "The function is being created."
    settled = client.get_function_configuration(FunctionName="story", Qualifier="1")
    assert settled["State"] == "Active"
    assert settled["LastUpdateStatus"] == "Successful"


def test_a_version_keeps_code_configuration_and_snapshot_whatever_comes_after_it(client, story):
    seen = {}
    for qualifier in ("1", "2", "$LATEST"):
        answer = invoke(client, "story", {"op": "who"}, Qualifier=qualifier)
        seen[qualifier] = (answer.ok()["code"], answer.ok()["env"])
        assert answer.headers["x-amz-executed-version"] == qualifier
    assert seen == {
        "1": ("one", "first"),
        "2": ("two", "second"),
        "$LATEST": ("two", "latest"),
    }
    one = client.get_function_configuration(FunctionName="story", Qualifier="1")
    two = client.get_function_configuration(FunctionName="story", Qualifier="2")
    assert (one["CodeSha256"], one["Timeout"]) == (sha256(story["one"]), 60)
    assert (two["CodeSha256"], two["Timeout"]) == (sha256(story["two"]), 17)
    assert one["Environment"] == {"Variables": {"TAG": "first"}}


def test_an_update_that_publishes_answers_the_version_that_it_made(client, story):
    second = story["second"]
    assert second["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert (second["Version"], second["FunctionArn"]) == ("2", f"{ARN}:story:2")
    assert second["CodeSha256"] == sha256(story["two"])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("story:1", {}),
        ("story", {"Qualifier": "1"}),
        ("story:1", {"Qualifier": "1"}),
        ("000000000000:function:story:1", {}),
        ("function:story:1", {}),
        (f"{ARN}:story:1", {}),
        (f"{ARN}:story", {"Qualifier": "1"}),
    ],
)
def test_every_form_of_a_name_finds_the_version(client, story, name, options):
    answer = invoke(client, name, {"op": "who"}, **options)
    assert answer.ok()["code"] == "one"
    assert answer.headers["x-amz-executed-version"] == "1"
    found = client.get_function(FunctionName=name, **options)["Configuration"]
    assert (found["Version"], found["FunctionArn"]) == ("1", f"{ARN}:story:1")


def test_latest_is_named_in_the_arn_only_when_it_was_asked_for(client, story):
    plain = client.get_function_configuration(FunctionName="story")
    asked = client.get_function_configuration(FunctionName="story", Qualifier="$LATEST")
    assert (plain["Version"], plain["FunctionArn"]) == ("$LATEST", f"{ARN}:story")
    assert (asked["Version"], asked["FunctionArn"]) == ("$LATEST", f"{ARN}:story:$LATEST")


def test_the_function_and_its_log_know_which_version_runs(controller, client, story):
    answer = invoke(client, "story", {"op": "echo"}, Qualifier="1", LogType="Tail")
    answer.ok()
    assert f"START RequestId: {answer.request_id} Version: 1" in answer.log
    versions = {i["version"] for i in controller.instances("story")}
    assert "1" in versions


def test_versions_are_listed_in_pages_latest_first(client, story):
    pages = list(
        client.get_paginator("list_versions_by_function").paginate(
            FunctionName="story", PaginationConfig={"PageSize": 1}
        )
    )
    listed = [version for page in pages for version in page["Versions"]]
    assert [version["Version"] for version in listed] == ["$LATEST", "1", "2"]
    assert [version["FunctionArn"] for version in listed] == [
        f"{ARN}:story:$LATEST",
        f"{ARN}:story:1",
        f"{ARN}:story:2",
    ]
    assert len(pages) == 3


def test_a_list_of_functions_may_have_every_version_in_it(client, story):
    pages = client.get_paginator("list_functions").paginate(
        FunctionVersion="ALL", PaginationConfig={"PageSize": 2}
    )
    listed = [f["FunctionArn"].removeprefix(f"{ARN}:") for page in pages for f in page["Functions"]]
    assert listed == [
        "guest:$LATEST",
        "probe:$LATEST",
        "story:$LATEST",
        "story:1",
        "story:2",
    ]


def test_what_has_not_changed_is_not_published_again(controller, client, story):
    client.create_function(
        FunctionName="steady",
        Runtime="provided",
        Handler="bootstrap",
        Role=ROLE,
        Code={"ZipFile": story["one"]},
        Publish=True,
    )
    wait(client, "function_active_v2", "steady")
    wait(client, "published_version_active", "steady", Qualifier="1")
    again = client.publish_version(FunctionName="steady", Description="another")
    assert again["Version"] == "1"
    assert again["Description"] == ""
    listed = client.list_versions_by_function(FunctionName="steady")["Versions"]
    assert [version["Version"] for version in listed] == ["$LATEST", "1"]
    # A deleted one's number is not given again.
    client.delete_function(FunctionName="steady", Qualifier="1")
    assert client.publish_version(FunctionName="steady")["Version"] == "2"
    client.delete_function(FunctionName="steady")


def test_a_publication_has_to_be_of_what_the_caller_saw(client, story):
    before = client.get_function_configuration(FunctionName="story")
    with pytest.raises(client.exceptions.PreconditionFailedException) as refused:
        client.publish_version(FunctionName="story", RevisionId="not-the-latest")
    assert error_of(refused)[1] == (
        "The Revision Id provided does not match the latest Revision Id. Call the "
        "GetFunction/GetAlias API to retrieve the latest Revision Id"
    )
    stale = sha256(story["one"])
    with pytest.raises(client.exceptions.InvalidParameterValueException) as refused:
        client.publish_version(FunctionName="story", CodeSha256=stale)
    assert error_of(refused)[1] == (
        f"CodeSHA256 ({stale}) is different from current CodeSHA256 in $LATEST "
        f"({before['CodeSha256']}). Please try again with the CodeSHA256 in $LATEST."
    )
    with pytest.raises(client.exceptions.ClientError) as refused:
        client.publish_version(FunctionName="story", Description="x" * 257)
    assert error_of(refused)[0] == "ValidationException"
    after = client.get_function_configuration(FunctionName="story")
    assert after["RevisionId"] == before["RevisionId"]


@pytest.mark.parametrize("qualifier", ["3", "99999999999999999999", "0", "007", "live"])
def test_a_version_that_is_not_there_is_not_found(client, story, qualifier):
    message = f"Function not found: {ARN}:story:{qualifier}"
    calls = [
        lambda: client.get_function(FunctionName="story", Qualifier=qualifier),
        lambda: client.get_function_configuration(FunctionName="story", Qualifier=qualifier),
        lambda: invoke(client, "story", {}, Qualifier=qualifier),
    ]
    for call in calls:
        with pytest.raises(client.exceptions.ResourceNotFoundException) as refused:
            call()
        assert error_of(refused)[1] == message
    if qualifier != "live":
        # It is as good as deleted. An alias is not looked for: see test_aliases.py.
        client.delete_function(FunctionName="story", Qualifier=qualifier)


def test_a_dry_run_of_an_update_changes_nothing(client, story, guest_package):
    before = client.get_function_configuration(FunctionName="story")
    other = tagged(guest_package, "other")
    answer = client.update_function_code(FunctionName="story", ZipFile=other, DryRun=True)
    assert answer["CodeSha256"] == sha256(other)
    after = client.get_function_configuration(FunctionName="story")
    for key in ("CodeSha256", "RevisionId", "LastUpdateStatus"):
        assert after[key] == before[key]
    with pytest.raises(client.exceptions.ClientError):
        client.update_function_code(FunctionName="story", ZipFile=b"no zip", DryRun=True)


def test_a_version_is_served_by_its_own_snapshot_after_a_restart(own_controller, guest_package):
    controller = own_controller()
    client = lambda_client(controller.url)
    client.publish_version(FunctionName="guest")
    wait(client, "published_version_active", "guest", Qualifier="1")
    client.update_function_configuration(
        FunctionName="guest", Environment={"Variables": {"TAG": "later"}}
    )
    wait(client, "function_updated_v2", "guest")
    controller.stop()
    controller.start()
    client = lambda_client(controller.url)
    assert invoke(client, "guest:1", {"op": "who"}).ok()["env"] == "guest"
    assert invoke(client, "guest", {"op": "who"}).ok()["env"] == "later"
    rebuilt = controller.metrics().get("hearth_snapshot_rebuilds_total", 0)
    assert rebuilt == 0


def test_a_version_that_is_killed_in_the_making_is_made_by_the_next_start(own_controller):
    controller = own_controller()
    client = lambda_client(controller.url)
    assert client.publish_version(FunctionName="guest")["State"] == "Pending"
    controller.kill()
    controller.start()
    client = lambda_client(controller.url)
    wait(client, "published_version_active", "guest", Qualifier="1")
    assert invoke(client, "guest:1", {"op": "who"}).ok()["name"] == "guest"


def test_a_deleted_version_takes_its_files_with_it_and_nothing_else(
    controller, client, guest_package
):
    create(client, "pruned", tagged(guest_package, "pruned"))
    until("only its files", lambda: len(snapshots(controller, "pruned")) == 1)
    client.publish_version(FunctionName="pruned")
    wait(client, "published_version_active", "pruned", Qualifier="1")
    assert len(snapshots(controller, "pruned")) == 2
    assert invoke(client, "pruned:1", {"op": "who"}).ok()["code"] == "pruned"
    answer = client.delete_function(FunctionName="pruned", Qualifier="1")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    until("its files are gone", lambda: len(snapshots(controller, "pruned")) == 1)
    assert invoke(client, "pruned", {"op": "who"}).ok()["code"] == "pruned"
    with pytest.raises(client.exceptions.InvalidParameterValueException) as refused:
        client.delete_function(FunctionName="pruned", Qualifier="$LATEST")
    assert error_of(refused)[1] == (
        "$LATEST version cannot be deleted without deleting the function."
    )


def snapshots(controller, name):
    return [p for p in (controller.data / "snapshots" / "function").iterdir() if name in p.name]


def test_while_a_function_is_created_or_updated_it_can_not_be_published(
    controller, client, guest_package
):
    client.create_function(
        FunctionName="hasty",
        Runtime="provided",
        Handler="bootstrap",
        Role=ROLE,
        Code={"ZipFile": guest_package},
    )
    with pytest.raises(client.exceptions.ResourceConflictException) as refused:
        client.publish_version(FunctionName="hasty")
    assert error_of(refused)[1] == (
        "The operation cannot be performed at this time. The function is currently in the "
        "following state: Pending"
    )
    wait(client, "function_active_v2", "hasty")
    # The guest sees this one, so init runs, and the update is still in progress at the next call.
    client.update_function_configuration(
        FunctionName="hasty", Environment={"Variables": {"TAG": "hasty"}}
    )
    with pytest.raises(client.exceptions.ResourceConflictException) as refused:
        client.publish_version(FunctionName="hasty")
    assert error_of(refused)[1] == (
        "The operation cannot be performed at this time. An update is in progress for resource: "
        f"{ARN}:hasty"
    )
    wait(client, "function_updated", "hasty")


def test_the_old_code_serves_until_the_new_is_ready(controller, client, guest_package):
    create(client, "seamless", tagged(guest_package, "old"))
    client.update_function_code(FunctionName="seamless", ZipFile=tagged(guest_package, "new"))
    served = []
    while True:
        settings = client.get_function_configuration(FunctionName="seamless")
        served.append(invoke(client, "seamless", {"op": "who"}).ok()["code"])
        if settings["LastUpdateStatus"] != "InProgress":
            break
    assert settings["LastUpdateStatus"] == "Successful"
    assert served[0] == "old"
    assert served[-1] == "new"
    assert served == sorted(served, reverse=True), "it never goes back"


def test_a_version_whose_init_fails_says_so_and_the_function_serves_on(controller, client):
    """Init looks at its version: what works as $LATEST need not work as a version."""
    source = (
        "import os\n"
        "if os.environ['AWS_LAMBDA_FUNCTION_VERSION'] != '$LATEST':\n"
        "    raise RuntimeError('not as a version')\n"
        "def handler(event, context):\n"
        "    return context.function_version\n"
    )
    create(client, "shy", package.python(source), Runtime="python3.11", Handler="app.handler")
    assert client.publish_version(FunctionName="shy")["State"] == "Pending"

    def settled():
        found = client.get_function_configuration(FunctionName="shy", Qualifier="1")
        return found if found["State"] != "Pending" else None

    found = until("the version is decided", settled, 120)
    assert found["State"] == "Active"
    assert invoke(client, "shy:1", {}).failed()["errorMessage"] == "not as a version"
    assert json.loads(invoke(client, "shy", {}).payload) == "$LATEST"
