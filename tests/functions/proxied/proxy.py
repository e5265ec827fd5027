"""A proxy in front of the Runtime API, as of AWS's samples: it sees every event and every answer."""

import http.client
import http.server
import socketserver

AGENT = "127.0.0.1:9001"
seen = []


class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def forward(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        seen.append(f"{self.command} {self.path.rsplit('/', 1)[1]}")
        if self.path.endswith("/response"):
            body = b'{"seen": %d, "result": %s}' % (len(seen), body)
        agent = http.client.HTTPConnection(AGENT)
        agent.request(self.command, self.path, body or None, {"Content-Type": "application/json"})
        reply = agent.getresponse()
        content = reply.read()
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            if name.lower() not in ("content-length", "connection"):
                self.send_header(name.lower(), value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = forward

    def log_message(self, *words):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


server = Server(("127.0.0.1", 9009), Proxy)
print("the proxy listens", flush=True)
server.serve_forever()
