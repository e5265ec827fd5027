// A function that answers and then does something else in the same turn: what the event says.
const spin = (ms) => {
  const end = Date.now() + ms;
  while (Date.now() < end);
};

// After `return`: what runs before the client asks for the next event.
const unawaited = {
  nothing: () => {},
  rejection: () => Promise.reject(new Error("nobody waits for this")),
  tick: () => process.nextTick(() => process.nextTick(() => { throw new Error("in a tick"); })),
  immediate: (event) => setImmediate(() => spin(event.ms)),
};

// After the callback, in the same call.
const behind = {
  nothing: () => {},
  throw: () => { throw new Error("after the callback"); },
  "second answer": (event, callback) => callback(null, "second"),
  "second error": (event, callback) => callback(new Error("second")),
  exit: () => process.exit(9),
  abort: () => process.abort(),
  kill: () => process.kill(process.pid, "SIGKILL"),
  spin: (event) => spin(event.ms),
};

exports.handler = (event, context, callback) => {
  context.callbackWaitsForEmptyEventLoop = false;
  const result = event.size ? "x".repeat(event.size) : "result";
  if (event.unawaited) return (async () => { unawaited[event.unawaited](event); return result; })();
  callback(null, result);
  behind[event.then](event, callback);
};
