"""No two instances share a secret: what one draws on any library's generators, no other draws.

Each row of `ROWS` is a function that uses its libraries when it is imported and again for each
event. Its instances are as many continuations of one import, unless a library's generator can't be
given another seed after a restore: such a function gets its init in each instance. The row says
which of the two is expected.

A library whose values come from the kernel at each draw has its row too: that is known of the
versions that are pinned here, and of no other.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import layout, native, package, packages, snapshot_files
from harness.clones import drawn_by_clones
from harness.deadline import until
from harness.invocation import create, invoke, lambda_client
from harness.sandbox import Sandbox

#: What an instance begins with: a snapshot of the function after its init, or the runtime's, so
#: that the function's init runs in it.
SNAPSHOT, INIT = "snapshot", "init"
SNAP_START = {"ApplyOn": "PublishedVersions"}


@dataclass(frozen=True)
class Row:
    """A function, the libraries that it draws on, and how its instances are to be started."""

    name: str
    runtime: str
    #: Puts the code into a folder.
    code: Callable[[Path], None]
    libraries: tuple[str, ...]
    starts: str
    memory: int = 128
    #: None: eight, or few where each has an init of its own, which takes seconds where the guest
    #: kernel is interpreted.
    instances: int | None = None

    @property
    def count(self) -> int:
        return self.instances or (8 if self.starts == SNAPSHOT else 3)

    def deploy(self, client, folder: Path, **options) -> None:
        self.code(folder)
        create(
            client,
            self.name,
            package.folder(folder),
            Runtime=self.runtime,
            Handler="app.handler",
            MemorySize=self.memory,
            Environment={"Variables": {"LIBRARIES": " ".join(self.libraries)}},
            **options,
        )


def python(
    name: str, *libraries: str, wheels: str | None = None, starts: str = SNAPSHOT, **options
) -> Row:
    """The Python function, with the wheels that a file beside it pins."""

    def code(folder: Path) -> None:
        source = layout.FUNCTIONS / "unique_python"
        shutil.copy(source / "app.py", folder)
        if wheels:
            packages.wheels(source / f"requirements-{wheels}.txt", folder)
            # Of NumPy, a third of all files.
            for tests in [*folder.glob("numpy/**/tests")]:
                shutil.rmtree(tests)

    return Row(f"python-{name}", "python3.11", code, libraries, starts, **options)


def node(
    name: str,
    *libraries: str,
    files: tuple[str, ...] = (),
    addon: bool = False,
    starts: str = SNAPSHOT,
    **options,
) -> Row:
    """The Node.js function, with those files of its pinned packages that it needs: a package with
    programs brings them for every system."""

    def code(folder: Path) -> None:
        source = layout.FUNCTIONS / "unique_node"
        shutil.copy(source / "app.mjs", folder)
        modules = packages.npm(source) / "node_modules"
        for file in (found for pattern in files for found in modules.glob(pattern)):
            to = folder / "node_modules" / file.relative_to(modules)
            if file.is_file():
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, to)
        if addon:
            native.addon(folder, "openssl.c", "-l:libcrypto.a")

    return Row(f"node-{name}", "nodejs22.x", code, libraries, starts, **options)


def c(name: str, library: str, starts: str, link: Callable[..., None], *options: str) -> Row:
    """A C program that is linked with a library."""

    def code(folder: Path) -> None:
        link(folder, f"{library}.c", *options)

    return Row(f"c-{name}", "provided", code, (library,), starts)


def rust(name: str, starts: str) -> Row:
    """A Rust program with a crate."""

    def code(folder: Path) -> None:
        program = packages.guest_program(layout.FUNCTIONS / "unique_rust", name)
        shutil.copy(program, folder / "bootstrap")

    return Row(f"rust-{name}", "provided", code, (name,), starts)


SYSTEM = python("system", "system", "random", "tempfile", "ssl", "tls", instances=100)
THREAD = python("thread", "thread")
GNUTLS = c("gnutls", "gnutls", INIT, native.shared, "-lgnutls")
ALL_ROWS = [
    SYSTEM,
    # An interpreter that the runtime does not see to.
    python(
        "processes",
        "child_ssl",
        "child_random",
        "forked_ssl",
        "forked_random",
        starts=INIT,
    ),
    python("numpy", "numpy", wheels="numpy"),
    python("cryptography-old", "cryptography", "nacl", wheels="cryptography-old"),
    python(
        "cryptography-new",
        "cryptography",
        "bcrypt",
        "pycryptodome",
        wheels="cryptography-new",
        instances=100,
    ),
    python("grpc", "grpc", wheels="grpc"),
    python("bson", "bson", wheels="bson"),
    node("own", "math", "crypto", "webcrypto", "tls"),
    node("workers", "worker_crypto", "worker_math", starts=INIT),
    node(
        "stores",
        "uuid9",
        "uuid14",
        "nanoid3",
        files=("uuid*/**/*", "nanoid*/**/*"),
    ),
    # Its store is a text, which nobody can fill.
    node("nanoid-new", "nanoid6", files=("nanoid6/**/*",), starts=INIT),
    # They keep a generator, or a part of each id, in variables that nobody else can set.
    node(
        "keepers",
        "forge",
        "bson",
        files=("node-forge/package.json", "node-forge/lib/*", "bson/package.json", "bson/lib/*"),
        starts=INIT,
    ),
    node("openssl", "addon", addon=True),
    node(
        "libsodium",
        "sodium",
        files=(
            "sodium-native/*.js*",
            "sodium-native/prebuilds/linux-x64/*.node",
            "require-addon/**/*",
            "which-runtime/**/*",
            "bare-*/**/*",
        ),
    ),
    node(
        "aws-lc",
        "awscrt",
        files=(
            "aws-crt/package.json",
            "aws-crt/dist/common/*.js",
            "aws-crt/dist/native/*.js",
            "aws-crt/dist/bin/linux-x64-glibc/*",
        ),
    ),
    c("openssl-shared", "openssl", SNAPSHOT, native.shared, "-lcrypto"),
    c("openssl-static", "openssl", SNAPSHOT, native.static, "-lcrypto"),
    c(
        "nss",
        "nss",
        INIT,
        functools.partial(native.shared, beside=("libsoftokn3.*", "libfreeblpriv3.*")),
        "-I/usr/include/nss",
        "-I/usr/include/nspr",
        "-lnss3",
    ),
    c("gcrypt", "gcrypt", INIT, native.shared, "-lgcrypt"),
    GNUTLS,
    rust("ring", SNAPSHOT),
    rust("aws_lc", SNAPSHOT),
    rust("uuid", SNAPSHOT),
    rust("rand", INIT),
    rust("fastrand", INIT),
]


#: Without HEARTH_UNIQUE=all, one row or two for each way in which a generator is reseeded or recognised:
#: the others take a quarter of an hour more where the guest kernel is interpreted.
COMMON = (
    "python-system",
    "python-processes",
    "python-numpy",
    "python-cryptography-old",
    "node-own",
    "node-stores",
    "c-openssl-static",
    "c-gnutls",
    "rust-rand",
)
ROWS = [row for row in ALL_ROWS if os.environ.get("HEARTH_UNIQUE") == "all" or row.name in COMMON]


def start_kind(client, name, qualifier="$LATEST"):
    """How the function's instances are started, as its configuration tells it: by a member that is
    not AWS's, which its clients leave out."""
    query = urllib.parse.urlencode({"Qualifier": qualifier})
    url = f"{client.meta.endpoint_url}/2015-03-31/functions/{name}/configuration?{query}"
    with urllib.request.urlopen(url) as answer:
        found = json.load(answer).get("Hearth", {}).get("InitInEachInstance", [])
    return INIT if found else SNAPSHOT


