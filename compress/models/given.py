"""Objects given in Python instead of by name: each gets a reference that recipes, plans and reports can hold.

    given:Tiny-1f6e0a2b-9c1d7e5f0a3b2c4d      a module: its class, its structure, its code and weights
    given:margin-9c1d7e5f0a3b2c4d             a loss, or data: its name and its content

A reference holds a hash of everything that decides what the object does, so equal references mean equal results. The objects
themselves stay in this process.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import inspect
import sys
import sysconfig
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from profiles.errors import UserError

PREFIX = "given:"
DIGITS, STRUCTURE_DIGITS = 16, 8
PACKAGES = ("compress", "deploy", "calib", "profiles")
PLAIN = (int, float, complex, str, bytes, bool, type(None))
_OBJECTS: dict[str, Any] = {}


def is_given(reference: str) -> bool:
    """Say whether a reference stands for an object that was given."""
    return reference.startswith(PREFIX)


def resolve(reference: str) -> Any:
    """Look up the object of a reference.

    Raises:
        UserError: this process was not given it.
    """
    if reference not in _OBJECTS:
        name = reference.removeprefix(PREFIX).partition("-")[0]
        raise UserError(
            f"{reference!r}: an object of class or function {name!r} that was given in Python, and this process has not "
            "been given it; for a finished run, compress.load(folder, module=a fresh one)"
        )
    return _OBJECTS[reference]


def register(name: str, value: Any, digest: str) -> str:
    """Keep ``value`` in this process; returns its reference."""
    reference = f"{PREFIX}{name}-{digest[:DIGITS]}"
    _OBJECTS[reference] = value
    return reference


def register_module(module: nn.Module) -> str:
    """Keep a copy of a module as it is now, on the CPU, until ``forget``; returns its reference.

    Raises:
        UserError: the source of one of its classes cannot be read, or it cannot be copied.
    """
    try:
        kept = copy.deepcopy(module).cpu()
    except Exception as error:
        fact = f"{type(module).__name__} cannot be copied ({str(error).splitlines()[0]})"
        raise UserError(f"{fact}; give a module whose tensors are parameters or buffers") from error
    name = f"{type(module).__name__}-{structure(module)}"
    return register(name, kept, digest_of_module(module))


def register_loss(loss: Callable[..., Any]) -> str:
    """Keep a loss: a function, an ``nn.Module`` class or an ``nn.Module``; returns its reference.

    Raises:
        UserError: it is none of these, or its source cannot be read.
    """
    if isinstance(loss, nn.Module):
        return register(type(loss).__name__, copy.deepcopy(loss).cpu(), digest_of_module(loss))
    if not isinstance(loss, types.FunctionType | type):
        words = "a function, an nn.Module class or an nn.Module"
        raise UserError(f"loss {loss!r}: a loss is a name, a table with 'use', {words}; wrap it in a function")
    name = "lambda" if loss.__name__ == "<lambda>" else loss.__name__
    return register(name, loss, digest_of(loss))


def forget(reference: str) -> None:
    """Drop the object of a reference."""
    _OBJECTS.pop(reference, None)


@contextmanager
def standing_in(reference: str, module: nn.Module) -> Iterator[None]:
    """Let a fresh module stand for the one that ``reference`` was made for.

    Raises:
        UserError: its parameters and buffers have other names or shapes.
    """
    name, wanted = reference.removeprefix(PREFIX).split("-")[:2]
    if structure(module) != wanted:
        fact = f"module: a {type(module).__name__} whose parameters and buffers have other names or shapes"
        raise UserError(f"{fact} than the {name} that was given to the run; make it with the same arguments")
    before = _OBJECTS.get(reference)
    _OBJECTS[reference] = module
    try:
        yield
    finally:
        forget(reference)
        if before is not None:
            _OBJECTS[reference] = before


def structure(module: nn.Module) -> str:
    """Hash names, shapes and types of a module's parameters and buffers."""
    shapes = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in module.state_dict().items()]
    return hashlib.sha256(repr(shapes).encode()).hexdigest()[:STRUCTURE_DIGITS]


