"""A first recipe for a model, a folder of data and a device: it runs as it is, and says why each line is as it is."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import nn

from compress.models.checkpoint import WeightsSpec, load_into
from compress.models.foreign import read_checkpoint
from compress.models.hub.fetch import Say
from compress.models.hub.records import kind_of
from compress.models.plan import make
from compress.pipeline.drafting.data_guess import DataGuess, guess_data
from compress.pipeline.drafting.model_guess import ModelGuess, Published, guess_model, published
from compress.pipeline.drafting.normalisation import Predict, guess_normalisation, takes_normalisation
from compress.pipeline.drafting.text import Entry, table
from compress.pipeline.drafting.trainings import (
    Optimisation,
    Trainings,
    choose_batch,
    choose_optimisation,
    plan_trainings,
    step_seconds,
)
from compress.pipeline.target import with_address
from compress.recipe.parse import parse, tasks
from compress.tasks import Task
from deploy.export import from_onnx
from deploy.onnx_graph.run import onnx_session
from profiles.errors import UserError, first_line
from profiles.tables import load_object
from profiles.toml import parse_toml

TIMED_SAMPLES = 8
LOSSES: dict[str, list[Any]] = {
    "detection": [
        "task",
        {"use": "bce_kd", "weight": 4.0},
        {"use": "boxes", "weight": 2.0},
        {"use": "attention", "weight": 0.5},
    ],
}
"""Losses of a task that the stages' own do not fit."""
SPEED_UP = 1.5


@final
@dataclass(frozen=True, kw_only=True)
class Asked:
    """What ``compress init`` was asked for; empty and None where it is to be guessed."""

    data: str
    model: str = ""
    weights: str = ""
    device: str = "cpu"
    size: int | None = None
    minutes: float = 20.0
    drop_points: float = 1.0
    random: bool = False


@final
@dataclass(frozen=True, kw_only=True)
class Draft:
    """A recipe's text, and what was guessed for it."""

    text: str
    guesses: tuple[str, ...]


def draft(asked: Asked, out: Path, say: Say = lambda _: None) -> Draft:
    """Draft the recipe that is to lie at ``out``; ``say`` is told what is fetched, of names of a hub alone.

    Raises:
        UserError: the model, the data and the device do not go together, or one of them cannot be read.
    """
    named = published(asked.model, say) if kind_of(asked.model) else None
    data = guess_data(asked.data, asked.size, _size_of(asked.model, named))
    given = data.splits.train.load(np.arange(min(TIMED_SAMPLES, len(data.splits.train)))).inputs
    if isinstance(given, Mapping):
        fact = f"--data {asked.data}: it gives {len(given)} inputs ({', '.join(given)}), of which nothing is guessed yet"
        raise UserError(f"{fact}; write the recipe by hand, docs/recipes.md tells how")
    example = torch.from_numpy(given)
    model = guess_model(asked.model, asked.weights, data.task, data.classes, example.shape[1], named, random=asked.random)
    module = _module(model, data, example)
    normalisation, why = _normalisation(model, data, module)
    seconds = 0.0 if module is None else step_seconds(module, example) * len(data.splits.train)
    narrowed = model.learns and model.scaled
    trainings = (
        plan_trainings(
            seconds, asked.minutes, data.task, learns=model.learns, fine_tuned=model.pretrained, narrowed=narrowed
        )
        if seconds
        else Trainings(teacher=1, student=0, prune=0, quantize=0, epoch_seconds=0.0)
    )
    batch = choose_batch(len(data.splits.train), data.task, min(example.shape[2:], default=1))
    writer = _Writer(asked, data, model, trainings, batch, choose_optimisation(module, data.task, batch), out)
    text = writer.text(normalisation, why)
    parse(parse_toml(text, str(out)), name=out.stem, source=str(out))
    return Draft(text=text, guesses=tuple(writer.guesses(why)))


def _size_of(model: str, named: Published | None) -> int | list[int] | None:
    """Return the input's size that a model has of its own, in pixels; None where it has none that is known."""
    if model.endswith(".onnx") and Path(model).is_file():
        shape = _file(Path(model)).graph.input[0].type.tensor_type.shape.dim
        sides = [int(dim.dim_value) for dim in list(shape)[2:]]
        return (sides[0] if sides[0] == sides[1] else sides) if len(sides) == 2 and min(sides) > 0 else None
    size = None if named is None else named.facts.size
    return None if size is None else size[0] if size[0] == size[1] else list(size)


@lru_cache(maxsize=1)
def _file(path: Path) -> Any:
    """Read an ONNX file, once."""
    return from_onnx.read(path)


