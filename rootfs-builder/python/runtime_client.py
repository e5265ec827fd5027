"""Lambda's Runtime API for the runtime client above it, in place of the native
module of the same name that the client brings along: the same four functions,
but spoken over the agent's local socket and without a second library of HTTP.

The reply to a result is read together with the next event: an invocation takes
few system calls and wake-ups, which are what it costs where the guest's kernel
is interpreted.

Where the process has a mailbox (mailbox/include/hearth_mailbox.h), all but the
first event come from there, and results go there, without either. What the
mailbox can't do goes by the socket.

Where AWS_LAMBDA_RUNTIME_API is not the agent's address any more, a wrapper or an
extension has put a proxy in front of the Runtime API. Then everything goes to
that address, as the client's own module would send it.

Between a result and the call for the next event, code of the function may run:
the finalizers of its objects, its threads. Whatever that does, the caller gets
the result. So a result leaves at once, or it lies in the mailbox, where the
agent finds it when the process ends or takes long. And the next event is asked
for when it is wanted, and not before: a process that is about to end must not
get one.
"""
import os
import socket

# All are the agent's: protocol/src/guest.rs.
_RUNTIME_API = "127.0.0.1:9001"
_ADDRESS = "\0hearth-runtime-api"
_MAX_PAYLOAD = 6 * 1024 * 1024 + 100

_API = b"/2018-06-01/runtime/invocation/"
_NEXT = b"GET " + _API + b"next HTTP/1.1\r\n\r\n"
_HEADERS = (
    "Lambda-Runtime-Aws-Request-Id",
    "Lambda-Runtime-Deadline-Ms",
    "Lambda-Runtime-Invoked-Function-Arn",
    "Lambda-Runtime-Trace-Id",
    "Lambda-Runtime-Client-Context",
    "Lambda-Runtime-Cognito-Identity",
    "Lambda-Runtime-Aws-Tenant-Id",
    "Lambda-Runtime-Invocation-Id",
    "Content-Type",
)
# Kept and reused: memory that was touched before the snapshot is there.
_buffer = bytearray(64 * 1024)
_view = memoryview(_buffer)
# What of the buffer was received and not read: from, to.
_unread = (0, 0)

# The proxy, if there is one.
_proxy = None
_connection = None
# What the answer is called whose reply is owed.
_owed = None


# The mailbox's functions, where there is one, and the answer that lies in it.
_mailbox = None
_answer = None
_NOT_HERE, _AGENT, _EVENT, _CLOCK = 0, 1, 2, 3
_LIBRARY = "/var/runtime/lib/libhearth_mailbox.so"
_VARIABLE = "_HEARTH_MAILBOX_FD"
_CLOCK_IS_OFF = b"GET /hearth/clock HTTP/1.1\r\n\r\n"


def initialize_client(user_agent):
    """The agent does not care who its client is. What the process has for a mailbox is opened."""
    global _mailbox, _proxy
    address = os.environ.get("AWS_LAMBDA_RUNTIME_API", _RUNTIME_API)
    if address != _RUNTIME_API:
        _proxy = _Proxy(address, user_agent)
        os.environ.pop(_VARIABLE, None)
    if _VARIABLE not in os.environ:
        return
    try:
        mailbox = _Mailbox()
    except OSError:
        # A library that does not load: everything goes by the socket.
        return
    finally:
        # It is this process's alone.
        del os.environ[_VARIABLE]
    if mailbox.opened:
        _mailbox = mailbox
        os.register_at_fork(after_in_child=_leave_mailbox)


def has_mailbox():
    """Whether events come from the mailbox, all but the first."""
    return _mailbox is not None


def _leave_mailbox():
    global _mailbox, _answer
    _mailbox = _answer = None


