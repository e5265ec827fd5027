"""Nothing that the API's model has is ignored.

The tests are generated from botocore's model: every member and header of every operation that the
controller serves is served, or refused by its name. What is accepted on purpose without an echo is
in the tables below, with the reason.
"""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import botocore.session
import pytest
from harness import package
from harness.invocation import ROLE, wait_for
from harness.layout import REPOSITORY

MODEL = botocore.session.get_session().get_service_model("lambda")
FUNCTION = "arn:aws:lambda:us-east-1:000000000000:function:guest"
#: Rows of the tables in docs/api.md; a unit test compares them with the routes.
ROW = re.compile(r"^\| `[A-Z]+ /20\S+` \| `(\w+)` \|", re.MULTILINE)
SERVED = sorted(ROW.findall((REPOSITORY / "docs/api.md").read_text()))

#: What the path of a request says.
PATH = {
    "FunctionName": "guest",
    "LayerName": "model",
    "VersionNumber": "1",
    "Name": "live",
    "StatementId": "model",
    "Resource": quote(FUNCTION, safe=""),
}

#: A good value of each member that none of its form is given here for: see `good`.
VALUES = {
    "FunctionName": "model",
    "StatementId": "one",
    "Name": "other",
    "FunctionVersion": "$LATEST",
    "Role": ROLE,
    "Runtime": "provided",
    "Handler": "bootstrap",
    "Architectures": ["x86_64"],
    "PackageType": "Zip",
    "Layers": [],
    "Tags": {"key": "value"},
    "Environment.Variables": {"KEY": "value"},
    "SnapStart.ApplyOn": "PublishedVersions",
    "TracingConfig.Mode": "Active",
    "LoggingConfig.LogFormat": "JSON",
    "LoggingConfig.SystemLogLevel": "DEBUG",
    "LoggingConfig.LogGroup": "group",
    "Action": "lambda:InvokeFunction",
    "Principal": "*",
    "SourceArn": "arn:aws:s3:::bucket",
    "SourceAccount": "000000000000",
    "EventSourceToken": "token-of-a-source",
    "PrincipalOrgID": "o-0123456789",
    "OrganizationId": "o-0123456789",
    "RoutingConfig.AdditionalVersionWeights": {},
    "CompatibleRuntimes": ["provided"],
    "CompatibleArchitectures": ["x86_64"],
    "DestinationConfig.OnSuccess.Destination": FUNCTION.replace("guest", "probe"),
    "DestinationConfig.OnFailure.Destination": FUNCTION.replace("guest", "probe"),
    "DeadLetterConfig.TargetArn": "",
    "Cors.AllowMethods": ["GET"],
}
#: Where one operation takes other values.
VALUES_OF = {
    ("AddLayerVersionPermission", "Action"): "lambda:GetLayerVersion",
    # SnapStart and tenant isolation exclude each other.
    ("CreateFunction", "SnapStart.ApplyOn"): "None",
}

#: Members that are served without an echo in the answer.
WITHOUT_ECHO = {
    "Code.ZipFile": "the package: CodeSha256 is its hash",
    "Content.ZipFile": "the package: CodeSha256 is its hash",
    "ZipFile": "the package: CodeSha256 is its hash",
    "CodeSha256": "a condition",
    "RevisionId": "a condition",
    "Publish": "what is done: test_versions.py",
    "DryRun": "what is done: test_versions.py",
    "Tags": "ListTags has them: test_tags_policy.py",
    "DeadLetterConfig.TargetArn": "empty asks for nothing; any other is refused: test_event_destinations.py",
    "Layers": "an empty list is shown as no list: test_layers.py",
    "RoutingConfig.AdditionalVersionWeights": "test_aliases.py",
}

#: Values that are refused, of members that are served.
REFUSED_VALUES = {
    "Runtime": "custom",
    "Timeout": 5400,
    "MemorySize": 32_768,
    "EphemeralStorage.Size": 32_768,
    "PackageType": "Image",
    "Architectures": ["arm64"],
}

