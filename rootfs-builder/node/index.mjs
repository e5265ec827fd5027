// Starts Lambda's runtime client, and gives each of the many processes that are restored from one
// snapshot random numbers of its own. What the client is asked for first after a restore is the
// first event, so that is where it happens, before the handler sees it.
import { createRequire } from "node:module";
import { run } from "./aws-lambda-ric/index.mjs";

const require = createRequire(import.meta.url);
const reseed = require("./reseed.node");
const client = require("./aws-lambda-ric/rapid-client.node");

// V8's Math.random can't be given another seed, and libraries keep references to it from their
// init on. This one takes its place before them: xoshiro128**, 53 bits from two steps.
const state = new Uint32Array(4);

function seed(bytes) {
  state.set(new Uint32Array(bytes));
  state[0] |= 1; // All zeros would stay so.
}

function step() {
  const product = Math.imul(state[1], 5);
  const result = Math.imul((product << 7) | (product >>> 25), 9);
  const shifted = state[1] << 9;
  state[2] ^= state[0];
  state[3] ^= state[1];
  state[1] ^= state[2];
  state[0] ^= state[3];
  state[2] ^= shifted;
  state[3] = (state[3] << 11) | (state[3] >>> 21);
  return result;
}

Math.random = function random() {
  return ((step() >>> 5) * 0x4000000 + (step() >>> 6)) / 0x20000000000000;
};
seed(reseed());

// node:crypto keeps random bytes in store: 128 UUIDs, and numbers for randomInt. Taking as many as
// that makes it fetch new ones. Not loaded, it has none.
function emptyStores() {
  const loaded = process.moduleLoadList;
  if (loaded && !loaded.includes("NativeModule internal/crypto/random")) return;
  const { randomInt, randomUUID } = require("node:crypto");
  for (let n = 0; n < 128; n++) randomUUID();
  for (let n = 0; n < 1024; n++) randomInt(2 ** 48 - 1);
}

const { next } = client;
client.next = async () => {
  const event = await next();
  client.next = next;
  seed(reseed());
  emptyStores();
  return event;
};
// The client's other way of asking, in JavaScript, would go past that.
delete process.env.AWS_LAMBDA_NODEJS_USE_ALTERNATIVE_CLIENT_1;

await run(process.env.LAMBDA_TASK_ROOT, process.env._HANDLER);
