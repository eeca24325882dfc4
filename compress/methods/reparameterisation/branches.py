"""Which modules have branches to fold, each tried on what it reads before it is taken.

RepVGG (Ding et al. 2021), MobileOne (Vasu et al. 2023), FastViT (Vasu et al. 2023b). The folding is the module's own method;
here it is only found, and held to give what the branches gave.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from compress.methods.reparameterisation.operations import METHODS, Fold, fold_one
from compress.models.inputs import ModelInputs, call
from compress.models.layers import BATCH_NORMS, flat_tensors
from profiles.errors import first_line

LARGEST_ERROR = 1e-4
"""Of the largest output: how far outputs may move."""
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def has_branches(module: nn.Module) -> bool:
    """Whether a part of the module has a method to fold itself, and more branches than a layer and its batch norm."""
    return next(_candidates(module), None) is not None


def fold_branches(module: nn.Module, example: ModelInputs) -> tuple[Fold | None, nn.Module, tuple[str, ...]]:
    """Fold a copy of ``module`` where its outputs stay as they are.

    Returns:
        The operation, the folded copy in evaluation mode, and notes; None and the module itself where nothing is folded.
    """
    folded = copy.deepcopy(module).eval()
    notes: list[str] = []
    parts: list[tuple[str, str]] = []
    kinds: Counter[str] = Counter()
    read = _inputs(folded, example, [path for path, _ in _candidates(folded)])
    done: set[str] = set()
    for path, method in list(_candidates(folded)):
        if any(path.startswith(f"{outer}.") for outer in done) or path not in read:
            continue
        part = folded.get_submodule(path)
        made, fault = _tried(part, method, *read[path])
        if made is None:
            notes += [f"{path} keeps its branches: {fault}"] if fault else []
            continue
        parent, _, name = path.rpartition(".")
        setattr(folded.get_submodule(parent), name, made)
        parts.append((path, method))
        kinds[type(part).__name__] += 1
        done.add(path)
    if not parts:
        return None, module, tuple(notes)
    with torch.no_grad():
        error = _error(call(module.eval(), example), call(folded, example))
    if not error <= LARGEST_ERROR:
        return None, module, (*notes, f"branches stay: folded, the outputs are off by {error:.1e} of the largest")
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return Fold(parts=tuple(parts)), folded, (f"branches folded in {told}: outputs the same to {error:.0e}", *notes)


def _candidates(module: nn.Module) -> Iterator[tuple[str, str]]:
    """List the paths of modules that can fold branches, an outer one before those within, and the method of each."""
    for path, part in module.named_modules():
        method = next((name for name in METHODS if _is_own(part, name)), None)
        if path and method is not None and _is_branched(part):
            yield path, method


def _is_own(part: nn.Module, name: str) -> bool:
    """Whether a module has a method of that name that takes no arguments; torch's own are none of folding."""
    method = getattr(type(part), name, None)
    if not inspect.isfunction(method) or method.__module__.partition(".")[0] == "torch":
        return False
    taken = inspect.signature(method).parameters.values()
    return sum(each.default is each.empty and each.kind is not each.VAR_KEYWORD for each in taken) == 1  # self


def _is_branched(part: nn.Module) -> bool:
    """Whether a module has more than one layer and a batch norm for it, which an export folds anyway."""
    layers, norms = _count(part, LAYERS), _count(part, BATCH_NORMS)
    return layers >= 1 and (layers > 1 or norms > 1)


def _inputs(module: nn.Module, example: ModelInputs, paths: list[str]) -> dict[str, tuple[Any, Any]]:
    """Record what each of the modules reads first."""
    read: dict[str, tuple[Any, Any]] = {}

    def record(path: str) -> Any:
        def hook(_: nn.Module, given: Any, named: Any) -> None:
            read.setdefault(path, (given, named))

        return hook

    handles = [module.get_submodule(p).register_forward_pre_hook(record(p), with_kwargs=True) for p in paths]
    try:
        with torch.no_grad():
            call(module, example)
    finally:
        for handle in handles:
            handle.remove()
    return read


def _tried(part: nn.Module, method: str, given: Any, named: Any) -> tuple[nn.Module | None, str]:
    """Fold a copy of a part; return it, or None and why it is not taken, empty where it merges nothing."""
    try:
        made = fold_one(copy.deepcopy(part), method)
        with torch.no_grad():
            error = _error(part(*given, **named), made(*given, **named))
    except Exception as failure:  # whatever a method of that name does
        return None, first_line(failure)
    layers, norms = ([_count(m, kinds) for m in (part, made)] for kinds in (LAYERS, BATCH_NORMS))
    if layers[1] > layers[0] or (layers[1] == layers[0] and norms[1] >= norms[0]):
        return None, ""  # nothing is merged; or batch norms alone are folded, as an export does
    return (made.eval(), "") if error <= LARGEST_ERROR else (None, f"folded, it is off by {error:.1e} of its largest output")


def _count(module: nn.Module, kinds: tuple[type, ...]) -> int:
    return sum(isinstance(each, kinds) for each in module.modules())


def _error(before: Any, after: Any) -> float:
    """Return the largest difference of outputs, over the largest output."""
    pairs: list[tuple[Tensor, Tensor]] = list(zip(flat_tensors(before), flat_tensors(after), strict=True))
    largest = max((float(one.abs().max()) for one, _ in pairs if one.numel()), default=0.0)
    return max((float((one - two).abs().max()) for one, two in pairs if one.numel()), default=0.0) / max(largest, 1e-12)