@dataclass(frozen=True)
class Drawn:
    """What a row's instances have drawn."""

    row: Row
    told: str
    answers: list[dict]


@contextlib.contextmanager
def deployed(row, controller, folder):
    """A row's function, started as often as the row says."""
    client = lambda_client(controller.url)
    row.deploy(client, folder)
    answers = drawn_by_clones(controller, client, row.name, row.count)
    yield Drawn(row, start_kind(client, row.name), answers)
    client.delete_function(FunctionName=row.name)


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: row.name)
def drawn(request, shared, tmp_path_factory):
    """Of one row after the other: both tests of it, and then the function goes."""
    folder = tmp_path_factory.mktemp(request.param.name)
    with deployed(request.param, shared, folder) as found:
        yield found


def values_of(answers, which="now"):
    return [value for answer in answers for drawn in answer[which].values() for value in drawn]


def seen_twice(values):
    """How many of them were, or nothing."""
    counts = Counter(values)
    alike = [value for value, count in counts.items() if count > 1]
    return f"{len(alike)} of {len(counts)} values, as {alike[0]}" if alike else None


def test_no_instance_draws_what_another_drew(drawn):
    wrong = {}
    for library in drawn.row.libraries:
        now = [value for answer in drawn.answers for value in answer["now"][library]]
        in_init = {value for answer in drawn.answers for value in answer["init"][library]}
        assert len(now) >= 2 * len(drawn.answers)
        if twice := seen_twice([*now, *in_init]):
            wrong[library] = twice
    assert not wrong


