"""Whatever a client sends, the answer is an error of Lambda's, and nothing of it stays."""

import base64
import io
import json
import random
import stat
import struct
import zipfile
from urllib.parse import quote

import pytest
from harness.invocation import ROLE, invoke, wait_for

API = "/2015-03-31/functions"
ARN = "arn:aws:lambda:us-east-1:000000000000:function:guest"


def post(controller, body, path=API):
    data = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
    return controller.request("POST", path, body=data)


def settings(name="invalid", package=b"", **changes):
    return {
        "FunctionName": name,
        "Runtime": "provided",
        "Handler": "bootstrap",
        "Role": ROLE,
        "Code": {"ZipFile": base64.b64encode(package).decode()},
        **changes,
    }


def error_type(answer):
    return answer.headers["x-amzn-errortype"].split(":")[0]


def is_lambda_error(answer, *statuses):
    assert answer.status in statuses, f"{answer.status}: {answer.data[:500]!r}"
    assert answer.headers["x-amzn-requestid"]
    body = json.loads(answer.data)
    assert {key.lower() for key in body} >= {"message"}, body
    return error_type(answer)


@pytest.mark.parametrize(
    "name",
    [
        "guest",
        "guest:$LATEST",
        "000000000000:function:guest",
        "function:guest",
        ARN,
        f"{ARN}:$LATEST",
    ],
)
def test_every_form_of_a_name_finds_the_function(controller, client, name):
    assert invoke(client, name, {"op": "who"}).ok()["name"] == "guest"


@pytest.mark.parametrize("safe", ["", ":", ":$"])
def test_names_may_be_percent_encoded_or_not(controller, client, safe):
    path = f"{API}/{quote(ARN + ':$LATEST', safe=safe)}/invocations"
    answer = post(controller, {"op": "who"}, path)
    assert json.loads(answer.data)["name"] == "guest"


def test_a_trailing_slash_changes_nothing(controller, client):
    assert controller.get(f"{API}/").status == 200
    assert controller.get(f"{API}/guest/").status == 200


@pytest.mark.parametrize(
    "name",
    [
        "a/b",
        "../etc/passwd",
        "a b",
        "a\0b",
        "a\nb",
        "x" * 65,
        "x" * 10_000,
        "é",
        "a:b:c:d",
        "arn:aws:lambda:us-east-1:000000000000:function:",
        "arn:aws:s3:::bucket",
        "arn:aws:lambda:us-east-1:12:function:guest",
        "guest:no such qualifier",
        "guest:" + "q" * 129,
        "%",
    ],
)
def test_a_name_out_of_pattern_is_refused_by_every_route(controller, client, name):
    segment = quote(name, safe="")
    for answer in (
        post(controller, {}, f"{API}/{segment}/invocations"),
        controller.get(f"{API}/{segment}"),
        controller.request("DELETE", f"{API}/{segment}"),
        post(controller, settings(name)),
    ):
        assert is_lambda_error(answer, 400, 404, 413, 414) in (
            "ValidationException",
            "InvalidParameterValueException",
            "ResourceNotFoundException",
            "RequestTooLargeException",
        )


def test_another_accounts_or_regions_arn_is_refused_in_lambdas_words(controller, client):
    def call(arn):
        return post(controller, {}, f"{API}/{quote(arn, safe='')}/invocations")

    answer = call(ARN.replace("000000000000", "123456789012"))
    assert is_lambda_error(answer, 403) == "AccessDeniedException"
    assert answer.data == b'{"Message":null}'
    answer = call(ARN.replace("us-east-1", "eu-west-1"))
    assert is_lambda_error(answer, 404) == "ResourceNotFoundException"
    assert json.loads(answer.data)["Message"] == (
        "Functions from 'eu-west-1' are not reachable in this region ('us-east-1')"
    )


def test_an_unknown_qualifier_or_function_is_not_found(controller, client):
    for path in (
        f"{API}/nobody/invocations",
        f"{API}/guest/invocations?Qualifier=17",
        f"{API}/guest/invocations?Qualifier=live",
        f"{API}/guest:live/invocations",
    ):
        assert is_lambda_error(post(controller, {}, path), 404) == "ResourceNotFoundException"


