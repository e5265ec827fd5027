"""Tenant isolation: no instance of such a function ever serves two tenants."""

import json
import random
from concurrent.futures import ThreadPoolExecutor

import botocore.exceptions
import pytest
from harness import events, package
from harness.deadline import until
from harness.invocation import ROLE, create, invoke, invoke_raw, lambda_client

TENANTS = ("blue", "green", "red@example.com/eu")
TENANCY = {"TenantIsolationMode": "PER_TENANT"}
PYTHON = {"Runtime": "python3.11", "Handler": "app.handler"}
NODE = {"Runtime": "nodejs22.x", "Handler": "index.handler"}

#: Both tell for which tenants their process has run.
REMEMBERS_IN_PYTHON = b"""
import logging

SEEN = []

def handler(event, context):
    SEEN.append(context.tenant_id)
    logging.getLogger().warning("ran")
    if event.get("fail"):
        raise ValueError(f"{event['fail']} for {context.tenant_id}")
    return SEEN
"""
REMEMBERS_IN_NODE = b"""
const seen = [];

export const handler = async (event, context) => {
  seen.push(context.tenantId);
  return seen;
};
"""

REQUIRED = (
    "The invoked function is enabled with tenancy configuration. Add a valid tenant ID in your "
    "request and try again."
)
REFUSED = (
    "The invoked function is not enabled with tenancy configuration. Remove the tenant ID from "
    "your request and try again."
)


def refusal(call, **parameters):
    """The message of an InvalidParameterValueException."""
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        call(**parameters)
    answer = refused.value.response
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert answer["Error"]["Code"] == "InvalidParameterValueException"
    return answer["Error"]["Message"]


@pytest.fixture(scope="module")
def isolated(shared):
    """The functions `isolated`, in Python with JSON logs, and `isolated-node`."""
    client = lambda_client(shared.url)
    python = package.archive({"app.py": REMEMBERS_IN_PYTHON})
    node = package.archive({"index.mjs": REMEMBERS_IN_NODE})
    logging = {"LogFormat": "JSON", "SystemLogLevel": "INFO"}
    create(client, "isolated", python, TenancyConfig=TENANCY, LoggingConfig=logging, **PYTHON)
    create(client, "isolated-node", node, TenancyConfig=TENANCY, **NODE)
    yield client
    for name in ("isolated", "isolated-node"):
        client.delete_function(FunctionName=name)


@pytest.mark.parametrize("name", ["isolated", "isolated-node"])
def test_no_instance_serves_two_tenants(isolated, controller, client, name):
    order = [tenant for tenant in TENANTS for _ in range(12)]
    random.Random(7).shuffle(order)
    with ThreadPoolExecutor(4) as callers:
        answers = list(callers.map(lambda tenant: invoke(client, name, {}, TenantId=tenant), order))
    for tenant, answer in zip(order, answers, strict=True):
        assert set(answer.ok()) == {tenant}
    assert any(answer.start == "warm" for answer in answers), "instances are used again"
    assert any(len(answer.value) > 2 for answer in answers)
    tenants = {instance["tenant_id"] for instance in controller.instances(name)}
    assert tenants and tenants <= set(TENANTS)


def test_where_one_instance_fits_each_tenant_gets_its_own_in_turn(own_controller):
    controller = own_controller("--max-instances", "1")
    client = lambda_client(controller.url)
    code = package.archive({"app.py": REMEMBERS_IN_PYTHON})
    create(client, "alone", code, TenancyConfig=TENANCY, **PYTHON)
    for tenant in ("blue", "green", "blue"):
        answer = invoke(client, "alone", {}, TenantId=tenant)
        assert answer.ok() == [tenant]
        assert answer.start == "cold"
        assert invoke(client, "alone", {}, TenantId=tenant).ok() == [tenant, tenant]
    with ThreadPoolExecutor(3) as callers:
        both = list(
            callers.map(
                lambda tenant: invoke(client, "alone", {}, TenantId=tenant), ("blue", "green") * 3
            )
        )
    for tenant, answer in zip(("blue", "green") * 3, both, strict=True):
        assert set(answer.ok()) == {tenant}


def test_a_tenant_is_required_where_they_are_isolated_and_refused_elsewhere(
    isolated, controller, client
):
    for call in (client.invoke, client.invoke_with_response_stream):
        assert refusal(call, FunctionName="isolated") == REQUIRED
        assert refusal(call, FunctionName="isolated", TenantId="") == REQUIRED
        assert refusal(call, FunctionName="probe", TenantId="blue") == REFUSED
    for kind in ("Event", "DryRun"):
        assert refusal(client.invoke, FunctionName="isolated", InvocationType=kind) == REQUIRED
    answer = client.invoke(FunctionName="isolated", InvocationType="DryRun", TenantId="blue")
    assert answer["StatusCode"] == 204
    answer = controller.request("POST", "/2014-11-13/functions/isolated/invoke-async", body=b"{}")
    assert (answer.status, json.loads(answer.data)["message"]) == (400, REQUIRED)
    for bad in ("a,b", "x" * 257):
        answer = invoke_raw(controller, "isolated", b"{}", {"X-Amz-Tenant-Id": bad})
        assert answer.status == 400
        assert "at 'tenantId' failed to satisfy constraint" in json.loads(answer.payload)["message"]


