// A small site as Express's users write it. It knows nothing of Lambda: the web adapter stands
// before it. Its twin is tests/functions/flask.
const express = require("express");

const app = express();

app.get("/", (_, answer) => answer.send("ready"));

app.get("/greet/:name", (request, answer) => {
  answer.json({
    name: request.params.name,
    words: [request.query.word ?? []].flat(),
    said: request.get("x-said"),
  });
});

app.post("/orders", express.json(), (request, answer) => {
  const who = /(?:^|; ?)who=([^;]*)/.exec(request.get("cookie") ?? "")?.[1];
  answer.cookie("order", "7", { httpOnly: true }).cookie("seen", "yes");
  answer.status(201).json({ ordered: request.body, by: who });
});

app.get("/picture", (_, answer) => {
  const bytes = Buffer.from(Array.from({ length: 4096 }, (_, i) => i % 256));
  answer.type("image/png").send(bytes);
});

app.post("/size", express.raw({ type: () => true, limit: "6mb" }), (request, answer) => {
  answer.json({ size: request.body.length, last: request.body.at(-1) });
});

app.get("/context", (request, answer) => {
  const lambdas = JSON.parse(request.get("x-amzn-lambda-context"));
  const event = JSON.parse(request.get("x-amzn-request-context"));
  answer.json({
    request: lambdas.request_id,
    function: lambdas.env_config.function_name,
    api: event.apiId,
    method: event.http.method,
  });
});

app.get("/failure", () => {
  throw new Error("a bug in the site");
});

app.get("/slowly", (_, answer) => {
  const pieces = ["one ", "two ", "three"];
  const write = () => {
    if (pieces.length === 0) return answer.end();
    answer.write(pieces.shift());
    setTimeout(write, 50);
  };
  answer.type("text/plain");
  write();
});

app.listen(Number(process.env.AWS_LWA_PORT), "127.0.0.1");
