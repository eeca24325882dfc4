"""Which of several cuts can be made together: proved at once, and where that fails by halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

from torch import nn

from compress.methods.pruning.faithfulness import find_unfaithfulness
from compress.methods.pruning.operations import Narrow
from compress.models.inputs import ModelInputs

Build = Callable[[Sequence[str]], Narrow]
"""The cut of some groups, by root."""


@final
class Proof:
    """Cuts that are proved together, and those that cannot be, with the reason.

    Attributes:
        able: roots that can be cut, all together.
        operation: their cut; None when there are none.
    """

    def __init__(self, module: nn.Module, example: ModelInputs, build: Build) -> None:
        self._module, self._example, self._build = module, example, build
        self._reasons: dict[str, str] = {}
        self.able: list[str] = []
        self.operation: Narrow | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the groups left whole, in the order in which they failed."""
        return tuple(f"{root} keeps its channels: {reason}" for root, reason in self._reasons.items())

    def add(self, roots: Sequence[str]) -> None:
        """Add those of ``roots`` that can be cut beside all others: all at once, where that fails by halves."""
        if not roots:
            return
        reason, operation = self._why_not([*self.able, *roots])
        if not reason:
            self.able, self.operation = [*self.able, *roots], operation
        elif len(roots) == 1:
            alone = self._why_not(roots)[0] if self.able else reason
            self._reasons[roots[0]] = alone or f"beside the others that are cut, {reason}"
        else:
            half = len(roots) // 2
            self.add(roots[:half])
            self.add(roots[half:])

    def _why_not(self, roots: Sequence[str]) -> tuple[str, Narrow | None]:
        """Return the reason why roots cannot be cut together, empty when they can; and their cut."""
        operation = self._build(roots)
        return find_unfaithfulness(self._module, operation, self._example), operation