class _Mailbox:
    """The library's functions."""

    def __init__(self):
        import ctypes

        number, size, text = ctypes.c_int, ctypes.c_size_t, ctypes.c_char_p
        library = ctypes.CDLL(_LIBRARY)
        # Keeps the interpreter's lock: another thread would run before the answer is there.
        self._give = ctypes.PyDLL(_LIBRARY).hearth_mailbox_give
        self._give.argtypes = (number, text, size, text, size)
        self.next = library.hearth_mailbox_next
        self.next.argtypes = ()
        self._meta = library.hearth_mailbox_event_meta
        self._meta.restype = size
        self._body = library.hearth_mailbox_event_body
        self._body.restype = size
        self._take = library.hearth_mailbox_take
        self._take.argtypes = (text, text)
        self._take.restype = None
        # Bytes that the library fills before anybody else knows of them.
        self._blank = ctypes.pythonapi.PyBytes_FromStringAndSize
        self._blank.argtypes = (text, ctypes.c_ssize_t)
        self._blank.restype = ctypes.py_object
        self.opened = bool(library.hearth_mailbox_open())
        # Used once, and so in memory before the snapshot.
        self.give(False, b"", b"")
        self.next()
        self.event()

    def give(self, failed, meta, body):
        """Answers without waiting. Whether the mailbox has taken the answer."""
        return self._give(failed, meta, len(meta), body, len(body))

    def event(self):
        """The event that came: its headers and its body."""
        meta, body = self._blank(None, self._meta()), self._blank(None, self._body())
        self._take(meta, body)
        return meta, body


class _Proxy:
    """The Runtime API at another address. Each request has a connection of its own."""

    def __init__(self, address, user_agent):
        # Only where it is used: its import takes long.
        import http.client

        self._connect = http.client.HTTPConnection
        self._address = address
        self._own = {"User-Agent": user_agent}

    def _request(self, method, path, body=None, headers=()):
        connection = self._connect(self._address)
        try:
            connection.request(method, path, body, {**self._own, **dict(headers)})
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()
        finally:
            connection.close()

    def next(self):
        status, fields, body = self._request("GET", _API.decode() + "next")
        if status != 200:
            raise RuntimeError("Failed to get next")
        # The parser has taken the bytes for Latin-1.
        texts = {
            name: value.encode("latin-1").decode()
            for name in _HEADERS
            if (value := fields.get(name)) is not None
        }
        return body, _headers(texts)

    def post(self, invoke_id, kind, body, content_type, invocation_id, what, xray_fault=None):
        headers = {"Content-Type": content_type}
        if invocation_id:
            headers["Lambda-Runtime-Invocation-Id"] = invocation_id
        if xray_fault is not None:
            headers["Lambda-Runtime-Function-XRay-Error-Cause"] = xray_fault.encode()
        path = _API.decode() + invoke_id + kind.decode()
        _accepted(what, self._request("POST", path, body, headers)[0])


def next():
    """Waits for an event: its bytes and its headers, those that it lacks as None."""
    global _owed
    if _proxy is not None:
        return _proxy.next()
    if _answer is not None and (event := _exchange()) is not None:
        return event
    _connect()
    _connection.sendall(_NEXT)
    if _owed is not None:
        what, _owed = _owed, None
        _accepted(what, _reply()[0])
    status, fields, body = _reply()
    if status != 200:
        raise RuntimeError("Failed to get next")
    return body, _headers(fields)


