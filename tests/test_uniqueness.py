"""No two instances share a secret: what one draws on any library's generators, no other draws.

Each row of `ROWS` is a function that uses its libraries when it is imported and again for each
event. Its instances are as many continuations of one import, unless a library's generator can't be
given another seed after a restore: such a function gets its init in each instance. The row says
which of the two is expected.

A library whose values come from the kernel at each draw has its row too: that is known of the
versions that are pinned here, and of no other.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import layout, package, packages
from harness.clones import drawn_by_clones
from harness.invocation import create, lambda_client

#: What an instance begins with: a snapshot of the function after its init, or the runtime's, so
#: that the function's init runs in it.
SNAPSHOT, INIT = "snapshot", "init"


@dataclass(frozen=True)
class Row:
    """A function, the libraries that it draws on, and how its instances are to be started."""

    name: str
    #: Puts the code into an empty folder.
    code: Callable[[Path], None]
    libraries: tuple[str, ...]
    starts: str
    runtime: str
    memory: int = 128
    instances: int = 20

    def package(self, folder: Path) -> bytes:
        folder.mkdir()
        self.code(folder)
        return package.folder(folder)

    def settings(self) -> dict:
        variables = {"LIBRARIES": " ".join(self.libraries)}
        return {
            "Runtime": self.runtime,
            "Handler": "app.handler",
            "MemorySize": self.memory,
            "Environment": {"Variables": variables},
        }


def python(requirements: str | None = None) -> Callable[[Path], None]:
    """The Python function, with the wheels that this file pins."""

    def code(folder: Path) -> None:
        source = layout.FUNCTIONS / "unique_python"
        shutil.copy(source / "app.py", folder)
        if requirements:
            packages.wheels(source / f"requirements-{requirements}.txt", folder)
            # Larger than the rest of it together.
            for tests in list(folder.glob("numpy/**/tests")):
                shutil.rmtree(tests)

    return code


SYSTEM = Row(
    "python-system",
    python(),
    ("system", "random", "tempfile", "ssl", "tls"),
    SNAPSHOT,
    "python3.11",
    instances=100,
)
ROWS = [
    SYSTEM,
    Row(
        "python-processes",
        python(),
        ("child_ssl", "child_random", "forked_ssl", "forked_random"),
        SNAPSHOT,
        "python3.11",
        memory=256,
    ),
    Row("python-numpy", python("numpy"), ("numpy",), SNAPSHOT, "python3.11", memory=256),
    Row(
        "python-cryptography-old",
        python("cryptography-old"),
        ("cryptography", "nacl"),
        SNAPSHOT,
        "python3.11",
        memory=256,
    ),
    Row(
        "python-cryptography-new",
        python("cryptography-new"),
        ("cryptography", "bcrypt", "pycryptodome"),
        SNAPSHOT,
        "python3.11",
        memory=256,
    ),
    Row("python-grpc", python("grpc"), ("grpc",), SNAPSHOT, "python3.11", memory=256),
]


def start_kind(client, name, qualifier="$LATEST"):
    """How the function's instances are started, as its configuration tells it."""
    configuration = client.get_function_configuration(FunctionName=name, Qualifier=qualifier)
    return INIT if "init in each instance" in configuration.get("StateReason", "") else SNAPSHOT


@dataclass(frozen=True)
class Drawn:
    """What a row's instances have drawn."""

    row: Row
    told: str
    answers: list[dict]


@pytest.fixture(scope="module")
def drawn(request, shared, tmp_path_factory):
    """Of one row: its function is deployed, started that many times, and deleted."""
    row = request.param
    client = lambda_client(shared.url)
    create(
        client, row.name, row.package(tmp_path_factory.mktemp("code") / "code"), **row.settings()
    )
    answers = drawn_by_clones(shared, client, row.name, row.instances)
    yield Drawn(row, start_kind(client, row.name), answers)
    client.delete_function(FunctionName=row.name)


def seen_twice(values):
    return {value: count for value, count in Counter(values).items() if count > 1}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("drawn", "library"),
    [
        pytest.param(row, library, id=f"{row.name}-{library}")
        for row in ROWS
        for library in row.libraries
    ],
    indirect=["drawn"],
    scope="module",
)
def test_no_instance_draws_what_another_drew(drawn, library):
    values = [value for answer in drawn.answers for value in answer["now"][library]]
    once = {value for answer in drawn.answers for value in answer["init"][library]}
    assert len(values) >= 2 * len(drawn.answers)
    assert not seen_twice([*values, *once])


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "drawn", [pytest.param(row, id=row.name) for row in ROWS], indirect=True, scope="module"
)
def test_a_function_is_started_as_its_libraries_allow(drawn):
    """And it is no accident that they differ: what comes from a snapshot has one init for all."""
    row = drawn.row
    for library in row.libraries:
        inits = {tuple(answer["init"][library]) for answer in drawn.answers}
        assert len(inits) == (1 if row.starts == SNAPSHOT else row.instances), library
    assert drawn.told == row.starts
