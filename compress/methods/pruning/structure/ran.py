"""A call of an operator, while a model is followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from torch import Tensor
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from compress.methods.pruning.structure.follower import Follower


@final
class Ran:
    """A call of an operator: what it was given and what it made; where that is the same, the units that it had before."""

    def __init__(
        self,
        follower: Follower,
        func: Any,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        made: Any,
        before: Tensor | None,
    ) -> None:
        self.follower, self.func, self.name, self.args, self.kwargs = follower, func, name, args, kwargs
        self.made, self.before, self.in_place = made, before, before is not None
        self.tensors = [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
        self.results = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
