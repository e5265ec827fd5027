"""Python functions: that the interpreter's library is whole, and that whatever the function can import, a
process that it starts can import, too."""

import pytest
from harness import layout, package
from harness.invocation import create, invoke, lambda_client

NAME = "python"


@pytest.fixture(scope="module")
def python(shared):
    client = lambda_client(shared.url)
    code = package.folder(layout.FUNCTIONS / "python")
    create(client, NAME, code, Runtime="python3.11", Handler="app.handler")
    yield client
    client.delete_function(FunctionName=NAME)


def test_nothing_is_missing_of_cpythons_own_library(python):
    assert invoke(python, NAME, {"op": "missing"}).ok() == []


@pytest.mark.parametrize(
    "names",
    [
        ["boto3", "botocore", "six", "urllib3"],
        ["distutils.core", "distutils.sysconfig", "lib2to3.main", "ensurepip", "pydoc_data.topics"],
        ["pip._internal", "setuptools", "pkg_resources"],
        ["dbm.gnu"],
    ],
    ids=str,
)
def test_a_process_that_it_starts_imports_the_same(python, names):
    answer = invoke(python, NAME, {"op": "imported", "names": names}).ok()
    assert answer["child"] == answer["here"], answer["error"]


def test_the_import_path_is_lambdas(python):
    path = invoke(python, NAME, {"op": "path"}).ok()
    assert path[:4] == [
        "/var/task",
        "/opt/python/lib/python3.11/site-packages",
        "/opt/python",
        "/var/runtime",
    ]
    assert len(path) == len(set(path))


def test_the_guest_knows_its_own_name(python):
    answer = invoke(python, NAME, {"op": "name"}).ok()
    assert len(answer["names"]) == 1, answer
    assert answer["addresses"] == ["127.0.0.1"]