#: A value of a served header or parameter that its operation refuses: it is read. None for those
#: that take any value, with the test that shows their effect.
REFUSED_PARAMETERS = {
    "Qualifier": "no such",
    "MaxItems": "0",
    "FunctionVersion": "no such",
    "RevisionId": "no such",
    "Arn": "no such",
    "CompatibleArchitecture": "no such",
    "CompatibleRuntime": "no such",
    "InvocationType": "no such",
    "LogType": "no such",
    "ClientContext": "no such",
    "TenantId": "no,such",
    "Marker": None,  # test_sdk.py
    "TagKeys": None,  # test_tags_policy.py
}

#: The body of each operation that takes one, without the members under test.
BODIES: dict[str, dict] = {
    "AddLayerVersionPermission": {
        "StatementId": "one",
        "Action": "lambda:GetLayerVersion",
        "Principal": "*",
    },
    "AddPermission": {"StatementId": "one", "Action": "lambda:InvokeFunction", "Principal": "*"},
    "CreateAlias": {"Name": "other", "FunctionVersion": "$LATEST"},
    "CreateFunction": {
        "FunctionName": "model",
        "Runtime": "provided",
        "Handler": "bootstrap",
        "Role": ROLE,
        # Not an archive, which is found out after everything else.
        "Code": {"ZipFile": "UEs="},
    },
    "CreateFunctionUrlConfig": {"AuthType": "NONE"},
    "PublishLayerVersion": {"Content": {"ZipFile": "UEs="}},
    "PublishVersion": {},
    "PutFunctionConcurrency": {"ReservedConcurrentExecutions": 1},
    "PutFunctionEventInvokeConfig": {"MaximumRetryAttempts": 1},
    "PutProvisionedConcurrencyConfig": {"ProvisionedConcurrentExecutions": 1},
    "TagResource": {"Tags": {"key": "value"}},
    "UpdateAlias": {},
    "UpdateFunctionCode": {},
    "UpdateFunctionConfiguration": {},
    "UpdateFunctionEventInvokeConfig": {"MaximumRetryAttempts": 1},
    "UpdateFunctionUrlConfig": {},
}


@dataclass(frozen=True)
class Member:
    """A member of an operation's input: its path, and its shape in the model."""

    operation: str
    path: tuple[str, ...]
    shape: Any
    #: `body`, `header` or `querystring`, and the name there.
    place: str
    wire: str

    @property
    def dotted(self) -> str:
        return ".".join(self.path)

    def body(self, value: Any) -> dict:
        """An operation's body with this member."""
        body: dict = json.loads(json.dumps(BODIES[self.operation]))
        within = body
        for name in self.path[:-1]:
            within = within.setdefault(name, {})
        within[self.path[-1]] = value
        return body


def members(operation: str) -> Iterator[Member]:
    shape = MODEL.operation_model(operation).input_shape
    if shape is None:
        return
    for name, member in shape.members.items():
        place = member.serialization.get("location", "body")
        wire = member.serialization.get("name", name)
        if place == "body" and shape.serialization.get("payload") == name:
            continue
        if place != "uri":
            yield from leaves(operation, (name,), member, place, wire)


def leaves(operation, path, shape, place, wire) -> Iterator[Member]:
    if shape.type_name != "structure":
        yield Member(operation, path, shape, place, wire)
        return
    for name, member in shape.members.items():
        yield from leaves(operation, (*path, name), member, place, wire)


def wrong(shape) -> Any:
    """A value of another type that asks for something."""
    return "text" if shape.type_name in ("list", "map", "structure") else [7]


def good(member: Member, zip_file: str = "") -> Any:
    """A value that the model allows."""
    if member.path[-1] == "ZipFile":
        return zip_file
    given = VALUES_OF.get((member.operation, member.dotted), VALUES.get(member.dotted))
    return sample(member.shape) if given is None else given


