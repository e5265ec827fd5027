"""Function URLs: plain HTTP in front of a function."""

import gzip
import json
import re
import shutil
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError
from harness import host, layout, package, signatures
from harness.command import run
from harness.deadline import until
from harness.invocation import create, invoke, lambda_client, wait_for

WEB = {"Runtime": "python3.11", "Handler": "app.handler"}


@pytest.fixture(scope="module")
def web(start_controller, tmp_path_factory):
    """A controller with the function `web`, which has a URL open to all."""
    before = host.Host.now()
    folder = tmp_path_factory.mktemp("web")
    controller = start_controller(folder)
    client = lambda_client(controller.url)
    create(client, "web", package.folder(layout.FUNCTIONS / "web"), **WEB)
    client.create_function_url_config(FunctionName="web", AuthType="NONE")
    yield SimpleNamespace(
        controller=controller, client=client, url=controller.by_path("web"), http=controller.http
    )
    assert controller.stop() == 0
    host.assert_nothing_left(before)
    shutil.rmtree(folder)


def get(web, path, method="GET", **options):
    return web.http.request(method, web.url.rstrip("/") + path, **options)


@pytest.fixture
def config(web):
    """Sets the configuration of the URL for one test."""
    yield lambda **wanted: web.client.update_function_url_config(FunctionName="web", **wanted)
    web.client.delete_function_url_config(FunctionName="web")
    web.client.create_function_url_config(FunctionName="web", AuthType="NONE")


# Configuration.