def digest_of_module(module: nn.Module) -> str:
    """Hash a module's code, attributes, parameters and buffers."""
    digest = hashlib.sha256()
    torchs = vars(nn.Module()).keys()
    for path, part in module.named_modules():
        plain = {key: _plain(value) for key, value in sorted(vars(part).items()) if key not in torchs}
        digest.update(repr((path, type(part).__qualname__, plain)).encode())
    for text in sources(module):
        digest.update(_code(text).encode())
    for name, tensor in {**module.state_dict(), **dict(module.named_buffers())}.items():
        digest.update(repr((name, _of_tensor(tensor))).encode())
    return digest.hexdigest()


def digest_of(thing: Callable[..., Any]) -> str:
    """Hash the code of a function or class, of the user's own that it uses, and of the values that it has captured.

    Raises:
        UserError: the source cannot be read, or a captured value is no plain data.
    """
    digest = hashlib.sha256()
    for text in source_texts(thing):
        digest.update(_code(text).encode())
    for function in _functions(thing):
        if function.__name__ == "<lambda>":  # several may stand on one line of source
            digest.update(
                function.__code__.co_code + repr((function.__code__.co_consts, function.__code__.co_names)).encode()
            )
        digest.update(repr(_captured(function)).encode())
    return digest.hexdigest()


def sources(module: nn.Module) -> list[str]:
    """Read the source text of a module's classes, and of the user's own that they use; torch's are left out.

    Raises:
        UserError: it cannot be read, as of classes typed at a prompt.
    """
    kinds = {type(part) for part in module.modules()}
    own = [kind for kind in kinds if kind.__module__.partition(".")[0] not in ("torch", "brevitas")]
    texts = [source_texts(kind) if _is_users(kind) else [source_of(kind)] for kind in own]
    return sorted({text for each in texts for text in each})


def source_texts(thing: Callable[..., Any]) -> list[str]:
    """Read the source of a function or class, and of the user's own functions and classes that it uses by name."""
    texts: dict[Any, str] = {}
    values: dict[str, str] = {}
    waiting: list[Any] = [thing]
    while waiting:
        each = waiting.pop()
        if each in texts:
            continue
        texts[each] = source_of(each) if each is thing else _source_or_bytecode(each)
        for name, used in [] if isinstance(each, types.ModuleType) else _used(each):
            if isinstance(used, PLAIN):
                values[f"{getattr(each, '__module__', '')}.{name}"] = f"{name} = {used!r}"
            elif isinstance(used, types.FunctionType | type | types.ModuleType) and _is_users(used):
                waiting.append(used)
    return [*sorted(texts.values()), *(values[name] for name in sorted(values))]


def source_of(thing: Callable[..., Any]) -> str:
    """Read the source of a function or class; in a notebook too, where Python 3.10 to 3.12 read no class.

    Raises:
        UserError: there is none to read.
    """
    try:
        return textwrap.dedent(inspect.getsource(thing))
    except (OSError, TypeError):
        pass
    try:
        parts = [inspect.getsource(function) for function in _functions(thing)] if isinstance(thing, type) else []
    except (OSError, TypeError):
        parts = []
    if not parts:
        fact = f"{getattr(thing, '__qualname__', thing)!r}: its source cannot be read, and results are known by it"
        raise UserError(f"{fact}; define it in a file or a notebook cell, with def or class") from None
    assert isinstance(thing, type)
    bases = ", ".join(base.__qualname__ for base in thing.__bases__)
    return f"class {thing.__name__}({bases}):\n" + "\n".join(textwrap.indent(textwrap.dedent(p), "    ") for p in parts)


def _source_or_bytecode(thing: Any) -> str:
    """Read the source of a module, function or class; what was made without any, such as a named tuple, by its bytecode."""
    try:
        return inspect.getsource(thing) if isinstance(thing, types.ModuleType) else source_of(thing)
    except (UserError, OSError, TypeError):
        functions = [] if isinstance(thing, types.ModuleType) else _functions(thing)
        codes = [(f.__code__.co_code, f.__code__.co_names, repr(f.__code__.co_consts)) for f in functions]
        return repr((getattr(thing, "__qualname__", thing.__name__), codes))


