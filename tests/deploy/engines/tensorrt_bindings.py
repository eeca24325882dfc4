"""TensorRT's real Python bindings with nothing behind them, as something our code can be run against.

``recorded()`` gives a stand-in for the module ``tensorrt`` that holds the vendor's classes to what they declare: a name
that is not there is an AttributeError, a call must fit one of the signatures in the method's docstring, argument by
argument. Enums, the logger's base class and everything that needs no GPU are the real ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

SIGNATURE = re.compile(r"^(?:\d+\. )?(\w+)\((.*)\) -> (.+?)\s*$")


PYTHON_NAMES = {"nvonnxparser::IParserError": "ParserError"}
"""Classes that a docstring calls by their C++ name."""


class Stub:
    """An object of a real class; ``values`` are what its properties and methods give, by ``Class.name``."""

    def __init__(self, recorder: Recorder, kind: type) -> None:
        object.__setattr__(self, "_recorder", recorder)
        object.__setattr__(self, "_kind", kind)

    def __getattr__(self, name: str) -> Any:
        kind, recorder = self._kind, self._recorder
        real = getattr(kind, name)  # AttributeError: the vendor has no such name
        where = f"{kind.__name__}.{name}"
        if isinstance(real, property):
            recorder.calls.append((where, ()))
            return recorder.values[where]
        return recorder.method(where, real.__doc__)

    def __setattr__(self, name: str, value: Any) -> None:
        assert isinstance(getattr(self._kind, name), property), f"{self._kind.__name__}.{name} cannot be set"
        self._recorder.calls.append((f"{self._kind.__name__}.{name}=", (value,)))

    def __bytes__(self) -> bytes:
        assert self._kind.__name__ == "IHostMemory"
        return bytes(self._recorder.values["bytes"])


class Recorder:
    """Calls in order as (``Class.method``, arguments), and the values to answer with."""

    def __init__(self, trt: Any, values: dict[str, Any]) -> None:
        self.trt, self.values = trt, values
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def method(self, where: str, text: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            returned = self._fitting(where, text, arguments)
            self.calls.append((where, arguments))
            if where in self.values:
                found = self.values[where]
                return found(*arguments) if callable(found) else found
            kind = getattr(self.trt, PYTHON_NAMES.get(returned, returned).rpartition(".")[2], None)
            return None if kind is None else Stub(self, kind)

        return call

    def make(self, name: str) -> Callable[..., Stub]:
        """A constructor of the real class ``name``."""
        kind = getattr(self.trt, name)

        def construct(*arguments: Any) -> Stub:
            self._fitting(f"{name}.__init__", kind.__init__.__doc__, arguments)
            self.calls.append((name, arguments))
            return Stub(self, kind)

        return construct

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for called, arguments in self.calls if called == name]

    def _fitting(self, where: str, text: str, arguments: tuple[Any, ...]) -> str:
        """The declared result of the first signature that ``arguments`` fit."""
        found = [m for line in text.splitlines() if (m := SIGNATURE.match(line.strip())) and "*args" not in m.group(2)]
        assert found, f"{where} declares no signature"
        for match in found:
            declared = [p for p in _split(match.group(2)) if not p.startswith("self:")]
            needed = [p for p in declared if "=" not in p]
            if len(needed) <= len(arguments) <= len(declared) and all(map(self._fits, declared, arguments)):
                return match.group(3)
        raise TypeError(f"{where}{arguments} fits none of {[m.group(0) for m in found]}")

    def _fits(self, declared: str, value: Any) -> bool:
        kind = declared.partition(":")[2].partition("=")[0].strip().rpartition(".")[2].rpartition("::")[2]
        if kind in ("int", "SupportsInt"):
            return isinstance(value, int)
        if kind in ("buffer", "Buffer"):
            return isinstance(value, bytes)
        if kind in ("tuple", "list", "Dims"):
            return isinstance(value, tuple) if kind != "list" else isinstance(value, list)
        if kind in ("str", "bool"):
            return type(value).__name__ == kind
        if kind in ("capsule", "CapsuleType"):
            return isinstance(value, self.trt.ILogger)
        real = getattr(self.trt, kind)
        return isinstance(value, real) or (isinstance(value, Stub) and issubclass(value._kind, real))


def _split(parameters: str) -> list[str]:
    """Parameters at the top level of a signature's text."""
    parts, depth = [""], 0
    for letter in parameters:
        depth += (letter in "[<(") - (letter in "]>)")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


class Module:
    """The module ``tensorrt`` with recorded classes in place of those that need the libraries behind them."""

    RECORDED = ("Builder", "OnnxParser", "Runtime")

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __getattr__(self, name: str) -> Any:
        return self._recorder.make(name) if name in self.RECORDED else getattr(self._recorder.trt, name)
