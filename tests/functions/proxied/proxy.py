"""A proxy in front of the Runtime API, as of AWS's samples: it sees every event and every answer. Of
little code: a guest's start of Python takes long where its kernel is interpreted."""

import _thread
import socket

AGENT = ("127.0.0.1", 9001)
seen = 0


def more(peer):
    if received := peer.recv(65536):
        return received
    raise ConnectionError("closed in the middle of a message")


def message(peer):
    """A request's or a reply's first line, fields and body."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += more(peer)
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    length = int(fields.pop("content-length", 0))
    while len(body) < length:
        body += more(peer)
    return first, fields, body


def send(peer, first, fields, body):
    lines = [first, *(f"{name}: {value}" for name, value in fields.items())]
    head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
    peer.sendall(head.encode() + body)


def forward(client):
    global seen
    with client, socket.create_connection(AGENT) as agent:
        first, fields, body = message(client)
        seen += 1
        if first.split()[1].endswith("/response"):
            body = b'{"seen": %d, "result": %s}' % (seen, body)
        send(agent, first, fields, body)
        send(client, *message(agent))


with socket.create_server(("127.0.0.1", 9009)) as server:
    print("the proxy listens", flush=True)
    while True:
        _thread.start_new_thread(forward, (server.accept()[0],))
