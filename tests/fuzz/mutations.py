"""Mutations of valid tables and bytes, and what a reader may do with the result."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import random
import sys
import time

from profiles.errors import UserError

WRONG = (
    True, -1, 0, 10**18, 2**70, -0.5, 1.5, math.nan, math.inf, 1e308, 5e-324, "", "x", "\u202e\0🙂é", "a\nb", ":",
    "A" * 3000,
    "os:system", "../../../etc/passwd", "/dev/zero", [], [1, "a", {}], [[["x"]]], {}, {"a": 1}, {"use": 5}, {"__class__": 1},
    "nofile.py:x", "x.onnx",
)  # fmt: skip
"""Values of every kind and size, each wrong at most places."""

HANG_S = 5.0
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
"""Inputs of each reader; 0 takes the reader's own few, for ``make test``."""


def inputs(few):
    """Return how many inputs to run: ``few``, or ``FUZZ_EXAMPLES``."""
    return EXAMPLES or few


def generator(name):
    """Return the random generator of a reader, the same in each run of ``make test``."""
    return random.Random(f"{name} {os.environ.get('FUZZ_SEED', '0')}")


def paths(table, before=()):
    """List the paths of all values within ``table``."""
    for key, value in table.items() if isinstance(table, dict) else enumerate(table):
        yield (*before, key)
        if isinstance(value, dict | list):
            yield from paths(value, (*before, key))


def mutated_table(table, rnd):
    """Return a copy with one to three values replaced, removed or added."""
    table = copy.deepcopy(table)
    for _ in range(rnd.randint(1, 3)):
        places = list(paths(table))
        if not places:
            break
        *path, last = rnd.choice(places)
        at = table
        for key in path:
            at = at[key]
        choice = rnd.random()
        if choice < 0.1:
            del at[last]
        elif choice < 0.2 and isinstance(at, dict):
            at[rnd.choice(("nonsense", "", "é", "__init__", "use\n"))] = 1
        else:
            at[last] = copy.deepcopy(rnd.choice(WRONG))
    return table


def mutated_bytes(source, rnd):
    """Return the bytes with one to five places changed, removed, repeated or cut off."""
    content = bytearray(source)
    for _ in range(rnd.randint(1, 5)):
        if not content:
            break
        at, choice = rnd.randrange(len(content)), rnd.random()
        if choice < 0.4:
            content[at] = rnd.randrange(256)
        elif choice < 0.5:
            content[at] ^= 1 << rnd.randrange(8)
        elif choice < 0.6:
            del content[at : at + rnd.randint(1, 64)]
        elif choice < 0.7:
            del content[at:]
        elif choice < 0.8:
            content[at:at] = rnd.randbytes(rnd.randint(1, 16))
        elif choice < 0.9:
            content[at : at + 8] = rnd.choice((b"\xff" * 8, b"\0" * 8, b"\xff\xff\xff\x7f", b"\0\0\0\x80"))
        else:
            content[at:at] = content[rnd.randrange(len(content)) :][: rnd.randint(1, 64)]
    return bytes(content)


def toml(table):
    """Write a table as TOML, tables within tables inline."""
    return "\n".join(f"{json.dumps(str(key))} = {_value(value)}" for key, value in table.items())


def _value(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(value) if not math.isfinite(value) or "." in str(value) or "e" in str(value) else f"{value}.0"
    if isinstance(value, str):
        return (
            json.dumps(value).replace("\x7f", "\\u007f").encode("utf-8", "replace").decode()
            if value.isascii()
            else ('"' + "".join(f"\\U{ord(c):08x}" for c in value) + '"')
        )
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_value(each)}" for key, each in value.items()) + "}"
    return str(value)


REACHED: dict[str, set[tuple[str, str]]] = {}
"""Files and names of the functions that the first calls of each target reached."""
NOTED = 8
_target, _left = "", 0


def begin(target):
    """Note what the first calls of ``check`` reach from here on, as the target's."""
    global _target, _left
    _target, _left = target, NOTED


@contextlib.contextmanager
def _noted():
    global _left
    if not _left:
        yield
        return
    _left -= 1
    reached = REACHED.setdefault(_target, set())

    def note(frame, event, argument):
        if event == "call":
            reached.add((frame.f_code.co_filename, frame.f_code.co_qualname))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)


def check(reader, *given, allowed=(UserError,)):
    """Run ``reader``: it returns, or tells faults of one line each, within ``HANG_S`` of processor time.

    Returns:
        The faults; empty where the input was read.
    """
    begin = time.process_time()
    try:
        with _noted():
            reader(*given)
        faults = ()
    except UserError as error:
        faults = error.faults
        assert all(fault and "\n" not in fault.strip() for fault in faults)
    except allowed as error:
        faults = (str(error),)
    assert time.process_time() - begin < HANG_S
    return faults


HOSTILE = (
    b"\xe9", b"\0", b"\xef\xbb\xbf", b"\xff\xfe", "\u2028".encode(), b"\x85", b"\x1c", b"\r", b"\n\n",
    b'"', b'""', b"'", b",", b"\t",    b"1000000000000", b"9" * 400, b"1e999", b"nan", b"-inf", b"null", b"true",
    b"\\ud800", b"[" * 3000, b'{"a":' * 3000, b"a" * 70_000,
    b"," * 5000, "\u0301".encode() * 300, "\u202e🙂".encode(), b"../../x", b"/dev/zero", b"#", b"O\n", b"B-\n",
)  # fmt: skip
"""Pieces of text that readers stumble over."""


def mutated_text(source, rnd):
    """Return a text as bytes with hostile pieces put in or in the place of a field, or its bytes mutated."""
    if rnd.random() < 0.3:
        return mutated_bytes(source, rnd)
    content = bytearray(source)
    for _ in range(rnd.randint(1, 3)):
        at = rnd.randrange(len(content) + 1)
        if rnd.random() < 0.5:
            content[at:at] = rnd.choice(HOSTILE)
        else:
            places = [i for i, byte in enumerate(content[:4000]) if byte in b',\t\n: "'] or [0]
            begin = rnd.choice(places) + 1
            end = next((i for i in places if i >= begin), len(content))
            content[begin:end] = rnd.choice(HOSTILE)
    return bytes(content)