LIST = "Start of list found where not expected"
STRUCTURE = "Start of structure or map found where not expected."


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"7",
        b'"text"',
        b"\xff",
        b'{"Timeout": 3,}',
        b"[" * 50_000,
        b'{"FunctionName":"a","FunctionName":"b"}',
    ],
    ids=lambda body: repr(body[:30]),
)
def test_a_body_that_is_no_json_object_is_refused_in_clear_words(controller, client, body):
    for method, path in (
        ("POST", API),
        ("PUT", f"{API}/guest/configuration"),
        ("PUT", f"{API}/guest/code"),
        ("POST", f"{API}/guest/aliases"),
        ("PUT", "/2019-09-25/functions/guest/event-invoke-config"),
        ("POST", "/2018-10-31/layers/any/versions"),
    ):
        answer = controller.request(method, path, body=body)
        assert is_lambda_error(answer, 400) == "SerializationException", path
        said = json.loads(answer.data)
        assert list(said) == ["Message"]
        assert said["Message"].startswith("The request body is not "), path


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"FunctionName": 7}, "NUMBER_VALUE can not be converted to a String"),
        ({"Description": True}, "TRUE_VALUE can not be converted to a String"),
        ({"Timeout": "3"}, "STRING_VALUE can not be converted to an Integer"),
        ({"MemorySize": False}, "FALSE_VALUE can not be converted to an Integer"),
        ({"Timeout": [3]}, LIST),
        ({"Timeout": {}}, STRUCTURE),
        ({"Publish": 1}, "NUMBER_VALUE can not be converted to a Boolean"),
        ({"Layers": "one"}, "Expected list or null"),
        ({"Layers": {}}, STRUCTURE),
        ({"Layers": [7]}, "NUMBER_VALUE can not be converted to a String"),
        ({"Environment": "A=1"}, "Expected null"),
        ({"Environment": {"Variables": ["A"]}}, LIST),
        ({"Environment": {"Variables": "A=1"}}, "Expected map or null"),
        (
            {"Environment": {"Variables": {"A": 1}}},
            "NUMBER_VALUE can not be converted to a String",
        ),
        ({"TracingConfig": 5}, "Expected null"),
        ({"Code": {"ZipFile": 5}}, "NUMBER_VALUE can not be converted to a String"),
        ({"Tags": []}, LIST),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_a_member_of_another_type_is_told_before_anything_else_is_looked_at(
    controller, client, members, message
):
    # Everything else that is wrong with it would be told later.
    answer = post(controller, {"Role": "nobody", **members})
    assert is_lambda_error(answer, 400) == "SerializationException"
    assert json.loads(answer.data) == {"Message": message}
    if members.keys() & {"FunctionName", "Code", "Publish", "Tags"}:
        return
    answer = controller.request(
        "PUT", f"{API}/nobody/configuration", body=json.dumps(members).encode()
    )
    assert is_lambda_error(answer, 400) == "SerializationException"
    assert json.loads(answer.data) == {"Message": message}


def test_a_body_that_is_a_list_is_told_so(controller, client):
    answer = post(controller, b"[]")
    assert is_lambda_error(answer, 400) == "SerializationException"
    assert json.loads(answer.data) == {"Message": LIST}


def test_members_that_are_null_or_unknown_are_as_if_they_were_not_there(controller, client):
    body = {"Timeout": None, "Environment": None, "Layers": None, "Unknown": [{}]}
    answer = controller.request(
        "PUT", f"{API}/guest/configuration", body=json.dumps({**body, "Description": "x"}).encode()
    )
    assert answer.status == 200, answer.data
    shown = json.loads(answer.data)
    assert (shown["Timeout"], shown["Description"]) == (60, "x")
    wait_for(client, "function_updated_v2", "guest")


@pytest.mark.parametrize(
    "changes",
    [
        {"Runtime": "cobol85"},
        {"Runtime": None},
        {"Handler": "x" * 129},
        {"Handler": "white space"},
        {"Timeout": 0},
        {"Timeout": 901},
        {"Timeout": "3"},
        {"Timeout": 1.5},
        {"MemorySize": 127},
        {"MemorySize": 10_241},
        {"MemorySize": -128},
        {"EphemeralStorage": {"Size": 511}},
        {"EphemeralStorage": {"Size": 10_241}},
        {"Environment": {"Variables": {"1BAD": "x"}}},
        {"Environment": {"Variables": {"X": "a name of one letter"}}},
        {"Environment": {"Variables": {"A=B": "x"}}},
        {"Environment": {"Variables": {"AWS_REGION": "mars"}}},
        {"Environment": {"Variables": {"BIG": "x" * 4097}}},
        {"Environment": {"Variables": {"NUL": "a\0b"}}},
        {"Environment": {"Variables": ["A"]}},
        {"Architectures": ["arm64"]},
        {"PackageType": "Image"},
        {"Role": None},
        {"Code": {}},
        {"Code": {"ZipFile": "not base64!"}},
        {"Code": {"ZipFile": 5}},
        {"Description": "x" * 257},
    ],
    ids=lambda changes: json.dumps(changes)[:60],
)
def test_a_setting_out_of_range_is_refused(controller, client, guest_package, changes):
    answer = post(controller, {**settings(package=guest_package), **changes})
    is_lambda_error(answer, 400)
    assert controller.get(f"{API}/invalid").status == 404


