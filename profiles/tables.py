"""Tables of plug-ins: literal dicts of ``"name": "package.module:Object"``.

Listing a table imports nothing, so ``compress engines`` works where a runtime is missing. Third
parties add to a table through an entry point of the table's group; ours win when names collide.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from functools import cache
from typing import Any

from profiles.errors import UserError, unknown


def with_entry_points(table: Mapping[str, str], group: str) -> dict[str, str]:
    """Extend ``table`` by the entry points of installed packages in ``group``."""
    return {**_added(group), **table}


@cache
def _added(group: str) -> dict[str, str]:
    """What installed packages add; looked for once, since every one of them is read for it."""
    return {e.name: e.value for e in importlib.metadata.entry_points(group=group)}


def load_object(reference: str) -> Any:
    """Import the object ``package.module:name``.

    Raises:
        UserError: the reference is not of that form, or the module has no such name.
    """
    module, colon, name = reference.partition(":")
    if not colon or not module or not name:
        raise UserError(f"{reference!r} does not name an object; write it as package.module:name")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(error.name + ".")):
            raise
        raise UserError(f"{reference!r}: no module named {error.name!r}; is it installed, and on PYTHONPATH?") from None
    except AttributeError:
        raise UserError(f"{reference!r}: module {module!r} has no {name!r}") from None


def look_up(kind: str, name: str, table: Mapping[str, str]) -> Any:
    """Import the object called ``name`` in ``table``; an error suggests the nearest name."""
    if name not in table:
        raise UserError(unknown(kind, name, table))
    return load_object(table[name])
