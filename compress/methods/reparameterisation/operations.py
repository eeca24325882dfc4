"""Structural operation of folding branches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch import nn

from profiles.errors import UserError

METHODS = ("fuse", "reparameterize", "switch_to_deploy", "fuse_convs")
"""By which modules fold their own branches, the first that a module has: those of timm's ``reparameterize_model``, and of
RepConv in YOLO."""


@final
@dataclass(frozen=True, kw_only=True)
class Fold:
    """Modules that fold their branches into one layer each, by a method of their own.

    Attributes:
        parts: path of each module, and the method; in order, as a module that holds another folds it too.
    """

    name: ClassVar[str] = "fold"
    parts: tuple[tuple[str, str], ...]

    def apply(self, module: nn.Module) -> nn.Module:
        """Fold the parts of ``module`` in place.

        Raises:
            UserError: a part is not there or has no such method, or the method is none of ``METHODS``.
        """
        for path, method in self.parts:
            parent, _, name = path.rpartition(".")
            try:
                holder = module.get_submodule(parent)
                part = getattr(holder, name)
            except AttributeError:
                raise UserError(f"fold: the model has no part {path!r}") from None
            if method not in METHODS or not callable(getattr(part, method, None)):
                raise UserError(f"fold: {path} has no method {method!r} of {', '.join(METHODS)}")
            setattr(holder, name, fold_one(part, method))
        return module

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Fold:
        """Read the operation from ``surgery.json``."""
        return cls(parts=tuple((str(path), str(method)) for path, method in entry["parts"]))


def fold_one(part: nn.Module, method: str) -> nn.Module:
    """Let a module fold its branches; returns what takes its place, itself where it folds in place."""
    made = getattr(part, method)()
    return made if isinstance(made, nn.Module) else part
