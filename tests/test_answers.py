"""Answers have the members, the codes and the words of the service's own."""

import hashlib

import pytest
from harness.invocation import ROLE, wait_for

ARN = "arn:aws:lambda:us-east-1:000000000000:function"
LAYER = "arn:aws:lambda:us-east-1:000000000000:layer"

#: What every description of a function has; lists have no more of it.
LISTED = {
    "FunctionName",
    "FunctionArn",
    "Runtime",
    "Role",
    "Handler",
    "CodeSize",
    "Description",
    "Timeout",
    "MemorySize",
    "LastModified",
    "CodeSha256",
    "Version",
    "TracingConfig",
    "RevisionId",
    "PackageType",
    "Architectures",
    "EphemeralStorage",
    "SnapStart",
    "LoggingConfig",
}
WHOLE = LISTED | {"RuntimeVersionConfig", "State"}
BEGUN = {"StateReason", "StateReasonCode"}


def error_of(client, call):
    with pytest.raises(client.exceptions.ClientError) as refused:
        call()
    error = refused.value.response["Error"]
    return error["Code"], error["Message"]


def members(answer):
    return set(answer) - {"ResponseMetadata"}


def settings(package, **options):
    return {
        "FunctionName": "answers",
        "Runtime": "provided",
        "Handler": "bootstrap",
        "Role": ROLE,
        "Code": {"ZipFile": package},
        **options,
    }


def test_a_function_is_shown_with_its_state_by_itself_and_without_in_lists(
    controller, client, guest_package
):
    made = client.create_function(**settings(guest_package, Publish=True))
    assert members(made) == WHOLE | BEGUN, "neither Environment nor LastUpdateStatus"
    assert (made["FunctionArn"], made["Version"]) == (f"{ARN}:answers", "1")
    wait_for(client, "function_active_v2", "answers")
    wait_for(client, "published_version_active", "answers", Qualifier="1")
    for qualifier in ("$LATEST", "1"):
        found = client.get_function_configuration(FunctionName="answers", Qualifier=qualifier)
        assert members(found) == WHOLE | {"LastUpdateStatus"}
        assert found["LastUpdateStatus"] == "Successful"
        assert found["RevisionId"] != made["RevisionId"]
    for listed in (
        client.list_versions_by_function(FunctionName="answers")["Versions"],
        client.list_functions(FunctionVersion="ALL")["Functions"],
        client.list_functions()["Functions"],
    ):
        of_it = [item for item in listed if item["FunctionName"] == "answers"]
        assert of_it
        assert all(members(item) == LISTED for item in of_it)

    # A revision is of the state as well: who saw the function being made has not seen it made.
    code, _ = error_of(
        client,
        lambda: client.update_function_configuration(
            FunctionName="answers", Timeout=9, RevisionId=made["RevisionId"]
        ),
    )
    assert code == "PreconditionFailedException"
    before = client.get_function_configuration(FunctionName="answers")["RevisionId"]
    client.tag_resource(Resource=f"{ARN}:answers", Tags={"a": "b"})
    tagged = client.get_function_configuration(FunctionName="answers")["RevisionId"]
    assert tagged != before
    changed = client.update_function_configuration(
        FunctionName="answers", Environment={"Variables": {}}, RevisionId=tagged
    )
    assert changed["Environment"] == {"Variables": {}}, "there is one now, and it is empty"
    wait_for(client, "function_updated_v2", "answers")
    settled = client.get_function_configuration(FunctionName="answers")
    assert settled["Environment"] == {"Variables": {}}
    assert settled["RevisionId"] != changed["RevisionId"]

    code = client.get_function(FunctionName="answers")["Code"]
    assert members(code) == {"RepositoryType", "Location"}
    package = controller.http.request("GET", code["Location"])
    assert (package.status, package.headers["content-type"]) == (200, "application/zip")
    assert hashlib.sha256(package.data).digest() == hashlib.sha256(guest_package).digest()
    forged = controller.http.request("GET", code["Location"].replace("Expires=1", "Expires=9"))
    assert forged.status == 403
    unsigned = controller.http.request("GET", code["Location"].split("?")[0])
    assert unsigned.status == 403
    error = error_of(
        client,
        lambda: client.update_function_code(FunctionName="answers", ImageUri="registry/image"),
    )
    assert error == (
        "InvalidParameterValueException",
        "Please don't provide ImageUri when updating a function with packageType Zip.",
    )
    client.delete_function(FunctionName="answers")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            {"FunctionName": "a" * 65},
            "InvalidParameterValueException",
            f"1 validation error detected: Value '{'a' * 65}' at 'functionName' failed to satisfy "
            "constraint: Member must have length less than or equal to 64",
        ),
        (
            {"FunctionName": "a" * 141},
            "ValidationException",
            f"1 validation error detected: Value '{'a' * 141}' at 'functionName' failed to satisfy "
            "constraint: Member must have length less than or equal to 140",
        ),
        (
            {"Architectures": ["x86_64", "arm64"]},
            "ValidationException",
            "1 validation error detected: Value '[x86_64, arm64]' at 'architectures' failed to "
            "satisfy constraint: Member must have length less than or equal to 1",
        ),
        (
            {"Architectures": ["X86_64"]},
            "ValidationException",
            "1 validation error detected: Value '[X86_64]' at 'architectures' failed to satisfy "
            "constraint: Member must satisfy constraint: [Member must satisfy enum value set: "
            "[x86_64, arm64], Member must not be null]",
        ),
        (
            {"Code": {"ZipFile": b"x" * 52_428_804}},
            "RequestEntityTooLargeException",
            "Zipped size must be smaller than 52428800 bytes",
        ),
        (
            {"Layers": ["arn:aws:lambda:eu-west-1:000000000000:layer:far:1"]},
            "InvalidParameterValueException",
            "Layers are not in the same region as the function. Layers are expected to be in "
            "region us-east-1.",
        ),
    ],
)
def test_a_function_that_can_not_be_made_is_refused_in_lambdas_words(
    client, guest_package, options, code, message
):
    wanted = settings(guest_package, **options)
    assert error_of(client, lambda: client.create_function(**wanted)) == (code, message)


