// A function that draws on the generators of the libraries that LIBRARIES names: twice when it is
// imported, and again for each event. What it keeps from its import (keys, contexts, stores of
// numbers, threads) goes on being used.
//
// Each library is a function that gets what it needs and returns the function that draws: texts,
// none of which may be seen a second time in any instance.
import { createRequire } from "node:module";

// Modules are loaded only by the libraries that want them: an addon's generator is there or not.
const require = createRequire(import.meta.url);

const hex = (bytes) => Buffer.from(bytes).toString("hex");

const libraries = {
  math() {
    // As a library would, which keeps its own reference to the generator.
    const { random } = Math;
    return () => [String(Math.random()), String(random())];
  },

  crypto() {
    const crypto = require("node:crypto");
    const kept = crypto.generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
    return () => [
      hex(crypto.randomBytes(16)),
      hex(crypto.randomFillSync(new Uint8Array(16))),
      crypto.randomUUID(),
      String(crypto.randomInt(2 ** 47)),
      crypto.generateKeyPairSync("x25519").privateKey.export({ format: "jwk" }).d,
      crypto.generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey.export({ format: "jwk" }).d,
      crypto.generateKeySync("hmac", { length: 128 }).export().toString("hex"),
      // Of one key and one text: two that are alike say that their nonces were.
      crypto.sign("sha256", "one text", kept).toString("hex"),
    ];
  },

  async webcrypto() {
    const { subtle } = globalThis.crypto;
    const ecdsa = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
    const kept = await subtle.generateKey(ecdsa, true, ["sign", "verify"]);
    const key = async (algorithm, uses) => subtle.generateKey(algorithm, true, uses);
    return async () => [
      hex(globalThis.crypto.getRandomValues(new Uint8Array(16))),
      globalThis.crypto.randomUUID(),
      hex(await subtle.exportKey("raw", await key({ name: "AES-GCM", length: 256 }, ["encrypt"]))),
      (await subtle.exportKey("jwk", (await key(ecdsa, ["sign", "verify"])).privateKey)).d,
      hex(await subtle.sign(ecdsa, kept.privateKey, Buffer.from("one text"))),
    ];
  },

  // The first words of a client whose server hangs up, of Node.js's own TLS.
  tls() {
    const tls = require("node:tls");
    return () =>
      hello((port, ended) => tls.connect({ port, host: "127.0.0.1" }).on("error", ended));
  },

  worker_crypto: () => worker(() => {
    const { randomBytes, randomUUID } = require("node:crypto");
    return [randomBytes(16).toString("hex"), randomUUID()];
  }),

  worker_math: () => worker(() => [String(Math.random())]),

  // They keep stores of bytes in their own memory.
  uuid9() {
    const { v4 } = require("uuid9");
    return () => [v4(), v4({})];
  },

  nanoid3() {
    const { nanoid, customAlphabet } = require("nanoid3");
    const kept = customAlphabet("0123456789abcdef", 32);
    return () => [nanoid(), kept()];
  },

  async uuid14() {
    const { v4 } = await import("uuid14");
    return () => [v4(), v4({})];
  },

  async nanoid6() {
    const { nanoid } = await import("nanoid6");
    return () => [nanoid()];
  },

  forge() {
    const forge = require("node-forge");
    return () => [forge.util.bytesToHex(forge.random.getBytesSync(16))];
  },

  // An ObjectId is a time, five bytes of the process, and a count.
  bson() {
    const { ObjectId } = require("bson");
    return () => [new ObjectId().toHexString().slice(8)];
  },

  // OpenSSL inside an addon.
  addon() {
    const { draw } = require("./addon.node");
    return () => JSON.parse(draw());
  },

  // libsodium inside an addon.
  sodium() {
    const sodium = require("sodium-native");
    return () => {
      const bytes = Buffer.alloc(16);
      sodium.randombytes_buf(bytes);
      const [open, secret] = [Buffer.alloc(32), Buffer.alloc(64)];
      sodium.crypto_sign_keypair(open, secret);
      return [hex(bytes), hex(secret)];
    };
  },

  // AWS-LC inside an addon: the first words of its TLS, which are said by threads of its own.
  awscrt() {
    const io = require("aws-crt/dist/native/io");
    const { HttpClientConnection } = require("aws-crt/dist/native/http");
    const bootstrap = new io.ClientBootstrap();
    const context = new io.ClientTlsContext();
    return () =>
      hello((port, ended) => {
        const options = new io.TlsConnectionOptions(context, "localhost");
        const socket = new io.SocketOptions();
        new HttpClientConnection(bootstrap, "127.0.0.1", port, socket, options).on("error", ended);
      });
  },
};

// The two random texts of what a TLS client says first, once both ends are closed.
async function hello(connect) {
  const net = require("node:net");
  const server = net.createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const ended = new Promise((resolve) => connect(server.address().port, resolve));
  const socket = await new Promise((resolve) => server.once("connection", resolve));
  let said = Buffer.alloc(0);
  for await (const bytes of socket) {
    said = Buffer.concat([said, bytes]);
    if (said.length >= 76) break;
  }
  socket.destroy();
  server.close();
  await ended;
  return [hex(said.subarray(11, 43)), hex(said.subarray(44, 76))];
}

// A thread that was started at import and draws whenever it is asked to.
function worker(draw) {
  const { Worker } = require("node:worker_threads");
  const thread = new Worker(
    `const { parentPort } = require("node:worker_threads");
     parentPort.on("message", () => parentPort.postMessage((${draw})()));`,
    { eval: true },
  );
  return () =>
    new Promise((resolve) => {
      thread.once("message", resolve);
      thread.postMessage("draw");
    });
}

const draw = new Map();
for (const name of process.env.LIBRARIES.split(" ")) draw.set(name, await libraries[name]());

async function twice() {
  const drawn = {};
  for (const [name, library] of draw) drawn[name] = [...(await library()), ...(await library())];
  return drawn;
}

const init = await twice();

export const handler = async () => ({ init, now: await twice() });
