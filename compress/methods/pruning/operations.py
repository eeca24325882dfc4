"""Structural operations of pruning: channels and blocks removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn


@final
@dataclass(frozen=True, kw_only=True)
class Narrow:
    """Slicing of tensors to the kept channels.

    Attributes:
        tensors: of each parameter and buffer that shrank, the indices kept by dimension.
        attributes: of each module, the sizes it now states about itself (``out_channels`` ...).
    """

    name: ClassVar[str] = "narrow"
    tensors: Mapping[str, Mapping[str, list[int]]]
    attributes: Mapping[str, Mapping[str, Any]]

    def apply(self, module: nn.Module) -> nn.Module:
        """Slice the tensors of ``module``, in place."""
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

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Narrow:
        """Read the operation from ``surgery.json``."""
        return cls(**entry)


@final
@dataclass(frozen=True, kw_only=True)
class Remove:
    """Removal of residual blocks by path: each becomes the identity."""

    name: ClassVar[str] = "remove"
    blocks: tuple[str, ...]

    def apply(self, module: nn.Module) -> nn.Module:
        """Replace the blocks of ``module`` by the identity, in place."""
        for path in self.blocks:
            owner, _, leaf = path.rpartition(".")
            setattr(module.get_submodule(owner), leaf, nn.Identity())
        return module

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Remove:
        """Read the operation from ``surgery.json``."""
        return cls(blocks=tuple(entry["blocks"]))
