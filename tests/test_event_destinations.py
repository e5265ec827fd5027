"""Event invoke configurations, and the records that tell another function how an event ended."""

import json
import re

import pytest
from harness import events, host, package
from harness.deadline import until
from harness.invocation import create, invoke, lambda_client, wait_for

ARN = "arn:aws:lambda:us-east-1:000000000000:function:{}"

#: A function that writes the event it gets into its log.
WITNESS = package.python(
    """
import json

def handler(event, context):
    print("WITNESSED " + json.dumps({"event": event, "request_id": context.aws_request_id}))
    if isinstance(event, dict) and event.get("fail"):
        raise ValueError("as asked")
    return {"seen": event}
"""
)


def witness(client, name):
    return create(client, name, WITNESS, Runtime="python3.11", Handler="app.handler")


def witnessed(controller, name):
    """What the function `name` has been called with so far."""
    found = []
    for record in controller.logs(name):
        if record["message"].startswith("WITNESSED "):
            found.append(json.loads(record["message"].removeprefix("WITNESSED ")))
    return found


def refused(call, **parameters):
    with pytest.raises(Exception) as caught:  # noqa: PT011, B017 - the code is looked at below
        call(**parameters)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def shown(answer):
    return {key: value for key, value in answer.items() if key != "ResponseMetadata"}


def test_a_configuration_is_put_read_updated_listed_and_deleted_as_on_lambda(controller, client):
    put = client.put_function_event_invoke_config(FunctionName="guest", MaximumRetryAttempts=0)
    assert put.pop("LastModified").year >= 2024
    latest = ARN.format("guest:$LATEST")
    nowhere = {"OnSuccess": {}, "OnFailure": {}}
    assert shown(put) == {
        "FunctionArn": latest,
        "MaximumRetryAttempts": 0,
        "DestinationConfig": nowhere,
    }
    # A put replaces all of it, an update what it names.
    put = client.put_function_event_invoke_config(
        FunctionName="guest", MaximumEventAgeInSeconds=60, Qualifier="$LATEST"
    )
    assert "MaximumRetryAttempts" not in put
    updated = client.update_function_event_invoke_config(
        FunctionName=ARN.format("guest"),
        MaximumRetryAttempts=1,
        DestinationConfig={"OnFailure": {"Destination": ARN.format("probe")}},
    )
    assert (updated["MaximumEventAgeInSeconds"], updated["MaximumRetryAttempts"]) == (60, 1)
    read = client.get_function_event_invoke_config(FunctionName="guest:$LATEST")
    assert shown(read) == shown(updated)
    assert read["DestinationConfig"] == {
        "OnSuccess": {},
        "OnFailure": {"Destination": ARN.format("probe")},
    }
    listed = client.list_function_event_invoke_configs(FunctionName="guest")
    assert listed["FunctionEventInvokeConfigs"] == [shown(read)]
    deleted = client.delete_function_event_invoke_config(FunctionName="guest")
    assert deleted["ResponseMetadata"]["HTTPStatusCode"] == 204
    missing = (
        "ResourceNotFoundException",
        f"The function {latest} doesn't have an EventInvokeConfig",
    )
    for call in (
        client.get_function_event_invoke_config,
        client.delete_function_event_invoke_config,
    ):
        assert refused(call, FunctionName="guest") == missing
    update = client.update_function_event_invoke_config
    assert refused(update, FunctionName="guest", MaximumRetryAttempts=1) == missing
    listed = client.list_function_event_invoke_configs(FunctionName="guest")
    assert listed["FunctionEventInvokeConfigs"] == []


