// Random generators of this process, seen to before it is snapshotted.
//
// A function's process is restored from one snapshot many times, and each copy would draw the same
// numbers. The agent is told where the state of generators is in memory: it is filled with random bytes
// before a restored process runs. OpenSSL, on which node:crypto draws, needs nothing from here: the
// sandbox finds its generators.
import { readFileSync } from "node:fs";
import { createRequire, syncBuiltinESMExports } from "node:module";
import { fileURLToPath } from "node:url";

const require = createRequire(import.meta.url);
const crypto = require("node:crypto");
const native = require("./reseed.node");

// V8's Math.random can't be given another seed, and libraries keep references to it from their
// init on. This one takes its place before them: xoshiro128**, 53 bits from two steps.
const buffer = native.state();
const state = new Uint32Array(buffer);
if (state.every((word) => word === 0)) state[0] = 1; // All zeros would stay so.

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

// Packages draw random bytes ahead and use them up bit by bit: uuid draws 256 bytes, nanoid 128 times
// the length of an id. Every copy would use what such a store holds at the snapshot. So until then the
// functions that make or fill buffers record which package called them.
//
// The packages that are known to keep random bytes, and the last major version that keeps them in the
// buffer that it has filled. The sandbox fills that buffer anew at each restore. Another version keeps
// them in another form (nanoid 6 in a text, bson as a part of its ids, the others as the state of a
// generator of their own), which can't be filled: then the function is not started from a snapshot.
const KEEPERS = new Map(Object.entries({
  uuid: 14, nanoid: 5, ws: 8, "@lukeed/uuid": 2, bson: 0, "node-forge": 0, sjcl: 0,
}));
// Any other caller's buffer of at least this size, in bytes, may be a store as well. It may also be a
// secret that the function keeps, which nobody may change. So while the buffer is in use, the function is
// not started from a snapshot.
const STORE = 128;
// The agent refuses a registration with more lines of a kind.
const MAX_RANDOM = 48, MAX_SHARED = 8;
const stores = [];
const packages = new Map();
const workers = new Set();
process.on("worker", (worker) => {
  workers.add(worker);
  worker.once("exit", () => workers.delete(worker));
});
const crypt = Object.getPrototypeOf(crypto.webcrypto);
const originals = [
  [crypto, "randomFillSync", fills],
  [crypto, "randomFill", fills],
  [crypto, "randomBytes", makes],
  [crypt, "getRandomValues", fills],
  [crypto, "randomUUID", drawsUuid],
  [crypt, "randomUUID", drawsUuid],
  [crypto, "randomInt", drawsInt],
].map(([object, name, watched]) => [object, name, Object.getOwnPropertyDescriptor(object, name), watched]);
const randomUUID = crypto.randomUUID;
let watching = true;
let drewInt = false;

function note(buffer) {
  if (!watching || !(buffer?.byteLength > 0)) return;
  // A function can replace what a stack is made into, by any value.
  const place = caller(String(new Error().stack));
  const { name, major } = packageOf(place);
  const keeper = KEEPERS.get(name);
  const filled = keeper !== undefined && major <= keeper;
  if (buffer.byteLength < STORE && (keeper === undefined || filled)) return;
  const view = ArrayBuffer.isView(buffer) ? buffer : new Uint8Array(buffer);
  stores.push({
    // Not the view: libraries fill their store in parts.
    bytes: new WeakRef(view.buffer), at: view.byteOffset, length: view.byteLength,
    filled, lost: keeper !== undefined && !filled, place: filled || keeper === undefined ? place : name,
  });
}

// Name and major version of the package that a line of a stack is in, by its package.json: its folder may
// have another name.
function packageOf(place) {
  const path = /\(?((?:file:\/\/)?\/.*[\\/]node_modules[\\/](?:@[^\\/]+[\\/])?[^\\/]+)[\\/]/.exec(place)?.[1];
  if (path === undefined) return {};
  if (!packages.has(path)) {
    let found = {};
    try {
      const folder = path.startsWith("file:") ? fileURLToPath(path) : path;
      const { name, version } = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));
      found = { name, major: Number.parseInt(version, 10) };
    } catch {
      // Without a description it is any other caller.
    }
    packages.set(path, found);
  }
  return packages.get(path);
}

function fills(original, self, args) {
  const result = Reflect.apply(original, self, args);
  note(args[0]);
  return result;
}

function makes(original, self, args) {
  const result = Reflect.apply(original, self, args);
  note(result);
  return result;
}

// node:crypto itself keeps 128 UUIDs in store, unless it is asked not to.
function drawsUuid(original, self, args) {
  if (!watching) return Reflect.apply(original, self, args);
  return randomUUID({ ...args[0], disableEntropyCache: true });
}

// And numbers.
function drawsInt(original, self, args) {
  drewInt ||= watching;
  return Reflect.apply(original, self, args);
}

// The first line of the stack that is not of this file.
function caller(stack) {
  const line = stack.split("\n").slice(1).find((line) => !/[\\/]random-generators\.mjs|\(node:/.test(line));
  return (line ?? "").trim();
}

for (const [object, name, property, watched] of originals) {
  const original = property.value;
  const { [name]: call } = {
    [name](...args) {
      return watched(original, this, args);
    },
  };
  Object.defineProperty(call, "length", { value: original.length, configurable: true });
  Object.defineProperty(object, name, { ...property, value: call });
}
syncBuiltinESMExports();

function stopWatching() {
  watching = false;
  for (const [object, name, property] of originals) Object.defineProperty(object, name, property);
  syncBuiltinESMExports();
}

// Before the snapshot.
export function beforeSnapshot() {
  const facts = [`process ${process.pid}`, `random ${native.address(buffer)} ${buffer.byteLength}`];
  // What nobody refers to any more is no store.
  if (stores.some(({ filled, lost }) => !filled && !lost)) globalThis.gc?.();
  const random = new Set(), shared = new Set();
  for (const { bytes: reference, at, length, filled, lost, place } of stores) {
    const bytes = reference.deref();
    if (lost) shared.add(`random bytes in store of ${place}`);
    else if (bytes !== undefined && filled) random.add(`${native.address(bytes) + at} ${length}`);
    else if (bytes !== undefined) shared.add(`random bytes in store ${place}`);
  }
  if (workers.size > 0) shared.add("Node.js's worker threads");
  if (random.size >= MAX_RANDOM) {
    random.clear();
    shared.add("more stores of random bytes than a restore can fill");
  }
  for (const range of random) facts.push(`random ${range}`);
  for (const what of [...shared].slice(0, MAX_SHARED)) {
    facts.push(`shared ${what.slice(0, 160).replace(/[^ -~]/g, "?")}`);
  }
  stopWatching();
  const status = native.register(facts.join("\n"));
  if (status !== 202) throw new Error(`The agent refused the random generators: ${status}`);
}

// When the first event has come. Taking as many numbers as node:crypto keeps makes it fetch new ones.
export function afterRestore() {
  if (!drewInt) return;
  for (let n = 0; n < 1024; n++) crypto.randomInt(2 ** 48 - 1);
}
