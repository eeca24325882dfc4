"""Every stage on a detector, under the task detection: what the zoo's models promise, for maps instead of classes."""

import copy

import numpy as np
import pytest
import torch

from compress.methods.distillation.objective import parse_losses
from compress.methods.quantization import post_training
from compress.models.layers import flat_tensors
from compress.models.plan import Plan
from compress.stages.base import Artifact, Context
from compress.stages.runner import run_stage
from compress.tasks.detection import Detection
from compress.training.trainer import Trainer
from deploy.export.to_onnx import capture, to_onnx
from profiles.device import load as load_profile
from profiles.tables import load_object
from tests import squares
from tests.conftest import randomise_batch_norms
from tests.contracts.test_stages import QUICK, stages
from tests.contracts.test_zoo import check

SMALL = {"widths": [16, 32, 32], "neck": 32, "blocks": 1, "scales": 2, "classes": 2}
LOSSES = parse_losses(["task", "bce_kd", "boxes", "attention"])
QUIET_LOSSES = parse_losses(["task", "bce_kd", "boxes"])


@pytest.fixture
def start():
    torch.manual_seed(0)
    plan = Plan(factory="compress.models:detector", arguments=SMALL)
    module = plan.build()
    randomise_batch_norms(module)
    return Artifact(plan=plan, module=module.eval())


@pytest.fixture
def context(start, quiet, tmp_path):
    squares.write(tmp_path / "data", (16, 4, 16))
    data = squares.splits(tmp_path / "data")
    example = torch.from_numpy(data.train.load(np.arange(2)).inputs)

    def quantization(module, options):
        return post_training.quantize_model(to_onnx(capture(module, [example])), data.calibration, "x86-vnni", options)

    return Context(
        task=Detection(strides=[8, 16]),
        data=data,
        teacher=copy.deepcopy(start.module),
        profile=load_profile("cpu"),
        trainer=Trainer(0, quiet),
        progress=quiet,
        example=example,
        folder=tmp_path / "unfinished",
        outputs=tmp_path / "outputs",
        quantization=quantization,
    )


def make(name):
    losses = LOSSES if name == "distill" else QUIET_LOSSES
    return load_object(stages()[name])(**{**QUICK[name], "batch_size": 8, "losses": losses, "learning_rate": 1e-4})


@pytest.mark.slow
def test_all_stages_keep_the_maps_and_are_exported_as_they_are(start, context, tmp_path):
    artifact, shapes = start, [(2, 6, 8, 8), (2, 6, 4, 4)]
    for name in ("distill", "prune", "low_rank", "quantize"):
        before = artifact
        artifact = run_stage(make(name), artifact, context, 0)[0].artifact
        with torch.no_grad():
            outputs = artifact.module.eval()(context.example)
        assert [tuple(each.shape) for each in flat_tensors(outputs)] == shapes, name
        context.task.check_outputs(outputs, context.data)
    check(artifact, before, context, tmp_path)
    *changed, quantize = artifact.plan.operations
    assert [operation.name for operation in changed] == ["narrow", "factorise"]
    assert quantize.placement.kept_float == (), "every convolution runs in integers"
