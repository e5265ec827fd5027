"""A small site as Flask's users write it. It knows nothing of Lambda: the web adapter stands before
it. Its twin is tests/functions/express."""

import json
import time

from flask import Flask, Response, jsonify, request

app = Flask(__name__)


@app.get("/")
def ready():
    return "ready"


@app.get("/greet/<name>")
def greet(name: str):
    return jsonify(
        name=name,
        words=request.args.getlist("word"),
        said=request.headers.get("x-said"),
    )


@app.post("/orders")
def order():
    answer = jsonify(ordered=request.get_json(), by=request.cookies.get("who"))
    answer.status_code = 201
    answer.set_cookie("order", "7", httponly=True)
    answer.set_cookie("seen", "yes")
    return answer


@app.get("/picture")
def picture():
    return Response(bytes(range(256)) * 16, mimetype="image/png")


@app.post("/size")
def size():
    return jsonify(size=len(request.data), last=request.data[-1])


@app.get("/context")
def context():
    """What the adapter tells of the invocation and of the event."""
    lambdas = json.loads(request.headers["x-amzn-lambda-context"])
    event = json.loads(request.headers["x-amzn-request-context"])
    return jsonify(
        request=lambdas["request_id"],
        function=lambdas["env_config"]["function_name"],
        api=event["apiId"],
        method=event["http"]["method"],
    )


@app.get("/slowly")
def slowly():
    def pieces():
        for piece in ("one ", "two ", "three"):
            yield piece
            time.sleep(0.05)

    return Response(pieces(), mimetype="text/plain")


@app.get("/failure")
def failure():
    raise RuntimeError("a bug in the site")
