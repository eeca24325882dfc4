"""Checks of options by a callable's signature: names, types and bounds of data sources, tasks, losses and their weights.

A value is checked as the JSON that it would be in a recipe, strictly: a list is a sequence or a tuple, text is a path, and
neither text nor 1.0 is a whole number. Parameters without an annotation, or with one that pydantic does not know, take
anything.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

from annotated_types import Ge, Gt, Le, Len
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from profiles.errors import UserError, unknown

Seed = Annotated[int, Ge(0)]
"""Seed of a random generator."""

Count = Annotated[int, Ge(0)]
"""Number of pixels or samples, 0 or more."""

Positive = Annotated[float, Gt(0)]
"""Number above 0."""

Side = Annotated[int, Ge(1), Le(2**16)]
"""Length of an input's side in pixels."""

Sides = int | Annotated[Sequence[int], Len(2, 2)]
"""Height and width of an input in pixels, or one number for both."""


def as_sides(size: Sides) -> tuple[int, int]:
    """Convert a size to height and width."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


PATH_NAMES = re.compile(r"(.*_)?(path|paths|dir|folder|file|root)")
"""Names of parameters that hold paths where no annotation says otherwise."""

VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})")
SHOWN = 80
"""Characters of a wrong value in an error."""

LONGEST_NAME_BYTES = 255
"""Longest name of a file on the usual file systems."""

P = ParamSpec("P")
R = TypeVar("R")


def option_faults(
    call: Callable[..., Any], options: Mapping[str, Any], where: str, *, keyword_only: bool = False
) -> list[str]:
    """List the faults of ``options`` as keyword arguments of ``call``: unknown, missing, of another type, out of bounds.

    Args:
        keyword_only: whether the positional parameters of ``call`` are inputs and no options, as those of a loss.
    """
    return _validated(call, options, where, keyword_only=keyword_only)[1]


def check_options(call: Callable[..., Any], options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check ``options`` as keyword arguments of ``call``, and convert them to its annotations.

    Raises:
        UserError: options that are unknown, missing, of another type or out of bounds; all at once.
    """
    values, faults = _validated(call, options, where)
    if faults:
        raise UserError(*faults)
    return values


def checked_options(where: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function of keyword parameters with ``check_options``; faults begin with ``where``."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*positional: P.args, **options: P.kwargs) -> R:
            if positional:
                return function(*positional, **options)
            return function(**check_options(function, options, where))  # type: ignore[call-arg]

        return call

    return decorate


def fill_paths(call: Callable[..., Any] | None, options: Mapping[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """Fill in variables of the environment in all texts, and make paths relative to ``folder`` absolute.

    A path is an option annotated with ``Path``; without an annotation, and among those annotated with ``str``, one with the
    name of a path (``path``, ``mask_dir``); without an annotation also what exists below ``folder``.

    Args:
        call: the callable of the options; None where it is not known, so that names alone decide.

    Raises:
        UserError: variables in a path that are not set; all of them.
    """
    hints = {} if call is None else hints_of(call)
    faults: list[str] = []

    def fill(name: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [fill(name, each) for each in value]
        if not isinstance(value, str):
            return value
        text = os.path.expandvars(value)
        if not _is_path(name, hints.get(name), text, folder):
            return text
        unset = [a or b for a, b in VARIABLE.findall(text)]
        faults.extend(f"{where} {name}: the variable {each} is not set; given: {value!r}" for each in unset)
        path = folder / os.path.expanduser(text)  # Path's own raises for a user that is not there
        if any(len(part.encode(errors="replace")) > LONGEST_NAME_BYTES for part in path.parts) or "\0" in text:
            faults.append(f"{where} {name}: no path; given: {_shown(value)}")
        return str(path) if text else text

    filled = {name: fill(name, value) for name, value in options.items()}
    if faults:
        raise UserError(*faults)
    return filled


def _is_path(name: str, hint: Any, text: str, folder: Path) -> bool:
    if _holds(hint, Path):
        return True
    if hint is not None and not _holds(hint, str):
        return False
    if PATH_NAMES.fullmatch(name):
        return True
    return hint is None and bool(text) and os.path.exists(folder / text)  # no error for what is no path


def _holds(hint: Any, kind: type) -> bool:
    """Return whether an annotation is ``kind``, or a union or container of it."""
    return hint is kind or any(_holds(part, kind) for part in typing.get_args(hint))


def _validated(
    call: Callable[..., Any], options: Mapping[str, Any], where: str, *, keyword_only: bool = False
) -> tuple[dict[str, Any], list[str]]:
    parameters = parameters_of(call, keyword_only=keyword_only)
    takes = [name for name, each in parameters.items() if each.kind is not each.VAR_KEYWORD]
    hints, values, faults = hints_of(call), dict(options), list[str]()
    open_ended = len(takes) < len(parameters)
    for name, value in options.items():
        if name not in takes:
            faults += [] if open_ended else [unknown("option", name, takes, where)]
        elif name in hints:
            try:
                values[name] = _converted(hints[name], value)
            except ValidationError as error:
                faults.append(f"{where} {name}: {_words(error)}; given: {_shown(value)}")
    missing = [name for name in takes if parameters[name].default is inspect.Parameter.empty and name not in options]
    faults += [f"{where}: {name} is missing; options: {', '.join(takes)}" for name in missing]
    return values, faults


def parameters_of(call: Callable[..., Any], *, keyword_only: bool) -> dict[str, inspect.Parameter]:
    """Return the parameters of a callable that can be given by name."""
    kinds: tuple[Any, ...] = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    try:
        signature = inspect.signature(call)
    except ValueError:  # of a function in C
        return {"options": inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)}
    kinds += (inspect.Parameter.POSITIONAL_OR_KEYWORD,) if keyword_only else ()
    return {name: each for name, each in signature.parameters.items() if each.kind not in kinds}


def hints_of(call: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a callable's parameters; none where they cannot be found out."""
    target = call.__init__ if isinstance(call, type) else inspect.unwrap(call)  # type: ignore[misc]
    try:
        return typing.get_type_hints(target, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError):  # of somebody's own code: nothing can be said of it
        return {}


def _converted(hint: Any, value: Any) -> Any:
    """Convert a value to an annotation; raises ``ValidationError``."""
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))
    except PydanticUserError:
        try:
            adapter = TypeAdapter(hint)
        except PydanticUserError:
            return value
    try:
        text = json.dumps(value, default=as_plain)
    except (TypeError, ValueError, RecursionError):  # no plain data
        return adapter.validate_python(value)
    try:
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        if any(each["type"] == "needs_python_object" for each in error.errors()):
            return adapter.validate_python(value)
        raise


def as_plain(value: Any) -> Any:
    """Convert paths, and numpy's numbers and arrays, to plain data."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"no JSON of {type(value).__name__}")


def _words(error: ValidationError) -> str:
    """Word the faults of one value: what it should be, by all members of a union."""
    messages = [str(e["msg"]).removeprefix("Value error, ").replace("valid array", "list") for e in error.errors()]
    wanted = dict.fromkeys(message.removeprefix("Input should be ") for message in messages)
    prefix = "should be " if all(message.startswith("Input should be ") for message in messages) else ""
    return prefix + " or ".join(wanted)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