def test_what_lambda_refuses_is_refused_with_its_words(controller, client):
    put = client.put_function_event_invoke_config
    no_function = ("ResourceNotFoundException", "The function doesn't exist.")
    invalid = "InvalidParameterValueException"
    assert refused(put, FunctionName="nobody", MaximumRetryAttempts=1) == no_function
    assert refused(put, FunctionName="guest:nowhere", MaximumRetryAttempts=1) == no_function
    listing = client.list_function_event_invoke_configs
    assert refused(listing, FunctionName="nobody") == no_function
    assert refused(put, FunctionName="guest") == (
        invalid,
        "You must specify at least one of error handling or destination setting.",
    )
    for parameters, field, words in (
        ({"MaximumRetryAttempts": 3}, "maximumRetryAttempts", "less than or equal to 2"),
        ({"MaximumRetryAttempts": -1}, "maximumRetryAttempts", "greater than or equal to 0"),
        (
            {"MaximumEventAgeInSeconds": 59},
            "maximumEventAgeInSeconds",
            "greater than or equal to 60",
        ),
        (
            {"MaximumEventAgeInSeconds": 21601},
            "maximumEventAgeInSeconds",
            "less than or equal to 21600",
        ),
    ):
        [value] = parameters.values()
        assert refused(put, FunctionName="guest", **parameters) == (
            "ValidationException",
            f"1 validation error detected: Value '{value}' at '{field}' failed to satisfy"
            f" constraint: Member must have value {words}",
        )

    def to(arn, outcome="OnSuccess"):
        config = {outcome: {"Destination": arn}}
        return refused(put, FunctionName="guest", DestinationConfig=config)

    absent = ARN.format("nobody")
    assert to(absent) == (invalid, f"The destination ARN {absent} is invalid.")
    assert to(ARN.format("guest"), "OnFailure") == (
        invalid,
        "You can't specify the function as a destination for itself.",
    )
    for service in ("iam", "sqs", "sns", "events"):
        arn = f"arn:aws:{service}:us-east-1:000000000000:thing"
        assert to(arn) == (
            invalid,
            "The provided destination config DestinationConfig(onSuccess=OnSuccess(destination="
            f"{arn}), onFailure=null) is invalid.",
        )
    kind, message = to("arn:aws:_-/!lambda:us-east-1:000000000000:function:guest", "OnFailure")
    assert kind == "ValidationException"
    assert "at 'destinationConfig.onFailure.destination' failed to satisfy" in message
    # Nothing of all that was kept.
    assert listing(FunctionName="guest")["FunctionEventInvokeConfigs"] == []


def test_a_dead_letter_target_is_refused_with_what_to_do_instead(controller, client):
    update = client.update_function_configuration
    code, message = refused(
        update, FunctionName="guest", DeadLetterConfig={"TargetArn": ARN.format("probe")}
    )
    assert (code, message) == (
        "InvalidParameterValueException",
        "Invalid dead letter queue ARN: Only Amazon SQS queues and Amazon SNS topics are supported.",
    )
    arn = "arn:aws:sqs:us-east-1:000000000000:queue"
    code, message = refused(update, FunctionName="guest", DeadLetterConfig={"TargetArn": arn})
    assert code == "InvalidParameterValueException"
    assert arn in message
    assert "OnFailure destination" in message


@pytest.fixture(scope="module")
def deployed(start_controller, tmp_path_factory):
    """A controller with a function `source` whose ends are told to `good` and `bad`."""
    before = host.Host.now()
    controller = start_controller(tmp_path_factory.mktemp("chain"))
    for name in ("source", "good", "bad"):
        witness(lambda_client(controller.url), name)
    yield controller
    controller.stop()
    host.assert_nothing_left(before)


@pytest.fixture
def chain(deployed):
    """Starts that controller again, with other arguments."""

    def start(*arguments):
        deployed.stop()
        deployed.arguments = arguments
        deployed.start()
        return deployed, lambda_client(deployed.url)

    return start


def configure(client, **settings):
    client.put_function_event_invoke_config(
        FunctionName="source",
        DestinationConfig={
            "OnSuccess": {"Destination": ARN.format("good")},
            "OnFailure": {"Destination": ARN.format("bad:$LATEST")},
        },
        **settings,
    )


def test_a_success_and_a_failure_are_told_field_by_field(chain):
    controller, client = chain("--event-retry-base-ms", "300")
    configure(client, MaximumRetryAttempts=1)
    fine = events.send(client, "source", {"b": 1.5, "a": [None, "é"]})
    events.drained(controller)
    [record] = until("the record came", lambda: witnessed(controller, "good"))
    assert record["request_id"] != fine
    record = record["event"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("timestamp"))
    assert record == {
        "version": "1.0",
        "requestContext": {
            "requestId": fine,
            "functionArn": ARN.format("source:$LATEST"),
            "condition": "Success",
            "approximateInvokeCount": 1,
        },
        "requestPayload": {"b": 1.5, "a": [None, "é"]},
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST"},
        "responsePayload": {"seen": {"b": 1.5, "a": [None, "é"]}},
    }
    bad = events.send(client, "source", {"fail": True})
    events.drained(controller)
    [record] = until("the record came", lambda: witnessed(controller, "bad"))
    record = record["event"]
    error = record.pop("responsePayload")
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "as asked")
    assert error["requestId"] == bad
    del record["timestamp"]
    assert record == {
        "version": "1.0",
        "requestContext": {
            "requestId": bad,
            "functionArn": ARN.format("source:$LATEST"),
            "condition": "RetriesExhausted",
            "approximateInvokeCount": 2,
        },
        "requestPayload": {"fail": True},
        "responseContext": {
            "statusCode": 200,
            "executedVersion": "$LATEST",
            "functionError": "Unhandled",
        },
    }
    assert [call["request_id"] for call in witnessed(controller, "source")] == [fine, bad, bad]
    metrics = controller.metrics()
    for outcome in ("success", "failure"):
        series = (
            f'hearth_async_destination_deliveries_total{{function="source",outcome="{outcome}"}}'
        )
        assert metrics[series] == 1


