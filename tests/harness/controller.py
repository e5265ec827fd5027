"""A real controller: started, watched, stopped, killed."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import urllib3

from . import host, layout
from .deadline import until
from .signatures import signed

#: Longer than any start that has its snapshots: the controller only reads its registry.
START_SECONDS = 60.0

#: Sandboxes that a controller builds ahead of need, by default.
SHELLS = 2


class Controller:
    """`hearthd` with a data directory of its own, on a free port of the loopback unless the arguments
    say where else."""

    def __init__(
        self,
        data: Path,
        *arguments: str,
        env: dict[str, str] | None = None,
        log: Path | None = None,
        command: Sequence[str] = (str(layout.HEARTHD),),
    ) -> None:
        self.data = data
        self.temporary = data.with_name(data.name + ".tmp")
        self.log = log or data.with_name(data.name + ".log")
        self.command = command
        self.arguments = arguments
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "HEARTH_ENDPOINT"},
            "TMPDIR": str(self.temporary),
            **(env or {}),
        }
        #: Longest file that it and its sandboxes may write: a disk without room, without one.
        self.file_limit: int | None = None
        #: Access key that requests are signed with, as id and secret.
        self.key: tuple[str, str] | None = None
        self.process: subprocess.Popen | None = None
        self.address = ""
        self.http = urllib3.PoolManager(maxsize=64, retries=False, timeout=300)

    @property
    def pid(self) -> int:
        assert self.process is not None, "the controller was not started"
        return self.process.pid

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1])

    def start(self) -> Controller:
        """Starts it and waits until it is ready."""
        self.launch()
        until("the controller is ready", self._ready, START_SECONDS)
        return self

    def launch(self) -> None:
        """Starts it and does not wait."""
        host.watch(self.data)
        self.temporary.mkdir(parents=True, exist_ok=True)
        self._written_before = self.log.stat().st_size if self.log.exists() else 0
        self.address = ""
        # It chooses a free port and writes it there; an old one would be another controller's.
        (self.data / "hearthd.addr").unlink(missing_ok=True)
        listen = [] if "--listen" in self.arguments else ["--listen", "127.0.0.1:0"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.command,
                    *listen,
                    "--data-dir",
                    str(self.data),
                    *self.arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                preexec_fn=self._limit_files if self.file_limit else None,
            )

    def _limit_files(self) -> None:
        # Ignored, the signal leaves the write with an error, as a full disk does.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_limit, self.file_limit))

    def log_text(self) -> str:
        """What it logged since it was started last."""
        with self.log.open("rb") as log:
            log.seek(self._written_before)
            return log.read().decode(errors="replace")

    def _ready(self) -> bool:
        status = self.process.poll()
        assert status is None, f"hearthd ended with {status}; its log says\n{self.log_text()}"
        if not self.address:
            address = self.data / "hearthd.addr"
            if not address.exists():
                return False
            self.address = address.read_text().strip()
        try:
            return self.get("/readyz").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def get(self, path: str, **options) -> urllib3.BaseHTTPResponse:
        return self.request("GET", path, **options)

    def request(self, method: str, path: str, **options) -> urllib3.BaseHTTPResponse:
        url = self.url + path
        if self.key:
            headers, body = options.get("headers") or {}, options.get("body") or b""
            request = signed(method, url, headers, body, key=self.key, region="us-east-1")
            options["headers"] = dict(request.headers.items())
        return self.http.request(method, url, **options)

    def by_path(self, function: str, alias: str = "") -> str:
        """The address of a function's URL by path, with a slash at its end. Its address by host name is
        for programs that resolve names below `localhost`; urllib3 leaves that to the system."""
        return f"{self.url}/fn/{function}{':' if alias else ''}{alias}/"

    def by_host(self, method: str, url: str, **options) -> urllib3.BaseHTTPResponse:
        """A request to an address whose host name means this controller."""
        parts = urllib.parse.urlsplit(url)
        headers = {**(options.pop("headers", None) or {}), "Host": parts.netloc}
        path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        return self.http.request(method, self.url + path, headers=headers, **options)

    def metrics(self) -> dict[str, float]:
        """`/metrics` as a map from series (name and labels as printed) to value."""
        found = {}
        for line in self.get("/metrics").data.decode().splitlines():
            if line and not line.startswith("#"):
                series, value = line.rsplit(" ", 1)
                found[series] = float(value)
        return found

    def status(self) -> dict:
        return json.loads(self.get("/hearth/v1/status").data)

    def instances(self, function: str | None = None) -> list[dict]:
        """Every instance, or one function's."""
        query = f"?function={function}" if function else ""
        answer = self.get(f"/hearth/v1/instances{query}")
        assert answer.status == 200, answer.data
        return json.loads(answer.data)["instances"]

    def idle(self, function: str) -> dict:
        """Waits until the function's one instance is idle, and returns it."""

        def ask() -> dict | None:
            found = self.instances(function)
            return found[0] if len(found) == 1 and found[0]["state"] == "idle" else None

        return until(f"one idle instance of {function}", ask)

    def end_instances(self, function: str) -> None:
        """Kills the function's instances once they are idle, so that its next start is cold."""

        def settled() -> bool:
            return all(i["state"] == "idle" for i in self.instances(function))

        until(f"the instances of {function} are idle", settled)
        for instance in self.instances(function):
            os.kill(instance["pid"], signal.SIGKILL)
        until(f"no instance of {function}", lambda: not self.instances(function))

    def shells_ready(self, others: int = 0) -> None:
        """Waits until the sandboxes that are built ahead of need are there again, beside those of
        instances and `others`: deploys that are at work all the time."""

        def ask() -> bool:
            status = self.status()
            expected = SHELLS + status["instances"] + others
            return status["shells"] == SHELLS and len(self.sandboxes()) == expected

        until("shells are built and the dead are buried", ask)

    def logs(self, function: str, query: str = "") -> list[dict]:
        """The function's log records, oldest first."""
        answer = self.get(f"/hearth/v1/functions/{function}/logs{query}")
        assert answer.status == 200, answer.data
        return [json.loads(line) for line in answer.data.splitlines()]

    def all_logs(self, function: str, query: str = "") -> list[dict]:
        """All of them that are kept, or that `query` (`name=value`) finds, however many pages they
        are."""
        records, after, more = [], 0, True
        while more:
            answer = self.get(
                f"/hearth/v1/functions/{function}/logs?limit=10000&after={after}&{query}"
            )
            assert answer.status == 200, answer.data
            page = [json.loads(line) for line in answer.data.splitlines()]
            records += page
            more = answer.headers["x-hearth-more"] == "true"
            after = page[-1]["seq"] if page else after
        return records

    def sandboxes(self) -> list[int]:
        """Its sandbox processes, zombies included: those are a leak too."""
        return host.children(self.pid)

    def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM; returns its exit status."""
        self.http.clear()
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"hearthd did not end within {seconds:g} s of SIGTERM") from None
        finally:
            self.process = None

    def kill(self) -> None:
        """SIGKILL: it can't clean up."""
        self.http.clear()
        self.process.kill()
        self.process.wait()
        self.process = None