def test_a_streamed_invocation_is_its_tenants_too(isolated, client):
    stream = client.invoke_with_response_stream(
        FunctionName="isolated-node", TenantId="stream", Payload=b"{}"
    )["EventStream"]
    chunks = [event["PayloadChunk"]["Payload"] for event in stream if "PayloadChunk" in event]
    assert json.loads(b"".join(chunks)) == ["stream"]


def test_the_log_names_the_tenant_in_the_records_of_platform_and_function(isolated, controller):
    client = lambda_client(controller.url)
    answer = invoke(client, "isolated", {}, TenantId="logged")
    assert answer.error is None
    records = controller.logs("isolated", f"?request_id={answer.request_id}")
    start, ran, report = (json.loads(record["message"]) for record in records)
    assert (start["type"], start["record"]["tenantId"]) == ("platform.start", "logged")
    assert (ran["message"], ran["tenantId"]) == ("ran", "logged")
    assert (report["type"], report["record"]["tenantId"]) == ("platform.report", "logged")


def test_an_event_carries_its_tenant_to_its_retries(own_controller):
    controller = own_controller("--event-retry-base-ms", "200")
    client = lambda_client(controller.url)
    code = package.archive({"app.py": REMEMBERS_IN_PYTHON})
    create(client, "retried", code, TenancyConfig=TENANCY, **PYTHON)
    sent = {
        events.send(client, "retried", {"fail": "no luck"}, TenantId=tenant): tenant
        for tenant in TENANTS
    }
    events.drained(controller)
    until(
        "each event ran three times",
        lambda: all(events.runs(controller, "retried")[request_id] == 3 for request_id in sent),
    )
    said = [record["message"] for record in controller.all_logs("retried")]
    for tenant in TENANTS:
        assert sum(f"ValueError: no luck for {tenant}\n" in message for message in said) == 3


def test_isolation_is_shown_and_stays_in_updates_and_versions(controller, client):
    code = package.archive({"app.py": REMEMBERS_IN_PYTHON})
    made = create(client, "shown", code, TenancyConfig=TENANCY, **PYTHON)
    assert made["TenancyConfig"] == TENANCY
    client.update_function_configuration(FunctionName="shown", Timeout=7)
    client.get_waiter("function_updated_v2").wait(FunctionName="shown")
    shown = client.get_function_configuration(FunctionName="shown")
    assert (shown["TenancyConfig"], shown["Timeout"]) == (TENANCY, 7)
    version = client.publish_version(FunctionName="shown")
    assert version["TenancyConfig"] == TENANCY
    client.get_waiter("published_version_active").wait(FunctionName="shown", Qualifier="1")
    listed = client.list_versions_by_function(FunctionName="shown")["Versions"]
    assert [version["TenancyConfig"] for version in listed] == [TENANCY, TENANCY]
    assert refusal(client.invoke, FunctionName="shown:1") == REQUIRED
    assert invoke(client, "shown:1", {}, TenantId="blue").ok() == ["blue"]
    for call, parameters, what in (
        (
            client.update_function_configuration,
            {"SnapStart": {"ApplyOn": "PublishedVersions"}},
            "SnapStart",
        ),
        (client.create_function_url_config, {"AuthType": "NONE"}, "Function URLs"),
        (
            client.put_provisioned_concurrency_config,
            {"Qualifier": "1", "ProvisionedConcurrentExecutions": 1},
            "Provisioned Concurrency",
        ),
    ):
        text = refusal(call, FunctionName="shown", **parameters)
        assert text.startswith(what)
        assert text.endswith("not supported for functions with tenant isolation mode")


def test_what_goes_with_isolation_is_checked_when_a_function_is_created(controller, client):
    settings = {
        "FunctionName": "checked",
        "Role": ROLE,
        "Code": {"ZipFile": package.archive({"app.py": REMEMBERS_IN_PYTHON})},
        **PYTHON,
    }
    snap_start = {"ApplyOn": "PublishedVersions"}
    text = refusal(client.create_function, **settings, TenancyConfig=TENANCY, SnapStart=snap_start)
    assert text == "SnapStart is not supported for functions with tenant isolation mode"
    for bad in ({}, {"TenantIsolationMode": "SHARED"}):
        with pytest.raises(botocore.exceptions.ClientError) as refused:
            client.create_function(**settings, TenancyConfig=bad)
        error = refused.value.response["Error"]
        assert error["Code"] == "ValidationException"
        assert "at 'tenancyConfig.tenantIsolationMode' failed" in error["Message"]
    assert controller.get("/2015-03-31/functions/checked").status == 404


def test_an_isolating_function_is_no_destination(isolated, client):
    arn = "arn:aws:lambda:us-east-1:000000000000:function:isolated"
    text = refusal(
        client.put_function_event_invoke_config,
        FunctionName="probe",
        DestinationConfig={"OnSuccess": {"Destination": arn}},
    )
    assert text.startswith("Destinations are not supported")