def _module(model: ModelGuess, data: DataGuess, example: torch.Tensor) -> nn.Module | None:
    """Build the model, with its weights where it has a file of them; None for a file without source code.

    Raises:
        UserError: it does not take the data, or does not answer what the task reads.
    """
    if model.is_onnx:
        return None
    module = make(model.factory or model.model, {**model.base, **model.arguments}).eval()
    if model.weights:
        load_into(module, read_checkpoint(WeightsSpec(file=model.weights)).state, model.weights)
    task: Task = load_object(tasks()[data.task])()
    try:
        with torch.no_grad():
            outputs = module(example[:2])
    except Exception as error:
        words = first_line(error)
        raise UserError(
            f"{model.model} does not take inputs of shape {tuple(example.shape[1:])}: {words}; try --size"
        ) from error
    try:
        task.check_outputs(outputs, data.splits)
    except UserError as error:
        raise UserError(*[f"{model.model}: {fault}" for fault in error.faults]) from None
    return module


def _normalisation(model: ModelGuess, data: DataGuess, module: nn.Module | None) -> tuple[Mapping[str, Any], str]:
    """Return options of the data for the model's normalisation, and what they rest on."""
    if model.pretrained:
        return {}, "size, crop, interpolation, mean and deviation that are not said here come with the weights"
    if data.task != "classification" or model.learns or not takes_normalisation(data):
        return {}, ""
    predict = _predictor(model, module)
    return guess_normalisation(data, predict) if predict is not None else ({}, "")


def _predictor(model: ModelGuess, module: nn.Module | None) -> Predict | None:
    if model.is_onnx:
        return _file_predictor(_file(Path(model.model)))
    if module is None:
        return None

    def predict(inputs: Any) -> Any:
        with torch.no_grad():
            return module(torch.from_numpy(inputs)).numpy()

    return predict


def _file_predictor(model: Any) -> Predict:
    """Predict by a foreign ONNX file; its first samples in a process with limits, before it runs in this one."""
    sessions: list[Predict] = []

    def predict(inputs: Any) -> Any:
        if not sessions:
            from_onnx.first_outputs(model, inputs[:2])
            sessions.append(onnx_session(model))
        return sessions[0](inputs)[0]

    return predict


def few_validation_samples(count: int, task: str, drop_points: float) -> list[str]:
    """Warn where validation is too small to tell a loss as large as the budget allows from chance; empty where it is not.

    The standard error of a share of 0.9 of ``count`` samples is 30 / sqrt(count) points.

    Example:
        >>> few_validation_samples(2000, "classification", 1.0)
        []
    """
    error = 30 / math.sqrt(max(count, 1))
    if error <= 2 * drop_points:
        return []
    what = "accuracy" if task == "classification" else "a metric"
    needed = math.ceil((30 / (2 * drop_points)) ** 2)
    return [
        f"WARNING: validation has {count} samples: {what} there is off by {error:.1f} points or more by chance, and the "
        f"budget is {drop_points:g}; every choice looks at it: give {needed} and more, or a larger --drop"
    ]


