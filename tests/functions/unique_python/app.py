"""A function that draws on the generators of the libraries that LIBRARIES names: twice when it is
imported, and again for each event. What it keeps from its import (keys, contexts, names, threads,
processes) goes on being used.

Each library is a function that imports it and returns the function that draws: texts, none of
which may be seen a second time in any instance.
"""

import collections
import functools
import os
import subprocess
import sys
import threading
import time

#: What a child process runs: it draws for each line that it reads.
CHILD = """
import random, ssl, sys
for _ in sys.stdin:
    print(ssl.RAND_bytes(16).hex(), "%032x" % random.getrandbits(128), flush=True)
"""
#: Seconds between two draws of the thread.
PACE = 0.002

#: What the thread drew last: monotonic time before it, `ssl`, `random`.
THREAD = collections.deque(maxlen=400)


def system():
    import random
    import secrets
    import uuid

    kept = random.SystemRandom()
    return lambda: [
        os.urandom(16).hex(),
        secrets.token_hex(16),
        str(uuid.uuid4()),
        str(uuid.uuid1()),
        f"{kept.getrandbits(128):032x}",
    ]


def python_random():
    import random

    return lambda: [
        f"{random.getrandbits(128):032x}",
        random.random().hex(),
        random.randbytes(16).hex(),
    ]


def tempfile():
    import tempfile

    def draw():
        with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryDirectory() as folder:
            return [tempfile.mktemp(), file.name, folder]

    return draw


def ssl():
    import ssl

    return lambda: [ssl.RAND_bytes(16).hex(), ssl.RAND_bytes(32).hex()]


def tls():
    """What a client says first: 32 random bytes, and 32 that name its session."""
    import ssl

    context = ssl.create_default_context()

    def draw():
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname="example.com")
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            return hello(outgoing.read())
        raise AssertionError("shook hands alone")

    return draw


def hello(sent):
    return [sent[11:43].hex(), sent[44:76].hex()]


def numpy():
    import numpy

    return lambda: [
        float(numpy.random.rand()).hex(),
        numpy.random.bytes(16).hex(),
        str(numpy.random.randint(0, 1 << 62)),
        numpy.random.default_rng().bytes(16).hex(),
    ]


def cryptography():
    from cryptography.fernet import Fernet
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    kept = ec.generate_private_key(ec.SECP256R1())
    raw = (
        serialization.Encoding.Raw,
        serialization.PrivateFormat.Raw,
        serialization.NoEncryption(),
    )
    return lambda: [
        f"{ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value:x}",
        # Of one key and one text: two that are alike say that their nonces were.
        kept.sign(b"one text", ec.ECDSA(hashes.SHA256())).hex(),
        x25519.X25519PrivateKey.generate().private_bytes(*raw).hex(),
        f"{rsa.generate_private_key(65537, 1024).private_numbers().p:x}",
        AESGCM.generate_key(128).hex(),
        Fernet.generate_key().decode(),
    ]


def nacl():
    import nacl.public
    import nacl.secret
    import nacl.signing
    import nacl.utils

    box = nacl.secret.SecretBox(bytes(32))
    return lambda: [
        nacl.signing.SigningKey.generate().encode().hex(),
        nacl.public.PrivateKey.generate().encode().hex(),
        nacl.utils.random(16).hex(),
        box.encrypt(b"one text").nonce.hex(),
    ]


def bcrypt():
    import bcrypt

    return lambda: [bcrypt.gensalt(4).decode()]


def pycryptodome():
    from Crypto.Cipher import AES
    from Crypto.PublicKey import ECC
    from Crypto.Random import get_random_bytes

    return lambda: [
        get_random_bytes(16).hex(),
        AES.new(bytes(16), AES.MODE_GCM).nonce.hex(),
        f"{int(ECC.generate(curve='p256').d):x}",
    ]


def bson():
    """An ObjectId is a time, five bytes of the process, and a count."""
    from bson import ObjectId

    return lambda: [str(ObjectId())[8:]]


def grpc():
    """The first words of channels to a server that hangs up."""
    import socket

    import grpc

    credentials = grpc.ssl_channel_credentials()

    def draw():
        with socket.create_server(("127.0.0.1", 0)) as server:
            target = f"127.0.0.1:{server.getsockname()[1]}"
            with grpc.secure_channel(target, credentials) as channel:
                grpc.channel_ready_future(channel)
                connection, _ = server.accept()
                with connection:
                    sent = b""
                    while len(sent) < 76:
                        sent += connection.recv(4096)
                    return hello(sent)

    return draw


def child(place):
    """Of another process, which was started at import."""
    return lambda: lambda: [ask_child()[place]]


@functools.cache
def child_process():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", CHILD], text=True, bufsize=1, **pipes)


def ask_child():
    child_process().stdin.write("\n")
    return child_process().stdout.readline().split()


def forked(place):
    """Of a copy of this process, made at import by `multiprocessing`."""
    return lambda: lambda: [ask_forked()[place]]


@functools.cache
def forked_process():
    import multiprocessing

    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    context.Process(target=answer, args=(there,), daemon=True).start()
    return here


def ask_forked():
    forked_process().send(None)
    return forked_process().recv()


def answer(pipe):
    import random
    import ssl

    while True:
        pipe.recv()
        pipe.send((ssl.RAND_bytes(16).hex(), f"{random.getrandbits(128):032x}"))


def thread():
    """Of a thread that draws all the time; what it drew is told apart."""
    import random
    import ssl

    def draw_all_the_time():
        while True:
            began = time.monotonic_ns()
            drawn = (began, ssl.RAND_bytes(16).hex(), f"{random.getrandbits(128):032x}")
            THREAD.append(drawn)
            time.sleep(PACE)

    threading.Thread(target=draw_all_the_time, daemon=True).start()
    return list


LIBRARIES = {
    "system": system,
    "random": python_random,
    "tempfile": tempfile,
    "ssl": ssl,
    "tls": tls,
    "numpy": numpy,
    "cryptography": cryptography,
    "nacl": nacl,
    "bcrypt": bcrypt,
    "pycryptodome": pycryptodome,
    "grpc": grpc,
    "bson": bson,
    "child_ssl": child(0),
    "child_random": child(1),
    "forked_ssl": forked(0),
    "forked_random": forked(1),
    "thread": thread,
}


def twice():
    return {name: draw() + draw() for name, draw in DRAW.items()}


DRAW = {name: LIBRARIES[name]() for name in os.environ["LIBRARIES"].split()}
DRAWN = twice()
#: What hooks have drawn: before the snapshot and after a restore.
HOOKS = {}

if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
    from snapshot_restore_py import register_after_restore, register_before_snapshot

    register_before_snapshot(lambda: HOOKS.update(before=twice()))
    register_after_restore(lambda: HOOKS.update(after=twice()))


def wait_for_thread(last):
    """Until the thread, if there is one, has drawn four times more than it had when the event came."""
    while last is not None:
        after = [entry for entry in list(THREAD) if entry[0] > last]
        if len(after) >= 4:
            return
        time.sleep(PACE)


def handler(event, context):
    wait_for_thread(THREAD[-1][0] if THREAD else None)
    drawn = {"init": DRAWN, "now": twice(), "hooks": HOOKS, "thread": list(THREAD)}
    # So that as many instances are at work as there are callers.
    time.sleep(event.get("seconds", 0))
    return drawn
