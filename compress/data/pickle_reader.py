"""Reader of pickles as plain data, without running their instructions.

A pickle is a program, and an unpickler runs it: reading one hands the machine to whoever wrote it. Promise: no pickles. So
nothing is run here. The standard library lists the instructions; those that make plain containers, numbers, text and
numpy's arrays of bytes are followed, and there are no others: none that calls, imports or changes anything.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable
from typing import Any, final

import numpy as np
import numpy.typing as npt

from profiles.errors import UserError

NAMES = {
    "numpy ndarray": "array",
    "numpy dtype": "type",
    "numpy.core.multiarray _reconstruct": "array",
    "numpy._core.multiarray _reconstruct": "array",  # files saved again with numpy 2
}
"""What a file may name, as a word for it: the names themselves are never looked up."""


@final
class PickledName:
    """Word for a name that a file states; nothing of that name is looked up or called."""

    def __init__(self, word: str) -> None:
        self.word = word


@final
class PickledArray:
    """Numpy array of bytes; empty until its state is read."""

    def __init__(self) -> None:
        self.array: npt.NDArray[np.uint8] | None = None


@final
class PickledType:
    """Type of an array's elements; bytes only."""


MOST_DEPTH = 16
"""Containers within one another."""

MOST_INSTRUCTIONS = 2_000_000
"""Instructions of a file; CIFAR's own have two or so an image."""

SIMPLE = (bool, int, str, bytes, type(None))
"""Types of keys: hashing what is nested takes time without bound."""


def read_pickled(content: bytes) -> Any:
    """Read ``content`` as plain data: dictionaries, lists, tuples, numbers, text, bytes and ``PickledArray``.

    Raises:
        UserError: it holds anything else, or is nested too deeply or too long; nothing of it was run.
        ValueError, TypeError, LookupError, AttributeError: it is damaged.
    """
    reader = _Reader()
    for number, (instruction, given, _) in enumerate(pickletools.genops(content)):
        if number > MOST_INSTRUCTIONS:
            raise UserError(f"has more than {MOST_INSTRUCTIONS:,} instructions, which no file of CIFAR has; do not trust it")
        reader.follow(instruction.name, given)
    (held,) = reader.stack
    return held


