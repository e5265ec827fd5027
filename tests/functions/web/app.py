"""A web function: the path says what it is to answer."""

import base64
import os


def handler(event, context):
    path = event["rawPath"]
    if path == "/raise":
        raise RuntimeError("on purpose")
    return ANSWERS[path](event) if path in ANSWERS else {"statusCode": 200, "body": path}


def teapot(event):
    return {
        "statusCode": 418,
        "headers": {"Content-Type": "text/plain; charset=utf-8", "X-Teapot": "short"},
        "cookies": ["stout=1; HttpOnly", "spout=2"],
        "body": "tea ☕",
    }


def binary(event):
    body = base64.b64decode(event["body"]) if event["isBase64Encoded"] else event["body"].encode()
    return {
        "statusCode": 200,
        "headers": {"content-type": "application/octet-stream"},
        "body": base64.b64encode(bytes(reversed(body))).decode(),
        "isBase64Encoded": True,
    }


def own_origin(event):
    return {
        "statusCode": 200,
        "headers": {"Access-Control-Allow-Origin": "https://own.example"},
        "body": "",
    }


#: Headers of a connection, and one of the answer.
HOPS = {
    "Connection": "X-Hop",
    "X-Hop": "1",
    "Keep-Alive": "timeout=5",
    "TE": "trailers",
    "Trailer": "x",
    "Upgrade": "h2c",
    "Proxy-Authenticate": "Basic",
    "X-End": "1",
}
#: Of a page that wants more than its own path.
PAGE = {
    "Content-Type": "text/html",
    "Content-Security-Policy": "img-src *",
    "Service-Worker-Allowed": "/",
}

ANSWERS = {
    "/event": lambda event: event,
    "/text": lambda event: "just text",
    "/list": lambda event: [1, {"statusCode": 404}],
    "/none": lambda event: None,
    "/teapot": teapot,
    "/binary": binary,
    "/own-origin": own_origin,
    "/trace": lambda event: {
        "header": event["headers"]["x-amzn-trace-id"],
        "own": os.environ["_X_AMZN_TRACE_ID"],
    },
    "/hops": lambda event: {"statusCode": 200, "headers": HOPS, "body": ""},
    "/page": lambda event: {"statusCode": 200, "headers": PAGE, "body": "<p>a page</p>"},
    "/malformed": lambda event: {"statusCode": "soon"},
    "/large": lambda event: {"statusCode": 200, "body": "x" * 6_300_000},
}