def clause(value, field, constraint):
    shown = "null" if value is None else f"'{value}'"
    return f"Value {shown} at '{field}' failed to satisfy constraint: {constraint}"


def length(limit):
    return f"Member must have length less than or equal to {limit}"


def least(bound):
    return f"Member must have value greater than or equal to {bound}"


def most(bound):
    return f"Member must have value less than or equal to {bound}"


def enum(*known):
    return f"Member must satisfy enum value set: [{', '.join(known)}]"


NOT_NULL = "Member must not be null"


SETTINGS = {
    "Role": "me",
    "Handler": "a b",
    "Description": "d" * 257,
    "Timeout": 901,
    "MemorySize": 64,
    "TracingConfig": {"Mode": "Loud"},
    "EphemeralStorage": {"Size": 511},
    "SnapStart": {"ApplyOn": "Sometimes"},
    "LoggingConfig": {"LogFormat": "XML", "SystemLogLevel": "ALL"},
}
CLAUSES = [
    clause(
        "me",
        "role",
        "Member must satisfy regular expression pattern: "
        r"arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+",
    ),
    clause("a b", "handler", r"Member must satisfy regular expression pattern: [^\s]+"),
    clause("d" * 257, "description", length(256)),
    clause(901, "timeout", most(900)),
    clause(64, "memorySize", least(128)),
    clause("Loud", "tracingConfig.mode", enum("Active", "PassThrough")),
    clause(511, "ephemeralStorage.size", least(512)),
    clause("Sometimes", "snapStart.applyOn", enum("PublishedVersions", "None")),
    clause("XML", "loggingConfig.logFormat", enum("JSON", "Text")),
    clause("ALL", "loggingConfig.systemLogLevel", enum("DEBUG", "INFO", "WARN")),
]


def refused(client, call):
    """How many violations an answer counts, and their clauses."""
    code, message = error_of(client, call)
    assert code == "ValidationException", message
    head, _, rest = message.partition(" detected: ")
    count, words = head.split(" ", 1)
    assert words == ("validation error" if count == "1" else "validation errors")
    clauses = rest.split("; ")
    assert len(clauses) == int(count)
    return sorted(clauses)


def test_everything_that_is_wrong_with_a_functions_settings_is_told_at_once(client, guest_package):
    # What is looked at later is not told beside it: that there is no such runtime or function.
    wrong = {**settings(guest_package, PackageType="Tar"), **SETTINGS, "Runtime": "cobol"}
    told = refused(client, lambda: client.create_function(**wrong))
    assert told == sorted([*CLAUSES, clause("Tar", "packageType", enum("Zip", "Image"))])
    told = refused(
        client, lambda: client.update_function_configuration(FunctionName="nobody", **SETTINGS)
    )
    assert told == sorted(CLAUSES)
    told = refused(client, lambda: client.create_function(Description="d" * 257))
    assert told == sorted(
        [
            clause(None, "functionName", NOT_NULL),
            clause(None, "code", NOT_NULL),
            clause(None, "role", NOT_NULL),
            clause("d" * 257, "description", length(256)),
        ]
    )


def test_names_of_variables_are_told_without_them_or_their_values(client, guest_package):
    variables = {"1BAD": "s3cret", "FINE": "s3cret"}
    wanted = settings(guest_package, Environment={"Variables": variables}, Timeout=0)
    assert refused(client, lambda: client.create_function(**wanted)) == sorted(
        [
            "Value at 'environment.variables' failed to satisfy constraint: Map keys must satisfy "
            "constraint: [Member must satisfy regular expression pattern: "
            "[a-zA-Z]([a-zA-Z0-9_])+, Member must not be null]",
            clause(0, "timeout", least(1)),
        ]
    )


