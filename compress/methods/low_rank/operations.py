"""Structural operation of low-rank factorisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch import nn

from compress.methods.low_rank.factorize import LAYERS, Kind, build_factors


@final
@dataclass(frozen=True, kw_only=True)
class Factorise:
    """Replacement of layers by low-rank factors; ``layers`` gives kind and rank by module path."""

    name: ClassVar[str] = "factorise"
    layers: Mapping[str, tuple[Kind, int]]

    def apply(self, module: nn.Module) -> nn.Module:
        """Replace layers of ``module`` by factors, in place."""
        for path, (kind, rank) in self.layers.items():
            owner, _, leaf = path.rpartition(".")
            layer = module.get_submodule(path)
            assert isinstance(layer, LAYERS)
            setattr(module.get_submodule(owner), leaf, build_factors(layer, kind, rank))
        return module

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Factorise:
        """Read the operation from ``surgery.json``."""
        return cls(layers={path: (kind, int(rank)) for path, (kind, rank) in entry["layers"].items()})
