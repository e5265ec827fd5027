// Starts Lambda's runtime client. Its random generators are made ready for the snapshot before the client
// asks for the first event, which comes when the process has been restored.
import { createRequire } from "node:module";
import { afterRestore, beforeSnapshot } from "./random-generators.mjs";
import { run } from "./aws-lambda-ric/index.mjs";

const require = createRequire(import.meta.url);
const client = require("./aws-lambda-ric/rapid-client.node");

// Where the process has a mailbox, all but the first event come from there, and results go there
// (mailbox/include/hearth_mailbox.h). What it can't do goes the client's own way.
//
// The client gives its answer, and asks for the next event in the same turn of the event loop. In between,
// code of the function may run: what follows a callback, promises that nobody awaits, ticks. Whatever that
// does, the caller gets the answer that was given first. So the answer lies in the mailbox from then on,
// where the agent finds it when the process ends or takes long; and it is posted before anything else is.
const { next, done, error } = client;
const NOT_HERE = 0, AGENT = 1, CLOCK = 3;
// The agent's (protocol/src/guest.rs).
const RUNTIME_API = "127.0.0.1:9001";
let mailbox;
// The answer that lies in the mailbox; the invocation that runs, and whether it was answered.
let given, current, answered = true;

function openMailbox() {
  if (process.env._HEARTH_MAILBOX_FD === undefined) return;
  try {
    // A wrapper or an extension has put a proxy in front of the Runtime API: it is to see every event and
    // every answer.
    if (process.env.AWS_LAMBDA_RUNTIME_API !== RUNTIME_API) return;
    const found = require("./mailbox.node");
    if (!found.open()) return;
    mailbox = found;
    // Used once, and so in memory before the snapshot.
    mailbox.give(false, "", "");
    mailbox.takeBack();
    mailbox.next();
    mailbox.event();
  } catch {
    // A module that does not load: everything goes the other way.
    mailbox = undefined;
    return;
  } finally {
    // It is this process's alone.
    delete process.env._HEARTH_MAILBOX_FD;
  }
  // What is no answer is refused by the client's own module, in its own words.
  client.done = (id, body, ...rest) => {
    if (typeof id !== "string" || typeof body !== "string") return done(id, body, ...rest);
    give([false, id, body]);
  };
  client.error = (id, body, xray, ...rest) => {
    const texts = [id, body, xray].every((text) => typeof text === "string");
    if (!texts) return error(id, body, xray, ...rest);
    give([true, id, body, xray]);
  };
  process.on("exit", settle);
}

function give(answer) {
  const [failed, id, body] = answer;
  // Anything but the first answer to the invocation that runs is for the agent to refuse.
  if (!answered && id === current) {
    answered = true;
    const headers =
      `Lambda-Runtime-Aws-Request-Id: ${decodeURIComponent(id)}\r\nContent-Type: application/json\r\n`;
    if (mailbox.give(failed, headers, body)) {
      given = answer;
      return;
    }
  }
  settle();
  post(answer);
}

// Posts the answer that lies in the mailbox, unless it has left already.
function settle() {
  const answer = given;
  given = undefined;
  if (answer !== undefined && mailbox.takeBack()) post(answer);
}

function post([failed, id, body, xray]) {
  if (failed) error(id, body, xray);
  else done(id, body);
}

async function exchange() {
  const answer = given;
  given = undefined;
  const outcome = mailbox.next();
  if (outcome === NOT_HERE) post(answer);
  if (outcome === NOT_HERE || outcome === AGENT) return ask();
  const [meta, bodyJson] = mailbox.event();
  if (outcome === CLOCK) await fetchClock();
  const fields = meta.split("\r\n").slice(0, -1).map((line) => {
    const at = line.indexOf(": ");
    return [line.slice(0, at).toLowerCase(), line.slice(at + 2)];
  });
  return begin({ bodyJson, headers: Object.fromEntries(fields) });
}

async function ask() {
  return begin(await next());
}

function begin(event) {
  current = encodeURIComponent(event.headers["lambda-runtime-aws-request-id"]);
  answered = false;
  return event;
}

// The agent sets the wall clock.
function fetchClock() {
  const { get } = require("node:http");
  return new Promise((resolve) => {
    const url = `http://${process.env.AWS_LAMBDA_RUNTIME_API}/hearth/clock`;
    get(url, (response) => response.resume().on("end", resolve)).on("error", resolve);
  });
}

openMailbox();
let first = true;
client.next = async () => {
  if (given !== undefined) return exchange();
  if (!first) return ask();
  first = false;
  beforeSnapshot();
  const event = await ask();
  afterRestore();
  return event;
};
// The client's other way of asking, in JavaScript, would go past that.
delete process.env.AWS_LAMBDA_NODEJS_USE_ALTERNATIVE_CLIENT_1;

await run(process.env.LAMBDA_TASK_ROOT, process.env._HANDLER);