@final
class _Reader:
    """The stack of values that instructions work on, and what was noted of it for later."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._noted: dict[int, Any] = {}
        self._depths: dict[int, int] = {}  # by identity; what is noted here is kept alive by self._kept
        self._kept: list[Any] = []

    def follow(self, name: str, given: Any) -> None:
        """Follow one instruction with the argument that it was ``given``."""
        if name in VALUES:
            self.stack.append(VALUES[name](given))
        elif name in STEPS:
            STEPS[name](self, given)
        elif name not in IGNORED:
            raise UserError(
                f"has the instruction {name}, and none but those for plain data is followed; nothing was run; do not trust "
                "this file, download it from the source"
            )

    def hold(self, container: Any, values: Iterable[Any]) -> Any:
        """Note how deep ``container`` is with ``values`` in it, and return it; refused beyond ``MOST_DEPTH``."""
        deepest = max((self._depths.get(id(value), 0) for value in values), default=0)
        depth = max(self._depths.get(id(container), 0), 1 + deepest)
        if depth > MOST_DEPTH:
            raise UserError(f"is nested more than {MOST_DEPTH} deep, which no file of CIFAR is; do not trust it")
        if id(container) not in self._depths:
            self._kept.append(container)
        self._depths[id(container)] = depth
        return container

    def mark(self, _: Any) -> None:
        self._marks.append(len(self.stack))

    def marked(self) -> list[Any]:
        """The values since the last mark, taken off."""
        start = self._marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise ValueError("a tuple of more than there is")
        values = tuple(self.stack[-count:])
        self.stack[-count:] = [self.hold(values, values)]

    def marked_tuple(self, _: Any) -> None:
        values = tuple(self.marked())
        self.stack.append(self.hold(values, values))

    def marked_list(self, _: Any) -> None:
        values = self.marked()
        self.stack.append(self.hold(values, values))

    def append(self, values: list[Any]) -> None:
        onto = self.stack[-1]
        if not isinstance(onto, list):
            raise TypeError("values for a list, and no list")
        self.hold(onto, values)
        onto.extend(values)

    def put(self, values: list[Any]) -> None:
        into = self.stack[-1]
        if not isinstance(into, dict):
            raise TypeError("entries for a dictionary, and no dictionary")
        if not all(isinstance(key, SIMPLE) for key in values[::2]):
            raise TypeError("a key that is neither text nor a number")
        self.hold(into, values[1::2])
        into.update(zip(values[::2], values[1::2], strict=True))

    def dictionary(self, _: Any) -> None:
        entries = self.marked()
        self.stack.append({})
        self.put(entries)

    def note(self, place: int | None) -> None:
        self._noted[len(self._noted) if place is None else place] = self.stack[-1]

    def noted(self, place: int) -> None:
        self.stack.append(self._noted[place])

    def name(self, given: str) -> None:
        if given not in NAMES:
            words = "CIFAR's own files name numpy's array only, and another name could run code; nothing was run"
            raise UserError(
                f"names {given[:80].replace(' ', '.')}: {words}; do not trust this file, download it from the source"
            )
        self.stack.append(PickledName(NAMES[given]))

    def make(self, _: Any) -> None:
        """What a call would make of the name and the arguments on the stack."""
        named, arguments = self.pop(2)
        if not isinstance(named, PickledName):
            raise TypeError("arguments for a name, and no name")
        kind = arguments[0] if named.word == "type" and isinstance(arguments, tuple) and arguments else ""
        if named.word == "type" and (not isinstance(kind, (bytes, str)) or kind not in (b"u1", "u1")):
            words = repr(kind)[:40] if isinstance(kind, (bytes, str)) else type(kind).__name__
            raise UserError(f"holds an array of type {words}; CIFAR's are of bytes, 'u1'")
        self.stack.append(PickledType() if named.word == "type" else PickledArray())

    def fill(self, _: Any) -> None:
        """Give the array or type on the stack the state that comes after it."""
        target, state = self.pop(2)
        if isinstance(target, PickledArray):
            _, shape, kind, columns_first, content = state
            if not isinstance(kind, PickledType) or columns_first or not isinstance(content, bytes):
                raise UserError("holds an array that is not of bytes, row by row, as CIFAR's are")
            if not isinstance(shape, tuple) or not all(isinstance(side, int) and 0 <= side < 2**32 for side in shape):
                raise UserError("holds an array whose shape is no row of numbers")
            target.array = np.frombuffer(content, np.uint8).reshape(shape)
        elif not isinstance(
            target, PickledType
        ):  # a type's state is the order of bytes and the like, of which bytes have none
            raise TypeError("a state for an array, and no array")
        self.stack.append(target)

    def pop(self, count: int) -> list[Any]:
        values = [self.stack.pop() for _ in range(count)]
        return values[::-1]


def _same(given: Any) -> Any:
    return given


VALUES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _same),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _same),
    # text of Python 2, which pickletools gives as Latin-1
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), lambda given: given.encode("latin-1")),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
}
"""Instructions that put a value on the stack, made of their argument."""

STEPS: dict[str, Callable[[_Reader, Any], None]] = {
    "MARK": _Reader.mark,
    "TUPLE": _Reader.marked_tuple,
    "TUPLE1": lambda reader, _: reader.tuple_of(1),
    "TUPLE2": lambda reader, _: reader.tuple_of(2),
    "TUPLE3": lambda reader, _: reader.tuple_of(3),
    "LIST": _Reader.marked_list,
    "DICT": _Reader.dictionary,
    "APPEND": lambda reader, _: reader.append(reader.pop(1)),
    "APPENDS": lambda reader, _: reader.append(reader.marked()),
    "SETITEM": lambda reader, _: reader.put(reader.pop(2)),
    "SETITEMS": lambda reader, _: reader.put(reader.marked()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Reader.note),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Reader.noted),
    "GLOBAL": _Reader.name,
    "STACK_GLOBAL": lambda reader, _: reader.name(" ".join(reader.pop(2))),
    "REDUCE": _Reader.make,
    "BUILD": _Reader.fill,
}
"""Instructions that work on what is on the stack."""

IGNORED = ("PROTO", "FRAME", "STOP")