def made(*entries):
    """A ZIP of (name, content, mode) entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(info, content)
    return buffer.getvalue()


FILE = stat.S_IFREG | 0o755
GOOD = made(("bootstrap", b"#!/bin/sh\n", FILE))


def encrypted():
    """The good one with its encryption bits set."""
    broken = bytearray(GOOD)
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = broken.index(signature) + offset
        broken[at : at + 2] = struct.pack("<H", 1)
    return bytes(broken)


def lying_about_its_size():
    """A bomb whose directory says it is small."""
    bomb = bytearray(made(("bootstrap", b"\0" * (64 << 20), FILE)))
    for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        at = bomb.index(signature) + offset
        bomb[at : at + 4] = struct.pack("<I", 10)
    return bytes(bomb)


def duplicate():
    """Two entries of one name, which zipfile would warn about."""
    two = made(("bootstrap", b"first", FILE), ("bootstraq", b"second", FILE))
    return two.replace(b"bootstraq", b"bootstrap")


def corrupt():
    """The good one with a byte of its data changed: the checksum no longer fits."""
    broken = bytearray(GOOD)
    at = 30 + len("bootstrap") + 2
    broken[at] ^= 0x55
    return bytes(broken)


BAD_ARCHIVES = {
    "empty": b"",
    "no zip": b"this is not a zip archive",
    "truncated": GOOD[: len(GOOD) // 2],
    "without its directory": GOOD[: GOOD.index(b"PK\1\2")],
    "climbing out": made(("../../bootstrap", b"x", FILE)),
    "climbing out, backwards": made(("..\\..\\bootstrap", b"x", FILE)),
    "absolute": made(("/etc/cron.d/x", b"x", FILE)),
    "a symlink out": made(("bootstrap", b"/etc/shadow", stat.S_IFLNK | 0o777)),
    "a symlink to the root, then a file in it": made(
        ("d", b"/", stat.S_IFLNK | 0o777), ("d/bootstrap", b"x", FILE)
    ),
    "a device": made(("null", b"", stat.S_IFCHR | 0o666)),
    "duplicate names": duplicate(),
    "a file that is also a folder": made(("a", b"x", FILE), ("a/b", b"x", FILE)),
    "encrypted": encrypted(),
    "a NUL in a name": made(("bootstrap", b"x", FILE), ("a\x01b", b"x", FILE)).replace(
        b"a\x01b", b"a\0b"
    ),
    "a name too long": made(("n" * 300, b"x", FILE)),
    "lying about its size": lying_about_its_size(),
    "corrupt data": corrupt(),
}


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_a_hostile_archive_is_refused_and_leaves_nothing(controller, client, kind):
    before = sorted(str(p) for p in controller.data.rglob("*") if "log" not in p.name)
    answer = post(controller, settings(package=BAD_ARCHIVES[kind]))
    if answer.status == 201:
        # Taken at the door, refused at the unpacking: the function must say so.
        waiter = client.get_waiter("function_active_v2")
        with pytest.raises(Exception, match="terminal failure"):
            waiter.wait(FunctionName="invalid", WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        pytest.fail(f"a bad archive was accepted and failed only later: {kind}")
    assert is_lambda_error(answer, 400, 502) in (
        "InvalidParameterValueException",
        "InvalidZipFileException",
        "ValidationException",
    )
    assert controller.get(f"{API}/invalid").status == 404
    assert sorted(str(p) for p in controller.data.rglob("*") if "log" not in p.name) == before


def test_a_bomb_is_refused_by_what_it_would_unpack_to(controller, client):
    """262,144,000 bytes is the limit; zeros pack a thousand to one."""
    bomb = made(*((f"zeros{n}", b"\0" * (64 << 20), FILE) for n in range(4)))
    assert len(bomb) < 1 << 20
    answer = post(controller, settings(package=bomb))
    assert is_lambda_error(answer, 400) == "InvalidParameterValueException"
    assert "262144000" in json.loads(answer.data)["message"]


def test_a_package_over_fifty_megabytes_is_refused(controller, client):
    noise = random.Random(1).randbytes(51 << 20)
    answer = post(controller, settings(package=made(("noise", noise, FILE))))
    assert is_lambda_error(answer, 400, 413) in (
        "InvalidParameterValueException",
        "RequestEntityTooLargeException",
    )


def test_unknown_paths_and_methods_are_told_apart_from_functions(controller, client):
    assert controller.get("/").status == 404
    assert controller.get("/2015-03-31/nonsense").status == 404
    assert controller.request("PATCH", f"{API}/guest").status in (404, 405)


@pytest.mark.parametrize("kind", ["Sideways", "requestresponse"])
def test_an_unknown_invocation_type_is_refused(controller, client, kind):
    answer = controller.request(
        "POST",
        f"{API}/guest/invocations",
        body=b'{"op":"echo"}',
        headers={"X-Amz-Invocation-Type": kind},
    )
    is_lambda_error(answer, 400)


@pytest.mark.parametrize("context", ["not base64!", "bm90IGpzb24=", "x" * 3584])
def test_a_client_context_that_is_none_is_refused(controller, client, context):
    answer = controller.request(
        "POST",
        f"{API}/guest/invocations",
        body=b'{"op":"echo"}',
        headers={"X-Amz-Client-Context": context},
    )
    is_lambda_error(answer, 400, 413)
