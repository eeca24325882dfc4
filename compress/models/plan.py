"""The plan of structural changes, and its replay: model factory + surgery.json + model.safetensors.

A stage that changes a model's structure does so by applying an operation of this file, and nothing else
does; so a replay on a fresh model gives the same structure, and with the same weights the same bits.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, final

import numpy as np
import torch
from torch import Tensor, nn

from compress import factories
from compress.factors.factorise import Kind, skeleton
from compress.teaching.mixture import with_two_heads
from compress.tensors import load_tensors, save_tensors
from deploy.export import capture
from deploy.files import write_atomically
from deploy.placement import Activation, Placement, Weight
from deploy.qdq import Scales
from profiles.errors import UserError
from profiles.quantization import QUANTIZATION

SCHEMA = 1
PLAN, WEIGHTS = "surgery.json", "model.safetensors"


class Operation(Protocol):
    """One structural change, as data."""

    name: ClassVar[str]

    def apply(self, module: nn.Module) -> nn.Module:
        """The changed module; ``module`` itself may be changed or be part of the result."""


@final
@dataclass(frozen=True, kw_only=True)
class Narrow:
    """Channels kept by physical slicing.

    Attributes:
        tensors: of each parameter and buffer that shrank, the indices kept by dimension.
        attributes: of each module, the sizes it now states about itself (``out_channels`` ...).
    """

    name: ClassVar[str] = "narrow"
    tensors: Mapping[str, Mapping[str, list[int]]]
    attributes: Mapping[str, Mapping[str, Any]]

    def apply(self, module: nn.Module) -> nn.Module:
        for path, kept in self.tensors.items():
            owner, _, leaf = path.rpartition(".")
            parent = module.get_submodule(owner)
            old: Tensor = getattr(parent, leaf)
            new = old.detach()
            for dimension, indices in kept.items():
                new = new.index_select(int(dimension), torch.tensor(indices, device=new.device))
            if isinstance(old, nn.Parameter):
                setattr(parent, leaf, nn.Parameter(new.contiguous(), requires_grad=old.requires_grad))
            else:
                setattr(parent, leaf, new.contiguous())
        for path, sizes in self.attributes.items():
            for key, value in sizes.items():
                setattr(module.get_submodule(path), key, tuple(value) if isinstance(value, list) else value)
        return module


@final
@dataclass(frozen=True, kw_only=True)
class Remove:
    """Residual blocks taken out by path: their input goes on as their output."""

    name: ClassVar[str] = "remove"
    blocks: tuple[str, ...]

    def apply(self, module: nn.Module) -> nn.Module:
        for path in self.blocks:
            owner, _, leaf = path.rpartition(".")
            setattr(module.get_submodule(owner), leaf, nn.Identity())
        return module


@final
@dataclass(frozen=True, kw_only=True)
class Factorise:
    """Layers replaced by low-rank factors; ``layers`` gives kind and rank by module path."""

    name: ClassVar[str] = "factorise"
    layers: Mapping[str, tuple[Kind, int]]

    def apply(self, module: nn.Module) -> nn.Module:
        for path, (kind, rank) in self.layers.items():
            owner, _, leaf = path.rpartition(".")
            layer = module.get_submodule(path)
            assert isinstance(layer, nn.Linear | nn.Conv2d)
            setattr(module.get_submodule(owner), leaf, skeleton(layer, kind, rank))
        return module


@final
@dataclass(frozen=True, kw_only=True)
class Quantize:
    """The module captured as a program, batch norms folded, with fake quantisers.

    Attributes:
        recipe: a name of ``QUANTIZATION``.
        input_shape: of one sample.
        activations: scale and zero point each tensor starts from.
    """

    name: ClassVar[str] = "quantize"
    recipe: str
    input_shape: tuple[int, ...]
    placement: Placement
    activations: Mapping[str, tuple[float, int]]

    def apply(self, module: nn.Module) -> nn.Module:
        from compress.quantization.quantizers import QuantizedProgram

        program = capture(module, [torch.zeros(2, *self.input_shape)])
        scales = Scales(activations=self.activations, weights={})
        return QuantizedProgram(program, self.placement, scales, QUANTIZATION[self.recipe])


@final
@dataclass(frozen=True, kw_only=True)
class Pack:
    """The module captured as a program, batch norms folded, some weights kept as indices of few points.

    Attributes:
        input_shape: of one sample.
        bits: of the indices of each packed weight, by the program's name for it.
        bucket: weights that share a range.
        even: the weights whose points are evenly spaced.
    """

    name: ClassVar[str] = "pack"
    input_shape: tuple[int, ...]
    bits: Mapping[str, int]
    bucket: int
    even: tuple[str, ...]

    def apply(self, module: nn.Module) -> nn.Module:
        from compress.quantization.packed import PackedProgram

        program = capture(module, [torch.zeros(2, *self.input_shape)])
        return PackedProgram(program, self.bits, self.bucket, frozenset(self.even))


@final
@dataclass(frozen=True, kw_only=True)
class Mix:
    """A second head beside the linear layer ``head``; the model gives the log of their mixture.

    Attributes:
        share: of the first, 0 to 1.
        temperature: of the second.
    """

    name: ClassVar[str] = "mix"
    head: str
    share: float
    temperature: float

    def apply(self, module: nn.Module) -> nn.Module:
        return with_two_heads(module, self.head, self.share, self.temperature)


OPERATIONS: dict[str, type[Narrow] | type[Remove] | type[Factorise] | type[Quantize] | type[Pack] | type[Mix]] = {
    operation.name: operation for operation in (Narrow, Remove, Factorise, Quantize, Pack, Mix)
}


@final
@dataclass(frozen=True, kw_only=True)
class Plan:
    """A model factory, and the operations on what it makes, in order.

    Attributes:
        factory: ``package.module:callable``.
        arguments: the factory's keyword arguments.
    """

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    operations: tuple[Operation, ...] = ()

    def build(self) -> nn.Module:
        """A fresh module with all operations applied, its weights as the factory leaves them.

        Raises:
            UserError: there is no such factory, or it does not take the arguments.
        """
        module = make(self.factory, self.arguments)
        for operation in self.operations:
            module = operation.apply(module)
        return module.eval()

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


def load(folder: Path) -> tuple[Plan, nn.Module]:
    """The plan and the module that ``save`` wrote, in evaluation mode; outputs are bit-equal to the original's."""
    plan = Plan.from_json(json.loads((folder / PLAN).read_text()))
    module = plan.build()
    module.load_state_dict(load_tensors(folder / WEIGHTS)[0])
    return plan, module.eval()