def test_everything_that_is_wrong_with_a_request_is_told_at_once_by_every_operation(client):
    weights = {"AdditionalVersionWeights": {"2": 2}}
    for call, expected in (
        (
            lambda: client.create_alias(
                FunctionName="nobody", Description="d" * 257, RoutingConfig=weights
            ),
            [
                clause(None, "name", NOT_NULL),
                clause(None, "functionVersion", NOT_NULL),
                clause("d" * 257, "description", length(256)),
                clause(
                    "{2=2.0}",
                    "routingConfig.additionalVersionWeights",
                    "Map value must satisfy constraint: [Member must have value less than or "
                    "equal to 1.0, Member must have value greater than or equal to 0.0, Member "
                    "must not be null]",
                ),
            ],
        ),
        (
            lambda: client.add_permission(FunctionName="nobody", FunctionUrlAuthType="ANY"),
            [
                clause(None, "statementId", NOT_NULL),
                clause(None, "action", NOT_NULL),
                clause(None, "principal", NOT_NULL),
                clause("ANY", "functionUrlAuthType", enum("NONE", "AWS_IAM")),
            ],
        ),
        (
            lambda: client.create_function_url_config(
                FunctionName="nobody", InvokeMode="FAST", Cors={"MaxAge": 86_401}
            ),
            [
                clause(None, "authType", NOT_NULL),
                clause("FAST", "invokeMode", enum("RESPONSE_STREAM", "BUFFERED")),
                clause(86_401, "cors.maxAge", most(86_400)),
            ],
        ),
        (
            lambda: client.put_function_event_invoke_config(
                FunctionName="nobody", MaximumRetryAttempts=3, MaximumEventAgeInSeconds=59
            ),
            [
                clause(3, "maximumRetryAttempts", most(2)),
                clause(59, "maximumEventAgeInSeconds", least(60)),
            ],
        ),
        (
            lambda: client.publish_layer_version(
                LayerName="any", Description="d" * 257, LicenseInfo="l" * 513
            ),
            [
                clause(None, "content", NOT_NULL),
                clause("d" * 257, "description", length(256)),
                clause(("l" * 513)[:300], "licenseInfo", length(512)),
            ],
        ),
        (
            lambda: client.list_functions(MaxItems=10_001),
            [clause(10_001, "maxItems", most(10_000))],
        ),
        (lambda: client.list_functions(MaxItems=0), [clause(0, "maxItems", least(1))]),
    ):
        assert refused(client, call) == sorted(expected)


def test_a_version_that_is_not_there_is_as_good_as_deleted(client):
    for _ in range(2):
        answer = client.delete_function(FunctionName="guest", Qualifier="1233")
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert client.get_function(FunctionName="guest")


def test_a_deletion_says_what_can_not_be_deleted_before_it_looks(client):
    for qualifier, code, message in (
        (
            "$LATEST",
            "InvalidParameterValueException",
            "$LATEST version cannot be deleted without deleting the function.",
        ),
        (
            "-1",
            "InvalidParameterValueException",
            "Deletion of aliases is not currently supported.",
        ),
        ("1", "ResourceNotFoundException", f"Function not found: {ARN}:absent"),
        ("$latest", "ResourceNotFoundException", f"Function not found: {ARN}:absent"),
    ):
        error = error_of(
            client, lambda q=qualifier: client.delete_function(FunctionName="absent", Qualifier=q)
        )
        assert error == (code, message)


def test_what_is_asked_of_a_function_that_is_not_there_names_what_was_looked_for(client):
    for call, message in (
        (
            lambda: client.create_alias(FunctionName="absent", Name="a", FunctionVersion="1"),
            f"Function not found: {ARN}:absent:1",
        ),
        (
            lambda: client.get_provisioned_concurrency_config(
                FunctionName="absent", Qualifier="live"
            ),
            f"Cannot find alias arn: {ARN}:absent:live",
        ),
        (
            lambda: client.remove_permission(FunctionName="absent", StatementId="s"),
            f"No policy found for: {ARN}:absent",
        ),
        (
            lambda: client.delete_function_url_config(FunctionName="absent"),
            "The resource you requested does not exist.",
        ),
        # To Lambda an alias that is not there is no function.
        (
            lambda: client.update_function_url_config(
                FunctionName="guest", Qualifier="gone", AuthType="NONE"
            ),
            "Function does not exist",
        ),
        (
            lambda: client.get_function_code_signing_config(FunctionName="absent"),
            f"Function not found: {ARN}:absent",
        ),
    ):
        assert error_of(client, call) == ("ResourceNotFoundException", message)