def test_a_function_is_started_as_its_libraries_allow(drawn):
    """That they differ is no accident, too: what comes from a snapshot has one init for all."""
    assert inits(drawn) == (1 if drawn.row.starts == SNAPSHOT else drawn.row.count)
    assert drawn.told == drawn.row.starts


def inits(drawn):
    return len({tuple(values_of([answer], "init")) for answer in drawn.answers})


#: By the runtime's ranges, and by the sandbox's search. Node.js is not among them: once it has served,
#: node:crypto has a store of its own again, and Hearth takes no snapshot then.
GENERATIONS = [row for row in ROWS if row.name in ("python-numpy", "c-openssl-static")]


@pytest.mark.parametrize("drawn", GENERATIONS, ids=lambda row: row.name, indirect=True)
def test_instances_of_a_restored_instances_snapshot_draw_nothing_alike(drawn, shared, tmp_path):
    """Two generations: each is a snapshot of an instance that has drawn, and that was restored from
    the one before. There is none of a function whose init runs in each instance."""
    found = (shared.data / "snapshots" / "function").glob(f"{drawn.row.name}-*/memory")
    folders = [memory.parent for memory in found]
    assert len(folders) == (1 if drawn.row.starts == SNAPSHOT else 0)
    answers = []
    for folder in folders:
        image = shared.data / "images" / f"{folder.name}.erofs"
        disks = [snapshot_files.runtime_image(drawn.row.runtime), image, None]
        fingerprint = snapshot_files.fingerprint(folder)
        for generation in range(3):
            for number in range(2):
                with Sandbox() as sandbox:
                    sandbox.restore(folder, disks, fingerprint)
                    sandbox.thaw()
                    answers.append(sandbox.invoke({}))
                    if number == 1 and generation < 2:
                        folder = tmp_path / f"generation-{generation}"
                        sandbox.snapshot(folder, sandbox.inspect())
    assert not seen_twice(values_of(answers))


def test_a_thread_that_draws_all_the_time_draws_nothing_alike(shared, tmp_path):
    """What was drawn before the snapshot is alike, and so are the times of it. After it no two
    instances can have drawn at the same nanosecond."""
    with deployed(THREAD, shared, tmp_path) as drawn:
        assert (inits(drawn), drawn.told) == (1, SNAPSHOT)
    of_each = [{tuple(entry) for entry in answer["thread"]} for answer in drawn.answers]
    after = set.union(*of_each) - set.intersection(*of_each)
    assert len(after) >= 2 * len(of_each)
    wrong = {}
    for place, what in ((1, "ssl"), (2, "random")):
        if twice := seen_twice(entry[place] for entry in set.union(*of_each)):
            wrong[what] = twice
    assert not wrong


