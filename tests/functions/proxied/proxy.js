// A proxy in front of the Runtime API, as of AWS's samples: it sees every event and every answer.
const http = require("node:http");

let seen = 0;
const proxy = http.createServer((request, reply) => {
  const { method, url } = request;
  const parts = [];
  request.on("data", (part) => parts.push(part)).on("end", () => {
    seen++;
    let body = Buffer.concat(parts).toString();
    if (url.endsWith("/response")) body = `{"seen": ${seen}, "result": ${body}}`;
    const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
    const agent = http.request({ port: 9001, host: "127.0.0.1", method, path: url, headers }, (got) => {
      reply.writeHead(got.statusCode, got.headers);
      got.pipe(reply);
    });
    agent.end(body);
  });
});
proxy.requestTimeout = 0;
proxy.listen(9009, "127.0.0.1", () => console.log("the proxy listens"));