def test_permissions_for_what_is_not_there_say_what_that_is(client):
    def add(**options):
        return lambda: client.add_permission(
            **{
                "FunctionName": "guest",
                "StatementId": "s3",
                "Action": "lambda:InvokeFunction",
                "Principal": "s3.amazonaws.com",
                **options,
            }
        )

    for call, code, message in (
        (
            add(Qualifier="gone"),
            "ResourceNotFoundException",
            f"Cannot find alias arn: {ARN}:guest:gone",
        ),
        (
            add(Qualifier="with-$-in-it"),
            "ResourceNotFoundException",
            f"Function not found: {ARN}:guest:with-$-in-it",
        ),
        (add(Qualifier="42"), "ResourceNotFoundException", f"Function not found: {ARN}:guest:42"),
        (
            lambda: client.get_policy(FunctionName="guest", Qualifier="42"),
            "ResourceNotFoundException",
            "The resource you requested does not exist.",
        ),
        (
            lambda: client.remove_permission(
                FunctionName="guest", StatementId="s3", Qualifier="gone"
            ),
            "ResourceNotFoundException",
            f"Cannot find alias arn: {ARN}:guest:gone",
        ),
        # The form comes first.
        (
            add(FunctionName="absent", StatementId="example.com"),
            "ValidationException",
            "1 validation error detected: Value 'example.com' at 'statementId' failed to satisfy "
            "constraint: Member must satisfy regular expression pattern: ([a-zA-Z0-9-_]+)",
        ),
    ):
        assert error_of(client, call) == (code, message)


def test_tags_out_of_the_rules_are_refused_in_lambdas_words(client):
    error = error_of(client, lambda: client.tag_resource(Resource=f"{ARN}:guest", Tags={}))
    assert error == (
        "InvalidParameterValueException",
        "An error occurred and the request cannot be processed.",
    )
    for resource in ("arn:aws:something", f"{ARN[: -len(':function')]}:guest"):
        code, message = error_of(client, lambda r=resource: client.list_tags(Resource=r))
        assert code == "ValidationException"
        assert f"Value '{resource}' at 'resource' failed to satisfy constraint" in message


def test_an_alias_shows_the_weights_that_it_can_not_have_as_lambda_does(client):
    for weight, shown in ((2.0, "2.0"), (-1.0, "-1.0")):
        _, message = error_of(
            client,
            lambda w=weight: client.create_alias(
                FunctionName="guest",
                Name="bad",
                FunctionVersion="1",
                RoutingConfig={"AdditionalVersionWeights": {"2": w}},
            ),
        )
        assert f"Value '{{2={shown}}}' at" in message


def test_a_layer_shows_what_it_was_said_to_be_for_and_can_be_downloaded(
    controller, client, guest_package
):
    total = client.get_account_settings()["AccountUsage"]["TotalCodeSize"]
    said = client.publish_layer_version(
        LayerName="answers",
        Content={"ZipFile": guest_package},
        CompatibleRuntimes=[],
        CompatibleArchitectures=["arm64"],
    )
    assert (said["CompatibleRuntimes"], said["CompatibleArchitectures"]) == ([], ["arm64"])
    silent = client.publish_layer_version(LayerName="answers", Content={"ZipFile": guest_package})
    assert members(silent) == {
        "Content",
        "LayerArn",
        "LayerVersionArn",
        "Description",
        "CreatedDate",
        "Version",
    }
    now = client.get_account_settings()["AccountUsage"]["TotalCodeSize"]
    assert now == total + 2 * len(guest_package)
    found = client.get_layer_version(LayerName="answers", VersionNumber=2)
    package = controller.http.request("GET", found["Content"]["Location"])
    assert package.data == guest_package
    _, message = error_of(
        client,
        lambda: client.create_function(
            **settings(guest_package, Layers=[f"{LAYER}:answers:{n}" for n in (1, 2)])
        ),
    )
    assert message == (
        "Two different versions of the same layer are not allowed to be referenced in the same "
        f"function. {LAYER}:answers:1 and {LAYER}:answers:2 are versions of the same layer."
    )
    for number in (1, 2):
        client.delete_layer_version(LayerName="answers", VersionNumber=number)
    code, message = error_of(client, lambda: client.list_layers(CompatibleArchitecture="z80"))
    assert (code, message.endswith("enum value set: [x86_64, arm64]")) == (
        "ValidationException",
        True,
    )


def test_settings_that_are_the_same_for_all_can_be_read(client):
    assert members(client.get_function_code_signing_config(FunctionName="guest")) == set()
    found = client.get_runtime_management_config(FunctionName="guest")
    assert (found["UpdateRuntimeOn"], found["FunctionArn"]) == ("Auto", f"{ARN}:guest")
