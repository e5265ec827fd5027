"""Everything that a function may do between an event and an answer, for tests of the mailbox: as
much of it as there is must look the same whether events come through it or through the agent."""

import asyncio
import concurrent.futures
import ctypes
import logging
import mmap
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time

ticks = 0


def handler(event, context):
    return globals()[event["op"]](event, context)


def echo(event, context):
    return event


def size(event, context):
    return "x" * (event["n"] - 2)


def who(event, context):
    return [
        context.aws_request_id,
        context.invoked_function_arn,
        context.get_remaining_time_in_millis(),
    ]


def say(event, context):
    """In every way that there is, each with the event's word in it."""
    word = event["word"]
    print("printed", word)
    sys.stderr.write(f"to stderr {word}\n")
    os.write(1, f"written raw {word}\n".encode())
    logging.getLogger().error("logged %s\nin two lines", word)
    subprocess.run(["/bin/sh", "-c", f"echo from a child {word}"], check=True)
    child = os.fork()
    if child == 0:
        os.write(2, f"from a fork {word}\n".encode())
        os._exit(0)
    os.waitpid(child, 0)
    sys.stdout.write(f"unfinished {word}")
    sys.stdout.flush()


def pour(event, context):
    """More than a pipe holds."""
    for n in range(event["lines"]):
        os.write(1, f"{n} {'x' * 1000}\n".encode())


def say_and_nap(event, context):
    print(event["word"])
    return nap(event, context)


def nap(event, context):
    before = time.monotonic()
    time.sleep(event["seconds"])
    return time.monotonic() - before


def gather(event, context):
    async def one(n):
        await asyncio.sleep(0.01 * n)
        return n

    async def all_of_them():
        return await asyncio.gather(*(one(n) for n in range(5)))

    return asyncio.run(all_of_them())


def threads(event, context):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return sum(pool.map(lambda n: n * n, range(100)))


def processes(event, context):
    queue = multiprocessing.SimpleQueue()
    child = multiprocessing.Process(target=queue.put, args=("from a child",))
    child.start()
    word = queue.get()
    child.join()
    return word


def begin_to_tick(event, context):
    def tick():
        global ticks
        while True:
            time.sleep(0.02)
            ticks += 1

    threading.Thread(target=tick, daemon=True).start()


def ticked(event, context):
    return ticks


def linger(event, context):
    """Leaves children that go on, and hold what they inherited."""
    if os.fork() == 0:
        while True:
            time.sleep(0.01)


def wall_clock(event, context):
    return time.time()


def fail(event, context):
    raise ValueError("as it was asked to")


def leave(event, context):
    os._exit(7)


def spin(event, context):
    while True:
        pass


def ring(value):
    """Executes `mov eax, value; mov dx, 0x614; out dx, eax; ret`."""
    code = b"\xb8" + value.to_bytes(4, "little") + b"\x66\xba\x14\x06\xef\xc3"
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()


def scribble(event, context):
    """Writes over its mailbox and rings, for as long as it is let."""
    pages = mmap.mmap(4, 19 * mmap.PAGESIZE)
    chance = random.Random(event["seed"])
    while True:
        for _ in range(chance.randrange(20)):
            at = chance.choice(
                [chance.randrange(0, 0x100, 4), chance.randrange(0, len(pages) - 4, 4)]
            )
            pages[at : at + 4] = chance.choice(
                [b"\0\0\0\0", b"\xff\xff\xff\xff", chance.randbytes(4), b"\1\0\0\0"]
            )
        ring(chance.choice([0, 1, 2, 3, 4, 5, 6, 7, chance.randrange(1 << 32)]))


def ring_for_ever(event, context):
    while True:
        ring(event["value"])
