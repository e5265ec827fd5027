"""Tags and policies are kept with a function and given back as on Lambda."""

import contextlib
import json

import pytest
from harness.invocation import create, lambda_client, wait_for

ARN = "arn:aws:lambda:us-east-1:000000000000:function"
GUEST = f"{ARN}:guest"


def error_of(refused):
    error = refused.value.response["Error"]
    return error["Code"], error["Message"]


def permission(sid, **options):
    return {
        "FunctionName": "guest",
        "StatementId": sid,
        "Action": "lambda:InvokeFunction",
        "Principal": "s3.amazonaws.com",
        **options,
    }


@pytest.fixture
def granted(client):
    """Adds permissions to `guest` that are gone after the test."""
    sids = []

    def add(sid, **options):
        answer = client.add_permission(**permission(sid, **options))
        sids.append((sid, options.get("Qualifier")))
        return answer

    yield add
    for sid, qualifier in sids:
        options = {"Qualifier": qualifier} if qualifier else {}
        with contextlib.suppress(client.exceptions.ResourceNotFoundException):
            client.remove_permission(FunctionName="guest", StatementId=sid, **options)


def test_tags_are_added_changed_and_removed(client, guest_package):
    create(client, "tagged", guest_package, Tags={"team": "blue", "stage": "test"})
    arn = f"{ARN}:tagged"
    assert client.list_tags(Resource=arn)["Tags"] == {"team": "blue", "stage": "test"}
    answer = client.tag_resource(Resource=arn, Tags={"team": "red", "cost": "1 € / month"})
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    expected = {"team": "red", "stage": "test", "cost": "1 € / month"}
    assert client.list_tags(Resource=arn)["Tags"] == expected
    assert client.get_function(FunctionName="tagged")["Tags"] == expected
    answer = client.untag_resource(Resource=arn, TagKeys=["team", "stage", "unknown"])
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert client.list_tags(Resource=arn)["Tags"] == {"cost": "1 € / month"}
    # They are not what it is deployed from: nothing is to be published.
    assert client.publish_version(FunctionName="tagged")["Version"] == "1"
    client.tag_resource(Resource=arn, Tags={"more": "tags"})
    wait_for(client, "published_version_active", "tagged", Qualifier="1")
    assert client.publish_version(FunctionName="tagged")["Version"] == "1"


def test_more_than_fifty_tags_are_refused_and_none_of_them_kept(client):
    with pytest.raises(client.exceptions.InvalidParameterValueException) as refused:
        client.tag_resource(Resource=GUEST, Tags={f"key{n}": "v" for n in range(51)})
    assert error_of(refused)[1] == "Number of tags exceeds resource tag limit."
    for bad in ({"k" * 129: "v"}, {"k": "v" * 257}):
        with pytest.raises(client.exceptions.ClientError) as refused:
            client.tag_resource(Resource=GUEST, Tags=bad)
        assert error_of(refused)[0] == "ValidationException"
    assert client.list_tags(Resource=GUEST)["Tags"] == {}


def test_tags_belong_to_functions_by_their_full_arn(client):
    for resource, code in (
        (f"{ARN}:nobody", "ResourceNotFoundException"),
        (f"{GUEST}:$LATEST", "InvalidParameterValueException"),
        (f"{GUEST}:live", "InvalidParameterValueException"),
        ("guest", "ValidationException"),
        ("arn:aws:s3:::bucket", "ValidationException"),
    ):
        for call in (
            lambda r=resource: client.list_tags(Resource=r),
            lambda r=resource: client.tag_resource(Resource=r, Tags={"a": "b"}),
            lambda r=resource: client.untag_resource(Resource=r, TagKeys=["a"]),
        ):
            with pytest.raises(client.exceptions.ClientError) as refused:
                call()
            assert error_of(refused)[0] == code, resource


def test_a_permission_is_answered_and_found_as_lambda_writes_it(client, granted):
    before = client.get_function_configuration(FunctionName="guest")["RevisionId"]
    answer = granted(
        "from-s3",
        SourceArn="arn:aws:s3:::bucket",
        SourceAccount="123456789012",
        PrincipalOrgID="o-abcdefghij",
    )
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 201
    statement = {
        "Sid": "from-s3",
        "Effect": "Allow",
        "Principal": {"Service": "s3.amazonaws.com"},
        "Action": "lambda:InvokeFunction",
        "Resource": GUEST,
        "Condition": {
            "StringEquals": {
                "AWS:SourceAccount": "123456789012",
                "aws:PrincipalOrgID": "o-abcdefghij",
            },
            "ArnLike": {"AWS:SourceArn": "arn:aws:s3:::bucket"},
        },
    }
    assert json.loads(answer["Statement"]) == statement
    granted("for-all", Principal="*", Action="lambda:*")
    found = client.get_policy(FunctionName="guest")
    policy = json.loads(found["Policy"])
    assert (policy["Version"], policy["Id"]) == ("2012-10-17", "default")
    assert [s["Sid"] for s in policy["Statement"]] == ["from-s3", "for-all"]
    assert policy["Statement"][0] == statement
    assert policy["Statement"][1]["Principal"] == "*"
    assert found["RevisionId"] != before
    function = client.get_function_configuration(FunctionName="guest")
    assert function["RevisionId"] == found["RevisionId"]


