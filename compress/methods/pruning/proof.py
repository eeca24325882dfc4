"""Which of several cuts can be made together: proved at once, and where that fails in parts.

Where a check fails it says in which module. Cuts of tensors in there are set apart first: the others are then proved at
once. Where that does not tell, cuts are halved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

from torch import nn

from compress.methods.pruning.faithfulness import Checker, Fault
from compress.methods.pruning.operations import Narrow
from compress.models.inputs import ModelInputs

Build = Callable[[Sequence[str]], Narrow]
"""The cut of some groups, by root."""


@final
class Proof:
    """Cuts that are proved together, and those that cannot be, with the reason.

    Attributes:
        able: roots that can be cut, all together. faults: why each other cannot.
        operation: their cut; None when there are none.
    """

    def __init__(self, module: nn.Module, example: ModelInputs, build: Build) -> None:
        self._checker, self._build = Checker(module, example), build
        self.faults: dict[str, Fault] = {}
        self._tensors: dict[str, tuple[str, ...]] = {}
        self.able: list[str] = []
        self.operation: Narrow | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the groups left whole, in the order in which they failed."""
        return tuple(f"{root} keeps its channels: {fault.reason}" for root, fault in self.faults.items())

    def add(self, roots: Sequence[str]) -> None:
        """Add those of ``roots`` that can be cut beside all others: all at once, where that fails in parts."""
        if not roots:
            return
        fault, operation = self._check([*self.able, *roots])
        if fault is None:
            self.able, self.operation = [*self.able, *roots], operation
        elif len(roots) == 1:
            alone = self._check(roots)[0] if self.able else fault
            beside = Fault(reason=f"beside the others that are cut, {fault.reason}", path=fault.path)
            self.faults[roots[0]] = beside if alone is None else alone
        else:
            for part in self._parts(roots, fault):
                self.add(part)

    def add_together(self, roots: Sequence[str]) -> bool:
        """Add all of ``roots`` that could not be cut alone, or none; say whether they can be cut so."""
        fault, operation = self._check([*self.able, *roots])
        if fault is not None:
            return False
        self.able, self.operation = [*self.able, *roots], operation
        self.faults = {root: each for root, each in self.faults.items() if root not in roots}
        return True

    def _parts(self, roots: Sequence[str], fault: Fault) -> tuple[Sequence[str], Sequence[str]]:
        """Part cuts that cannot all be made: those that have no tensor where the fault shows first; or by halves."""
        near = [root for root in roots if fault.path and self._has_tensors_in(fault.path, root)]
        if near and len(near) < len(roots):
            return [root for root in roots if root not in near], near
        half = len(roots) // 2
        return roots[:half], roots[half:]

    def _has_tensors_in(self, path: str, root: str) -> bool:
        if root not in self._tensors:
            self._tensors[root] = tuple(self._build([root]).tensors)
        return any(name.startswith(f"{path}.") for name in self._tensors[root])

    def _check(self, roots: Sequence[str]) -> tuple[Fault | None, Narrow]:
        """Return why roots cannot be cut together, None when they can; and their cut."""
        operation = self._build(roots)
        return self._checker.find_fault(operation), operation
