"""Models, data and stages given as objects, as entries of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.utils.data import Dataset

from compress.data import Samples, Splits
from compress.data.arrays import split_arrays
from compress.data.base import ArraySamples, NamedSamples
from compress.execution.cache import steps_folder
from compress.models import given
from compress.models.checkpoint import save_tensors
from deploy.engines.inputs import count
from profiles.errors import UserError

Model = nn.Module | str | Mapping[str, Any]
"""A module, ``package.module:callable``, or the table that a recipe has for it."""
Data = Splits | Dataset[Any] | tuple[Any, Any] | Mapping[str, Any] | str
"""Splits; inputs and labels; a dataset; ``{"train": ..., "test": ...}`` of those; or what ``data`` of a recipe may be."""
Arrays = npt.NDArray[Any] | Tensor | Samples | Mapping[str, npt.NDArray[Any] | Tensor]
"""Inputs of shape (samples, ...) as the model takes them; of a model with several, by the names of its parameters."""
Loss = str | Mapping[str, Any] | Callable[..., Any]
"""A name, a recipe's table, a function, an ``nn.Module`` class or an ``nn.Module``."""
SOURCE = "compress.run"
PARTS = ("train", "validation", "test")


@final
@dataclass(frozen=True)
class GivenModules:
    """Modules given to one run; they are dropped when it ends."""

    references: list[str]

    def teacher(self, model: Model) -> dict[str, Any]:
        """Return a recipe's [teacher] table; the weights of a module are in a file beside the steps."""
        if not isinstance(model, nn.Module):
            return _table("teacher", model)
        reference = self._reference(model)
        weights = (steps_folder() / "given" / f"{reference.removeprefix(given.PREFIX)}.safetensors").resolve()
        # Written each time: what is there may have been damaged since.
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(weights, model.state_dict())
        return {"model": reference, "weights": str(weights)}

    def student(self, model: Model) -> dict[str, Any]:
        """Return a recipe's [student] table."""
        return {"model": self._reference(model)} if isinstance(model, nn.Module) else _table("student", model)

    def _reference(self, module: nn.Module) -> str:
        self.references.append(given.register_module(module))
        return self.references[-1]


@contextmanager
def given_modules() -> Iterator[GivenModules]:
    """Keep modules under references while a recipe names them."""
    modules = GivenModules([])
    try:
        yield modules
    finally:
        for reference in modules.references:
            given.forget(reference)


def _table(role: str, model: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(model, str):
        return {"model": model}
    if not isinstance(model, Mapping):
        words = "an nn.Module, 'package.module:callable' or a recipe's table"
        raise UserError(f"{SOURCE}: {role} is {words}; given: a {type(model).__name__}")
    return dict(model)


def data_entry(data: Any, seed: int) -> str | dict[str, Any]:
    """Return what a recipe has for ``data``; objects are kept under a reference.

    Args:
        seed: of the split, where ``data`` has no validation or test samples of its own.
    """
    if isinstance(data, str) or (isinstance(data, Mapping) and not set(data) & set(PARTS)):
        return data if isinstance(data, str) else dict(data)
    if not isinstance(data, Splits):
        parts = data if isinstance(data, Mapping) else {"train": data}
        data = split_arrays(parts, seed=seed)
    return given.register("data", data, data.fingerprint())


def wrap_samples(samples: Any) -> Samples:
    """Wrap inputs without labels as samples."""
    if isinstance(samples, Samples):
        return samples
    if isinstance(samples, Mapping):
        named = {name: _array(each) for name, each in samples.items()}
        return NamedSamples(named, np.full(count(named) if named else 0, -1, np.int64))
    inputs = _array(samples)
    if inputs.dtype.kind != "f" or inputs.ndim < 2:
        words = "numbers of shape (samples, ...), float, as the model takes them"
        raise UserError(f"samples: {words}; given: {inputs.dtype} of shape {inputs.shape}")
    return ArraySamples(inputs.astype(np.float32), np.full(len(inputs), -1, np.int64))


def _array(values: Any) -> npt.NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def default_name(teacher: Model) -> str:
    """Name a run after its teacher's class, or function."""
    if isinstance(teacher, nn.Module):
        return type(teacher).__name__.lower()
    reference = teacher if isinstance(teacher, str) else str(teacher.get("model", "model"))
    return Path(reference.rpartition(":")[2]).stem
