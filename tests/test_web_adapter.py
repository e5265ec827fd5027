"""Web sites that know nothing of Lambda, behind the official Lambda Web Adapter, unmodified: a layer
with the adapter as an extension and its /opt/bootstrap as the wrapper, the site's start script as
the handler. The adapter, not the runtime that Hearth starts, speaks the Runtime API.
"""

import base64
import json
import shutil
from dataclasses import dataclass

import pytest
from harness import host, layout, package, packages
from harness.invocation import create, invoke, lambda_client

ADAPTER = ("lambda_web_adapter", "1.0.0-rc1")
PORT = "8000"


@dataclass(frozen=True)
class Site:
    """A site, and how its answers leave: the adapter and the function's URL have to agree."""

    name: str
    runtime: str
    adapters_mode: str
    urls_mode: str
    generator: str

    @property
    def streams(self) -> bool:
        return self.urls_mode == "RESPONSE_STREAM"


SITES = [
    Site("flask", "python3.11", "buffered", "BUFFERED", "Python's random"),
    Site(
        "express",
        "nodejs20.x",
        "response_stream",
        "RESPONSE_STREAM",
        "Node.js's random generators",
    ),
]


@pytest.fixture(scope="module")
def shared(start_controller, tmp_path_factory):
    """The module's controller. While a site starts the adapter asks every ten milliseconds whether it
    has; where the guest's kernel is interpreted that is most of what runs, and takes minutes on a busy
    host."""
    before = host.Host.now()
    controller = start_controller(tmp_path_factory.mktemp("sites"), "--init-timeout", "900")
    yield controller
    assert controller.stop() == 0
    host.assert_nothing_left(before)


@pytest.fixture(scope="module")
def layer(shared):
    """The adapter's layer, put together as its own build does it."""
    programs, source = packages.crate(*ADAPTER)
    content = package.archive(
        {
            "extensions/lambda-adapter": (programs / "lambda-adapter").read_bytes(),
            "bootstrap": (source / "layer" / "bootstrap").read_bytes(),
        }
    )
    client = lambda_client(shared.url)
    made = client.publish_layer_version(LayerName="web-adapter", Content={"ZipFile": content})
    yield made["LayerVersionArn"]
    client.delete_layer_version(LayerName="web-adapter", VersionNumber=made["Version"])


def code_of(name, folder):
    """The site's code with its dependencies, as its users zip it."""
    source = layout.FUNCTIONS / name
    shutil.copytree(source, folder, dirs_exist_ok=True)
    if name == "flask":
        packages.wheels(source / "requirements.txt", folder)
    else:
        modules = packages.npm(source) / "node_modules"
        shutil.copytree(modules, folder / "node_modules", symlinks=False)
    return package.folder(folder)


@pytest.fixture(scope="module", params=SITES, ids=lambda site: site.name)
def site(request, shared, layer, tmp_path_factory):
    """A site that is deployed, and its address."""
    site = request.param
    client = lambda_client(shared.url)
    create(
        client,
        site.name,
        code_of(site.name, tmp_path_factory.mktemp("site") / site.name),
        seconds=900,
        Runtime=site.runtime,
        Handler="run.sh",
        MemorySize=256,
        Layers=[layer],
        Environment={
            "Variables": {
                "AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap",
                "AWS_LWA_PORT": PORT,
                "AWS_LWA_INVOKE_MODE": site.adapters_mode,
            }
        },
    )
    client.create_function_url_config(
        FunctionName=site.name, AuthType="NONE", InvokeMode=site.urls_mode
    )
    yield site, shared.by_path(site.name).rstrip("/")
    client.delete_function(FunctionName=site.name)


def test_a_get_reaches_the_site_with_its_path_query_and_headers(controller, site):
    _, url = site
    answer = controller.http.request(
        "GET", f"{url}/greet/gr%C3%BC%C3%9Fe?word=one&word=two%20three", headers={"X-Said": "hello"}
    )
    assert answer.status == 200, answer.data
    assert answer.headers["content-type"].startswith("application/json")
    told = answer.json()
    assert told["name"] == "grüße"
    assert told["words"] == ["one", "two three"]
    assert told["said"] == "hello"


