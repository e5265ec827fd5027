// Random generators of this process, seen to before it is snapshotted.
//
// A function's process is restored from one snapshot many times, and each copy would draw the same
// numbers. The agent is told where the state of generators is in memory: it is filled with random bytes
// before a restored process runs. OpenSSL, on which node:crypto draws, needs nothing from here: the
// sandbox finds its generators.
import { createRequire, syncBuiltinESMExports } from "node:module";

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

// Libraries fetch random bytes in store and use them up bit by bit: uuid takes 256, nanoid 128 times
// the length of a name. What such a store holds at the snapshot would be used in every copy. So until
// then the functions that make or fill buffers take note of large ones. That of a library known
// for it is filled anew; any other may be a secret that the function keeps, which nobody may change:
// then the function is not started from a snapshot.
const STORE = 128;
const KNOWN = /[\\/]node_modules[\\/](?:\.pnpm[\\/][^\\/]+[\\/]node_modules[\\/])?(?:(?:uuid|nanoid|ws)\d*|@lukeed[\\/]uuid)[\\/]/;
// This one keeps its store as a text from version 6 on, which can't be filled.
const TEXT = /[\\/]node_modules[\\/](?:\.pnpm[\\/][^\\/]+[\\/]node_modules[\\/])?nanoid\d*[\\/]/;
const stores = [];
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
  if (!watching || !(buffer?.byteLength >= STORE)) return;
  const view = ArrayBuffer.isView(buffer) ? buffer : new Uint8Array(buffer);
  const { stack } = new Error();
  stores.push({
    // Not the view: libraries fill their store in parts.
    bytes: new WeakRef(view.buffer), at: view.byteOffset, length: view.byteLength,
    known: KNOWN.test(stack), text: TEXT.test(stack), place: caller(stack),
  });
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
  return (line ?? "").trim().slice(0, 120).replace(/[\0-\x1f]/g, " ");
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
  if (stores.some(({ known, text }) => text || !known)) globalThis.gc?.();
  for (const { bytes: reference, at, length, known, text, place } of stores) {
    const bytes = reference.deref();
    if (bytes === undefined) {
      if (text) facts.push("shared random bytes in store of nanoid");
      continue;
    }
    if (known) {
      facts.push(`random ${native.address(bytes) + at} ${length}`);
    } else {
      facts.push(`shared random bytes in store ${place}`);
    }
  }
  if (process.getActiveResourcesInfo().includes("Worker")) {
    facts.push("shared Node.js's worker threads");
  }
  stopWatching();
  const status = native.register([...new Set(facts)].join("\n"));
  if (status !== 202) throw new Error(`The agent refused the random generators: ${status}`);
}

// When the first event has come. Taking as many numbers as node:crypto keeps makes it fetch new ones.
export function afterRestore() {
  if (!drewInt) return;
  for (let n = 0; n < 1024; n++) crypto.randomInt(2 ** 48 - 1);
}