def sample(shape) -> Any:
    match shape.type_name:
        case "string":
            return shape.enum[0] if shape.enum else "a" * max(1, shape.metadata.get("min", 1))
        case "integer" | "long":
            return max(1, shape.metadata.get("min", 1))
        case "double" | "float":
            return float(max(1, shape.metadata.get("min", 1)))
        case "boolean":
            return True
        case "list":
            return [sample(shape.member)]
        case "structure":
            return {name: sample(member) for name, member in shape.members.items()}
        case "blob":
            return base64.b64encode(b"a").decode()
    return {"key": "value"}


def call(controller, operation: str, body: dict | None = None, query=(), headers=None):
    http = MODEL.operation_model(operation).http
    path = http["requestUri"]
    for name, value in PATH.items():
        path = path.replace("{" + name + "}", value)
    extra = "&".join(f"{name}={quote(value, safe='')}" for name, value in query)
    if extra:
        path += ("&" if "?" in path else "?") + extra
    data = b"" if body is None else json.dumps(body).encode()
    return controller.request(http["method"], path, body=data, headers=headers)


def said(answer) -> str:
    body = json.loads(answer.data)
    return body.get("message") or body.get("Message") or ""


def names(answer, member: Member) -> bool:
    """Whether an error names a member, or the structure that it is in, whatever the case, as one or
    several."""
    text = said(answer).lower()
    wanted = {member.path[-1], member.wire} | {member.path[0]} - {"Code", "Content"}
    return any(name.lower().removesuffix("s") in text for name in wanted)


def is_refused(answer, member: Member) -> bool:
    """Whether the member itself is refused, and not its value."""
    kind = answer.headers.get("x-amzn-errortype", "")
    invalid = answer.status == 400 and kind.startswith("InvalidParameterValueException")
    return invalid and names(answer, member)


