"""A function that means harm reaches nothing but itself."""

import pytest
from harness import layout, package
from harness.invocation import create, invoke, lambda_client


@pytest.fixture(scope="module")
def hostile(shared):
    client = lambda_client(shared.url)
    create(
        client,
        "hostile",
        package.folder(layout.FUNCTIONS / "hostile"),
        Runtime="python3.11",
        Handler="app.handler",
    )
    yield client
    client.delete_function(FunctionName="hostile")


def others_are_well(client):
    assert invoke(client, "guest", {"op": "echo"}).ok() == {"op": "echo"}


def test_the_host_answers_no_call_but_the_agents(hostile, controller):
    ports = [1024, 1, 22, 1023, 1025, 9001, 4_294_967_294]
    results = invoke(hostile, "hostile", {"op": "vsock", "ports": ports}).ok()
    assert not [port for port, result in results.items() if "connected" in result], results
    others_are_well(hostile)


def test_a_flood_of_calls_to_the_host_harms_nobody(hostile, controller):
    answer = invoke(hostile, "hostile", {"op": "vsock_flood", "count": 200})
    if answer.error is None:
        assert answer.value == {"called": 200}
    others_are_well(hostile)


def test_a_function_has_no_privileges(hostile, controller):
    results = invoke(hostile, "hostile", {"op": "privileges"}).ok()
    assert not {what: how for what, how in results.items() if how in ("done", "none")}, results


def test_answers_to_other_invocations_are_refused(hostile, controller):
    for _ in range(3):
        statuses = invoke(hostile, "hostile", {"op": "foreign_answer"}).ok()["statuses"]
        assert all(400 <= status < 500 for status in statuses), statuses
    others_are_well(hostile)


def test_of_two_answers_the_first_counts_and_the_next_invocation_gets_its_own(hostile, controller):
    assert invoke(hostile, "hostile", {"op": "two_answers"}).ok() == "first"
    for _ in range(2):
        statuses = invoke(hostile, "hostile", {"op": "foreign_answer"}).ok()
        assert "statuses" in statuses


def test_noise_on_the_runtime_api_does_not_stop_the_function(hostile, controller):
    assert invoke(hostile, "hostile", {"op": "api_noise"}).ok() == {"noise": "made"}
    assert "statuses" in invoke(hostile, "hostile", {"op": "foreign_answer"}).ok()


def test_a_daemon_that_outlives_its_runtime_ends_with_the_instance(hostile, controller):
    body = invoke(hostile, "hostile", {"op": "daemon"}).failed()
    assert body["errorMessage"].endswith("Runtime exited with error: exit status 9")
    assert "statuses" in invoke(hostile, "hostile", {"op": "foreign_answer"}).ok()
    others_are_well(hostile)