def test_a_permission_is_removed_and_the_policy_with_the_last_one(client, granted):
    granted("one")
    granted("two")
    answer = client.remove_permission(FunctionName="guest", StatementId="one")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    policy = json.loads(client.get_policy(FunctionName="guest")["Policy"])
    assert [s["Sid"] for s in policy["Statement"]] == ["two"]
    with pytest.raises(client.exceptions.ResourceNotFoundException) as refused:
        client.remove_permission(FunctionName="guest", StatementId="one")
    assert error_of(refused)[1] == "Statement one is not found in resource policy."
    client.remove_permission(FunctionName="guest", StatementId="two")
    with pytest.raises(client.exceptions.ResourceNotFoundException) as refused:
        client.remove_permission(FunctionName="guest", StatementId="two")
    assert error_of(refused)[1] == "No policy is associated with the given resource."
    with pytest.raises(client.exceptions.ResourceNotFoundException) as refused:
        client.get_policy(FunctionName="guest")
    assert error_of(refused)[1] == "The resource you requested does not exist."


def test_aliases_have_policies_of_their_own_that_go_with_them(client, granted):
    client.create_alias(FunctionName="guest", Name="live", FunctionVersion="$LATEST")
    answer = granted("of-the-alias", Qualifier="live")
    assert json.loads(answer["Statement"])["Resource"] == f"{GUEST}:live"
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_policy(FunctionName="guest")
    found = client.get_policy(FunctionName="guest", Qualifier="live")
    alias = client.get_alias(FunctionName="guest", Name="live")
    assert found["RevisionId"] == alias["RevisionId"]
    client.delete_alias(FunctionName="guest", Name="live")
    client.create_alias(FunctionName="guest", Name="live", FunctionVersion="$LATEST")
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_policy(FunctionName="guest", Qualifier="live")
    client.delete_alias(FunctionName="guest", Name="live")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"StatementId": "a b"}, "ValidationException"),
        ({"StatementId": "x" * 101}, "ValidationException"),
        ({"Action": "s3:GetObject"}, "ValidationException"),
        ({"Action": "lambda:"}, "ValidationException"),
        ({"Principal": "somebody"}, "InvalidParameterValueException"),
        ({"FunctionUrlAuthType": "BASIC"}, "ValidationException"),
        ({"Qualifier": "$LATEST"}, "InvalidParameterValueException"),
        ({"Qualifier": "live"}, "ResourceNotFoundException"),
        ({"RevisionId": "stale"}, "PreconditionFailedException"),
        ({"FunctionName": "nobody"}, "ResourceNotFoundException"),
    ],
)
def test_a_permission_out_of_the_rules_is_refused_and_not_kept(client, options, code):
    with pytest.raises(client.exceptions.ClientError) as refused:
        client.add_permission(**permission("bad", **options))
    assert error_of(refused)[0] == code
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_policy(FunctionName="guest")


def test_a_statement_id_is_taken_once_and_a_policy_has_a_limit(client, granted):
    granted("once")
    with pytest.raises(client.exceptions.ResourceConflictException) as refused:
        client.add_permission(**permission("once"))
    assert error_of(refused)[1] == (
        "The statement id (once) provided already exists. Please provide a new statement id, or "
        "remove the existing statement."
    )
    with pytest.raises(client.exceptions.PolicyLengthExceededException) as refused:
        client.add_permission(**permission("long", SourceArn="arn:aws:s3:::" + "b" * 20_480))
    assert "is bigger than the limit (20480)" in error_of(refused)[1]
    policy = json.loads(client.get_policy(FunctionName="guest")["Policy"])
    assert [s["Sid"] for s in policy["Statement"]] == ["once"]


def test_tags_and_policies_survive_a_restart(own_controller):
    controller = own_controller()
    client = lambda_client(controller.url)
    client.tag_resource(Resource=GUEST, Tags={"kept": "yes"})
    client.add_permission(**permission("kept"))
    before = client.get_policy(FunctionName="guest")
    controller.kill()
    controller.start()
    client = lambda_client(controller.url)
    assert client.list_tags(Resource=GUEST)["Tags"] == {"kept": "yes"}
    after = client.get_policy(FunctionName="guest")
    assert (after["Policy"], after["RevisionId"]) == (before["Policy"], before["RevisionId"])
