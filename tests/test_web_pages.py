"""What a browser sends for a web page is refused by every listener that checks no signatures."""

import json
import os
import pty
import re
import socket
import subprocess

import pytest
from harness import layout
from harness.deadline import until
from harness.invocation import create, lambda_client
from harness.package import archive
from harness.raw_http import answer_of, connection, status_of

API = "/2015-03-31/functions"
INVOKE = f"{API}/guest/invocations"

#: Headers of a page of another origin, and the `Host` that it cannot do without.
FOREIGN = (
    {"Host": "evil.example"},
    {"Host": "evil.example", "Origin": "http://evil.example"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "localhost.evil.example"},
    {"Host": "evil.example", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:3000"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    {"Sec-Fetch-Site": "same-site"},
)


def refused(answer, status=403, kind="AccessDeniedException"):
    assert answer.status == status, answer.data
    assert answer.headers["x-amzn-errortype"] == kind
    assert "access-control-allow-origin" not in answer.headers
    return json.loads(answer.data)["Message" if kind == "AccessDeniedException" else "message"]


@pytest.mark.parametrize("headers", FOREIGN, ids=json.dumps)
def test_a_foreign_page_neither_reads_nor_runs_nor_deploys(controller, client, headers):
    ran = controller.metrics().get('hearth_invocations_total{function="guest"}')
    for method, path in (
        ("GET", API),
        ("GET", f"{API}/guest"),
        ("GET", "/metrics"),
        ("GET", "/hearth/v1/status"),
        ("GET", "/healthz"),
        ("POST", INVOKE),
        ("POST", API),
        ("DELETE", f"{API}/guest"),
        ("OPTIONS", INVOKE),
    ):
        body = b'{"op":"echo"}' if method == "POST" else None
        sent = {"Content-Type": "text/plain", **headers}
        refused(controller.request(method, path, body=body, headers=sent))
    assert controller.metrics().get('hearth_invocations_total{function="guest"}') == ran
    assert controller.get(f"{API}/guest").status == 200


def test_clients_of_this_machine_are_served_by_every_name_of_it(controller, client):
    port = controller.port
    for host in (
        f"127.0.0.1:{port}",
        f"localhost:{port}",
        f"LOCALHOST:{port}",
        f"hearth.localhost:{port}",
        "[::1]",
        "192.0.2.7",
    ):
        assert controller.get(API, headers={"Host": host}).status == 200, host
    own = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}
    assert controller.get(API, headers=own).status == 200
    typed = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert controller.get("/metrics", headers=typed).status == 200


def test_a_request_without_one_valid_host_is_refused(controller, client):
    for head in (
        "",
        "Host: localhost\r\nHost: localhost\r\n",
        "Host: \r\n",
        "Host: user@localhost\r\n",
        "Host: localhost:port\r\n",
    ):
        with connection(controller) as peer:
            peer.sendall(f"GET /healthz HTTP/1.1\r\n{head}\r\n".encode())
            assert status_of(answer_of(peer)) == 400, head
    for line, status in (
        ("GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost", 403),
        ("GET http://localhost/healthz HTTP/1.1\r\nHost: evil.example", 200),
        ("GET /healthz HTTP/1.0\r\nUser-Agent: a load balancer", 200),
    ):
        with connection(controller) as peer:
            peer.sendall(f"{line}\r\n\r\n".encode())
            assert status_of(answer_of(peer)) == status, line


def test_the_address_for_metrics_has_names_of_its_own(own_controller):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = own_controller(
        *("--metrics-listen", f"0.0.0.0:{port}", "--allowed-host", "hearth.example,metrics.example")
    )
    url = f"http://127.0.0.1:{port}/metrics"

    def scrape(**headers):
        return controller.http.request("GET", url, headers=headers)

    for host in (
        "127.0.0.1",
        "localhost",
        "metrics.example",
        "HEARTH.example",
        socket.gethostname(),
    ):
        assert scrape(Host=f"{host}:{port}").status == 200, host
    for host in ("evil.example", "sub.hearth.example", "a.lambda-url.evil.example"):
        assert "--allowed-host" in refused(scrape(Host=f"{host}:{port}"))
    refused(scrape(Origin="http://evil.example"))
    assert controller.get(API, headers={"Host": "hearth.example"}).status == 200
    assert len(re.findall("has refused a request", controller.log_text())) == 1


# A terminal.

ESCAPES = rb"""
def handler(event, context):
    print("\x1b]0;from the log\x07 \u202egnol")
    return "\x9b31m\x1b]0;pwned\x07\u202etxt"
"""


def on_a_terminal(*words, env):
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(words, stdout=theirs, stderr=theirs, stdin=theirs, env=env) as command:
        os.close(theirs)
        written = b""
        try:
            while chunk := os.read(ours, 65536):
                written += chunk
        except OSError:
            pass  # The other end is closed.
        command.wait()
    os.close(ours)
    return written.decode()


def test_a_terminal_obeys_nothing_that_a_function_writes(controller):
    client = lambda_client(controller.url)
    code = archive({"app.py": ESCAPES})
    create(client, "escapes", code, Runtime="python3.11", Handler="app.handler")
    env = {**os.environ, "NO_COLOR": "1", "HEARTH_ENDPOINT": controller.url}
    written = on_a_terminal(layout.HEARTH, "invoke", "escapes", env=env)
    assert "pwned" in written and "from the log" in written
    until("it is in the log", lambda: controller.logs("escapes", "?contains=from%20the%20log"))
    written += on_a_terminal(layout.HEARTH, "logs", "escapes", env=env)
    for obeyed in ("\x1b", "\x07", "\x9b", "\u202e"):
        assert obeyed not in written, repr(written)
    client.delete_function(FunctionName="escapes")
