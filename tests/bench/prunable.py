"""Public networks that pruning is compared on: from their checkpoints, with their data and this machine as the device."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import onnx
import torch
from torch import nn

from compress.data import Splits
from compress.data.base import Batch, Indices, Samples
from compress.execution.progress import StreamProgress
from compress.methods.distillation.objective import parse_losses
from compress.models.checkpoint import load_into
from compress.models.factory import factory
from compress.models.foreign import load_foreign
from compress.models.plan import Plan
from compress.pipeline.device_costs import DeviceCostModel
from compress.stages.base import Artifact, Context
from compress.tasks.classification import Classification
from compress.training.trainer import Trainer
from deploy.devices import device
from deploy.engines import engine
from deploy.export.to_onnx import capture, to_onnx
from profiles.device import load
from tests.bench.running import load_example

ROOT = Path(__file__).parent.parent.parent
IMAGES = 1000


@final
@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network, and how much of it is asked and trained in a bench of minutes.

    Attributes:
        speed_up: of the median latency in fp32.
        trained: images of the training split; ``recovery``: fields of the stage that say how.
        most_drop: points of top-1 that may be lost; None where that is asked of longer trainings only.
    """

    name: str
    make: Callable[[Path], tuple[Artifact, Splits]]
    speed_up: float
    trained: int
    recovery: Mapping[str, Any]
    most_drop: float | None = None

    def given(self, scratch: Path) -> tuple[Artifact, Context]:
        """The network and what a stage gets; its float file lies in ``scratch``."""
        artifact, data = self.make(scratch)
        data = replace(data, train=Some(data.train, self.trained), test=Some(data.test, IMAGES))
        return artifact, context_of(artifact.module, data, scratch)


@final
class Some(Samples):
    """``count`` samples of a split, drawn by ``seed``."""

    def __init__(self, samples: Samples, count: int, seed: int = 0) -> None:
        self._samples, self.classes = samples, samples.classes
        self._chosen = np.random.default_rng(seed).permutation(len(samples))[:count]

    def __len__(self) -> int:
        return len(self._chosen)

    def load(self, indices: Indices, augment: np.random.Generator | None = None) -> Batch:
        return self._samples.load(self._chosen[indices], augment)

    def fingerprint(self) -> str:
        return hashlib.sha256(self._samples.fingerprint().encode() + self._chosen.tobytes()).hexdigest()


def context_of(module: nn.Module, data: Splits, scratch: Path) -> Context:
    """What a stage gets on this machine, with the module itself as the teacher; its float file lies in ``scratch``."""
    example = torch.from_numpy(data.train.load(np.arange(2)).inputs)
    onnx.save(to_onnx(capture(module, [example])), str(scratch / "model.onnx"))
    profile, silent = replace(load("cpu"), threads=1), StreamProgress(io.StringIO())
    versions = {r.engine: engine(r.engine).affinity().version for r in profile.runtimes}
    here = ({"url": "local"}, profile, versions, scratch / "latency", silent)
    return Context(
        task=Classification(),
        data=data,
        teacher=module,
        profile=profile,
        trainer=Trainer(0, silent),
        progress=silent,
        example=example,
        folder=scratch / "training",
        outputs=scratch / "outputs",
        quantization=_nothing_is_quantised,
        target=DeviceCostModel(lambda: scratch / "model.onnx", device("local"), *here),
    )


def _resnet56(scratch: Path) -> tuple[Artifact, Splits]:
    where = Path(os.environ["EDGE_DATA"])
    source: Callable[..., Splits] = factory(f"{ROOT / 'examples' / 'cifar_sheets.py'}:splits")
    data = source(path=str(where / "data" / "cifar10"), held_out_of="test", validation=IMAGES)
    plan = Plan(factory="compress.models:resnet", arguments={"blocks": 9, "shortcut": "pad"})
    checkpoint = where / "weights" / "resnet_cifar10" / "resnet56-4bfd9763.th"
    return _loaded(plan, checkpoint), data


def _squeezenet(scratch: Path) -> tuple[Artifact, Splits]:
    where, example = Path(os.environ["EDGE_DATA"]), load_example("squeezenet")
    weights = scratch / "squeezenet.safetensors"
    example.convert(where / "weights" / "squeezenet_imagenet" / "squeezenet1_0_f32.npz", weights)
    data: Splits = example.imagenette(path=str(where / "data" / "imagenette224"), per_class=100)
    return _loaded(Plan(factory=f"{ROOT / 'examples' / 'squeezenet.py'}:squeezenet"), weights), data


def _loaded(plan: Plan, checkpoint: Path) -> Artifact:
    module = plan.build()
    load_into(module, load_foreign(checkpoint), checkpoint.name)
    return Artifact(plan=plan, module=module.eval())


def _nothing_is_quantised(module: nn.Module, options: Any) -> Any:
    raise AssertionError("nothing is quantised here")


LOSSES = ["kd", "attention", {"use": "cwd", "weight": 3.0}]
"""No labels: some of the images are of few of the network's classes, and labels would teach it which."""
SGD = {"batch_size": 128, "losses": parse_losses(LOSSES)}
ADAMW = {"optimizer": "adamw", "weight_decay": 0.01, "batch_size": 32, "losses": parse_losses(["kd"])}
"""Of networks without batch norm and inputs of up to 255, which SGD drives to zero at any rate that teaches them."""

SUBJECTS = {
    "resnet56": Subject(
        name="ResNet-56",
        make=_resnet56,
        speed_up=2.0,
        trained=5000,
        recovery={**SGD, "epochs": 2, "learning_rate": 0.03},
    ),
    "resnet56_faster": Subject(
        name="ResNet-56",
        make=_resnet56,
        speed_up=2.8,
        trained=10_000,
        recovery={**SGD, "epochs": 3, "learning_rate": 0.05},
    ),
    "squeezenet": Subject(
        name="SqueezeNet",
        make=_squeezenet,
        speed_up=1.5,
        trained=1000,
        recovery={**ADAMW, "epochs": 3, "learning_rate": 2e-4},
        most_drop=1.0,
    ),
}