@pytest.fixture(scope="module")
def published(shared, tmp_path_factory):
    """A function whose version 1 is a SnapStart version, with hooks that draw."""
    client = lambda_client(shared.url)
    SYSTEM.deploy(client, tmp_path_factory.mktemp("published"), SnapStart=SNAP_START, Publish=True)
    client.get_waiter("published_version_active").wait(FunctionName=SYSTEM.name, Qualifier="1")
    yield SYSTEM.name
    client.delete_function(FunctionName=SYSTEM.name)


def at_once(client, name, count, **options):
    """Answers of that many instances that run at the same time."""
    with ThreadPoolExecutor(count) as pool:
        return list(
            pool.map(lambda _: invoke(client, name, {"seconds": 1}, **options), range(count))
        )


def test_instances_of_a_snapstart_version_and_their_hooks_draw_nothing_alike(
    controller, client, published
):
    answers = []
    for _ in range(5):
        controller.end_instances(published)
        answer = invoke(client, published, {}, Qualifier="1")
        assert answer.start == "cold"
        answers.append(answer.ok())
    hooks = [answer["hooks"] for answer in answers]
    assert len({tuple(values_of([hook], "before")) for hook in hooks}) == 1, "of one snapshot"
    once = {*values_of(answers, "init"), *values_of(hooks, "before")}
    assert not seen_twice([*values_of(answers), *values_of(hooks, "after"), *once])


def test_instances_that_are_kept_ready_draw_nothing_alike(controller, client, published):
    controller.end_instances(published)
    count = 3
    wanted = {"FunctionName": published, "Qualifier": "1"}
    client.put_provisioned_concurrency_config(**wanted, ProvisionedConcurrentExecutions=count)

    def ready():
        return client.get_provisioned_concurrency_config(**wanted)["Status"] == "READY"

    until("they are ready", ready, 60)
    answers = at_once(client, published, count, Qualifier="1")
    client.delete_provisioned_concurrency_config(**wanted)
    assert [answer.start for answer in answers] == ["warm"] * count
    values = [answer.ok() for answer in answers]
    hooks = [value["hooks"] for value in values]
    assert not seen_twice([*values_of(values), *values_of(hooks, "after")])


def test_instances_draw_nothing_alike_after_a_pause(controller, client, published):
    """However long: no generator waits for a time to pass. OpenSSL's do take another seed after an
    hour by themselves, which would hide what is looked for here."""
    controller.end_instances(published)
    count = 3
    before = at_once(client, published, count)

    def paused():
        idle = [i["idle_seconds"] or 0 for i in controller.instances(published)]
        return len(idle) == count and min(idle) > 2

    until("they were paused for two seconds", paused)
    after = at_once(client, published, count)
    assert [answer.start for answer in before] == ["cold"] * count
    assert [answer.start for answer in after] == ["warm"] * count
    assert not seen_twice(values_of([answer.ok() for answer in before + after]))


def test_an_author_with_hooks_has_the_snapshot_all_the_same(controller, client, tmp_path):
    """Whose library can't be given another seed from outside, but by the hook that its version has."""
    GNUTLS.deploy(client, tmp_path, SnapStart=SNAP_START, Publish=True)
    client.get_waiter("published_version_active").wait(FunctionName=GNUTLS.name, Qualifier="1")
    answers = []
    for _ in range(3):
        controller.end_instances(GNUTLS.name)
        answers.append(invoke(client, GNUTLS.name, {}, Qualifier="1").ok())
    assert len({tuple(values_of([answer], "init")) for answer in answers}) == 1, "of one snapshot"
    assert not seen_twice(values_of(answers))
    assert start_kind(client, GNUTLS.name, "1") == SNAPSHOT
    assert start_kind(client, GNUTLS.name) == INIT