def test_an_event_that_would_be_too_old_for_its_retry_is_told_at_once(chain):
    controller, client = chain("--event-retry-base-ms", "61000")
    told = len(witnessed(controller, "bad"))
    configure(client, MaximumEventAgeInSeconds=60)
    events.send(client, "source", {"fail": True})
    events.drained(controller)
    [record] = until("the record came", lambda: witnessed(controller, "bad")[told:])
    context = record["event"]["requestContext"]
    assert (context["condition"], context["approximateInvokeCount"]) == ("EventAgeExceeded", 1)
    assert record["event"]["responseContext"]["functionError"] == "Unhandled"


def test_an_alias_has_its_own_configuration_and_its_record_names_alias_and_version(chain):
    controller, client = chain()
    client.publish_version(FunctionName="source")
    wait_for(client, "published_version_active", "source:1")
    client.create_alias(FunctionName="source", Name="live", FunctionVersion="1")
    told = len(witnessed(controller, "good"))
    client.put_function_event_invoke_config(
        FunctionName="source:live",
        DestinationConfig={"OnSuccess": {"Destination": ARN.format("good")}},
    )
    sent = events.send(client, "source:live", {"by": "alias"})
    events.drained(controller)
    [record] = until("the record came", lambda: witnessed(controller, "good")[told:])
    record = record["event"]
    assert record["requestContext"]["requestId"] == sent
    assert record["requestContext"]["functionArn"] == ARN.format("source:live")
    assert record["responseContext"] == {"statusCode": 200, "executedVersion": "1"}
    listed = client.list_function_event_invoke_configs(FunctionName="source")
    qualifiers = [c["FunctionArn"].rsplit(":", 1)[1] for c in listed["FunctionEventInvokeConfigs"]]
    assert qualifiers[-1] == "live"


def test_an_event_of_a_function_with_no_concurrency_is_told_as_a_failure_at_once(chain):
    controller, client = chain()
    configure(client, MaximumRetryAttempts=2)
    told = len(witnessed(controller, "bad"))
    ran = len(witnessed(controller, "source"))
    client.put_function_concurrency(FunctionName="source", ReservedConcurrentExecutions=0)
    sent = events.send(client, "source", {"n": 1})
    events.drained(controller)
    client.delete_function_concurrency(FunctionName="source")
    [record] = until("the record came", lambda: witnessed(controller, "bad")[told:])
    record = record["event"]
    del record["timestamp"]
    assert record == {
        "version": "1.0",
        "requestContext": {
            "requestId": sent,
            "functionArn": ARN.format("source:$LATEST"),
            "condition": "ZeroReservedConcurrency",
            "approximateInvokeCount": 0,
        },
        "requestPayload": {"n": 1},
    }
    assert len(witnessed(controller, "source")) == ran


def test_a_configuration_outlives_a_restart_and_ends_with_its_function(chain):
    controller, client = chain()
    configure(client, MaximumRetryAttempts=2)
    before = shown(client.get_function_event_invoke_config(FunctionName="source"))
    controller.kill()
    controller.start()
    client = lambda_client(controller.url)
    assert shown(client.get_function_event_invoke_config(FunctionName="source")) == before
    # A destination that is gone holds up nothing.
    client.delete_function(FunctionName="good")
    events.send(client, "source", {})
    events.drained(controller)
    failures = 'hearth_async_destination_failures_total{function="source"}'
    assert controller.metrics()[failures] == 1
    assert invoke(client, "source", {}).ok() == {"seen": {}}
    client.delete_function(FunctionName="source")
    witness(client, "source")
    listed = client.list_function_event_invoke_configs(FunctionName="source")
    assert listed["FunctionEventInvokeConfigs"] == []
