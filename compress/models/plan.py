"""Plans of structural changes, and their replay: model factory + surgery.json + model.safetensors.

A stage that changes a model's structure does so by applying an operation of ``OPERATIONS``, and nothing else
does; so a replay on a fresh model gives the same structure, and with the same weights the same bits.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, final

from torch import nn

from compress.models import factory as factories
from compress.models import given
from compress.models import trust as trusted
from compress.models.bounds import bounded_building
from compress.models.checkpoint import load_tensors, save_tensors
from deploy.files import write_atomically
from profiles.errors import UserError, kind_with_article, one_line
from profiles.json_text import read_json
from profiles.tables import look_up

SCHEMA = 1
PLAN, WEIGHTS = "surgery.json", "model.safetensors"
FOLDER = "model"
"""Of a finished run: the student as a module."""


class Operation(Protocol):
    """Structural change, as data."""

    name: ClassVar[str]

    def apply(self, module: nn.Module) -> nn.Module:
        """Change a module; ``module`` itself may be changed or be part of the result."""


OPERATIONS = {
    "fold": "compress.methods.reparameterisation.operations:Fold",
    "narrow": "compress.methods.pruning.operations:Narrow",
    "remove": "compress.methods.pruning.operations:Remove",
    "factorise": "compress.methods.low_rank.operations:Factorise",
    "quantize": "compress.methods.quantization.operations:Quantize",
    "pack": "compress.methods.packing.operations:Pack",
    "mix": "compress.methods.distillation.operations:Mix",
    "classify": "compress.methods.distillation.operations:Classify",
}
"""Each has ``apply`` and a classmethod ``from_json``; a new operation is one file and one line here."""


@final
@dataclass(frozen=True, kw_only=True)
class Plan:
    """Model factory, and the operations on its module, in order.

    Attributes:
        factory: ``package.module:callable``; ``given:NAME-HASH`` for a module given as an object.
        arguments: the factory's keyword arguments.
    """

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    operations: tuple[Operation, ...] = ()

    def build(self) -> nn.Module:
        """Build a fresh module with all operations applied, its weights as the factory leaves them.

        Raises:
            UserError: there is no such factory, or it does not take the arguments.
        """
        module = make(self.factory, self.arguments)
        for operation in self.operations:
            module = operation.apply(module)
        return module.eval()

    @property
    def is_given(self) -> bool:
        """Say whether its model was given as an object rather than named."""
        return given.is_given(self.factory)

    def followed_by(self, operation: Operation) -> Plan:
        return Plan(factory=self.factory, arguments=self.arguments, operations=(*self.operations, operation))

    def as_json(self) -> dict[str, Any]:
        operations = [{"operation": o.name, **_fields(o)} for o in self.operations]
        return {"schema": SCHEMA, "factory": self.factory, "arguments": dict(self.arguments), "operations": operations}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        if data.get("schema") != SCHEMA:
            raise UserError(f"{PLAN} has schema {data.get('schema')!r}; this version reads {SCHEMA}")
        operations = tuple(_operation(dict(entry)) for entry in data["operations"])
        return cls(factory=data["factory"], arguments=data["arguments"], operations=operations)


def save(folder: Path, plan: Plan, module: nn.Module) -> None:
    """Write ``surgery.json`` and ``model.safetensors``."""
    write_atomically(folder / PLAN, json.dumps(plan.as_json(), indent=1, sort_keys=True).encode())
    save_tensors(folder / WEIGHTS, module.state_dict())


def load(folder: Path, fresh: nn.Module | None = None, *, trust: bool = False) -> tuple[Plan, nn.Module]:
    """Read the plan and the module that ``save`` wrote, in evaluation mode; outputs are bit-equal to the original's.

    Args:
        fresh: where the module was given as an object: another of the same structure; it stays as it is.
        trust: whether the plan may call a factory that no recipe of this user has named (``compress.models.trust``).

    Raises:
        UserError: the plan's factory is not trusted or does not build here, or ``fresh`` is missing, of another structure or
            not called for.
    """
    plan = Plan.from_json(read_json(folder / PLAN))
    if trust:
        trusted.allow(plan.factory)
    trusted.check(plan.factory, plan.arguments, folder)
    if fresh is not None and not plan.is_given:
        raise UserError(f"{folder}: its model is built by {plan.factory}; leave module out")
    if not plan.is_given:
        factories.factory(plan.factory)  # what its import takes is not the model's
    tensors = load_tensors(folder / WEIGHTS)[0]
    bounded = bounded_building((folder / WEIGHTS).stat().st_size, len(tensors))
    with contextlib.nullcontext() if fresh is None else given.standing_in(plan.factory, fresh), bounded:
        module = plan.build()
        module.load_state_dict(tensors)
    return plan, module.eval()


def copy_saved(source: Path, folder: Path) -> None:
    """Copy what ``save`` wrote into ``source``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (PLAN, WEIGHTS):
        write_atomically(folder / name, (source / name).read_bytes())


def make(factory: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Call a model factory.

    Raises:
        UserError: it is not callable so, refuses the arguments, or does not return a module.
    """
    call = factories.factory(factory)
    try:
        inspect.signature(call).bind(**arguments)
    except TypeError as error:
        raise UserError(f"model {factory!r}: {error}; it takes {inspect.signature(call)}") from None
    try:
        module = call(**arguments)
    except (ValueError, AssertionError) as error:  # how a factory refuses its arguments; other faults keep their traceback
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = one_line(str(error), 200) or (place.line or "")
        where = f"{Path(place.filename).name}, line {place.lineno}"
        given = f"given: {dict(arguments)}; it takes {inspect.signature(call)}"
        raise UserError(f"model {factory!r}: {type(error).__name__}: {said} ({where}); {given}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"model {factory!r} returned {kind_with_article(module)}; it must return a torch.nn.Module")
    return module


def sources(plan: Plan, module: nn.Module) -> list[str]:
    """Read every file outside torch that defines the factory or a class in the module; for a given one, its classes."""
    if plan.is_given:
        return given.sources(given.resolve(plan.factory))
    owners = {inspect.getmodule(factories.factory(plan.factory))} | {inspect.getmodule(type(m)) for m in module.modules()}
    own = [owner for owner in owners if owner and owner.__name__.split(".")[0] not in ("torch", "brevitas")]
    files = {inspect.getsourcefile(owner) for owner in own}
    return [Path(file).read_text() for file in sorted(f for f in files if f)]


def _fields(operation: Any) -> dict[str, Any]:
    return copy.deepcopy(asdict(operation))


def _operation(entry: Mapping[str, Any]) -> Operation:
    kind = look_up("operation", entry["operation"], OPERATIONS)
    operation: Operation = kind.from_json({key: value for key, value in entry.items() if key != "operation"})
    return operation
