"""Where a wrapper has changed AWS_LAMBDA_RUNTIME_API, the managed runtimes' clients ask there: a proxy
that logs, redacts or blocks sees every event and every answer."""

import pytest
from harness import layout, package
from harness.invocation import create, invoke

WRAPPER = {"Variables": {"AWS_LAMBDA_EXEC_WRAPPER": "/var/task/wrapper"}}


@pytest.mark.parametrize("runtime", ["python3.11", "nodejs20.x"])
def test_a_proxy_sees_every_event_and_every_answer(client, runtime):
    create(
        client,
        "proxied",
        package.folder(layout.FUNCTIONS / "proxied"),
        Runtime=runtime,
        Handler="app.handler",
        MemorySize=512,
        Environment=WRAPPER,
    )
    answers = [invoke(client, "proxied", n) for n in range(4)]
    values = [answer.ok() for answer in answers]
    assert [value["result"] for value in values] == list(range(4))
    assert [answer.start for answer in answers[1:]] == ["warm"] * 3
    # An event and an answer each.
    assert [value["seen"] - values[0]["seen"] for value in values] == [0, 2, 4, 6]
    body = invoke(client, "proxied", "fail").failed()
    assert body["errorMessage"] == "on purpose"
    assert invoke(client, "proxied", "last").ok()["seen"] - values[0]["seen"] == 10