@final
@dataclass(frozen=True)
class _Writer:
    """Writes what was guessed as a recipe."""

    asked: Asked
    data: DataGuess
    model: ModelGuess
    trainings: Trainings
    batch: int
    rates: Optimisation
    out: Path

    def text(self, normalisation: Mapping[str, Any], why: str) -> str:
        """Return the recipe."""
        command = f"compress run {self.out.name} --device {with_address(self.asked.device)}"
        head = f"# A first recipe, written by compress init: every guess says what it rests on. Run it with\n#     {command}"
        parts = [head, *self._data(normalisation, why), self._teacher()]
        if not self.model.is_onnx:
            parts += [self._student(), self._budget(), *self._stages()]
        else:
            parts.append(self._budget())
        return "\n\n".join(parts) + "\n"

    def guesses(self, why: str) -> list[str]:
        """Return what is told of each guess."""
        data, model = self.data, self.model
        size = data.arguments.get("size")
        found = [f"task: {data.task}, {len(data.classes)} classes ({_some(data.classes)}); {data.why['data']}"]
        found += [f"size: {size}; {data.why['size']}"] if "size" in data.why else []
        found += [f"{key}: {words}" for key, words in data.why.items() if key not in ("data", "size")]
        found.append(f"model: {model.model}" + (f"; {model.why['model']}" if "model" in model.why else ""))
        found += [f"normalisation: {why}"] if why else []
        found += few_validation_samples(len(data.splits.validation), data.task, self.asked.drop_points)
        if self.trainings.epoch_seconds:
            told = f"{self.asked.minutes:g} minutes for all trainings; an epoch takes about {self._epoch()} on this machine"
            found.append(f"epochs: {told}")
        return found

    def _epoch(self) -> str:
        seconds = self.trainings.epoch_seconds
        return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"

    def _data(self, normalisation: Mapping[str, Any], why: str) -> list[str]:
        data = self.data
        task = table("[task]", [("kind", data.task, f"{len(data.classes)} classes: {_some(data.classes)}")])
        entries: list[Entry] = [("use", data.use, data.why["data"])]
        if data.path is not None:
            entries.append(("name" if data.use == "huggingface" else "path", _path(data.path, self.out), ""))
        entries += [(key, value, data.why.get(key, "")) for key, value in data.arguments.items()]
        entries += [(key, value, "") for key, value in normalisation.items()]
        entries += [("", None, f"normalisation: {why}")] if why else []
        entries += [("", None, data.why["left out"])] if "left out" in data.why else []
        entries.append(
            ("", None, "validation and test are held out of train where no folder has them: validation = 0.1, test = 0.1")
        )
        if not self.model.learns:
            entries.append(
                ("", None, "both must be data that the weights have not seen, or no student can reach what they reach")
            )
        return [task, table("[task.data]", entries)]

    def _teacher(self) -> str:
        model = self.model
        named = model.model if not model.is_onnx else _path(Path(model.model), self.out)
        entries: list[Entry] = [("model", named, model.why.get("model", ""))]
        entries += (
            [("pretrained", True, "the first run pins revision and SHA-256 in the .lock beside")] if model.pretrained else []
        )
        entries += [("arguments", dict(model.arguments), "")] if model.arguments else []
        entries += [("weights", _path(Path(model.weights), self.out), "")] if model.weights else []
        if model.learns:
            rate = self.rates.fine if model.pretrained else self.rates.fresh
            entries += [
                ("epochs", self.trainings.teacher, f"about {self._epoch()} each on this machine"),
                *self._training(rate),
            ]
        return table("[teacher]", entries)

    def _student(self) -> str:
        entries: list[Entry] = [("from", "teacher", "" if self._narrowed else "the teacher itself, which is then pruned")]
        if self._narrowed:
            entries.append(("width", 0.5, "half as wide"))
        return table("[student]", entries)

    @property
    def _narrowed(self) -> bool:
        return self.trainings.student > 0

    def _budget(self) -> str:
        entries: list[Entry] = [("accuracy_drop_points", self.asked.drop_points, "below the teacher, at most")]
        entries.append(
            ("", None, "latency_ms_p50 = 5.0; size_mib = 2.0; peak_mib = 100; load_ms = 500: where the device asks for it")
        )
        return table("[budget]", entries)

    def _training(self, rate: float) -> list[Entry]:
        entries: list[Entry] = [("batch_size", self.batch, ""), ("learning_rate", rate, "")]
        if self.rates.optimizer != "sgd":
            entries += [("optimizer", self.rates.optimizer, ""), ("weight_decay", self.rates.weight_decay, "")]
        return entries

    def _stages(self) -> list[str]:
        plan, losses = self.trainings, LOSSES.get(self.data.task)
        taught: list[Entry] = [("losses", losses, "")] if losses else []
        parts: list[str] = []
        if self._narrowed:
            entries = [("use", "distill", "the narrow student learns from the teacher"), ("epochs", plan.student, "")]
            parts.append(table("[[stage]]", [*entries, *self._training(self.rates.fresh), *taught]))
        else:
            entries = [
                ("use", "prune", "channels that cost most time and matter least"),
                ("speed_up", SPEED_UP, "measured on the device"),
            ]
            entries.append(("epochs", max(1, plan.prune), "to recover"))
            off = plan.prune == 0
            if off:
                slow = (
                    f"an epoch takes about {self._epoch()} here"
                    if plan.epoch_seconds
                    else "how long an epoch takes is not known yet"
                )
                parts.append(
                    f"# {slow}, so pruning, which needs some to recover, is left out; take the # off where there is time"
                )
            parts.append(table("[[stage]]", [*entries, *self._training(self.rates.fine), *taught], off=off))
        quantize: list[Entry] = [("use", "quantize", "int8, by the cheapest way that keeps the accuracy")]
        quantize.append(
            (
                "epochs",
                plan.quantize,
                "only where int8 without training is not enough" if plan.quantize else "without training",
            )
        )
        if plan.quantize:
            quantize += [("batch_size", self.batch, ""), *taught]
            if self.rates.optimizer != "sgd":
                quantize += [("optimizer", self.rates.optimizer, ""), ("learning_rate", self.rates.fine, "")]
        parts.append(table("[[stage]]", quantize))
        return parts


def _path(path: Path, out: Path) -> str:
    """Write a path as the recipe at ``out`` reads it: below its folder relative to it, else absolute."""
    whole, folder = path.expanduser().resolve(), out.resolve().parent
    return os.path.relpath(whole, folder) if whole.is_relative_to(folder) else str(whole)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
