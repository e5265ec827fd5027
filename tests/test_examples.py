"""Every example function works as it is, through boto3 and through curl.

What each promises stands beside it, in its cases.json: an event, and what the answer must contain.
"""

import json

import pytest
from harness import layout
from harness.command import curl, hearth
from harness.invocation import invoke, lambda_client

NAMES = sorted(path.parent.name for path in layout.EXAMPLES.glob("*/hearth.toml"))


def cases():
    for name in NAMES:
        for case in json.loads((layout.EXAMPLES / name / "cases.json").read_text()):
            yield pytest.param(name, case, id=f"{name}: {case['promise']}")


def assert_contains(expected, found):
    """Every key of `expected` is in `found` with that value; other values must be equal."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            assert key in found, f"no {key!r} in {found}"
            assert_contains(value, found[key])
    else:
        assert found == expected


def assert_keeps_promise(case, value, error, log):
    assert (error == "Unhandled") == ("error" in case), f"FunctionError {error}: {value}\n{log}"
    assert_contains(case.get("result", case.get("error")), value)
    for key in case.get("result_keys", ()):
        assert key in value
    if "error_contains" in case:
        assert case["error_contains"] in value["errorMessage"]
    assert case.get("log", "") in log


@pytest.fixture(scope="module")
def examples(shared):
    """All six, deployed as a newcomer would."""
    for name in NAMES:
        hearth(shared, "deploy", layout.EXAMPLES / name).ok()
    yield shared
    hearth(shared, "rm", *NAMES).ok()


def test_there_are_six_examples():
    assert NAMES == [
        "node-hello",
        "python-crash",
        "python-hello",
        "python-thumbnail",
        "rust-echo",
        "shell-uptime",
    ]


@pytest.mark.parametrize(("name", "case"), list(cases()))
def test_example_through_boto3(examples, controller, name, case):
    answer = invoke(lambda_client(controller.url), name, json_event(case), LogType="Tail")
    assert answer.status == 200
    assert_keeps_promise(case, answer.value, answer.error, answer.log)


@pytest.mark.parametrize("name", NAMES)
def test_example_through_curl(examples, controller, name, tmp_path):
    case = json.loads((layout.EXAMPLES / name / "cases.json").read_text())[0]
    headers = tmp_path / "headers"
    out = curl(
        "--fail",
        "--data-binary",
        json_event(case).decode(),
        "--dump-header",
        str(headers),
        f"{controller.url}/2015-03-31/functions/{name}/invocations",
    ).ok()
    error = "Unhandled" if "x-amz-function-error" in headers.read_text().lower() else None
    assert_keeps_promise(case, json.loads(out), error, case.get("log", ""))


def json_event(case):
    return json.dumps(case["event"]).encode()
