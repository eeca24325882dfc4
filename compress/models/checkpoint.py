"""Tensors on disk: safetensors only, written whole or not at all."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from compress.models.file_kinds import checkpoint_kind
from deploy.files import write_atomically
from profiles.errors import UserError, unknown

ABOUT = "about"
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "ema",
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
    "params_ema",
)
"""Names of the table of weights in a trainer's checkpoint, the first that is there being taken."""

PREFIXES = ("module.", "_orig_mod.", "model.")
COUNTER = "num_batches_tracked"
TRAINERS_OWN = re.compile(r"optim|sched|scaler|criterion|callback|hyper|metric|logger|loops|^(rng|amp|loss)", re.IGNORECASE)
"""Names of a trainer's tables that hold no weights of a model."""

MOST_DEPTH = 4
"""Tables within tables that are searched for weights."""

SCALAR = np.float64(0).__reduce__()[0]
HARMLESS: tuple[Any, ...] = (
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")),
    *((SCALAR, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")),
)
"""Types of trainers' settings and metrics that hold data alone."""


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


@final
@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """State dict of a checkpoint file.

    Attributes:
        notes: what else the file holds, and what was left out.
    """

    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def load_foreign(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint as ``read_checkpoint`` does."""
    return read_checkpoint(WeightsSpec(file=str(path))).state


def read_checkpoint(spec: WeightsSpec) -> Checkpoint:
    """Read a state dict: safetensors, or PyTorch's own format with ``weights_only=True``, by content and not by suffix.

    A checkpoint of a trainer is a table of tables. Without ``entry`` the first of the usual names is taken (``WRAPPERS``:
    ``state_dict``, ``model`` and so on), and the notes name the others that hold weights, as ``model_ema``.

    Raises:
        UserError: no such file, a file of another kind, cut or damaged, or no state dict in it.
    """
    path = Path(spec.file)
    kind, fault = checkpoint_kind(path)
    if fault:
        raise UserError(f"weights {path}: {fault}")
    content: Any = _safetensors(path) if kind == "safetensors" else _torch_file(path)
    states = dict(_states(content))
    if not states:
        raise UserError(_no_state(content, path))
    chosen = _entry(spec, states)
    state, notes = states[chosen], [] if spec.entry else _other_entries(chosen, states)
    if spec.prefix:
        kept = {name.removeprefix(spec.prefix): value for name, value in state.items() if name.startswith(spec.prefix)}
        if not kept:
            heads = sorted({name.partition(".")[0] + "." for name in state})
            raise UserError(f"weights {path}: no key begins with {spec.prefix!r}; they begin with {some_names(heads)}")
        left = [name for name in state if not name.startswith(spec.prefix)]
        notes += [f"left out without the prefix {spec.prefix!r}: {some_names(left)}"] if left else []
        state = kept
    return Checkpoint(state=state, notes=tuple(notes))


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_tensors(path)[0]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"weights {path}: damaged ({_line(error)}); download it again") from None


def _torch_file(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(list(HARMLESS)), warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # of the pickle's protocol
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of a foreign file anything may come
        text = _line(error)
        if match := re.search(r"(?:GLOBAL|[Uu]nsupported (?:class|type)) ([\w.]+)", text):
            named = f"holds more than tensors ({match.group(1)}), and code in a checkpoint is never run"
            raise UserError(f"weights {path}: {named}; save its state_dict() alone") from None
        if text.startswith("Unsupported operand"):
            named = "a pickle with instructions that torch.save does not write, and none of them is run"
            raise UserError(f"weights {path}: {named}; save the state dict with torch.save or safetensors") from None
        raise UserError(f"weights {path}: cut off or damaged ({text}); download it again") from None


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    reason = (text.partition("WeightsUnpickler error: ")[2] or text).partition(" Check the documentation")[0]
    return reason[:200] or type(error).__name__


def _states(content: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """List the tables of tensors within tables, by their path; not those of optimizers and the like."""
    if not isinstance(content, Mapping) or depth > MOST_DEPTH:
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield path, tensors
    for name, value in content.items():
        if isinstance(name, str) and not TRAINERS_OWN.search(name):
            yield from _states(value, f"{path}.{name}" if path else name, depth + 1)


def _entry(spec: WeightsSpec, states: Mapping[str, Any]) -> str:
    """Return the path of the table that was asked for, or is taken without being asked."""
    names = [name for name in states if name]
    if spec.entry:
        if spec.entry in states:
            return spec.entry
        below = [name for name in names if name.startswith(f"{spec.entry}.")]
        if not below:
            raise UserError(f"weights {spec.file}: {unknown('entry', spec.entry, names)}")
        return min(below, key=_rank)
    usual = [name for name in names if _rank(name) < len(WRAPPERS)]
    if usual:
        return min(usual, key=_rank)
    if "" in states or len(states) == 1:
        return next(iter(states))
    has = f"it has {some_names(names)}"
    raise UserError(f'weights {spec.file}: several tables of tensors; {has}; choose with {{ file = "...", entry = "..." }}')


def _rank(name: str) -> float:
    """Order paths of tables by the usual names, the outermost first."""
    places = [WRAPPERS.index(part) if part in WRAPPERS else len(WRAPPERS) for part in name.split(".")]
    return places[0] + sum(place * 1e-2 ** (depth + 1) for depth, place in enumerate(places[1:]))


def _other_entries(chosen: str, states: Mapping[str, Any]) -> list[str]:
    others = [name for name in states if name != chosen and not name.startswith(f"{chosen}.")] if chosen else []
    if not others:
        return []
    words = f'choose with weights = {{ file = "...", entry = "{others[0]}" }}'
    return [f"read from {chosen!r}; the checkpoint also holds {some_names(others)}: {words}"]


def _no_state(content: Any, path: Path) -> str:
    if not isinstance(content, Mapping):
        return f"weights {path}: a {type(content).__name__}, not a state dict (a flat table of tensors)"
    has = some_names([str(key) for key in content]) or "nothing"
    return f"weights {path}: not a state dict (a flat table of tensors), nor one under {', '.join(WRAPPERS)}; it has {has}"


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


def load_into(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load ``state`` into ``module``, every key and every shape; prefixes of wrappers are taken off.

    Raises:
        UserError: keys missing, left over, or of another shape; all at once.
    """
    own = module.state_dict()
    state, prefix = without_prefix(state, own)
    # Checkpoints older than torch 0.4.1 have no such counter; torch itself loads them without.
    counters = {name: value for name, value in own.items() if name.endswith(COUNTER)}
    state = {**counters, **state}
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
