"""Published weights into a model that may answer other classes: rows of the head by names of classes, else a fresh head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from compress.models.checkpoint import some_names
from compress.models.hub import hub_names, timm_names, torchvision_names
from compress.models.hub.records import Found, kind_of
from compress.models.plan import make
from profiles.errors import UserError

READERS: dict[str, Any] = {"timm": timm_names, "torchvision": torchvision_names, "hf": hub_names}
"""Each has ``find``, ``published`` and ``CLASSES``, the argument of its factories for the number of classes."""


@final
@dataclass(frozen=True, kw_only=True)
class Filled:
    """What published weights became.

    Attributes:
        fresh: names of tensors that stay random, so that the model has to be trained.
    """

    fresh: tuple[str, ...]
    notes: tuple[str, ...]


def fill(module: nn.Module, found: Found, classes: Sequence[str]) -> Filled:
    """Give ``module``, made by the factory and arguments of ``found``, its published weights.

    The head answers the data's classes: where each of them is one of the published model's labels by name, with the rows of
    these, in the data's order; where not, and the number of classes differs, with random ones.

    Args:
        classes: the data's, in the order of the labels; empty where it has none.

    Raises:
        UserError: the weights do not fit the model, other than in its head.
    """
    reader = READERS[kind_of(found.pin.model)]
    state = reader.published(found, found.arguments)
    own = module.state_dict()
    rows = matching_rows(classes, found.facts.labels)
    differs = any(name in state and state[name].shape != tensor.shape for name, tensor in own.items())
    moved = rows is not None and (differs or list(rows) != list(range(found.outputs)))
    head = _head(found, reader, own) if moved else _other_rows(own, state, found.outputs)
    answers = {own[name].shape[0] for name in head}
    use_rows = rows if moved and rows is not None and answers == {len(rows)} else None
    filled, fresh, faults = _filled(own, state, head, use_rows, found.outputs)
    if faults:
        given = f"{found.factory} {dict(found.arguments)}" if found.arguments else found.factory
        raise UserError(f"{found.pin.model}: the published weights have another structure than {given}: {faults[0]}")
    module.load_state_dict(filled)
    guessed = rows is None and not differs and bool(found.facts.labels) and len(classes) == found.outputs
    return Filled(fresh=tuple(fresh), notes=_notes(found, use_rows, fresh, guessed=guessed))


def matching_rows(classes: Sequence[str], labels: Sequence[tuple[str, ...]]) -> tuple[int, ...] | None:
    """Return the place of each class among a model's labels; None unless each is one of them, and each another.

    A class is a label by any of its names, and a name by any of its words between commas, in any case; ``_`` is a space.

    Example:
        >>> matching_rows(("b", "n01"), (("n01", "tench, Tinca"), ("n02", "b, c")))
        (1, 0)
        >>> matching_rows(("tinca", "d"), (("n01", "tench, Tinca"), ("n02", "b, c")))
    """
    places: dict[str, int] = {}
    twice: set[str] = set()
    for place, names in enumerate(labels):
        words = {_word(part) for name in names for part in (name, *name.split(","))} - {""}
        twice |= {word for word in words if word in places}
        places |= dict.fromkeys(words - set(places), place)
    found = [places.get(_word(name)) if _word(name) not in twice else None for name in classes]
    rows = tuple(place for place in found if place is not None)
    return rows if classes and len(rows) == len(classes) == len(set(rows)) else None


def _word(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _head(found: Found, reader: Any, own: Mapping[str, Tensor]) -> set[str]:
    """Find the tensors that have a row for each class: those whose shape changes with the number of classes."""
    key: str = reader.CLASSES if not found.factory.startswith("timm:") else timm_names.CLASSES
    count = found.arguments.get(key, found.outputs)
    with torch.device("meta"):
        other = make(found.factory, {**found.arguments, key: count + 1}).state_dict()
    return {name for name, tensor in own.items() if name in other and other[name].shape != tensor.shape}


def _other_rows(own: Mapping[str, Tensor], state: Mapping[str, Tensor], outputs: int) -> set[str]:
    """Find the tensors that have ``outputs`` rows in ``state`` and another number in ``own``."""
    return {
        name
        for name, tensor in own.items()
        if name in state
        and tensor.shape != state[name].shape
        and tensor.shape[1:] == state[name].shape[1:]
        and state[name].shape[:1] == (outputs,)
    }


def _filled(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    head: set[str],
    rows: Sequence[int] | None,
    outputs: int,
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    filled: dict[str, Tensor] = {}
    fresh: list[str] = []
    faults: list[str] = []
    chosen = None if rows is None else torch.tensor(rows)
    for name, tensor in own.items():
        given = state.get(name)
        if name in head and given is not None and chosen is not None and given.shape[0] == outputs:
            filled[name] = given[chosen].to(tensor.dtype)
        elif given is not None and given.shape == tensor.shape:
            filled[name] = given.to(tensor.dtype)
        elif name in head:
            filled[name] = tensor
            fresh.append(name)
        else:
            was = "missing" if given is None else str(tuple(given.shape))
            faults.append(f"{name} is {tuple(tensor.shape)}, in the weights {was}")
    return filled, fresh, faults


def _notes(found: Found, rows: Sequence[int] | None, fresh: list[str], *, guessed: bool) -> tuple[str, ...]:
    if rows is not None:
        return (f"the head answers the data's {len(rows)} classes, taken by name from the {found.outputs} of the weights",)
    if fresh:
        named = bool(found.facts.labels)
        why = "the data's classes are not among their labels by name" if named else "they name no labels"
        return (f"random weights in {some_names(fresh)}: the weights have {found.outputs} classes, and {why}",)
    if guessed:
        return ("the data's classes are none of the labels by name; their order is taken to be the same",)
    return ()
