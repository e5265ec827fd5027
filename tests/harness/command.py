"""The command-line clients, run as a person would run them: `hearth`, `curl`, `aws`, `cargo lambda`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import layout
from .invocation import CREDENTIALS

#: What AWS's clients shall know, and nothing of the machine's own.
AWS = {
    "AWS_ACCESS_KEY_ID": CREDENTIALS["aws_access_key_id"],
    "AWS_SECRET_ACCESS_KEY": CREDENTIALS["aws_secret_access_key"],
    "AWS_DEFAULT_REGION": CREDENTIALS["region_name"],
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_PAGER": "",
}


@dataclass(frozen=True)
class Finished:
    """A command that ended."""

    status: int
    out: str
    err: str

    def ok(self) -> str:
        """Its standard output; fails if it failed."""
        assert self.status == 0, f"exit status {self.status}\n{self.out}\n{self.err}"
        return self.out

    def json(self) -> Any:
        return json.loads(self.ok())


def run(*words: str | Path, env: dict[str, str] | None = None, given: str = "") -> Finished:
    """Runs a command to its end, without a terminal."""
    done = subprocess.run(
        [str(word) for word in words],
        input=given,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, **(env or {})},
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def hearth(controller: Any, *words: str | Path, given: str = "") -> Finished:
    """`hearth …` against this controller."""
    return run(layout.HEARTH, *words, env={"HEARTH_ENDPOINT": controller.url}, given=given)


def curl(*words: str) -> Finished:
    return run("curl", "--silent", "--show-error", "--max-time", "120", *words)


@dataclass(frozen=True)
class AwsCli:
    """A version of the AWS CLI. Called, it is `aws lambda …` with `--endpoint-url`."""

    program: Path
    #: Makes it take a payload as it is written.
    text: tuple[str, ...] = ()

    def __call__(self, controller: Any, *words: str, env: dict[str, str] | None = None) -> Finished:
        words = ("--endpoint-url", controller.url, "lambda", *words)
        return run(self.program, *words, env={**AWS, **(env or {})})

    def version(self) -> str:
        return run(self.program, "--version", env=AWS).ok()


#: Both that are in use: the first from PyPI, the second from Debian.
AWS_CLIS = {
    "1": AwsCli(Path(sys.executable).with_name("aws")),
    "2": AwsCli(Path("/usr/bin/aws"), ("--cli-binary-format", "raw-in-base64-out")),
}


def cargo_lambda(controller: Any, *words: str | Path) -> Finished:
    """`cargo lambda …` with `--endpoint-url`, by the program that cargo would run for it."""
    program = Path(sys.executable).with_name("cargo-lambda")
    return run(program, "lambda", *words, "--endpoint-url", controller.url, env=AWS)
