"""Tensors on disk: safetensors only, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from compress.models.file_kinds import checkpoint_kind
from deploy.files import write_atomically
from profiles.errors import UserError

ABOUT = "about"
PREFIXES = ("module.", "_orig_mod.", "model.")
COUNTER = "num_batches_tracked"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None) -> None:
    """Write ``tensors`` and JSON ``facts``; tensors that share memory are written once."""
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    owners: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and identity in owners:
            aliases[name] = owners[identity]
        else:
            owners[identity] = name
            kept[name] = tensor.detach().cpu().contiguous()
    # One entry: safetensors writes several in an order of its own, and equal content must give equal bytes.
    about = json.dumps({"aliases": aliases, "facts": dict(facts or {})}, sort_keys=True)
    write_atomically(path, save(kept, {ABOUT: about}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and facts that ``save_tensors`` wrote; a foreign safetensors file has no facts."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
        metadata = file.metadata() or {}
    about = json.loads(metadata.get(ABOUT, '{"aliases": {}, "facts": {}}'))
    for name, owner in about["aliases"].items():
        tensors[name] = tensors[owner]
    return tensors, about["facts"]


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors: of their names, types, shapes and bytes, in whatever order they come.

    Example:
        >>> digest_tensors({"a": torch.zeros(2)}) == digest_tensors({"a": torch.zeros(1, 2)})
        False
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@final
@dataclass(frozen=True, kw_only=True)
class WeightsSpec:
    """Weights in a checkpoint: ``weights = { file = "...", entry = "model_ema", prefix = "net." }``.

    Attributes:
        file: path of the checkpoint.
        entry: the table in it, dots between tables within tables; without, the first of the usual names.
        prefix: of the keys that are the model's; it is taken off, and all other keys are left out.
    """

    file: str
    entry: str = ""
    prefix: str = ""

    def __str__(self) -> str:
        parts = [f"{key} = {value!r}" for key, value in (("entry", self.entry), ("prefix", self.prefix)) if value]
        return f"{self.file} ({', '.join(parts)})" if parts else self.file


def without_prefix(state: Mapping[str, Tensor], names: Collection[str]) -> tuple[dict[str, Tensor], str]:
    """Take off the prefix that a whole sub-tree of ``state`` has before the ``names`` of a module.

    Such are left by wrappers of modules: ``module.``, ``_orig_mod.``, ``net.``. Keys outside of the sub-tree stay as they
    are. Where no sub-tree is whole, prefixes of ``PREFIXES`` are taken off that every key has, so that what is missing can
    be told by name.

    Returns:
        The state, and the prefix; empty where there was none.
    """
    needed = [name for name in names if not name.endswith(COUNTER)]
    if not needed or all(name in state for name in needed):
        return dict(state), ""
    ends = [key.removesuffix(needed[0]) for key in state if key.endswith(f".{needed[0]}")]
    for prefix in sorted(ends, key=lambda each: (not each.startswith(PREFIXES), len(each), each)):
        if all(prefix + name in state for name in needed):
            outside = {key: value for key, value in state.items() if not key.startswith(prefix)}
            return {**outside, **{k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}}, prefix
    known, taken = dict(state), ""
    for _ in PREFIXES:
        for prefix in PREFIXES:
            ours = any(name.startswith(prefix) for name in names)
            if known and not ours and all(name.startswith(prefix) for name in known):
                known, taken = {name.removeprefix(prefix): value for name, value in known.items()}, taken + prefix
    return known, taken


def _within(state: Mapping[str, Tensor], names: Collection[str]) -> Mapping[str, Tensor]:
    """Put a state under the only child of a module that wraps a library's model, where its keys are those of the child."""
    head = next(iter(names), "").partition(".")[0] + "."
    inner = {name.removeprefix(head) for name in names if name.startswith(head)}
    if len(inner) < len(names) or state.keys() & set(names) or not state.keys() & inner:
        return state
    return {f"{head}{name}": value for name, value in state.items()}


def load_into(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load ``state`` into ``module``, every key and every shape; prefixes of wrappers are taken off.

    Raises:
        UserError: keys missing, left over, or of another shape; all at once.
    """
    own = module.state_dict()
    state, prefix = without_prefix(_within(state, own), own)
    # Checkpoints older than torch 0.4.1 have no such counter; torch itself loads them without.
    counters = {name: value for name, value in own.items() if name.endswith(COUNTER)}
    state = {**counters, **state}
    # Buffers that are computed and no longer stored, as position ids: checkpoints of older versions have them.
    computed = {name for name, _ in module.named_buffers()} - own.keys()
    state = {name: value for name, value in state.items() if name not in computed}
    missing = sorted(set(own) - set(state))
    extra = sorted(set(state) - set(own))
    faults: list[str] = []
    if missing:
        faults.append(f"weights {source}: missing {some_names(missing)}, which {type(module).__name__} has")
    if extra:
        remedy = f'; to leave them out say weights = {{ file = "...", prefix = "{prefix}" }}' if prefix else ""
        faults.append(f"weights {source}: {some_names(extra)} not in {type(module).__name__}{remedy}")
    for name in sorted(set(own) & set(state)):
        if own[name].shape != state[name].shape:
            faults.append(
                f"weights {source}: {name} is {tuple(state[name].shape)}; "
                f"{type(module).__name__} takes {tuple(own[name].shape)}"
            )
    if faults:
        raise UserError(*faults)
    module.load_state_dict(dict(state))


def some_names(names: Sequence[str]) -> str:
    """Word the first four names, and how many more there are."""
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def checkpoint_path(weights: str) -> Path:
    """Return the path of a checkpoint.

    Raises:
        UserError: there is none.
    """
    path = Path(weights)
    if not os.path.isfile(path):
        raise UserError(f"weights {path}: {checkpoint_kind(path)[1]}")
    return path
