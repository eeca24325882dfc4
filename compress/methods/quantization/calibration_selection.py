"""Selection of calibration samples: some of the calibration split, or synthetic ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, final

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge
from torch import Tensor, nn

from calib.select import BY_FEATURES, METHODS, Indices, entropy
from compress.data import Samples
from compress.data.base import ArraySamples
from compress.data.subset import Subset
from compress.methods.quantization.zeroq import synthesize
from compress.models.checkpoint import load_tensors, save_tensors
from compress.models.features import ModuleLayers, embeddings
from compress.models.inputs import ModelInputs, as_tensors, describe
from compress.tasks import Task
from deploy.engines.inputs import Inputs, count
from profiles.errors import UserError

BATCH, FILE = 256, "calibration.safetensors"
Method = Literal["all", "random", "balanced", "herding", "k_centre", "coverage", "entropy", "synthesised"]
Array = npt.NDArray[Any]


@final
@dataclass(frozen=True, kw_only=True)
class CalibrationSpec:
    """Samples that ranges, biases and roundings are computed from.

    Attributes:
        select: ``all`` of the calibration split, or how ``samples`` of them are chosen (``calib.select``);
            ``synthesised`` ones are made of the teacher's batch norms, for where there is no data to calibrate on.
        traffic: a folder of pictures or a .npz of what the model will see; a run warns where the samples are unlike it, and
            without one where they are unlike validation.
        curve: draws of each number of calibration samples, of whose int8 accuracy the report has a picture; 0 draws none.
    """

    select: Method = "all"
    samples: Annotated[int, Ge(1)] = 256
    traffic: str = ""
    curve: Annotated[int, Ge(0)] = 0


@final
@dataclass(frozen=True)
class TeacherOutputs:
    """The teacher as selection methods use it.

    Attributes:
        module: gives the teacher; None where it is a file without source code.
        answer: its outputs on inputs of shape (samples, ...), as its engines are compared with.
    """

    module: Callable[[], nn.Module] | None
    answer: Callable[[Inputs], list[Array]]
    task: Task
    example: ModelInputs

    def logits(self, inputs: Inputs) -> Array:
        """Compute class scores, (samples, ..., classes)."""
        logits: Array = self.task.logits([torch.from_numpy(output) for output in self.answer(inputs)]).numpy()
        return logits

    def features(self, inputs: Inputs) -> Array:
        """Compute inputs of the last linear layer, or the first output where there is no such layer; (samples, width)."""
        if self.module is not None and ModuleLayers.of(self.module(), self.example).head is not None:
            return embeddings(self.module(), as_tensors(inputs), "the teacher")
        return np.asarray(self.answer(inputs)[0]).reshape(count(inputs), -1)

    def made(self, samples: int, seed: int) -> Array:
        """Synthesise samples from its batch norms, (count, ...)."""
        if self.module is None:
            raise UserError("[calibration] select = 'synthesised' needs the teacher's source code; take another")
        if not isinstance(self.example, Tensor):
            words = f"makes images; the data gives {describe(self.example)}"
            raise UserError(f"[calibration] select = 'synthesised' {words}; take another")
        return synthesize(copy.deepcopy(self.module()), tuple(self.example.shape[1:]), samples, seed)


def save_selection(folder: Path, spec: CalibrationSpec, samples: Samples, asked: TeacherOutputs, seed: int) -> None:
    """Select or synthesise the samples, and write the selection into ``folder``.

    Raises:
        UserError: labels, outputs or batch norms that the choice needs are not there.
    """
    selection = asked.made(spec.samples, seed) if spec.select == "synthesised" else _chosen(samples, spec, asked, seed)
    save_tensors(folder / FILE, {"chosen": torch.from_numpy(selection)})


def load_selection(folder: Path, spec: CalibrationSpec, samples: Samples) -> Samples:
    """Load the selection that was written into ``folder``."""
    selection = load_tensors(folder / FILE)[0]["chosen"].numpy()
    if spec.select == "synthesised":
        return ArraySamples(selection, np.full(len(selection), -1))
    return Subset(samples, selection)


def _chosen(samples: Samples, spec: CalibrationSpec, asked: TeacherOutputs, seed: int) -> Indices:
    if spec.select in METHODS:
        return METHODS[spec.select](_labels(samples, spec), spec.samples, seed)
    if spec.select == "entropy":
        return entropy(_probabilities(_of_all(samples, asked.logits)), spec.samples, seed)
    return BY_FEATURES[spec.select](_of_all(samples, asked.features), spec.samples, seed)


def _labels(samples: Samples, spec: CalibrationSpec) -> Array:
    if spec.select == "random":
        return np.zeros(len(samples), np.int64)
    targets = np.concatenate([batch.targets for batch in samples.batches(BATCH)])
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer) or (targets < 0).any():
        raise UserError(
            f"[calibration] select = {spec.select!r} needs one class label for each sample; given: targets of shape "
            f"{targets.shape}; take random, herding, k_centre or coverage"
        )
    return targets


def _of_all(samples: Samples, ask: Callable[[Inputs], Array]) -> Array:
    return np.concatenate([ask(batch.inputs) for batch in samples.batches(BATCH)])


def _probabilities(logits: Array) -> Array:
    if logits.ndim != 2:
        raise UserError(
            f"[calibration] select = 'entropy' needs class scores, (samples, classes); given: {logits.shape}; take random, "
            "herding, k_centre or coverage"
        )
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares
