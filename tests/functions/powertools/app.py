"""A function as Powertools for AWS Lambda's users write it: structured logs, metrics, routes. Its
wrapper names the service and sets an option of the interpreter."""

import sys

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.event_handler import LambdaFunctionUrlResolver
from aws_lambda_powertools.metrics import MetricUnit

logger = Logger()
metrics = Metrics(namespace="Shop")
app = LambdaFunctionUrlResolver()


@app.get("/orders/<number>")
def order(number: str):
    logger.info("looking up", order=number, options=sys._xoptions)
    metrics.add_metric(name="Lookups", unit=MetricUnit.Count, value=1)
    return {"order": number, "by": app.current_event.query_string_parameters.get("by")}


@metrics.log_metrics(capture_cold_start_metric=True)
@logger.inject_lambda_context
def handler(event, context):
    return app.resolve(event, context)
