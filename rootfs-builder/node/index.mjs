// Starts Lambda's runtime client. Its random generators are made ready for the snapshot before the client
// asks for the first event, which comes when the process has been restored.
import { createRequire } from "node:module";
import { afterRestore, beforeSnapshot } from "./random-generators.mjs";
import { run } from "./aws-lambda-ric/index.mjs";

const require = createRequire(import.meta.url);
const client = require("./aws-lambda-ric/rapid-client.node");

// Where the process has a mailbox, all but the first event come from there, and results go there
// (mailbox/include/hearth_mailbox.h). What it can't do goes the client's own way. An answer goes with
// the call for the next event, which follows it at once.
const { next, done, error } = client;
const NOT_HERE = 0, AGENT = 1, CLOCK = 3;
let mailbox, answer;

function openMailbox() {
  if (process.env._HEARTH_MAILBOX_FD === undefined) return;
  try {
    const found = require("./mailbox.node");
    if (!found.open()) return;
    mailbox = found;
    // Used once, and so in memory before the snapshot.
    mailbox.answer(false, "", "");
    mailbox.event();
  } catch {
    // A module that does not load: everything goes the other way.
    return;
  } finally {
    // It is this process's alone.
    delete process.env._HEARTH_MAILBOX_FD;
  }
  client.done = (id, body) => { answer = [false, id, body]; };
  client.error = (id, body, xray) => { answer = [true, id, body, xray]; };
  // A handler that has answered may end the process before it asks for more.
  process.on("exit", () => { if (answer !== undefined) post(); });
}

function post() {
  const [failed, id, body, xray] = answer;
  answer = undefined;
  return failed ? error(id, body, xray) : done(id, body);
}

async function exchange() {
  const [failed, id, body] = answer;
  const headers =
    `Lambda-Runtime-Aws-Request-Id: ${decodeURIComponent(id)}\r\nContent-Type: application/json\r\n`;
  const outcome = mailbox.answer(failed, headers, body);
  if (outcome === NOT_HERE) {
    post();
    return next();
  }
  answer = undefined;
  if (outcome === AGENT) return next();
  const [meta, bodyJson] = mailbox.event();
  if (outcome === CLOCK) await fetchClock();
  const fields = meta.split("\r\n").slice(0, -1).map((line) => {
    const at = line.indexOf(": ");
    return [line.slice(0, at).toLowerCase(), line.slice(at + 2)];
  });
  return { bodyJson, headers: Object.fromEntries(fields) };
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
  if (answer !== undefined) return exchange();
  if (!first) return next();
  first = false;
  beforeSnapshot();
  const event = await next();
  afterRestore();
  return event;
};
// The client's other way of asking, in JavaScript, would go past that.
delete process.env.AWS_LAMBDA_NODEJS_USE_ALTERNATIVE_CLIENT_1;

await run(process.env.LAMBDA_TASK_ROOT, process.env._HANDLER);
