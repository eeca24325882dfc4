"""Checkpoints of others: the state dict in a trainer's file, found by content.

PyTorch's own format is read in a process of its own (``deploy.files.confined``): a crafted file can hang its reader, or
take all memory, though no code of it is run. What is read comes back as safetensors. A safetensors file is read here:
nothing in it expands, and its header is bounded.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from compress.models.checkpoint import WeightsSpec, load_tensors, save_tensors, some_names
from compress.models.file_kinds import AGAIN, checkpoint_kind, zip_fault
from deploy.files.confined import ConfinedError, Limits, call
from profiles.errors import UserError, unknown

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


COPIES = 4
"""Times the size of a file that reading and converting it may take in memory."""


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


def read_checkpoint(spec: WeightsSpec, scratch: Path | None = None) -> Checkpoint:
    """Read a state dict: safetensors, or PyTorch's own format with ``weights_only=True``, by content and not by suffix.

    A checkpoint of a trainer is a table of tables. Without ``entry`` the first of the usual names is taken (``WRAPPERS``:
    ``state_dict``, ``model`` and so on), and the notes name the others that hold weights, as ``model_ema``.

    Args:
        scratch: a folder with room for the weights, while they are read; the system's without one.

    Raises:
        UserError: no such file, a file of another kind, cut or damaged, or no state dict in it; or its reader was ended, by
            a limit or by itself.
    """
    path = Path(spec.file)
    kind, fault = checkpoint_kind(path)
    if fault:
        raise UserError(f"weights {path}: {fault}")
    if kind == "safetensors":
        return _chosen(_safetensors(path), spec)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        state = Path(folder) / "state.safetensors"
        asked = {"file": str(path.absolute()), "spec": asdict(spec), "state": str(state.absolute())}
        try:
            notes = call("compress.models.foreign:convert", asked, Limits.of_file(path, copies=COPIES))
        except ConfinedError as error:
            about = f"a file of {path.stat().st_size:,} bytes, damaged or made to do so"
            raise UserError(f"weights {path}: {error}: {about}; {AGAIN}, or as safetensors") from None
        return Checkpoint(state=load_tensors(state)[0], notes=tuple(notes))


def convert(file: str, spec: Mapping[str, str], state: str) -> tuple[str, ...]:
    """Write the state dict of a file in PyTorch's own format as safetensors, and return notes; the confined reader's part.

    Raises:
        UserError: as ``read_checkpoint``.
    """
    asked = WeightsSpec(**spec)
    path = Path(asked.file)
    if fault := zip_fault(Path(file)):
        raise UserError(f"weights {path}: {fault}")
    found = _chosen(_torch_file(Path(file), path), asked)
    try:
        save_tensors(Path(state), found.state)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # of a sparse, quantised or empty kind of tensor anything may come
        _raise_memory(error)
        raise UserError(f"weights {path}: a tensor of a kind that safetensors has not ({_line(error)})") from None
    return found.notes


def _chosen(content: Any, spec: WeightsSpec) -> Checkpoint:
    """Choose the state dict that is meant in what a file holds."""
    path = Path(spec.file)
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
    except Exception as error:  # SafetensorError, and whatever other metadata than ours leads to
        raise UserError(f"weights {path}: damaged ({_line(error)}); {AGAIN}") from None


def _torch_file(file: Path, path: Path) -> Any:
    """Read ``file``, which errors call ``path``."""
    try:
        with torch.serialization.safe_globals(list(HARMLESS)), warnings.catch_warnings(), file.open("rb") as opened:
            warnings.simplefilter("ignore")  # of the pickle's protocol
            return torch.load(opened, map_location="cpu", weights_only=True)
    except Exception as error:  # of a foreign file anything may come
        _raise_memory(error)
        text = _line(error)
        if match := re.search(r"(?:GLOBAL|[Uu]nsupported (?:class|type)) ([\w.]+)", text):
            named = f"holds more than tensors ({match.group(1)}), and code in a checkpoint is never run"
            raise UserError(f"weights {path}: {named}; save its state_dict() alone") from None
        if text.startswith("Unsupported operand"):
            named = "a pickle with instructions that torch.save does not write, and none of them is run"
            raise UserError(f"weights {path}: {named}; save the state dict with torch.save or safetensors") from None
        raise UserError(f"weights {path}: cut off or damaged ({text}); {AGAIN}") from None


def _raise_memory(error: Exception) -> None:
    """Raise ``MemoryError`` where that is what a library's error says."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        raise MemoryError from None


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
