"""A headless Chromium, and a server between it and a controller that is also a hostile web site."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import signal
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

#: Longer than Chromium takes to start on a loaded host.
REPORT_SECONDS = 120

#: What only browsers send.
TELLTALES = ("origin", "referer", "service-worker")


class Between:
    """A server on a port of its own. Paths below `/attack/` are its own: the pages of a hostile site, and
    `report`, where pages send what they have found. All other requests go to the controller as the
    browser has sent them: for both that is a name that was made to resolve to this machine.

    `disguised`, it hides from the controller that a browser sends the request, and from the browser that
    a page is to be kept apart: that is a controller without its checks."""

    def __init__(self, address: str, pages: dict[str, str], disguised: bool) -> None:
        self.reports: queue.Queue = queue.Queue()
        between = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                path = urllib.parse.urlsplit(self.path).path
                if path == "/attack/report":
                    between.reports.put(json.loads(body))
                    self.reply(204, [], b"")
                elif path in pages:
                    self.reply(200, [("Content-Type", "text/html")], pages[path].encode())
                else:
                    self.forward(body)

            do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_HEAD = handle_one

            def forward(self, body: bytes) -> None:
                headers = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower() not in ("connection", "content-length")
                }
                if disguised:
                    headers = {
                        name: value
                        for name, value in headers.items()
                        if name.lower() not in TELLTALES and not name.lower().startswith("sec-")
                    } | {"Host": address}
                with contextlib.closing(http.client.HTTPConnection(address, timeout=300)) as peer:
                    peer.request(self.command, self.path, body=body or None, headers=headers)
                    answer = peer.getresponse()
                    content = answer.read()
                kept = [
                    (name, value)
                    for name, value in answer.getheaders()
                    if name.lower() not in ("content-length", "transfer-encoding", "connection")
                    and not (disguised and name.lower() == "content-security-policy")
                ]
                self.reply(answer.status, kept, content)

            def reply(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Between:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def url(self, host: str, path: str, **parameters: str) -> str:
        query = urllib.parse.urlencode(parameters)
        return f"http://{host}:{self.port}{path}" + (f"?{query}" if query else "")


@contextlib.contextmanager
def chromium(url: str, profile: Path) -> Iterator[None]:
    """Chromium on a page. Every name of `example` is this machine for it."""
    with subprocess.Popen(
        [
            "chromium",
            "--headless",
            # The tests run as root. Nothing but the pages of these tests is loaded.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--host-resolver-rules=MAP *.example 127.0.0.1",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            url,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as browser:
        try:
            yield
        finally:
            browser.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                browser.wait(30)
            # Its helpers end with it, but a helper that hangs must not outlive the test.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(browser.pid, signal.SIGKILL)


def report_of(between: Between, url: str, profile: Path) -> dict:
    """What the page at this address reports."""
    with chromium(url, profile):
        return between.reports.get(timeout=REPORT_SECONDS)
