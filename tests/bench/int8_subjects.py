"""The networks on which post-training int8 is compared, each with its float file, calibration samples and test."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from compress.data import Samples
from compress.data.base import ArraySamples, Splits
from compress.data.digits import digits
from compress.data.subset import Subset
from compress.data.text import sentence_pairs
from compress.data.yolo import yolo
from compress.execution.progress import StreamProgress
from compress.methods.distillation.objective import Objective, parse_losses
from compress.models.checkpoint import load_into
from compress.models.factory import factory
from compress.models.foreign import load_foreign
from compress.models.inputs import as_tensors
from compress.models.resnet import resnet
from compress.tasks import Task
from compress.tasks.classification import Classification
from compress.tasks.similarity import Similarity
from compress.training.schedule import Schedule
from compress.training.trainer import Trainer
from deploy.export import from_onnx
from deploy.export.to_onnx import capture, to_onnx
from tests.bench.running import load_example
from tests.bench.small_models import gated, vit

ROOT = Path(__file__).parent.parent.parent
CALIBRATION, TESTED = 300, 10_000
SENTENCES, VALIDATED = 100, 250
"""Of MiniLM: sentences to take ranges from, pairs to choose them on."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A float network as ONNX, what its ranges are taken from, what they are chosen on, and what it is judged on.

    Attributes:
        module: the network in PyTorch; None of one that is published as ONNX.
        calibrated_on: samples that the two tools get, the first ones.
    """

    model: onnx.ModelProto
    calibration: Samples
    validation: Samples
    test: Samples
    task: Task
    transformer: bool = False
    module: nn.Module | None = None
    calibrated_on: int = CALIBRATION


def _cifar(blocks: int, checkpoint: str) -> Subject:
    data = Path(os.environ["EDGE_DATA"])
    splits = factory(f"{ROOT / 'examples' / 'cifar_sheets.py'}:splits")(
        path=str(data / "data" / "cifar10"), calibration=CALIBRATION
    )
    module = resnet(blocks=blocks, shortcut="pad")
    load_into(module, load_foreign(data / "weights" / "resnet_cifar10" / checkpoint), checkpoint)
    test = splits.test
    test = ArraySamples(test.images[:TESTED], test.labels[:TESTED], normalise=test._normalise)
    return _of_module(module, splits, test)


def _of_module(module: nn.Module, splits: Splits, test: Samples, *, transformer: bool = False) -> Subject:
    example = torch.from_numpy(splits.calibration.load(np.arange(2)).inputs)
    return Subject(
        model=to_onnx(capture(module, [example])),
        calibration=splits.calibration,
        validation=splits.validation,
        test=test,
        task=Classification(),
        transformer=transformer,
        module=module,
    )


def _squeezenet(*, seen: bool = False) -> Subject:
    """Judged on the 500 held-out images, or on 1,400 that the checkpoint was trained on and no range is taken from.

    What it is not judged on, ranges are chosen on.
    """
    example = load_example("squeezenet")
    data = Path(os.environ["EDGE_DATA"])
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "squeezenet.safetensors"
        example.convert(data / "weights" / "squeezenet_imagenet" / "squeezenet1_0_f32.npz", weights)
        module = example.squeezenet()
        load_into(module, load_foreign(weights), weights.name)
    splits = example.imagenette(path=str(data / "data" / "imagenette224"), per_class=CALIBRATION // 5)
    others = example._read(data / "data" / "imagenette224" / "train", slice(CALIBRATION // 5, 200))
    validation, test = (splits.test, others) if seen else (others, splits.test)
    return _of_module(module, replace(splits, validation=validation), test)


def _fastestdet() -> Subject:
    data = Path(os.environ["EDGE_DATA"])
    splits = yolo(
        path=str(data / "data" / "coco256"),
        names="coco.names",
        size=[352, 352],
        antialias=False,
        order="bgr",
        validation=16,
        calibration=CALIBRATION,
    )
    model = from_onnx.read(data / "weights" / "fastestdet" / "FastestDet.onnx")
    task = load_example("fastestdet").FastestDet()
    return Subject(model=model, calibration=splits.calibration, validation=splits.validation, test=splits.test, task=task)


def _minilm() -> Subject:
    """Sentences of the STS Benchmark, as examples/sentences.toml has them; a point is 0.01 of Spearman's correlation."""
    data = Path(os.environ["EDGE_DATA"])
    files = {split: str(data / "data" / "stsb" / f"stsb-en-{split}.csv") for split in ("train", "dev", "test")}
    splits = sentence_pairs(
        train=files["train"],
        validation=files["dev"],
        test=files["test"],
        tokenizer=str(data / "minilm"),
        length=48,
        calibration=SENTENCES,
    )
    module = factory(f"transformers:{data / 'minilm'}")(head="embedding")
    load_into(module, load_foreign(data / "minilm" / "model.safetensors"), "model.safetensors")
    example = as_tensors(splits.calibration.load(np.arange(2)).inputs)
    return Subject(
        model=to_onnx(capture(module.eval(), example)),
        calibration=splits.calibration,
        validation=Subset(splits.validation, np.arange(2 * VALIDATED)),
        test=splits.test,
        task=Similarity(),
        transformer=True,
        module=module,
        calibrated_on=SENTENCES,
    )


def _digits(name: str, make: Callable[[], nn.Module], schedule: Schedule) -> Subject:
    splits = digits()
    return _of_module(trained(name, make, schedule, splits), splits, splits.test, transformer=name == "vit")


def trained(name: str, make: Callable[[], nn.Module], schedule: Schedule, splits: Splits) -> nn.Module:
    """A network trained here; kept in $COMPRESS_STEPS, if there is such."""
    torch.manual_seed(0)
    module = make()
    kept = Path(os.environ["COMPRESS_STEPS"]) / f"bench-{name}.safetensors" if "COMPRESS_STEPS" in os.environ else None
    if kept is not None and kept.is_file():
        module.load_state_dict(load_file(kept))
        return module.eval()
    example = torch.from_numpy(splits.train.load(np.arange(2)).inputs)
    objective = Objective(parse_losses(["task"]), Classification(), module, None, example)
    with tempfile.TemporaryDirectory() as scratch:
        Trainer(0, StreamProgress(io.StringIO())).fit(name, module, objective, splits.train, schedule, Path(scratch))
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, kept)
    return module.eval()


ADAM = Schedule(epochs=25, batch_size=64, optimizer="adamw", learning_rate=2e-3, weight_decay=0.02, warmup=0.1)

SUBJECTS: dict[str, Callable[[], Subject]] = {
    "resnet20": partial(_cifar, 3, "resnet20-12fca82f.th"),
    "resnet56": partial(_cifar, 9, "resnet56-4bfd9763.th"),
    "squeezenet": _squeezenet,
    "squeezenet_seen": partial(_squeezenet, seen=True),
    "fastestdet": _fastestdet,
    "gated": partial(_digits, "gated", gated, ADAM),
    "vit": partial(_digits, "vit", vit, ADAM),
    "minilm": _minilm,
}
FROM_DATA = ("minilm", "resnet20", "resnet56", "squeezenet", "squeezenet_seen", "fastestdet")
"""Those that need what $EDGE_DATA holds."""