def register_generators(facts):
    """Tells the agent of the process's random generators: lines of text."""
    body = "\n".join(facts).encode()
    _connect()
    _connection.sendall(b"POST /hearth/generators HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    if (status := _reply()[0]) != 202:
        raise RuntimeError("The agent refused the random generators: %d" % status)


def _connect():
    global _connection
    if _connection is None:
        _connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        _connection.connect(_ADDRESS)


def _headers(fields):
    headers = {name: fields.get(name) for name in _HEADERS}
    headers["Lambda-Runtime-Deadline-Ms"] = int(headers["Lambda-Runtime-Deadline-Ms"])
    return headers


def _exchange():
    """Sends the answer that lies in the mailbox and waits there; nothing where the socket has to go on."""
    global _answer
    answer, _answer = _answer, None
    outcome = _mailbox.next()
    if outcome == _NOT_HERE:
        _send(*answer)
        return None
    if outcome == _AGENT:
        return None
    meta, body = _mailbox.event()
    if outcome == _CLOCK:
        _connect()
        _connection.sendall(_CLOCK_IS_OFF)
        _reply()
    fields = dict(line.split(": ", 1) for line in meta.decode().split("\r\n")[:-1])
    fields["Content-Type"] = "application/json"
    return body, _headers(fields)


def post_invocation_result(invoke_id, result, content_type, invocation_id=None):
    """Sends a result: bytes."""
    _post(invoke_id, b"/response", result, content_type, invocation_id, "response")


def post_error(invoke_id, error, xray_fault, invocation_id=None):
    """Sends an error: text, JSON. The agent has no tracing that its cause could go to."""
    body = error if isinstance(error, bytes) else error.encode()
    _post(invoke_id, b"/error", body, "application/json", invocation_id, "error", xray_fault)


def _post(invoke_id, kind, body, content_type, invocation_id, what, xray_fault=None):
    global _answer
    if _proxy is not None:
        return _proxy.post(invoke_id, kind, body, content_type, invocation_id, what, xray_fault)
    answer = (invoke_id, kind, body, content_type, invocation_id, what)
    if _mailbox is not None:
        meta = b"Lambda-Runtime-Aws-Request-Id: %s\r\nContent-Type: %s\r\n" % (
            invoke_id.encode(),
            content_type.encode(),
        )
        if _mailbox.give(kind == b"/error", meta, body):
            _answer = answer
            return
    _send(*answer)


def _send(invoke_id, kind, body, content_type, invocation_id, what):
    global _owed
    _connect()
    head = b"POST %s%s%s HTTP/1.1\r\nContent-Type: %s\r\nContent-Length: %d\r\n" % (
        _API,
        invoke_id.encode(),
        kind,
        content_type.encode(),
        len(body),
    )
    if invocation_id:
        head += b"Lambda-Runtime-Invocation-Id: %s\r\n" % invocation_id.encode()
    if len(body) <= len(_buffer):
        _connection.sendall(b"%s\r\n%s" % (head, body))
    else:
        _connection.sendall(head + b"\r\n")
        _connection.sendall(body)
    if len(body) > _MAX_PAYLOAD:
        # It will be refused, and that ends the client's loop.
        _accepted(what, _reply()[0])
    else:
        _owed = what


def _accepted(what, status):
    if status != 202:
        raise RuntimeError("Failed to post invocation " + what)


def _reply():
    """Reads one reply: its status, fields and body."""
    global _unread
    start, end = _unread
    while (mark := _buffer.find(b"\r\n\r\n", start, end)) < 0:
        if start > 0:
            _buffer[: end - start] = _buffer[start:end]
            start, end = 0, end - start
        elif end == len(_buffer):
            raise RuntimeError("The Runtime API's headers are too long")
        end += _receive(_view[end:])
    lines = _buffer[start:mark].decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines[1:])
    length = int(fields["Content-Length"])
    start = mark + 4
    have = min(length, end - start)
    if have == length:
        body = bytes(_view[start : start + length])
        _unread = (start + length, end)
    else:
        whole = bytearray(length)
        whole[:have] = _view[start:end]
        rest = memoryview(whole)[have:]
        while rest:
            rest = rest[_receive(rest) :]
        body = bytes(whole)
        _unread = (0, 0)
    if _unread[0] == _unread[1]:
        _unread = (0, 0)
    return int(lines[0][9:12]), fields, body


def _receive(into):
    count = _connection.recv_into(into)
    if count == 0:
        raise RuntimeError("The Runtime API closed the connection")
    return count
