"""Who may call a controller that others can reach: access keys, signatures, permissions."""

import datetime
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import stat
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import urllib3
from botocore.exceptions import ClientError
from harness import host, layout, signatures
from harness.command import curl, run
from harness.invocation import create, invoke, lambda_client

FUNCTIONS = "/2015-03-31/functions"
INVOKE = FUNCTIONS + "/guest/invocations"


def own_address():
    """An address of this machine that is not loopback; no packet is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return probe.getsockname()[0]
        except OSError:
            return "0.0.0.0"


def make_key(data, name, *permissions):
    """A key made by `hearth keys create`, as id and secret."""
    made = run(
        layout.HEARTH, "keys", "create", name, *permissions, "--data-dir", data, "--json"
    ).json()
    return made["access_key_id"], made["secret_access_key"]


def revoke_key(data, name):
    run(layout.HEARTH, "keys", "revoke", name, "--data-dir", data).ok()


def boto(guarded, key, **options):
    return lambda_client(
        guarded.url, aws_access_key_id=key[0], aws_secret_access_key=key[1], **options
    )


def environment(key):
    return {"AWS_ACCESS_KEY_ID": key[0], "AWS_SECRET_ACCESS_KEY": key[1]}


@pytest.fixture(scope="module")
def guarded(start_controller, tmp_path_factory):
    """A controller on every address of this machine, a key that administers and one that may invoke
    `gue*` alone."""
    before = host.Host.now()
    folder = tmp_path_factory.mktemp("guarded")
    keys = {}

    def prepare(data):
        keys["admin"] = make_key(data, "anna", "--admin")
        keys["caller"] = make_key(data, "shop", "--invoke", "gue*", "--invoke", "no-such")

    controller = start_controller(
        folder,
        *("--listen", "0.0.0.0:0", "--metrics-listen", "127.0.0.1:0"),
        prepare=prepare,
    )
    yield SimpleNamespace(
        controller=controller,
        data=controller.data,
        url=f"http://{own_address()}:{controller.port}",
        http=controller.http,
        **keys,
    )
    assert controller.stop() == 0
    host.assert_nothing_left(before)
    log = controller.log.read_text()
    assert not any(secret in log for _, secret in keys.values()), "a secret is in the log"
    shutil.rmtree(folder)


def send(guarded, request):
    """Sends what botocore signed as it is."""
    prepared = request.prepare()
    return guarded.http.request(
        prepared.method,
        prepared.url,
        body=prepared.body,
        headers=dict(prepared.headers.items()),
    )


def refusal(answer):
    """Status, type and message of a refusal, in whichever case its key is."""
    body = json.loads(answer.data)
    message = body.get("message", body.get("Message"))
    return answer.status, answer.headers["x-amzn-errortype"], message


def signed(guarded, method, path, body=b"", key=None, headers=None, **options):
    return signatures.signed(
        method,
        guarded.url + path,
        headers or {},
        body,
        key=key or guarded.admin,
        region="us-east-1",
        **options,
    )


def hash_of(body):
    return hashlib.sha256(body).hexdigest()


def ago(**span):
    return datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(**span)


# The start.


@pytest.mark.parametrize("program", ["hearthd", "hearth serve"])
def test_an_open_address_without_a_key_is_refused_with_what_to_do(program, tmp_path):
    words = [layout.BIN / program.split()[0], *program.split()[1:]]
    data = tmp_path / "data"
    told = run(*words, "--listen", "0.0.0.0:0", "--data-dir", data)
    assert told.status != 0
    for said in ("0.0.0.0:0", f"hearth keys create NAME --admin --data-dir {data}", "--insecure"):
        assert said in told.err, told.err
    assert not (data / "registry.db").exists()


def test_insecure_is_open_to_all_and_says_so(own_controller):
    controller = own_controller("--listen", "0.0.0.0:0", "--insecure")
    url = f"http://{own_address()}:{controller.port}"
    assert invoke(lambda_client(url), "guest", {"op": "echo"}).ok() == {"op": "echo"}
    assert any("without authentication" in w for w in controller.status()["warnings"])


def test_signatures_can_be_required_on_loopback_too(own_controller):
    controller = own_controller()
    assert controller.get(FUNCTIONS).status == 200
    controller.stop()
    controller.arguments = ("--require-signatures",)
    controller.launch()
    assert controller.process.wait(30) != 0
    assert "hearth keys create" in controller.log_text()
    key = make_key(controller.data, "k", "--admin")
    controller.start()
    assert controller.get(FUNCTIONS).status == 403
    assert boto(SimpleNamespace(url=controller.url), key).list_functions()["Functions"]


# Clients that sign.


def test_boto3_deploys_invokes_and_deletes_with_a_key(guarded, guest_package):
    client = boto(guarded, guarded.admin)
    created = create(client, "signed", guest_package, Environment={"Variables": {"TAG": "s"}})
    assert created["State"] == "Active"
    answer = invoke(client, "signed", {"op": "who"}, LogType="Tail", ClientContext="e30=")
    assert answer.ok()["env"] == "s"
    assert "START RequestId" in answer.log
    arn = created["FunctionArn"]
    assert invoke(client, arn, {"op": "echo"}, Qualifier="$LATEST").ok() == {"op": "echo"}
    assert client.invoke(FunctionName="signed", InvocationType="DryRun")["StatusCode"] == 204
    pages = client.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 1})
    names = [f["FunctionName"] for page in pages for f in page["Functions"]]
    assert {"signed", "guest", "probe"} <= set(names)
    client.delete_function(FunctionName="signed")
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_function(FunctionName="signed")


def test_the_largest_payload_is_signed_and_a_larger_one_refused(guarded):
    client = boto(guarded, guarded.caller)
    text = "x" * (6_291_556 - len('{"op":"size","pad":""}'))
    answer = invoke(client, "guest", {"op": "size", "pad": text})
    assert answer.status == 200
    with pytest.raises(client.exceptions.RequestTooLargeException):
        invoke(client, "guest", {"op": "size", "pad": text + "x"})


def test_the_aws_cli_works_with_a_key_and_not_without(aws, guarded, tmp_path):
    out = tmp_path / "out.json"
    guest = ("--function-name", "guest", "--payload", '{"op":"echo"}')
    words = ("invoke", *guest, *aws.text, str(out))
    assert aws(guarded, *words, env=environment(guarded.caller)).json()["StatusCode"] == 200
    assert json.loads(out.read_text()) == {"op": "echo"}
    refused = aws(guarded, *words)
    assert refused.status != 0
    assert "UnrecognizedClientException" in refused.err
    listed = aws(guarded, "list-functions", env=environment(guarded.admin)).json()
    assert "guest" in [f["FunctionName"] for f in listed["Functions"]]


def test_curl_signs_for_itself(guarded):
    told = curl(
        *("--aws-sigv4", "aws:amz:us-east-1:lambda", "--user", ":".join(guarded.admin)),
        guarded.url + FUNCTIONS + "/guest/configuration",
    )
    assert json.loads(told.ok())["FunctionName"] == "guest"


def hearth(guarded, key, *words):
    env = {"HEARTH_ENDPOINT": guarded.url, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    return run(layout.HEARTH, *words, env={**env, **(environment(key) if key else {})})


def test_hearth_itself_signs_with_a_key_from_the_environment(guarded):
    listed = hearth(guarded, guarded.admin, "ls", "--json").json()
    assert "guest" in [f["FunctionName"] for f in listed]
    for name in ("guest", "guest:$LATEST"):
        done = hearth(guarded, guarded.caller, "invoke", name, "-d", '{"op":"echo"}')
        assert json.loads(done.ok()) == {"op": "echo"}
    assert "START" in hearth(guarded, guarded.admin, "logs", "guest").ok()
    unsigned = hearth(guarded, None, "ls")
    assert unsigned.status == 1
    assert "AWS_ACCESS_KEY_ID" in unsigned.err and "hearth keys create" in unsigned.err
    wrong = hearth(guarded, (guarded.admin[0], "wrong"), "ls")
    assert wrong.status == 1
    assert "InvalidSignatureException" in wrong.err


def test_a_presigned_url_works_alone_until_it_expires_and_for_nothing_else(guarded):
    client = boto(guarded, guarded.admin)
    url = client.generate_presigned_url("get_function", {"FunctionName": "guest"}, ExpiresIn=60)
    assert "X-Amz-Signature" in url
    answer = guarded.http.request("GET", url)
    assert json.loads(answer.data)["Configuration"]["FunctionName"] == "guest"
    assert guarded.http.request("DELETE", url).status == 403
    assert guarded.http.request("GET", url.replace("/guest", "/probe")).status == 403
    assert guarded.http.request("GET", url.replace("Expires=60", "Expires=600")).status == 403
    old = signed(guarded, "GET", FUNCTIONS, now=ago(seconds=61), expires=60)
    status, kind, message = refusal(send(guarded, old))
    assert (status, kind) == (403, "InvalidSignatureException")
    assert message.startswith("Signature expired: ")
    young = signed(guarded, "POST", INVOKE, now=ago(seconds=50), expires=60)
    assert send(guarded, young).status == 200


# Refusals.


def test_what_is_not_signed_is_told_so_wherever_it_goes(guarded):
    for method, path in (
        ("GET", FUNCTIONS),
        ("POST", FUNCTIONS),
        ("POST", INVOKE),
        ("DELETE", FUNCTIONS + "/guest"),
        ("GET", FUNCTIONS + "/no-such"),
        ("GET", "/hearth/v1/status"),
        ("GET", "/hearth/v1/instances"),
        ("GET", "/hearth/v1/functions/guest/logs"),
        ("GET", "/hearth/v1/functions/guest/logs/follow"),
        ("POST", "/hearth/v1/bench/agent-ping?function=guest"),
        ("GET", "/metrics"),
        ("GET", "/no/such/path"),
        ("PATCH", FUNCTIONS),
        ("GET", "//healthz"),
        ("GET", "/healthz/../metrics"),
    ):
        answer = guarded.http.request(method, guarded.url + path)
        assert refusal(answer) == (
            403,
            "MissingAuthenticationTokenException",
            "Missing Authentication Token",
        ), path
        assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-amzn-requestid"])


def test_each_wrong_signature_gets_its_own_error(guarded):
    unknown = ("HRTHNOTTHEREATALL222", guarded.admin[1])
    wrong = (guarded.admin[0], guarded.caller[1])
    for options, kind, said in (
        ({"key": unknown}, "UnrecognizedClientException", "The security token included"),
        ({"key": wrong}, "InvalidSignatureException", "The request signature we calculated"),
        ({"token": "session"}, "UnrecognizedClientException", "The security token included"),
        ({"now": ago(minutes=6)}, "InvalidSignatureException", "Signature expired: "),
        ({"now": ago(minutes=-6)}, "InvalidSignatureException", "Signature not yet current: "),
        (
            {"service": "s3"},
            "InvalidSignatureException",
            "Credential should be scoped to correct service: 'lambda'. ",
        ),
    ):
        answer = refusal(send(guarded, signed(guarded, "GET", FUNCTIONS, **options)))
        assert answer[:2] == (403, kind), options
        assert answer[2].startswith(said), answer
    bearer = guarded.http.request(
        "GET", guarded.url + FUNCTIONS, headers={"Authorization": "Bearer abc"}
    )
    assert refusal(bearer)[:2] == (403, "IncompleteSignatureException")
    client = boto(guarded, wrong)
    with pytest.raises(ClientError) as raised:
        client.list_functions()
    assert raised.value.response["Error"]["Code"] == "InvalidSignatureException"
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_a_replay_is_good_as_long_as_its_date_and_for_that_request_alone(guarded):
    request = signed(guarded, "POST", INVOKE, b'{"op":"echo"}', now=ago(minutes=4))
    assert send(guarded, request).status == 200
    assert send(guarded, request).status == 200
    headers = dict(request.headers.items())
    for method, path, body in (
        ("POST", INVOKE, b'{"op":"who"}'),
        ("POST", INVOKE, b""),
        ("POST", INVOKE.replace("guest", "probe"), b'{"op":"echo"}'),
        ("POST", INVOKE + "?Qualifier=%24LATEST", b'{"op":"echo"}'),
        ("DELETE", FUNCTIONS + "/guest", b""),
    ):
        answer = guarded.http.request(method, guarded.url + path, body=body, headers=headers)
        assert refusal(answer)[:2] == (403, "InvalidSignatureException"), path
    dry = guarded.http.request(
        "POST",
        guarded.url + INVOKE,
        body=b'{"op":"echo"}',
        headers={**headers, "X-Amz-Invocation-Type": "DryRun"},
    )
    assert refusal(dry)[:2] == (403, "InvalidSignatureException")
    late = signed(guarded, "POST", INVOKE, b'{"op":"echo"}', now=ago(minutes=5, seconds=2))
    assert refusal(send(guarded, late))[2].startswith("Signature expired: ")


def test_a_body_changed_on_the_way_does_not_run(guarded):
    before = len(guarded_logs(guarded))
    for declared in ({}, {"X-Amz-Content-SHA256": hash_of(b'{"op":"echo"}')}):
        request = signed(guarded, "POST", INVOKE, b'{"op":"echo"}', headers=declared)
        answer = guarded.http.request(
            "POST",
            guarded.url + INVOKE,
            body=b'{"op":"exit"}',
            headers=dict(request.headers.items()),
        )
        assert refusal(answer)[:2] == (403, "InvalidSignatureException")
    assert len(guarded_logs(guarded)) == before


def guarded_logs(guarded):
    answer = send(guarded, signed(guarded, "GET", "/hearth/v1/functions/guest/logs"))
    assert answer.status == 200, answer.data
    return answer.data.splitlines()


def test_a_body_in_chunks_is_signed_like_any_other(guarded):
    body = b'{"op":"echo"}'
    request = signed(guarded, "POST", INVOKE, body)
    target = urlsplit(guarded.url)
    peer = http.client.HTTPConnection(target.hostname, target.port, timeout=60)
    peer.request(
        "POST",
        INVOKE,
        body=iter([body[:5], body[5:]]),
        headers={**dict(request.headers.items()), "Transfer-Encoding": "chunked"},
        encode_chunked=True,
    )
    answer = peer.getresponse()
    assert (answer.status, answer.read()) == (200, body)
    peer.close()


def test_nobody_without_a_key_gets_a_body_read(guarded):
    """The refusal comes on the headers alone, while the body is still to be sent."""
    forged = (guarded.admin[0], "forged")
    hashed = {"X-Amz-Content-SHA256": hash_of(b"x" * 6_000_000)}
    for request in (
        signed(guarded, "POST", INVOKE, key=("HRTHNOTTHEREATALL222", "x")),
        signed(guarded, "POST", INVOKE, now=ago(minutes=6)),
        signed(guarded, "POST", INVOKE, key=forged, headers=hashed),
    ):
        target = urlsplit(guarded.url)
        with socket.create_connection((target.hostname, target.port), timeout=30) as peer:
            lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
            peer.sendall(
                f"POST {INVOKE} HTTP/1.1\r\nHost: {target.netloc}\r\n{lines}"
                "Content-Length: 6000000\r\n\r\n".encode()
            )
            assert peer.recv(65536).startswith(b"HTTP/1.1 403 ")


# Permissions and keys.


def test_a_key_that_invokes_does_nothing_else(guarded):
    client = boto(guarded, guarded.caller)
    assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}
    for call, action, resource in (
        (
            lambda: client.invoke(FunctionName="probe"),
            "lambda:InvokeFunction",
            "arn:aws:lambda:us-east-1:000000000000:function:probe",
        ),
        (lambda: client.list_functions(), "lambda:ListFunctions", "*"),
        (
            lambda: client.get_function(FunctionName="guest"),
            "lambda:GetFunction",
            "arn:aws:lambda:us-east-1:000000000000:function:guest",
        ),
        (
            lambda: client.delete_function(FunctionName="guest"),
            "lambda:DeleteFunction",
            "arn:aws:lambda:us-east-1:000000000000:function:guest",
        ),
    ):
        with pytest.raises(ClientError) as raised:
            call()
        error = raised.value.response["Error"]
        assert error["Code"] == "AccessDeniedException"
        assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
        assert error["Message"] == (
            f"User: arn:aws:iam::000000000000:user/shop is not authorized to perform: {action} on "
            f"resource: {resource} because no identity-based policy allows the {action} action"
        )
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.invoke(FunctionName="no-such")
    for path in (
        "/hearth/v1/status",
        "/hearth/v1/functions/guest/logs",
        "/hearth/v1/functions/guest/logs/follow",
        "/metrics",
    ):
        answer = send(guarded, signed(guarded, "GET", path, key=guarded.caller))
        assert refusal(answer)[:2] == (403, "AccessDeniedException"), path


def test_every_way_of_naming_a_function_names_it_for_permissions_too(guarded):
    client = boto(guarded, guarded.caller)
    place = "us-east-1:000000000000"
    for name in (
        "guest:$LATEST",
        "000000000000:function:guest",
        f"arn:aws:lambda:{place}:function:guest",
    ):
        assert invoke(client, name, {"op": "echo"}).ok() == {"op": "echo"}
    for name in ("probe:$LATEST", f"arn:aws:lambda:{place}:function:probe"):
        with pytest.raises(ClientError) as raised:
            invoke(client, name, {})
        assert raised.value.response["Error"]["Code"] == "AccessDeniedException"
    for path in (
        INVOKE.replace("guest", "%70robe"),
        FUNCTIONS + "/guest%2F..%2Fprobe/invocations",
        FUNCTIONS + "/guest/../probe/invocations",
        FUNCTIONS + "//probe/invocations",
        INVOKE.replace("guest", "probe") + "/",
    ):
        answer = send(guarded, signed(guarded, "POST", path, b"{}", key=guarded.caller))
        assert 400 <= answer.status < 500, (path, answer.status)


def test_a_running_controller_sees_keys_come_and_go(guarded):
    key = make_key(guarded.data, "visitor", "--invoke", "guest")
    client = boto(guarded, key)
    assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}
    revoke_key(guarded.data, "visitor")
    with pytest.raises(ClientError) as raised:
        invoke(client, "guest", {"op": "echo"})
    assert raised.value.response["Error"]["Code"] == "UnrecognizedClientException"
    assert boto(guarded, guarded.admin).list_functions()["Functions"]


def test_a_secret_is_shown_once_and_kept_for_the_owner_alone(tmp_path):
    data = tmp_path / "data"
    told = run(layout.HEARTH, "keys", "create", "anna", "--admin", "--data-dir", data)
    lines = dict(line.split("=") for line in told.ok().splitlines())
    secret = lines["AWS_SECRET_ACCESS_KEY"]
    assert re.fullmatch("HRTH[A-Z2-7]{16}", lines["AWS_ACCESS_KEY_ID"])
    assert len(secret) == 40
    for words in (("list",), ("list", "--json"), ("revoke", "anna", "--json")):
        shown = run(layout.HEARTH, "keys", *words, "--data-dir", data).ok()
        assert "anna" in shown and secret not in shown
    make_key(data, "shop", "--invoke", "a*")
    held = data / "access-keys.json"
    assert stat.S_IMODE(held.stat().st_mode) == 0o600
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    listed = run(layout.HEARTH, "keys", "list", "--data-dir", data, "--json").json()
    assert [(k["name"], k["admin"], k["invoke"]) for k in listed] == [("shop", False, ["a*"])]
    os.chmod(held, 0o644)
    told = run(layout.HEARTH, "keys", "list", "--data-dir", data)
    assert told.status == 3 and "chmod 600" in told.err


def test_keys_that_can_not_be_made_or_revoked_say_why(tmp_path):
    def keys(*words):
        return run(layout.HEARTH, "keys", *words, "--data-dir", tmp_path)

    assert keys("create", "k").status == 1
    assert "a-z" in keys("create", "a/b", "--admin").err
    assert "pattern" in keys("create", "k", "--invoke", "a b").err
    keys("create", "k", "--admin").ok()
    again = keys("create", "k", "--admin")
    assert again.status == 1 and "already" in again.err
    gone = keys("revoke", "no-such")
    assert gone.status == 1 and "hearth keys list" in gone.err


# What stays open.


def test_health_is_open_and_metrics_are_for_administrators_or_an_address_of_their_own(guarded):
    for path in ("/healthz", "/readyz"):
        assert guarded.http.request("GET", guarded.url + path).status == 200
    answer = send(guarded, signed(guarded, "GET", "/metrics"))
    assert answer.status == 200 and b"hearth_shells" in answer.data
    url = re.search(r"metrics on (http://127\.0\.0\.1:\d+)/metrics", guarded.controller.log_text())
    own = url.group(1)
    assert b"hearth_shells" in guarded.http.request("GET", own + "/metrics").data
    assert guarded.http.request("GET", own + "/readyz").status == 200
    for path in (FUNCTIONS, "/hearth/v1/status", INVOKE):
        assert guarded.http.request("GET", own + path).status == 404


def test_loopback_takes_any_signature_and_none(controller, client):
    assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}
    old = signatures.signed(
        "GET", controller.url + FUNCTIONS, {}, b"", now=ago(days=400), service="s3"
    )
    headers = dict(old.headers.items())
    assert urllib3.request("GET", controller.url + FUNCTIONS, headers=headers).status == 200
    assert controller.get(FUNCTIONS).status == 200


def test_the_unit_tests_signatures_are_botocores():
    held = layout.REPOSITORY / "controller" / "src" / "auth" / "botocore.json"
    assert json.loads(held.read_text()) == json.loads(signatures.document())
