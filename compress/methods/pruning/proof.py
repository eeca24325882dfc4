"""Which of several cuts can be made together: proved at once, and where that fails by halves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import final

from torch import Tensor, nn

from compress.methods.pruning.faithfulness import find_unfaithfulness
from compress.methods.pruning.operations import Narrow

Attribute = tuple[str, str]
"""A module's path and the name of an attribute."""
Build = Callable[[Sequence[str], Collection[Attribute]], Narrow]
"""The cut of some groups, by root, without a change of some attributes that only seem to count their channels."""


@final
class Proof:
    """Cuts that are proved together, and those that cannot be, with the reason.

    Attributes:
        able: roots that can be cut, all together.
        operation: their cut; None when there are none.
    """

    def __init__(
        self, module: nn.Module, example: Tensor, build: Build, counts: Mapping[str, Collection[Attribute]]
    ) -> None:
        self._module, self._example, self._build, self._counts = module, example, build, counts
        self._uncounted: set[Attribute] = set()
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
            self._add_alone(roots[0], reason)
        else:
            half = len(roots) // 2
            self.add(roots[:half])
            self.add(roots[half:])

    def _add_alone(self, root: str, reason: str) -> None:
        """Add a root that fails beside all others, if it does not where an attribute is left as it is; or say why not."""
        counts = sorted(self._counts.get(root, ()))
        for less in [counts, *([each] for each in counts)] if counts else []:
            failed, operation = self._why_not([*self.able, root], less)
            if not failed:
                self._uncounted |= set(less)
                self.able, self.operation = [*self.able, root], operation
                return
        alone = self._why_not([root])[0] if self.able else reason
        self._reasons[root] = alone or f"beside the others that are cut, {reason}"

    def _why_not(self, roots: Sequence[str], uncounted: Collection[Attribute] = ()) -> tuple[str, Narrow | None]:
        """Return the reason why roots cannot be cut together, empty when they can; and their cut."""
        operation = self._build(roots, {*self._uncounted, *uncounted})
        return find_unfaithfulness(self._module, operation, self._example), operation
