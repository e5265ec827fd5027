// Does with @aws-sdk/client-lambda what its users do, and prints what came back as one JSON object.
// Usage: node lambda.mjs ENDPOINT PACKAGE.zip, with the SDK's folder in CLIENTS.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(`${process.env.CLIENTS}/package.json`));
const sdk = require("@aws-sdk/client-lambda");

const [endpoint, zip] = process.argv.slice(2);
const client = new sdk.LambdaClient({
  endpoint,
  region: "us-east-1",
  credentials: { accessKeyId: "AKIDEXAMPLE", secretAccessKey: "wJalrXUtnFEMI" },
  maxAttempts: 1,
});
const FunctionName = "js";
const told = {};

const created = await client.send(
  new sdk.CreateFunctionCommand({
    FunctionName,
    Runtime: "provided.al2023",
    Handler: "bootstrap",
    Role: "arn:aws:iam::000000000000:role/any",
    Code: { ZipFile: readFileSync(zip) },
    Timeout: 30,
    Environment: { Variables: { TAG: "js" } },
  }),
);
told.created = created.State;
const limits = { client, maxWaitTime: 280, minDelay: 1, maxDelay: 1 };
const waited = await sdk.waitUntilFunctionActiveV2(limits, { FunctionName });
told.waited = waited.state;

const text = (payload) => Buffer.from(payload ?? []).toString();
const invoke = async (options) => {
  const answer = await client.send(new sdk.InvokeCommand({ FunctionName, ...options }));
  return {
    status: answer.StatusCode,
    version: answer.ExecutedVersion,
    error: answer.FunctionError,
    payload: text(answer.Payload),
    log: answer.LogResult && Buffer.from(answer.LogResult, "base64").toString(),
    request: answer.$metadata.requestId,
  };
};
const Payload = JSON.stringify({ op: "echo", text: "grüße" });
told.invoked = await invoke({ Payload, LogType: "Tail" });
told.dry = await invoke({ InvocationType: "DryRun" });
told.event = await invoke({ InvocationType: "Event", Payload });

const streamed = await client.send(
  new sdk.InvokeWithResponseStreamCommand({
    FunctionName,
    Payload: JSON.stringify({ op: "stream", n: 3, m: 16 }),
  }),
);
told.streamed = "";
for await (const event of streamed.EventStream) {
  if (event.PayloadChunk) told.streamed += text(event.PayloadChunk.Payload);
  if (event.InvokeComplete) told.complete = event.InvokeComplete;
}

const version = await client.send(new sdk.PublishVersionCommand({ FunctionName }));
told.published = version.Version;
await sdk.waitUntilPublishedVersionActive(limits, { FunctionName, Qualifier: version.Version });
await client.send(
  new sdk.CreateAliasCommand({ FunctionName, Name: "live", FunctionVersion: version.Version }),
);
told.aliased = await invoke({ Payload, Qualifier: "live" });

told.listed = [];
for await (const page of sdk.paginateListFunctions({ client, pageSize: 1 }, {})) {
  told.listed.push(...page.Functions.map((f) => f.FunctionName));
}
try {
  await client.send(new sdk.GetFunctionCommand({ FunctionName: "nobody" }));
} catch (error) {
  told.missing = {
    known: error instanceof sdk.ResourceNotFoundException,
    name: error.name,
    status: error.$metadata.httpStatusCode,
    message: error.message,
    type: error.Type,
  };
}
await client.send(new sdk.DeleteFunctionCommand({ FunctionName }));
console.log(JSON.stringify(told));
