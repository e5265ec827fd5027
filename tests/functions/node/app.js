// A function that tells what it sees, answers in every way a handler can, and fails in every way
// that Node.js knows; and one that streams. CommonJS; the example node-hello is a module.
const crypto = require("node:crypto");
const os = require("node:os");
const { lookup } = require("node:dns/promises");

// As a library would, which keeps its own reference to the generator.
const { random } = Math;
// Fills the stores that node:crypto draws from, so that a snapshot has them half used.
const drawnInInit = [crypto.randomUUID(), crypto.randomInt(2 ** 40), Math.random()];
let invocations = 0;

// Results of which JSON.stringify makes no text.
const withoutJson = {
  function: () => 1,
  class: class {},
  symbol: Symbol("result"),
  nothing: { toJSON() {} },
};

const how = {
  draws: async () => ({
    drawnInInit,
    kept: random(),
    math: Math.random(),
    bytes: crypto.randomBytes(16).toString("hex"),
    uuid: crypto.randomUUID(),
    int: crypto.randomInt(2 ** 40),
    web: Buffer.from(globalThis.crypto.getRandomValues(new Uint8Array(16))).toString("hex"),
    key: crypto.generateKeyPairSync("x25519").publicKey.export({ format: "jwk" }).x,
  }),
  environment: async () => ({ ...process.env }),
  about: async (event, context) => ({
    request: context.awsRequestId,
    arn: context.invokedFunctionArn,
    version: context.functionVersion,
    memory: context.memoryLimitInMB,
    remaining: context.getRemainingTimeInMillis(),
    custom: context.clientContext?.Custom,
    arguments: process.execArgv,
    node: process.version,
    gc: typeof global.gc,
  }),
  callback: (event, context, callback) => {
    setTimeout(() => callback(null, { called: event.value }), 1);
  },
  callback_error: (event, context, callback) => callback(new RangeError("by callback")),
  nothing: () => undefined,
  without_json: async (event) => withoutJson[event.kind],
  throw: () => {
    throw new TypeError("thrown");
  },
  reject: async () => {
    throw Object.assign(new Error("rejected"), { name: "OwnError" });
  },
  uncaught: (event) =>
    new Promise(() => {
      setTimeout(() => {
        throw new Error(event.text);
      }, 1);
    }),
  name: async () => ({ name: os.hostname(), ...(await lookup(os.hostname())) }),
  say: async (event) => {
    console.log(event.text);
    console.error("an error", { of: "objects" });
    process.stdout.write("without a console\n");
  },
  count: async () => ++invocations,
};

exports.handler = (event, context, callback) => how[event.op](event, context, callback);

// Asked through a function URL it answers with a status, else with the text that it is given, in
// pieces; and fails after them, if it shall.
exports.stream = awslambda.streamifyResponse(async (event, stream) => {
  const web = event.requestContext?.http;
  const out = web
    ? awslambda.HttpResponseStream.from(stream, {
        statusCode: 203,
        headers: { "x-made-by": "node" },
        cookies: ["a=1", "b=2"],
      })
    : stream;
  for (const piece of web ? [web.method, " ", event.rawPath] : event.pieces) out.write(piece);
  if (event.fail) throw new RangeError(event.fail);
  out.end();
  await new Promise((resolve) => out.once("finish", resolve));
});
