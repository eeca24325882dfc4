"""Structural operations of distillation: a second head, and class vectors as the head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch import nn

from compress.methods.distillation.class_vectors import put_class_vectors
from compress.methods.distillation.two_heads import add_second_head


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
        """Add the second head to ``module``, in place."""
        return add_second_head(module, self.head, self.share, self.temperature)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Mix:
        """Read the operation from ``surgery.json``."""
        return cls(**entry)


@final
@dataclass(frozen=True, kw_only=True)
class Classify:
    """Class vectors in place of the linear layer ``head``.

    Attributes:
        width: of the vectors.
        classes: how many there are.
    """

    name: ClassVar[str] = "classify"
    head: str
    width: int
    classes: int

    def apply(self, module: nn.Module) -> nn.Module:
        """Put the class vectors into ``module``, in place."""
        return put_class_vectors(module, self.head, self.width, self.classes)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Classify:
        """Read the operation from ``surgery.json``."""
        return cls(**entry)
