"""Tensors on disk: safetensors only, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from deploy.files import write_atomically
from profiles.errors import UserError

ABOUT = "about"
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "ema", "model_ema", "net", "network", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.")


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
    """The tensors and facts that ``save_tensors`` wrote; a foreign safetensors file has no facts."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
        metadata = file.metadata() or {}
    about = json.loads(metadata.get(ABOUT, '{"aliases": {}, "facts": {}}'))
    for name, owner in about["aliases"].items():
        tensors[name] = tensors[owner]
    return tensors, about["facts"]


def load_foreign(path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint: safetensors, or torch's own format read with ``weights_only=True``.

    Wrappers found in the wild are taken off: a table under ``state_dict``, ``model``, ``ema`` and the like.

    Raises:
        UserError: no such file, or no state dict in it.
    """
    if not path.is_file():
        raise UserError(f"weights {path}: no such file")
    if path.suffix == ".safetensors":
        return load_tensors(path)[0]
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"weights {path}: holds more than tensors, and code in a checkpoint is never run; save its state_dict() alone "
            f"({str(error).splitlines()[0][:120]})"
        ) from None
    return _state_dict(found, path)


def _state_dict(found: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(found, dict):
        raise UserError(f"weights {path}: a {type(found).__name__}, not a state dict (a flat table of tensors)")
    inner = next((found[key] for key in WRAPPERS if isinstance(found.get(key), dict)), None)
    if inner is not None:
        return _state_dict(inner, path)
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(
            f"weights {path}: not a state dict (a flat table of tensors), nor one under {', '.join(WRAPPERS)}; "
            f"it has {_some([str(key) for key in found]) or 'nothing'}"
        )
    return tensors


def without_prefix(state: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """``state`` with prefixes that wrappers of modules leave (``module.``, ``_orig_mod.`` ...) taken off.

    Only where every key has the prefix and the module, whose ``names`` are given, has none that starts so.
    """
    known = dict(state)
    for _ in PREFIXES:
        for prefix in PREFIXES:
            ours = any(name.startswith(prefix) for name in names)
            if known and not ours and all(name.startswith(prefix) for name in known):
                known = {name.removeprefix(prefix): value for name, value in known.items()}
    return known


def load_into(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load ``state`` into ``module``, every key and every shape; prefixes of wrappers are taken off.

    Raises:
        UserError: keys missing, left over, or of another shape; all at once.
    """
    own = module.state_dict()
    state = without_prefix(state, own)
    # Checkpoints older than torch 0.4.1 have no such counter; torch itself loads them without.
    counters = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
    state = {**counters, **state}
    missing = sorted(set(own) - set(state))
    extra = sorted(set(state) - set(own))
    faults: list[str] = []
    if missing:
        faults.append(f"weights {source}: missing {_some(missing)}, which {type(module).__name__} has")
    if extra:
        faults.append(f"weights {source}: {_some(extra)} not in {type(module).__name__}")
    for name in sorted(set(own) & set(state)):
        if own[name].shape != state[name].shape:
            faults.append(
                f"weights {source}: {name} is {tuple(state[name].shape)}; "
                f"{type(module).__name__} takes {tuple(own[name].shape)}"
            )
    if faults:
        raise UserError(*faults)
    module.load_state_dict(dict(state))


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def existing(weights: str) -> Path:
    """The path of a checkpoint; raises ``UserError`` where there is none."""
    path = Path(weights)
    if not path.is_file():
        load_foreign(path)  # says so
    return path