def _functions(thing: Any) -> list[types.FunctionType]:
    """List the functions of a class in order, or the function itself."""
    if not isinstance(thing, type):
        return [thing]
    members = [getattr(member, "fget", None) or getattr(member, "__func__", member) for member in vars(thing).values()]
    return [member for member in members if isinstance(member, types.FunctionType)]


def _used(thing: Any) -> list[tuple[str, Any]]:
    """List the globals that a function or class reads, by name."""
    found = [] if not isinstance(thing, type) else [(base.__name__, base) for base in thing.__bases__]
    for function in _functions(thing):
        names = _names(function.__code__)
        found += [(name, function.__globals__[name]) for name in names if name in function.__globals__]
    return found


def _names(code: types.CodeType) -> list[str]:
    inner = [name for constant in code.co_consts if isinstance(constant, types.CodeType) for name in _names(constant)]
    return [*code.co_names, *inner]


def _captured(function: types.FunctionType) -> dict[str, Any]:
    """Collect defaults and closure of a function as plain data.

    Raises:
        UserError: it closes over something that is no data, such as a tensor.
    """
    cells = dict(zip(function.__code__.co_freevars, (c.cell_contents for c in function.__closure__ or ()), strict=True))
    cells.pop("__class__", None)  # of super(): the class itself
    wrong = sorted(name for name, value in cells.items() if not _is_data(value))
    if wrong:
        fact = f"{function.__qualname__!r} closes over {', '.join(wrong)}, by which its results cannot be known"
        raise UserError(f"{fact}; make it an nn.Module that holds them as buffers or attributes")
    values = {name: _plain(value) for name, value in sorted(cells.items())}
    return {"defaults": _plain(function.__defaults__), "keywords": _plain(function.__kwdefaults__), **values}


def _is_data(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_data(item) for item in value.values())
    if isinstance(value, tuple | list | set | frozenset):
        return all(_is_data(item) for item in value)
    return isinstance(value, (*PLAIN, types.FunctionType))


def _plain(value: Any, outer: frozenset[int] = frozenset()) -> Any:
    """Reduce ``value`` to data whose repr is the same in every process; an object to its type and attributes.

    Args:
        outer: ids of the objects that it is an attribute of; one of those is not followed again.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Tensor):
        return _of_tensor(value)
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest())
    if isinstance(value, torch.dtype | torch.device | Enum):
        return str(value)
    if isinstance(value, types.FunctionType | types.MethodType) and _is_users(value):
        return digest_of(value if isinstance(value, types.FunctionType) else value.__func__)
    inside = outer | {id(value)}
    if isinstance(value, Mapping):
        return tuple((str(key), _plain(item, inside)) for key, item in value.items() if id(item) not in inside)
    if isinstance(value, tuple | list | set | frozenset):
        items = [_plain(item, inside) for item in value if id(item) not in inside]
        return tuple(items if isinstance(value, tuple | list) else sorted(items, key=repr))
    name = f"{type(value).__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    if isinstance(value, partial):
        return (name, _plain(value.func, inside), _plain(value.args, inside), _plain(value.keywords, inside))
    attributes = {} if isinstance(value, type | types.ModuleType | nn.Module) else getattr(value, "__dict__", {})
    return (name, _plain(attributes, inside)) if attributes else name


def _of_tensor(tensor: Tensor) -> tuple[str, tuple[int, ...], str]:
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return str(tensor.dtype), tuple(tensor.shape), hashlib.sha256(content).hexdigest()


def _is_users(thing: Any) -> bool:
    """Say whether code is neither Python's own, nor ours, nor an installed package's."""
    name = thing.__name__ if isinstance(thing, types.ModuleType) else getattr(thing, "__module__", None) or ""
    module = sys.modules.get(name)
    if name.partition(".")[0] in (*sys.stdlib_module_names, *PACKAGES):
        return False
    file = getattr(module, "__file__", None) or ""
    return not (
        set(Path(file).parts) & {"site-packages", "dist-packages"} or file.startswith(sysconfig.get_paths()["stdlib"])
    )


def _code(text: str) -> str:
    """Drop comments and layout from source text that parses."""
    try:
        return ast.dump(ast.parse(text))
    except SyntaxError:
        return text
