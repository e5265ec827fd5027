"""Lambda's Runtime API for the runtime client above it, in place of the native
module of the same name that the client brings along: the same four functions,
but spoken over the agent's local socket and without a second library of HTTP.

A result and the call for the next event are sent together, and the replies to
both are read together: two system calls and one wake-up for an invocation
instead of a dozen and three. System calls are what an invocation costs where
the guest's kernel is interpreted.

Where the process has a mailbox (mailbox/include/hearth_mailbox.h), all but the
first event come from there, and results go there, without either. What the
mailbox can't do goes by the socket.
"""
import os
import socket

# Both are the agent's: protocol/src/guest.rs.
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

_connection = None
# Whether the next event has been asked for, and by an answer whose reply is owed.
_asked = False
_owed = None


# The mailbox's functions, where there is one, and the answer that goes there when
# the next event is asked for.
_mailbox = None
_answer = None
_NOT_HERE, _AGENT, _EVENT, _CLOCK = 0, 1, 2, 3
_LIBRARY = "/var/runtime/lib/libhearth_mailbox.so"
_VARIABLE = "_HEARTH_MAILBOX_FD"
_CLOCK_IS_OFF = b"GET /hearth/clock HTTP/1.1\r\n\r\n"


def initialize_client(user_agent):
    """The agent does not care who its client is. What the process has for a mailbox is opened."""
    global _mailbox
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
    global _mailbox
    _mailbox = None


class _Mailbox:
    """The library's functions."""

    def __init__(self):
        import ctypes

        number, size, text = ctypes.c_int, ctypes.c_size_t, ctypes.c_char_p
        library = ctypes.CDLL(_LIBRARY)
        self._exchange = library.hearth_mailbox_answer
        self._exchange.argtypes = (number, text, size, text, size)
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
        self.answer(False, b"", b"")
        self.event()

    def answer(self, failed, meta, body):
        """Answers and waits."""
        return self._exchange(failed, meta, len(meta), body, len(body))

    def event(self):
        """The event that came: its headers and its body."""
        meta, body = self._blank(None, self._meta()), self._blank(None, self._body())
        self._take(meta, body)
        return meta, body


def next():
    """Waits for an event: its bytes and its headers, those that it lacks as None."""
    global _asked, _owed
    if _answer is not None and (event := _exchange()) is not None:
        return event
    _connect()
    if not _asked:
        _connection.sendall(_NEXT)
    _asked = False
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
    """Answers at the mailbox and waits there; nothing where the socket has to go on."""
    global _answer
    answer, _answer = _answer, None
    invoke_id, kind, body, content_type, invocation_id, what = answer
    outcome = _NOT_HERE
    if _mailbox is not None:
        meta = b"Lambda-Runtime-Aws-Request-Id: %s\r\nContent-Type: %s\r\n" % (
            invoke_id.encode(),
            content_type.encode(),
        )
        outcome = _mailbox.answer(kind == b"/error", meta, body)
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
    """Sends an error: text, JSON. There is no tracing that its cause could go to."""
    _post(
        invoke_id,
        b"/error",
        error if isinstance(error, bytes) else error.encode(),
        "application/json",
        invocation_id,
        "error",
    )


def _post(invoke_id, kind, body, content_type, invocation_id, what):
    global _answer
    if _mailbox is not None and len(body) <= _MAX_PAYLOAD:
        # With the call for the next event, which comes at once.
        _answer = (invoke_id, kind, body, content_type, invocation_id, what)
    else:
        _send(invoke_id, kind, body, content_type, invocation_id, what)


def _send(invoke_id, kind, body, content_type, invocation_id, what):
    global _asked, _owed
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
    if len(body) > _MAX_PAYLOAD:
        # It will be refused, and that ends the client's loop: nothing is asked for after it.
        _connection.sendall(head + b"\r\n")
        _connection.sendall(body)
        _accepted(what, _reply()[0])
        return
    _asked, _owed = True, what
    if len(body) <= len(_buffer):
        _connection.sendall(b"%s\r\n%s%s" % (head, body, _NEXT))
    else:
        _connection.sendall(head + b"\r\n")
        _connection.sendall(body)
        _connection.sendall(_NEXT)


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