def test_posted_json_and_cookies_go_both_ways(controller, site):
    _, url = site
    answer = controller.http.request(
        "POST",
        f"{url}/orders",
        json={"what": "tea", "how_many": [1, 2]},
        headers={"Cookie": "who=me; other=x"},
    )
    assert answer.status == 201, answer.data
    assert answer.json() == {"ordered": {"what": "tea", "how_many": [1, 2]}, "by": "me"}
    first, second = answer.headers.getlist("set-cookie")
    assert first.startswith("order=7;") and "HttpOnly" in first
    assert second.startswith("seen=yes;")


def test_bytes_that_are_no_text_come_back_as_they_were(controller, site):
    _, url = site
    answer = controller.http.request("GET", f"{url}/picture")
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    assert answer.data == bytes(range(256)) * 16


def test_bytes_that_are_no_text_arrive_as_they_were_sent(controller, site):
    _, url = site
    sent = bytes(range(256)) * 1024
    answer = controller.http.request(
        "POST", f"{url}/size", body=sent, headers={"Content-Type": "application/octet-stream"}
    )
    assert (answer.status, answer.json()) == (200, {"size": len(sent), "last": 255})


def test_the_sites_own_failures_are_its_own_answers(controller, site):
    _, url = site
    assert controller.http.request("GET", f"{url}/nowhere").status == 404
    assert controller.http.request("DELETE", f"{url}/orders").status in (404, 405)
    answer = controller.http.request("GET", f"{url}/failure")
    assert answer.status == 500
    assert answer.data != b"Internal Server Error", "Hearth's own, for a function that failed"
    assert controller.http.request("GET", f"{url}/").data == b"ready"


def test_an_event_of_api_gateway_is_a_request_too(client, site):
    site, _ = site
    answered = invoke(client, site.name, gateway_event("/context"))
    answer, body = split(site, answered)
    assert answer["statusCode"] == 200, answer
    assert json.loads(body) == {
        "request": answered.request_id,
        "function": site.name,
        "api": "gateway",
        "method": "GET",
    }
    _, body = split(site, invoke(client, site.name, gateway_event("/picture")))
    assert body == bytes(range(256)) * 16


def test_its_own_interpreter_makes_a_sites_init_run_in_each_instance_and_the_log_says_so(
    controller, site
):
    """The runtime that could register the interpreter's random generators is not started."""
    site, _ = site
    configuration = f"/2015-03-31/functions/{site.name}/configuration"
    (library,) = controller.get(configuration).json()["Hearth"]["InitInEachInstance"]
    assert library["Library"] == site.generator
    told = [r["message"] for r in controller.logs(site.name, "?limit=10000")]
    (why,) = [m for m in told if m.startswith("Init runs in each instance: ")]
    assert site.generator in why


def test_an_answer_in_pieces_is_whole_and_streamed_where_it_shall(controller, site):
    site, url = site
    answer = controller.http.request("GET", f"{url}/slowly", preload_content=False)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert ("content-length" in answer.headers) is not site.streams
    assert b"".join(answer.stream(4)) == b"one two three"


def split(site, answered):
    """What the adapter answered to an event: what stands before the body, and the body."""
    if site.streams:
        assert answered.error is None, answered.payload
        prelude, body = answered.payload.split(bytes(8), 1)
        return json.loads(prelude), body
    answer = answered.ok()
    body = answer.pop("body")
    return answer, base64.b64decode(body) if answer["isBase64Encoded"] else body


def gateway_event(path):
    """What an HTTP API sends, format 2.0."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"accept": "*/*", "host": "gateway.example", "x-forwarded-proto": "https"},
        "requestContext": {
            "accountId": "000000000000",
            "apiId": "gateway",
            "domainName": "gateway.example",
            "domainPrefix": "gateway",
            "http": {
                "method": "GET",
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "curl",
            },
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": "$default",
            "stage": "$default",
            "time": "26/Nov/2026:08:00:00 +0000",
            "timeEpoch": 1795680000000,
        },
        "isBase64Encoded": False,
    }