def found(shown: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(shown, dict) or name not in shown:
            return None
        shown = shown[name]
    return shown


@pytest.fixture(scope="module")
def prepared(shared, guest_package):
    """What operations on an alias, a layer and a URL need."""
    archive = base64.b64encode(guest_package).decode()
    layer = base64.b64encode(package.archive({"file": b"x"})).decode()
    for operation, body in (
        ("CreateAlias", {"Name": "live", "FunctionVersion": "$LATEST"}),
        ("PublishLayerVersion", {"Content": {"ZipFile": layer}}),
    ):
        assert call(shared, operation, body).status == 201
    yield {"function": archive, "layer": layer}
    assert call(shared, "DeleteAlias").status == 204
    for version in ("1", "2"):
        shared.request("DELETE", f"/2018-10-31/layers/model/versions/{version}")


def test_the_model_has_every_operation_of_the_documentation():
    assert set(SERVED) <= set(MODEL.operation_names)
    assert len(SERVED) > 40


def all_members(*places: str) -> list[Member]:
    every = (member for operation in SERVED for member in members(operation))
    return [member for member in every if member.place in places]


@pytest.mark.parametrize("operation", sorted(BODIES))
def test_every_member_of_a_body_is_read_or_refused_by_its_name(controller, prepared, operation):
    """A member of a wrong type is refused only if somebody looks at it."""
    query = [("Qualifier", "live")] if "Provisioned" in operation else []
    for member in all_members("body"):
        if member.operation != operation:
            continue
        answer = call(controller, operation, member.body(wrong(member.shape)), query)
        assert answer.status == 400, f"{member.dotted} is ignored: {answer.data!r}"
        if answer.headers["x-amzn-errortype"].startswith("SerializationException"):
            continue
        assert is_refused(answer, member), f"{member.dotted}: {answer.data!r}"
        answer = call(controller, operation, member.body(good(member)), query)
        assert is_refused(answer, member), f"{member.dotted}: {answer.data!r}"


def test_every_operation_with_a_body_is_looked_at():
    assert {member.operation for member in all_members("body")} == set(BODIES)


@pytest.mark.parametrize(
    "member",
    all_members("header", "querystring"),
    ids=lambda member: f"{member.operation}-{member.wire}",
)
def test_every_header_and_parameter_is_read_or_refused_by_its_name(controller, prepared, member):
    value = REFUSED_PARAMETERS.get(member.path[0], "unset")
    if value is None:
        return
    is_served = value != "unset"
    value = value if is_served else good(member)
    query = [(member.wire, value)] if member.place == "querystring" else []
    headers = {member.wire: value} if member.place == "header" else {}
    answer = call(controller, member.operation, BODIES.get(member.operation), query, headers)
    if is_served:
        assert answer.status in (400, 404, 412), f"{member.wire} is ignored: {answer.data!r}"
    else:
        assert is_refused(answer, member), f"{member.wire}: {answer.data!r}"


@pytest.mark.parametrize("operation", ["CreateFunction", "UpdateFunctionConfiguration"])
def test_values_that_are_not_served_are_refused_by_the_members_name(
    controller, prepared, operation
):
    known = {
        member.dotted: member for member in all_members("body") if member.operation == operation
    }
    for path, value in REFUSED_VALUES.items():
        if path not in known:
            continue
        body = known[path].body(value)
        if operation == "CreateFunction":
            body["Code"] = {"ZipFile": prepared["function"]}
        answer = call(controller, operation, body)
        assert answer.status == 400, f"{path}: {answer.data!r}"
        assert names(answer, known[path]), f"{path}: {said(answer)}"


#: For each operation with a body: what undoes it.
UNDO = {
    "AddLayerVersionPermission": "/2018-10-31/layers/model/versions/1/policy/one",
    "AddPermission": "/2015-03-31/functions/guest/policy/one",
    "CreateAlias": "/2015-03-31/functions/guest/aliases/other",
    "CreateFunction": "/2015-03-31/functions/model",
    "PutFunctionConcurrency": "/2017-10-31/functions/guest/concurrency",
    "UpdateFunctionEventInvokeConfig": "/2019-09-25/functions/guest/event-invoke-config",
    "UpdateFunctionUrlConfig": "/2021-10-31/functions/guest/url",
}
#: In this order: an update changes what a create has made. Without `PutProvisionedConcurrencyConfig`,
#: which needs a published version; test_provisioned.py has it.
ECHOED = (
    "CreateFunction",
    "UpdateFunctionConfiguration",
    "PublishLayerVersion",
    "AddLayerVersionPermission",
    "AddPermission",
    "CreateAlias",
    "UpdateAlias",
    "CreateFunctionUrlConfig",
    "UpdateFunctionUrlConfig",
    "PutFunctionConcurrency",
    "PutFunctionEventInvokeConfig",
    "UpdateFunctionEventInvokeConfig",
)


def test_every_member_that_is_accepted_is_shown(controller, client, prepared):
    for operation in ECHOED:
        accepted: dict[Member, Any] = {}
        body: dict = {}
        for member in all_members("body"):
            if member.operation != operation or member.path[-1] == "RevisionId":
                continue
            probe = call(controller, operation, member.body(wrong(member.shape)))
            if is_refused(probe, member):
                continue
            zip_file = prepared["layer" if "Layer" in operation else "function"]
            value = good(member, zip_file)
            if member.dotted == "Publish":
                value = False
            within = body
            for name in member.path[:-1]:
                within = within.setdefault(name, {})
            within[member.path[-1]] = value
            accepted[member] = value
        answer = call(controller, operation, body)
        assert answer.status in (200, 201), f"{operation}: {answer.data!r}"
        shown = json.loads(answer.data)
        if "Statement" in shown:
            text = json.dumps(json.loads(shown["Statement"]))
            shown = {
                member.path[0]: value
                for member, value in accepted.items()
                if str(value).lower() in text.lower()
            }
        for member, value in accepted.items():
            if member.dotted in WITHOUT_ECHO:
                continue
            assert found(shown, member.path) == value, f"{operation} {member.dotted}: {shown}"
        if operation == "UpdateFunctionConfiguration":
            wait_for(client, "function_updated_v2", "guest")
        if operation in UNDO:
            assert controller.request("DELETE", UNDO[operation]).status == 204
