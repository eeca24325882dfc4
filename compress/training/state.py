"""State of one training: step, optimizer, weight average, checkpoints."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from compress.execution import distributed
from compress.models.checkpoint import digest_tensors, load_tensors, save_tensors
from compress.training.loader import Batches
from compress.training.muon import MOMENTUM, Muon, hidden_kernels
from compress.training.schedule import Schedule
from compress.training.sharding import is_sharded, parted, whole
from profiles.errors import UserError

CHECKPOINT = "training.safetensors"
CHECKPOINT_SECONDS = 30.0
DIGEST = "sha256"
"""Fact of a checkpoint: the digest of its tensors and its other facts."""

Validate = Callable[[nn.Module], float]
"""The metric of a module on the validation split; larger is better."""


@final
class RunState:
    """State of one training: step, optimizer, weight average, checkpoints.

    ``parts`` is what the losses have of their own: trained and kept, but neither averaged nor part of the result.
    A checkpoint in ``folder`` is gone on from; one that is damaged is told through ``say``, and not used.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        parts: nn.Module,
        schedule: Schedule,
        batches: Batches,
        folder: Path,
        say: Callable[[str], None],
    ) -> None:
        self.schedule, self.batches, self.folder = schedule, batches, folder
        self.steps, self.step = batches.steps, 0
        self.optimizer = _optimizer(module, parts, schedule)
        self._is_spread = is_sharded(module)
        self._name, self._module, self._parts, self._file = name, module, parts, folder / CHECKPOINT
        self._losses: list[float] = []
        self._average = _floats(module) if schedule.ema else {}
        self._best: dict[str, Tensor] = {}
        self._best_metric, self._stale = float("-inf"), 0
        self._good: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self._saved = time.monotonic()
        kept = _read(self._file, say)
        if kept is not None:
            self._restore(*kept)

    @property
    def mean_loss(self) -> float:
        """Return the mean loss of about the last epoch."""
        recent = self._losses[-self.batches.steps_an_epoch :]
        return sum(recent) / len(recent) if recent else float("nan")

    def before_step(self) -> None:
        """Set the learning rate and clear gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step, self.steps)
        self.optimizer.zero_grad(set_to_none=True)

    def after_step(self, finite: bool) -> None:
        """Step the optimizer and the average where the loss is ``finite``, and count the step."""
        if finite:
            self.optimizer.step()
            for name, value in _floats(self._module, copy=False).items() if self._average else ():
                self._average[name].lerp_(value, 1 - self.schedule.ema)
        self.step += 1

    def check(self, loss: Tensor, terms: dict[str, Tensor]) -> None:
        """Stop at a loss that is not finite; else keep a checkpoint now and then."""
        value = float(loss)
        if not math.isfinite(value):
            bad = ", ".join(term for term, v in terms.items() if not bool(torch.isfinite(v))) or "the weighted sum"
            if self._good is not None:
                self._write(*self._good)
            good = (
                f"the state after step {self._good[1]['step']} is kept in {self._file}"
                if self._good
                else "no epoch was whole"
            )
            raise UserError(
                f"{self._name}: the loss is not finite in step {self.step} of {self.steps} ({bad}); {good}; "
                f"lower learning_rate (now {self.schedule.learning_rate:g}) or the weight of that loss"
            )
        self._losses.append(value)
        due = time.monotonic() - self._saved > CHECKPOINT_SECONDS and self.step < self.steps
        if distributed.from_main(due) if self._is_spread else due:  # parts are gathered by all or by none
            self._write(self._tensors(), self._about())

    def end_of_epoch(self, validate: Validate | None) -> bool:
        """Remember the state as the last good one; with patience, return whether to stop."""
        if self.schedule.patience and validate is not None:
            metric = self._validated(validate)
            self._stale = 0 if metric > self._best_metric else self._stale + 1
            if self._stale == 0:
                self._best_metric = metric
                self._best = {k: v.clone() for k, v in self._result().items()}
        self._good = {name: tensor.clone() for name, tensor in self._tensors().items()}, self._about()
        return 0 < self.schedule.patience <= self._stale

    def finish(self) -> None:
        """Put the result into the module: the best, the average, or the weights as they are."""
        self._module.load_state_dict({**self._module.state_dict(), **(self._best or self._average)})

    def _validated(self, validate: Validate) -> float:
        own = {k: v.clone() for k, v in self._module.state_dict().items()}
        self._module.load_state_dict({**own, **self._average})
        self._module.eval()
        metric = validate(self._module)
        self._module.load_state_dict(own)
        self._module.train()
        return distributed.from_main(metric)

    def _result(self) -> dict[str, Tensor]:
        return {**self._module.state_dict(), **self._average}

    def _about(self) -> dict[str, Any]:
        losses = self._losses[-self.batches.steps_an_epoch :]
        return {"step": self.step, "losses": losses, "best_metric": self._best_metric, "stale": self._stale}

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{k}": whole(v.detach()) for k, v in self._module.state_dict().items()}
        tensors |= {f"parts.{k}": v.detach() for k, v in self._parts.state_dict().items()}
        tensors |= {f"average.{k}": whole(v) for k, v in self._average.items()}
        tensors |= {f"best.{k}": whole(v) for k, v in self._best.items()}
        for number, parameter in enumerate(self._parameters()):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{number}.{key}"] = whole(torch.as_tensor(value).detach())
        return {**tensors, "rng": torch.get_rng_state()}

    def _write(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        self._saved = time.monotonic()
        if distributed.is_main():
            self._file.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(self._file, tensors, {**about, DIGEST: _digest(tensors, about)})

    def _restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            parts.setdefault(kind, {})[name] = value
        own = self._module.state_dict()
        self._module.load_state_dict({name: parted(value, own[name]) for name, value in parts["model"].items()})
        self._parts.load_state_dict(parts.get("parts", {}))
        device = next(iter(self._module.parameters())).device
        for mine, stored in ((self._average, "average"), (self._best, "best")):
            mine.update({k: parted(v.to(device), own[k]) for k, v in parts.get(stored, {}).items()})
        parameters = self._parameters()
        for key, value in parts.get("optimizer", {}).items():
            number, _, name = key.partition(".")
            parameter = parameters[int(number)]
            like = parted(value.to(parameter.device), parameter) if value.dim() else value
            same = like.shape == parameter.shape
            self.optimizer.state[parameter][name] = _as(parameter, like) if same and like.dim() == 4 else like
        torch.set_rng_state(tensors["rng"])
        self.step, self._losses = about["step"], about["losses"]
        self._best_metric, self._stale = about["best_metric"], about["stale"]

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def _read(file: Path, say: Callable[[str], None]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read a checkpoint; None where there is none, or where it is not what was written."""
    if not file.exists():
        return None
    try:
        tensors, about = load_tensors(file)
        whole = about.pop(DIGEST, None) == _digest(tensors, about)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if whole:
        return tensors, about
    say(f"the checkpoint {file} is damaged, or an earlier version's; the training begins anew")
    return None


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{digest_tensors(tensors)} {json.dumps(about, sort_keys=True)}".encode()).hexdigest()


