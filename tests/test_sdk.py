"""The AWS SDKs are where functions written for Lambda expect them, behind what the functions and their
layers bring themselves. Nothing is asked of AWS: there is no way to it."""

from pathlib import Path

import jmespath
import pytest
from harness import package
from harness.invocation import create, invoke

PYTHON = """
import boto3
import jmespath

sts = boto3.client("sts", aws_access_key_id="id", aws_secret_access_key="secret")

def handler(event, context):
    url = sts.generate_presigned_url("get_caller_identity")
    return {"url": url, "boto3": boto3.__file__, "jmespath": jmespath.__file__}
"""

NODE = """
import { createRequire } from "node:module";
import { STSClient } from "@aws-sdk/client-sts";
import layered from "layered";
import dynamodb from "@aws-sdk/lib-dynamodb";

const sts = new STSClient({});
const required = createRequire(import.meta.url);

export const handler = async () => ({
  region: await sts.config.region(),
  whose: [layered, dynamodb, required("layered"), required("@aws-sdk/lib-dynamodb")],
  same: required("@aws-sdk/client-sts").STSClient === STSClient,
});
"""

#: A package of its own, and one in the place of one of the SDK's.
LAYER = {
    "nodejs/node_modules/layered/index.js": b'module.exports = "the layer\'s";',
    "nodejs/node_modules/@aws-sdk/lib-dynamodb/index.js": b'module.exports = "the layer\'s";',
}


@pytest.fixture
def answer_of(client):
    def answer(files, **settings):
        create(client, "sdk", package.archive(files), Handler="app.handler", **settings)
        return invoke(client, "sdk", {}).ok()

    yield answer
    client.delete_function(FunctionName="sdk")


def test_a_python_function_finds_boto3_and_its_own_packages_before_the_runtimes(answer_of):
    own = Path(jmespath.__file__).parent
    files = {f"jmespath/{module.name}": module.read_bytes() for module in own.glob("*.py")}
    answer = answer_of({"app.py": PYTHON.encode(), **files}, Runtime="python3.11")
    assert answer["url"].startswith("https://sts."), answer
    assert answer["boto3"] == "/var/runtime/boto3/__init__.py"
    assert answer["jmespath"] == "/var/task/jmespath/__init__.py"


def test_a_node_module_imports_and_requires_the_sdk_and_layers_before_it(answer_of, layer):
    files = {"app.mjs": NODE.encode()}
    shared = layer("sdk", LAYER)["LayerVersionArn"]
    answer = answer_of(files, Runtime="nodejs22.x", Layers=[shared])
    assert answer["region"] == "us-east-1"
    assert answer["whose"] == ["the layer's"] * 4
    assert answer["same"]
