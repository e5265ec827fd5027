"""Layers are published and found as on Lambda, and lie over each other at /opt of a function."""

import base64
import hashlib
import json
import random

import pytest
from harness import package
from harness.deadline import until
from harness.invocation import ROLE, create, invoke, lambda_client, wait_for

LAYER = "arn:aws:lambda:us-east-1:000000000000:layer"


def error_of(refused):
    error = refused.value.response["Error"]
    return error["Code"], error["Message"]


def sha256(archive):
    return base64.b64encode(hashlib.sha256(archive).digest()).decode()


def without(answer, *keys):
    return {k: v for k, v in answer.items() if k not in ("ResponseMetadata", *keys)}


def described(answer):
    """What is the same in all answers about a layer: a link is each answer's own."""
    answer = without(answer)
    content = {k: v for k, v in answer["Content"].items() if k != "Location"}
    return {**answer, "Content": content}


def test_a_layer_is_answered_and_found_by_its_name_and_its_arns(client, layer):
    archive = package.archive({"data": b"x"})
    made = layer(
        "shown",
        archive,
        Description="a description",
        CompatibleRuntimes=["python3.11", "nodejs20.x"],
        CompatibleArchitectures=["x86_64"],
        LicenseInfo="MIT",
    )
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert without(described(made), "CreatedDate") == {
        "LayerArn": f"{LAYER}:shown",
        "LayerVersionArn": f"{LAYER}:shown:1",
        "Version": 1,
        "Description": "a description",
        "CompatibleRuntimes": ["python3.11", "nodejs20.x"],
        "CompatibleArchitectures": ["x86_64"],
        "LicenseInfo": "MIT",
        "Content": {"CodeSha256": sha256(archive), "CodeSize": len(archive)},
    }
    for found in (
        client.get_layer_version(LayerName="shown", VersionNumber=1),
        client.get_layer_version(LayerName=f"{LAYER}:shown", VersionNumber=1),
        client.get_layer_version_by_arn(Arn=f"{LAYER}:shown:1"),
    ):
        assert described(found) == described(made)


def test_versions_count_up_are_listed_newest_first_and_never_given_twice(client, layer):
    for n in (1, 2, 3):
        runtimes = ["python3.11"] if n == 2 else ["provided"]
        made = layer("counted", {"n": b"%d" % n}, CompatibleRuntimes=runtimes)
        assert made["Version"] == n
    pages = list(
        client.get_paginator("list_layer_versions").paginate(
            LayerName="counted", PaginationConfig={"PageSize": 2}
        )
    )
    assert [v["Version"] for page in pages for v in page["LayerVersions"]] == [3, 2, 1]
    assert len(pages) == 2
    [listed] = client.list_layers()["Layers"]
    assert (listed["LayerName"], listed["LayerArn"]) == ("counted", f"{LAYER}:counted")
    assert listed["LatestMatchingVersion"]["Version"] == 3
    [listed] = client.list_layers(CompatibleRuntime="python3.11")["Layers"]
    assert listed["LatestMatchingVersion"]["Version"] == 2
    assert client.list_layers(CompatibleRuntime="java21")["Layers"] == []
    answer = client.delete_layer_version(LayerName="counted", VersionNumber=3)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    client.delete_layer_version(LayerName="counted", VersionNumber=3)
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_layer_version(LayerName="counted", VersionNumber=3)
    assert layer("counted", {"n": b"4"})["Version"] == 4


READER = """
import os

import shared_module


def handler(event, context):
    seen = {}
    for folder, _, names in os.walk("/opt"):
        for name in names:
            path = os.path.join(folder, name)
            seen[path.removeprefix("/opt/")] = open(path).read()
    return {"opt": seen, "imported": shared_module.WHO}
"""


