"""Random generators of this interpreter, seen to before its process is snapshotted.

A function's process is restored from one snapshot many times, and each copy would draw the same numbers.
The agent is told where the state of the shared generators is in memory: it is filled with random bytes
before a restored process runs. What can be made to start afresh by itself is made to.

OpenSSL needs nothing from here, whichever copies of it the process has: the sandbox finds its generators.
"""
import os
import struct
import sys

#: Words of a Mersenne Twister's state, each of 32 bits, and their size in bytes.
_WORDS = 624
_SIZE = 4 * _WORDS
#: Where CPython keeps them in a random.Random: behind the object's head and an index.
_OFFSET = object.__basicsize__ + 4


def before_snapshot():
    """Makes the generators ready for a snapshot. Returns what the agent is told (see the agent's
    generators/registered.rs), and a function to call once the first event has come."""
    facts = ["process %d" % os.getpid()]
    for prepare in (_python, _numpy, _uuid, _tempfile, _bson):
        facts += prepare()
    known = "random" in sys.modules

    def after_restore():
        # Imported by another thread in the meantime, and so perhaps before the snapshot.
        if not known and "random" in sys.modules:
            sys.modules["random"].seed(os.urandom(32))

    return facts, after_restore


def _python():
    """The generator behind the functions of the module random."""
    module = sys.modules.get("random")
    if module is None:
        return []
    generator = module._inst
    # A second number that gauss() has in store.
    generator.gauss_next = None
    address = id(generator) + _OFFSET
    if type(generator) is module.Random and _is_at(address, generator.getstate()[1][:_WORDS]):
        return ["random %d %d" % (address, _SIZE)]
    return ["shared Python's random, which was replaced"]


def _numpy():
    """The generator behind numpy.random's functions."""
    module = sys.modules.get("numpy.random.mtrand")
    if module is None:
        return []
    shared = ["shared NumPy's global generator, which was replaced"]
    try:
        generator = module._rand
        state = generator.get_state(legacy=False)
        if state["bit_generator"] != "MT19937":
            return shared
        # A second number that normal() has in store.
        state["has_gauss"], state["gauss"] = 0, 0.0
        generator.set_state(state)
        address = generator._bit_generator.ctypes.state_address
        words = state["state"]["key"].tolist()
    except (AttributeError, KeyError, TypeError, ValueError):
        return shared
    return ["random %d %d" % (address, _SIZE)] if _is_at(address, words) else shared


def _uuid():
    """uuid1() is made of the time, a node and a sequence. The latter two are drawn once for a process, by
    this module or by the C library that it asks first."""
    module = sys.modules.get("uuid")
    if module is not None:
        module._node = None
        module._generate_time_safe = None
        # Programs that it would ask for the address of a network card; there are none.
        module._GETTERS = []
    return []


def _tempfile():
    """Names of temporary files come from a generator that is made anew in another process."""
    module = sys.modules.get("tempfile")
    names = getattr(module, "_name_sequence", None)
    if names is not None:
        names._rng_pid = None
    return []


def _bson():
    """MongoDB's ObjectIds carry five random bytes that are drawn once for a process."""
    module = sys.modules.get("bson.objectid")
    if hasattr(getattr(module, "ObjectId", None), "_pid"):
        module.ObjectId._pid = None
    return []


def _is_at(address, words):
    """Whether these words are in memory there: the layout is the interpreter's own."""
    import ctypes

    return ctypes.string_at(address, _SIZE) == struct.pack("=%dL" % _WORDS, *words)