def _optimizer(module: nn.Module, parts: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """Build the optimizer, with weight decay on matrices and kernels only: not on biases, norms and scales."""
    turned = hidden_kernels(module) if schedule.optimizer == "muon" else []
    apart = {id(parameter) for parameter in turned}
    trained = [p for each in (module, parts) for p in each.parameters() if p.requires_grad]
    rest = [p for p in trained if id(p) not in apart]
    candidates: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.dim() > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
        {"params": turned, "turns": True, "momentum": MOMENTUM},
    ]
    groups = [group for group in candidates if group["params"]]
    if schedule.optimizer == "muon":
        return Muon(groups, schedule.learning_rate)
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=schedule.learning_rate)
    return torch.optim.SGD(groups, lr=schedule.learning_rate, momentum=0.9, nesterov=True)


def _floats(module: nn.Module, *, copy: bool = True) -> dict[str, Tensor]:
    """Return the floating-point state of a module, which can be averaged."""
    state = {k: v.detach() for k, v in module.state_dict().items() if v.is_floating_point()}
    return {k: v.clone() for k, v in state.items()} if copy else state


def _as(parameter: Tensor, value: Tensor) -> Tensor:
    """Bring ``value`` into the memory format of ``parameter``."""
    return torch.empty_like(parameter).copy_(value)