def make(factory: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Call a model factory.

    Raises:
        UserError: it is not callable so, or does not return a module.
    """
    call = factories.factory(factory)
    try:
        inspect.signature(call).bind(**arguments)
    except TypeError as error:
        raise UserError(f"model {factory!r}: {error}; it takes {inspect.signature(call)}") from None
    module = call(**arguments)
    if not isinstance(module, nn.Module):
        raise UserError(f"model {factory!r} returned a {type(module).__name__}; it must return a torch.nn.Module")
    return module


def sources(plan: Plan, module: nn.Module) -> list[str]:
    """Source text of every file outside torch that defines the factory or a class in the module."""
    owners = {inspect.getmodule(factories.factory(plan.factory))} | {inspect.getmodule(type(m)) for m in module.modules()}
    own = [owner for owner in owners if owner and owner.__name__.split(".")[0] not in ("torch", "brevitas")]
    files = {inspect.getsourcefile(owner) for owner in own}
    return [Path(file).read_text() for file in sorted(f for f in files if f)]


def _fields(operation: Any) -> dict[str, Any]:
    return copy.deepcopy(asdict(operation))


def _operation(entry: dict[str, Any]) -> Operation:
    kind = OPERATIONS[entry.pop("operation")]
    if kind is Factorise:
        entry["layers"] = {path: (kind_, int(rank)) for path, (kind_, rank) in entry["layers"].items()}
    if kind is Remove:
        entry["blocks"] = tuple(entry["blocks"])
    if kind is Pack:
        entry["input_shape"], entry["even"] = tuple(entry["input_shape"]), tuple(entry["even"])
    if kind is Quantize:
        entry["input_shape"] = tuple(entry["input_shape"])
        entry["activations"] = {k: (float(s), int(z)) for k, (s, z) in entry["activations"].items()}
        entry["placement"] = _placement(entry["placement"])
    return kind(**entry)


def _placement(entry: Mapping[str, Any]) -> Placement:
    return Placement(
        activations=tuple(Activation(**a) for a in entry["activations"]),
        weights=tuple(Weight(**w) for w in entry["weights"]),
        kept_float=tuple((str(n), str(r)) for n, r in entry["kept_float"]),
    )


def count_parameters(module: nn.Module) -> int:
    """Elements of all parameters."""
    return int(np.sum([p.numel() for p in module.parameters()]))