def test_a_url_is_made_read_changed_listed_and_deleted(web):
    client = web.client
    with pytest.raises(client.exceptions.ResourceNotFoundException) as raised:
        client.get_function_url_config(FunctionName="guest")
    assert "The resource you requested does not exist." in str(raised.value)
    cors = {"AllowOrigins": ["*"], "AllowMethods": ["GET"], "MaxAge": 60}
    made = client.create_function_url_config(FunctionName="guest", AuthType="AWS_IAM", Cors=cors)
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    host = rf"http://[0-9a-z]{{32}}\.lambda-url\.localhost:{web.controller.port}/"
    assert re.fullmatch(host, made["FunctionUrl"])
    assert made["FunctionArn"].endswith(":function:guest")
    assert (made["AuthType"], made["Cors"]) == ("AWS_IAM", cors)
    assert "InvokeMode" not in made, "it was not given"
    with pytest.raises(client.exceptions.ResourceConflictException) as raised:
        client.create_function_url_config(FunctionName="guest", AuthType="NONE")
    assert "FunctionUrlConfig exists for this Lambda function" in str(raised.value)
    changed = client.update_function_url_config(FunctionName="guest", AuthType="NONE")
    assert (changed["AuthType"], changed["Cors"]) == ("NONE", cors)
    assert "InvokeMode" not in changed, "it was not given"
    read = client.get_function_url_config(FunctionName="guest")
    for field in ("FunctionUrl", "AuthType", "Cors", "CreationTime", "LastModifiedTime"):
        assert read[field] == changed[field], field
    assert read["InvokeMode"] == "BUFFERED"
    listed = client.list_function_url_configs(FunctionName="guest")["FunctionUrlConfigs"]
    assert [c["FunctionUrl"] for c in listed] == [made["FunctionUrl"]]
    deleted = client.delete_function_url_config(FunctionName="guest")
    assert deleted["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert not client.list_function_url_configs(FunctionName="guest")["FunctionUrlConfigs"]
    assert web.controller.by_host("GET", made["FunctionUrl"]).status == 403


def test_what_is_no_configuration_is_refused_with_lambdas_error(web):
    client = web.client
    for wanted, kind in (
        ({"AuthType": "BASIC"}, "ValidationException"),
        ({}, "ValidationException"),
        ({"AuthType": "NONE", "InvokeMode": "STREAM"}, "ValidationException"),
        ({"AuthType": "NONE", "Cors": {"MaxAge": 86401}}, "ValidationException"),
        ({"AuthType": "NONE", "Cors": {"AllowMethods": ["BREW"]}}, "ValidationException"),
        ({"AuthType": "NONE", "Cors": {"AllowOrigins": ["a\r\nb"]}}, "ValidationException"),
        ({"AuthType": "NONE", "Cors": {"AllowOrigins": ["*"] * 101}}, "ValidationException"),
        ({"AuthType": "NONE", "Qualifier": "$LATEST"}, "ValidationException"),
        ({"AuthType": "NONE", "Qualifier": "1"}, "ValidationException"),
        ({"AuthType": "NONE", "Qualifier": "nobody"}, "ResourceNotFoundException"),
    ):
        with pytest.raises(ClientError) as raised:
            client.create_function_url_config(FunctionName="guest", **wanted)
        assert raised.value.response["Error"]["Code"] == kind, wanted
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.create_function_url_config(FunctionName="no-such", AuthType="NONE")


def test_the_aws_cli_makes_and_deletes_a_url(aws, web):
    words = ("--function-name", "probe")
    made = aws(web.controller, "create-function-url-config", *words, "--auth-type", "NONE").json()
    assert web.controller.by_host("GET", made["FunctionUrl"]).status != 403
    aws(web.controller, "delete-function-url-config", *words).ok()
    assert web.controller.by_host("GET", made["FunctionUrl"]).status == 403


def test_a_url_outlives_the_controller_and_ends_with_its_function(own_controller, guest_package):
    controller = own_controller()
    client = lambda_client(controller.url)
    client.create_function_url_config(FunctionName="guest", AuthType="NONE")
    before = client.get_function_url_config(FunctionName="guest")
    controller.kill()
    controller.start()
    client = lambda_client(controller.url)
    after = client.get_function_url_config(FunctionName="guest")
    assert after["CreationTime"] == before["CreationTime"]
    assert controller.get("/fn/guest/").status == 200
    client.delete_function(FunctionName="guest")
    assert controller.get("/fn/guest/").status == 403
    create(client, "guest", guest_package)
    assert controller.get("/fn/guest/").status == 403, "a new function has an old one's URL"


# Requests become events.


def test_a_request_is_an_event_of_payload_format_two(web):
    answer = get(
        web,
        "/event?a=1&b=x%2Fy&a=2",
        method="PUT",
        body=b'{"n": 1}',
        headers={
            "Content-Type": "application/json",
            "Cookie": "one=1; two=2",
            "X-Custom": "Value",
            "User-Agent": "test/1",
            "Connection": "X-Hop",
            "X-Hop": "1",
            "Keep-Alive": "timeout=5",
            "TE": "trailers",
        },
    )
    assert answer.status == 200
    event = json.loads(answer.data)
    context = event.pop("requestContext")
    headers = event.pop("headers")
    assert event == {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/event",
        "rawQueryString": "a=1&b=x%2Fy&a=2",
        "cookies": ["one=1", "two=2"],
        "queryStringParameters": {"a": "1,2", "b": "x/y"},
        "body": '{"n": 1}',
        "isBase64Encoded": False,
    }
    assert headers["x-custom"] == "Value"
    assert headers["host"] == web.controller.address
    assert headers["cookie"] == "one=1; two=2"
    assert headers["x-forwarded-port"] == str(web.controller.port)
    assert not {"connection", "x-hop", "keep-alive", "te"} & set(headers)
    trace = json.loads(get(web, "/trace").data)
    assert trace["header"].startswith("Root=1-")
    assert trace["own"].split(";")[0] == trace["header"]
    sent = {"X-Amzn-Trace-Id": "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8"}
    trace = json.loads(get(web, "/trace", headers=sent).data)
    assert trace == {"header": "Root=1-5759e988-bd862e3fe1be46a994272793"} | {
        "own": sent["X-Amzn-Trace-Id"]
    }
    chunks = iter([b"abc", b"def"])
    headers = json.loads(get(web, "/event", method="POST", body=chunks, chunked=True).data)[
        "headers"
    ]
    assert "transfer-encoding" not in headers
    assert headers["content-length"] == "6"
    assert context["http"] == {
        "method": "PUT",
        "path": "/event",
        "protocol": "HTTP/1.1",
        "sourceIp": "127.0.0.1",
        "userAgent": "test/1",
    }
    assert context["accountId"] == "anonymous"
    assert context["requestId"] == answer.headers["x-amzn-requestid"]


def test_every_method_and_path_reaches_the_function(web):
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        event = json.loads(get(web, "/event", method=method).data)
        assert event["requestContext"]["http"]["method"] == method
    assert get(web, "/teapot", method="HEAD").status == 418
    for path in ("", "/", "/a/b/", "//x", "/2015-03-31/functions", "/healthz", "/fn/guest"):
        assert get(web, path).data.decode() == (path or "/")
    assert web.http.request("GET", web.url.rstrip("/")).data == b"/"


def test_a_host_names_the_function_too(web):
    event = json.loads(get(web, "/event").data)
    name = f"{event['requestContext']['apiId']}.lambda-url.us-east-1.example"
    url = web.controller.url
    answer = web.http.request("GET", f"{url}/event", headers={"Host": f"{name}:9070"})
    context = json.loads(answer.data)["requestContext"]
    assert (context["domainName"], context["http"]["path"]) == (name, "/event")
    whole = web.http.request("GET", f"{url}/fn/guest/", headers={"Host": name})
    assert whole.data == b"/fn/guest/", "on its own host every path is the function's"
    other = name.replace(name[:4], "0000", 1)
    assert web.http.request("GET", f"{url}/event", headers={"Host": other}).status == 403
    config = web.client.get_function_url_config(FunctionName="web")
    told = json.loads(web.controller.by_host("GET", config["FunctionUrl"] + "event?a=1").data)
    assert told["requestContext"]["domainName"].endswith(".lambda-url.localhost")
    assert told["rawQueryString"] == "a=1"


def test_bytes_come_and_go_as_they_are(web):
    body = bytes(range(256)) * 16
    answer = get(web, "/binary", method="POST", body=body)
    assert answer.data == bytes(reversed(body))
    assert answer.headers["content-type"] == "application/octet-stream"
    zipped = gzip.compress(b"hello")
    answer = get(
        web,
        "/binary",
        method="POST",
        body=zipped,
        headers={"Content-Type": "text/plain", "Content-Encoding": "gzip"},
    )
    assert answer.data == bytes(reversed(zipped))


# Answers become responses.


def test_an_answer_is_followed_or_is_the_body_itself(web):
    teapot = get(web, "/teapot")
    assert (teapot.status, teapot.data.decode()) == (418, "tea ☕")
    assert teapot.headers["content-type"] == "text/plain; charset=utf-8"
    assert teapot.headers["x-teapot"] == "short"
    assert teapot.headers.getlist("set-cookie") == ["stout=1; HttpOnly", "spout=2"]
    for path, body in (
        ("/text", '"just text"'),
        ("/list", '[1, {"statusCode": 404}]'),
        ("/none", "null"),
    ):
        answer = get(web, path)
        assert (answer.status, json.loads(answer.data)) == (200, json.loads(body))
        assert answer.headers["content-type"] == "application/json"


def test_what_is_no_answer_is_a_bad_gateway(web):
    for path in ("/raise", "/malformed", "/large"):
        answer = get(web, path)
        assert (answer.status, answer.data) == (502, b"Internal Server Error"), path
    assert get(web, "/text").status == 200


def test_the_log_says_why_an_answer_was_refused(web):
    answer = get(web, "/malformed")
    lines = until(
        "the reason is in the log",
        lambda: [
            record["message"]
            for record in web.controller.logs("web")
            if record["request_id"] == answer.headers["x-amzn-requestid"]
            and "no valid HTTP response" in record["message"]
        ],
    )
    assert len(lines) == 1
    assert "statusCode is not an HTTP status from 200 to 599" in lines[0]


def test_headers_of_the_connection_do_not_come_from_a_function(web):
    answer = get(web, "/hops")
    assert answer.status == 200
    for name in ("x-hop", "keep-alive", "te", "trailer", "upgrade", "proxy-authenticate"):
        assert name not in answer.headers, name
    assert answer.headers["x-end"] == "1"


def test_requests_beyond_six_megabytes_are_refused(web):
    text = {"Content-Type": "text/plain"}
    assert get(web, "/x", method="POST", body=b"x" * 5_000_000, headers=text).status == 200
    assert get(web, "/x", method="POST", body=b"x" * 6_291_557, headers=text).status == 413
    # As base64 in an event it is a third more.
    assert get(web, "/x", method="POST", body=b"x" * 5_000_000).status == 413


def test_a_throttled_request_is_told_so(own_controller):
    controller = own_controller("--max-instances", "1", "--throttle-wait-ms", "50")
    client = lambda_client(controller.url)
    client.create_function_url_config(FunctionName="guest", AuthType="NONE")
    client.put_function_concurrency(FunctionName="guest", ReservedConcurrentExecutions=0)
    answer = controller.get("/fn/guest/")
    assert answer.status == 429
    assert answer.headers["x-amzn-errortype"] == "TooManyRequestsException"


# Browsers.

ORIGIN = {"Origin": "https://shop.example"}
PREFLIGHT = {
    **ORIGIN,
    "Access-Control-Request-Method": "PUT",
    "Access-Control-Request-Headers": "x-a",
}


def test_a_preflight_is_answered_without_the_function(web, config):
    config(
        AuthType="AWS_IAM",
        Cors={
            "AllowOrigins": ["https://shop.example"],
            "AllowMethods": ["PUT", "GET"],
            "AllowHeaders": ["x-a", "x-b"],
            "ExposeHeaders": ["x-c"],
            "AllowCredentials": True,
            "MaxAge": 600,
        },
    )
    invocations = web.controller.metrics().get('hearth_invocations_total{function="web"}')
    told = get(web, "/raise", method="OPTIONS", headers=PREFLIGHT)
    assert told.status == 200
    for name, value in (
        ("origin", "https://shop.example"),
        ("methods", "PUT,GET"),
        ("headers", "x-a,x-b"),
        ("credentials", "true"),
    ):
        assert told.headers[f"access-control-allow-{name}"] == value
    assert told.headers["access-control-max-age"] == "600"
    other = get(
        web, "/raise", method="OPTIONS", headers={**PREFLIGHT, "Origin": "https://bad.example"}
    )
    assert not any(name.lower().startswith("access-control") for name in other.headers)
    assert web.controller.metrics().get('hearth_invocations_total{function="web"}') == invocations
    answer = get(web, "/own-origin", headers=ORIGIN)
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert answer.headers["access-control-expose-headers"] == "x-c"


def test_without_cors_the_function_answers_browsers_itself(web):
    event = json.loads(get(web, "/event", method="OPTIONS", headers=PREFLIGHT).data)
    assert event["headers"]["access-control-request-method"] == "PUT"
    answer = get(web, "/own-origin", headers=ORIGIN)
    assert answer.headers["access-control-allow-origin"] == "https://own.example"


def test_a_page_by_path_has_an_origin_of_its_own(web):
    answer = get(web, "/page")
    policies = answer.headers.getlist("content-security-policy")
    assert policies[0] == "img-src *"
    assert policies[1].startswith("sandbox ") and "allow-same-origin" not in policies[1]
    assert "service-worker-allowed" not in answer.headers
    worker = get(web, "/page", headers={"Service-Worker": "script"})
    assert (worker.status, worker.headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
    config = web.client.get_function_url_config(FunctionName="web")
    answer = web.controller.by_host("GET", config["FunctionUrl"] + "page")
    assert answer.headers.getlist("content-security-policy") == ["img-src *"]
    assert answer.headers["service-worker-allowed"] == "/"


def test_pages_use_a_public_url_and_an_aws_iam_url_only_if_its_owner_lets_them(web, config):
    for headers in (ORIGIN, {"Sec-Fetch-Site": "cross-site"}):
        assert get(web, "/text", method="POST", headers=headers).status == 200
    config(AuthType="AWS_IAM")
    assert get(web, "/text").status == 200, "signatures are not checked on loopback"
    for headers in (ORIGIN, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        refused = get(web, "/text", method="POST", headers=headers)
        assert (refused.status, refused.headers["x-amzn-errortype"]) == (
            403,
            "AccessDeniedException",
        )
    config(Cors={"AllowOrigins": [ORIGIN["Origin"]]})
    assert get(web, "/text", method="POST", headers=ORIGIN).status == 200
    assert get(web, "/text", method="POST", headers={"Origin": "null"}).status == 403


# Who may use it.


def test_an_aws_iam_url_takes_a_signature_and_a_none_url_does_not(start_controller, tmp_path):
    before = host.Host.now()
    keys = {}

    def prepare(data):
        for name, permission in (("caller", "guest"), ("other", "probe")):
            words = ("keys", "create", name, "--invoke", permission, "--data-dir", data, "--json")
            made = run(layout.HEARTH, *words).json()
            keys[name] = (made["access_key_id"], made["secret_access_key"])
        made = run(layout.HEARTH, "keys", "create", "a", "--admin", "--data-dir", data, "--json")
        keys["admin"] = (made.json()["access_key_id"], made.json()["secret_access_key"])

    controller = start_controller(tmp_path, "--require-signatures", prepare=prepare)
    try:
        client = lambda_client(
            controller.url,
            aws_access_key_id=keys["admin"][0],
            aws_secret_access_key=keys["admin"][1],
        )
        client.create_function_url_config(FunctionName="guest", AuthType="AWS_IAM")

        def call(key, body=b"", sent=None):
            request = signatures.signed(
                "POST", controller.by_path("guest") + "p", {}, body, key=key, region="us-east-1"
            )
            headers = dict(request.headers.items())
            return controller.http.request("POST", request.url, body=sent or body, headers=headers)

        event = json.loads(call(keys["caller"], b"x").data)
        assert event["requestContext"]["authorizer"]["iam"]["accessKey"] == keys["caller"][0]
        assert event["requestContext"]["accountId"] == "000000000000"
        assert json.loads(call(keys["admin"]).data)["rawPath"] == "/p"
        wrong = (keys["caller"][0], "wrong")
        for refused in (
            controller.get("/fn/guest/p"),
            call(keys["other"]),
            call(wrong),
            call(keys["caller"], b"x", sent=b"y"),
        ):
            assert refused.status == 403
            assert json.loads(refused.data)["Message"].startswith("Forbidden. For troubleshooting")
        client.update_function_url_config(FunctionName="guest", AuthType="NONE")
        assert controller.get("/fn/guest/p").status == 200
        nothing = controller.get("/fn/probe/p")
        assert (nothing.status, nothing.data) == (403, b'{"Message":null}')
        assert controller.get("/hearth/v1/status").status == 403
    finally:
        assert controller.stop() == 0
    host.assert_nothing_left(before)


def test_an_aliases_url_runs_what_the_alias_points_to(web):
    client = web.client
    version = client.publish_version(FunctionName="web")["Version"]
    wait_for(client, "published_version_active", "web", Qualifier=version)
    client.create_alias(FunctionName="web", Name="live", FunctionVersion=version)
    made = client.create_function_url_config(FunctionName="web", Qualifier="live", AuthType="NONE")
    by_path = web.controller.by_path("web", "live")
    assert made["FunctionArn"].endswith(":function:web:live")
    answer = web.http.request("GET", by_path + "event")
    assert json.loads(answer.data)["rawPath"] == "/event"
    listed = client.list_function_url_configs(FunctionName="web")["FunctionUrlConfigs"]
    assert len(listed) == 2
    assert web.controller.by_host("GET", made["FunctionUrl"]).status == 200
    client.delete_alias(FunctionName="web", Name="live")
    assert web.http.request("GET", by_path).status == 403
    assert invoke(client, "web", {"rawPath": "/text"}).ok() == "just text"