def test_a_version_has_a_policy_that_is_kept_and_given_back(client, layer):
    layer("granted", {"data": b"x"})
    version = {"LayerName": "granted", "VersionNumber": 1}
    for_all = {**version, "Action": "lambda:GetLayerVersion", "Principal": "*"}
    statement = {
        "Sid": "s1",
        "Effect": "Allow",
        "Principal": "*",
        "Action": "lambda:GetLayerVersion",
        "Resource": f"{LAYER}:granted:1",
    }
    added = client.add_layer_version_permission(**for_all, StatementId="s1")
    assert added["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert json.loads(added["Statement"]) == statement
    found = client.get_layer_version_policy(**version)
    assert found["RevisionId"] == added["RevisionId"]
    document = {"Version": "2012-10-17", "Id": "default", "Statement": [statement]}
    assert json.loads(found["Policy"]) == document
    second = client.add_layer_version_permission(
        **{**for_all, "Principal": "123456789012"},
        StatementId="s2",
        OrganizationId="o-0123456789",
        RevisionId=added["RevisionId"],
    )
    assert json.loads(second["Statement"]) == {
        **statement,
        "Sid": "s2",
        "Principal": {"AWS": "arn:aws:iam::123456789012:root"},
        "Condition": {"StringEquals": {"aws:PrincipalOrgID": "o-0123456789"}},
    }
    removed = client.remove_layer_version_permission(**version, StatementId="s2")
    assert removed["ResponseMetadata"]["HTTPStatusCode"] == 204
    found = client.get_layer_version_policy(**version)
    assert json.loads(found["Policy"]) == document
    assert len({added["RevisionId"], second["RevisionId"], found["RevisionId"]}) == 3
    client.remove_layer_version_permission(**version, StatementId="s1")
    with pytest.raises(client.exceptions.ResourceNotFoundException) as refused:
        client.get_layer_version_policy(**version)
    assert error_of(refused)[1] == "No policy is associated with the given resource."


def test_what_a_layers_policy_refuses_it_refuses_in_lambdas_words(client, layer):
    layer("refusing", {"data": b"x"})
    version = {"LayerName": "refusing", "VersionNumber": 1}
    permission = {"Action": "lambda:GetLayerVersion", "Principal": "*", "StatementId": "s1"}
    client.add_layer_version_permission(**version, **permission)

    def add(**changed):
        return client.add_layer_version_permission(**{**version, **permission, **changed})

    def remove(**changed):
        return client.remove_layer_version_permission(**{**version, "StatementId": "s1", **changed})

    def get(**changed):
        return client.get_layer_version_policy(**{**version, **changed})

    stale = (
        "The Revision Id provided does not match the latest Revision Id. Call the GetLayerPolicy "
        "API to retrieve the latest Revision Id"
    )
    absent = f"Layer version {LAYER}:%s does not exist."
    pattern = "failed to satisfy constraint: Member must satisfy regular expression pattern: "
    for call, changed, code, message in (
        (
            add,
            {"Action": "*"},
            "ValidationException",
            f"1 validation error detected: Value '*' at 'action' {pattern}lambda:GetLayerVersion",
        ),
        (
            add,
            {"Principal": "s3.amazonaws.com"},
            "ValidationException",
            f"1 validation error detected: Value 's3.amazonaws.com' at 'principal' {pattern}"
            r"\d{12}|\*|arn:(aws[a-zA-Z-]*):iam::\d{12}:root",
        ),
        (
            add,
            {},
            "ResourceConflictException",
            "The statement id (s1) provided already exists. Please provide a new statement id, or "
            "remove the existing statement.",
        ),
        (
            add,
            {"StatementId": "s2", "RevisionId": "stale"},
            "PreconditionFailedException",
            stale,
        ),
        (remove, {"RevisionId": "stale"}, "PreconditionFailedException", stale),
        (
            remove,
            {"StatementId": "other"},
            "ResourceNotFoundException",
            "Statement other is not found in resource policy.",
        ),
        *(
            (call, changed, "ResourceNotFoundException", absent % which)
            for call in (add, get, remove)
            for changed, which in (
                ({"LayerName": "nowhere"}, "nowhere:1"),
                ({"VersionNumber": 2}, "refusing:2"),
            )
        ),
    ):
        with pytest.raises(client.exceptions.ClientError) as refused:
            call(**changed)
        assert error_of(refused) == (code, message)
    assert len(json.loads(get()["Policy"])["Statement"]) == 1


def test_lists_leave_out_a_description_that_is_empty(client, layer):
    assert layer("terse", {"n": b"1"})["Description"] == ""
    [version] = client.list_layer_versions(LayerName="terse")["LayerVersions"]
    [listed] = client.list_layers()["Layers"]
    for shown in (version, listed["LatestMatchingVersion"]):
        assert shown["Version"] == 1
        assert "Description" not in shown


def test_layers_lie_over_each_other_in_their_order(client, layer):
    below = layer("below", {"a": b"below", "b": b"below", "python/shared_module.py": b"WHO = 1\n"})
    above = layer("above", {"b": b"above", "c/d": b"above"})
    arns = [below["LayerVersionArn"], above["LayerVersionArn"]]
    made = create(
        client,
        "reader",
        package.python(READER),
        Runtime="python3.11",
        Handler="app.handler",
        Layers=arns,
    )
    assert [used["Arn"] for used in made["Layers"]] == arns
    assert made["Layers"][0]["CodeSize"] == below["Content"]["CodeSize"]
    seen = invoke(client, "reader", {}).ok()
    assert seen["imported"] == 1
    files = {k: v for k, v in seen["opt"].items() if "__pycache__" not in k}
    assert files == {
        "a": "below",
        "b": "above",
        "c/d": "above",
        "python/shared_module.py": "WHO = 1\n",
    }
    client.update_function_configuration(FunctionName="reader", Layers=arns[::-1])
    wait_updated(client, "reader")
    assert invoke(client, "reader", {}).ok()["opt"]["b"] == "below"


def wait_updated(client, name):
    wait_for(client, "function_updated_v2", name)


def test_a_runtime_may_come_from_a_layer_and_stays_when_the_layer_is_deleted(
    own_controller, guest_package
):
    controller = own_controller()
    client = lambda_client(controller.url)
    archive = package.archive({"bootstrap": package.compiled(guest_package)})
    made = client.publish_layer_version(LayerName="runtime", Content={"ZipFile": archive})
    arn = made["LayerVersionArn"]
    create(client, "thin", package.archive({"tag": b"thin"}), Layers=[arn])
    assert invoke(client, "thin", {"op": "who"}).ok()["code"] == "thin"
    client.delete_layer_version(LayerName="runtime", VersionNumber=1)
    # Made anew from the package, which is the function's now.
    client.update_function_configuration(
        FunctionName="thin", Environment={"Variables": {"TAG": "thin"}}
    )
    wait_updated(client, "thin")
    controller.stop()
    controller.start()
    client = lambda_client(controller.url)
    assert invoke(client, "thin", {"op": "who"}).ok()["code"] == "thin"
    stored = {path.name for path in (controller.data / "packages").iterdir()}
    assert hashlib.sha256(archive).hexdigest() in stored
    client.delete_function(FunctionName="thin")
    stored = {path.name for path in (controller.data / "packages").iterdir()}
    assert hashlib.sha256(archive).hexdigest() not in stored

    def left():
        return [p.name for p in (controller.data / "images").iterdir() if "layers" in p.name]

    # With the instance that had it last.
    until("its image is gone as well", lambda: left() == [])


def test_layers_out_of_the_rules_are_refused_in_lambdas_words(client, layer, guest_package):
    one, two = (layer("twice", {"n": n})["LayerVersionArn"] for n in (b"1", b"2"))
    six = [layer(f"six{n}", {"n": b"x"})["LayerVersionArn"] for n in range(6)]
    gone = f"{LAYER}:twice:9"
    for layers, code, message in (
        (six, "InvalidParameterValueException", "Cannot reference more than 5 layers."),
        ([gone], "InvalidParameterValueException", f"Layer version {gone} does not exist."),
        ([one, two], "InvalidParameterValueException", "Two different versions of the same layer"),
        ([f"{LAYER}:twice"], "ValidationException", "at 'layers' failed to satisfy constraint"),
        (["twice"], "ValidationException", "at 'layers' failed to satisfy constraint"),
    ):
        with pytest.raises(client.exceptions.ClientError) as refused:
            client.create_function(
                FunctionName="layered",
                Runtime="provided",
                Handler="bootstrap",
                Role=ROLE,
                Code={"ZipFile": guest_package},
                Layers=layers,
            )
        assert error_of(refused)[0] == code
        assert message in error_of(refused)[1]
        with pytest.raises(client.exceptions.ClientError) as refused:
            client.update_function_configuration(FunctionName="guest", Layers=layers)
        assert error_of(refused)[0] == code
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_function(FunctionName="layered")
    assert "Layers" not in client.get_function_configuration(FunctionName="guest")


def test_code_and_layers_have_one_limit_together(client, layer, guest_package):
    half = package.archive({"zeros": bytes(140 << 20)})
    arns = [layer(f"half{n}", half)["LayerVersionArn"] for n in (1, 2)]
    with pytest.raises(client.exceptions.InvalidParameterValueException) as refused:
        client.update_function_configuration(FunctionName="guest", Layers=arns)
    assert error_of(refused)[1].startswith(
        "Function code combined with layers exceeds the maximum allowed size of 262144000 bytes. "
        "The actual size is "
    )


BAD_ARCHIVES = {
    "no zip": b"this is not a zip archive",
    "climbing out": package.archive({"../../x": b"x"}),
    "too large unpacked": package.archive({f"z{n}": bytes(64 << 20) for n in range(4)}),
}


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_a_hostile_archive_is_refused_and_leaves_nothing(controller, client, kind):
    before = sorted(str(p) for p in controller.data.rglob("*") if "log" not in p.name)
    with pytest.raises(client.exceptions.InvalidParameterValueException):
        client.publish_layer_version(LayerName="bad", Content={"ZipFile": BAD_ARCHIVES[kind]})
    assert client.list_layer_versions(LayerName="bad")["LayerVersions"] == []
    assert sorted(str(p) for p in controller.data.rglob("*") if "log" not in p.name) == before


def test_a_layer_over_fifty_megabytes_or_with_a_bad_name_is_refused(controller, client):
    noise = package.archive({"noise": random.Random(1).randbytes(51 << 20)})
    with pytest.raises(client.exceptions.ClientError) as refused:
        client.publish_layer_version(LayerName="bad", Content={"ZipFile": noise})
    assert error_of(refused)[0] in (
        "InvalidParameterValueException",
        "RequestEntityTooLargeException",
    )
    good = package.archive({"x": b"x"})
    for options in (
        {"LayerName": "a b"},
        {"LayerName": "x" * 141},
        {"Description": "x" * 257},
        {"CompatibleArchitectures": ["mips"]},
        {"CompatibleRuntimes": ["python3.11"] * 16},
    ):
        settings = {"LayerName": "bad", "Content": {"ZipFile": good}, **options}
        with pytest.raises(client.exceptions.ClientError) as refused:
            client.publish_layer_version(**settings)
        assert error_of(refused)[0] == "ValidationException", options
    for number in (0, -1):
        with pytest.raises(client.exceptions.InvalidParameterValueException) as refused:
            client.get_layer_version(LayerName="bad", VersionNumber=number)
        assert error_of(refused)[1] == "Layer Version Cannot be less than 1"
