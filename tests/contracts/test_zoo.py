"""Every stage on every model of the zoo: outputs keep their shapes, the plan replays bit-equal, the engine agrees."""

import copy

import numpy as np
import onnxruntime
import pytest
import torch

from compress.data import Splits
from compress.data.base import ArraySamples
from compress.methods.quantization import post_training
from compress.methods.quantization.fake_quantize import QuantizedProgram
from compress.models import plan as surgery
from compress.models.layers import flat_tensors
from compress.models.plan import Plan
from compress.stages.base import Artifact, Context
from compress.stages.runner import run_stage
from compress.tasks.classification import Classification
from compress.training.trainer import Trainer
from deploy.export.to_onnx import capture, to_onnx
from deploy.qdq.insert import insert
from profiles.device import load as load_profile
from profiles.quantization import QUANTIZATION
from tests.conftest import randomise_batch_norms
from tests.contracts.test_stages import make
from tests.zoo import ZOO

RECIPE = load_profile("cpu").runtime("onnxruntime").quantization
"""What this machine's processor wants: with another's, ONNX Runtime's integers overflow and the module's do not."""


def colours(count, seed=0):
    rng = np.random.default_rng(seed)
    return ArraySamples(rng.normal(size=(count, 3, 16, 16)).astype(np.float32), rng.integers(0, 4, count))


@pytest.fixture
def zoo_context(quiet, tmp_path):
    data = Splits(
        train=colours(32), calibration=colours(16), validation=colours(16), test=colours(16), classes=("a", "b", "c", "d")
    )
    example = torch.from_numpy(data.train.load(np.arange(2)).inputs)

    def context(teacher):
        def quantization(module, options):
            return post_training.quantize_model(to_onnx(capture(module, [example])), data.calibration, RECIPE, options)

        return Context(
            task=Classification(),
            data=data,
            teacher=teacher,
            profile=load_profile("cpu"),
            trainer=Trainer(0, quiet),
            progress=quiet,
            example=example,
            folder=tmp_path / "unfinished",
            outputs=tmp_path / "outputs",
            quantization=quantization,
        )

    return context


def start(name):
    torch.manual_seed(0)
    plan = Plan(factory="tests.zoo:build", arguments={"name": name})
    module = plan.build()
    randomise_batch_norms(module)
    return Artifact(plan=plan, module=module.eval())


def check(artifact, before, context, folder):
    """The promises of a stage's result."""
    module, inputs = artifact.module.eval(), torch.from_numpy(context.data.test.load(np.arange(16)).inputs)
    with torch.no_grad():
        expected = flat_tensors(module(inputs))
        assert expected[0].shape == flat_tensors(before.module.eval()(inputs))[0].shape
    surgery.save(folder, artifact.plan, module)
    _, again = surgery.load(folder, trust=True)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(flat_tensors(again(inputs)), expected, strict=True)), "not bit-equal"
    if isinstance(module, QuantizedProgram):
        model = insert(to_onnx(module.float_program()), module.placement, module.scales(), QUANTIZATION[RECIPE])
    else:
        model = to_onnx(capture(module, [context.example]))
    outputs = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input": inputs.numpy()})
    assert len(outputs) == len(expected)
    quantized = artifact.quantized
    for ours, theirs in zip(outputs, expected, strict=True):
        off = np.abs(ours - theirs.numpy()).max() / max(1e-3, float(theirs.abs().max()))
        assert off < (0.15 if quantized else 1e-3), f"engine and module are {off:.3f} apart"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ZOO))
def test_all_stages_one_after_the_other(name, zoo_context, tmp_path):
    artifact = start(name)
    context = zoo_context(copy.deepcopy(artifact.module))
    for number, stage in enumerate(("distill", "prune", "low_rank", "quantize")):
        before = artifact
        artifact = run_stage(make(stage), artifact, context, 0)[0].artifact
        (tmp_path / str(number)).mkdir()
        if stage in ("low_rank", "quantize"):
            check(artifact, before, context, tmp_path / str(number))
    assert artifact.quantized


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["distill", "prune", "low_rank", "quantize"])
@pytest.mark.parametrize("name", sorted(ZOO))
def test_each_stage_alone(name, stage, zoo_context, tmp_path):
    given = start(name)
    result, _ = run_stage(make(stage), given, zoo_context(copy.deepcopy(given.module)), 0)
    check(result.artifact, given, zoo_context(given.module), tmp_path)


@pytest.mark.parametrize("name", ["lambda_shortcut", "grouped"])
def test_the_head_is_left_alone_and_named_and_the_rest_is_cut(name, zoo_context):
    given = start(name)
    result, _ = run_stage(make("prune"), given, zoo_context(copy.deepcopy(given.module)), 0)
    left = [note for note in result.notes if "keeps its channels" in note]
    assert left == ["fc keeps its channels: an output of the model would lose them"]
    before, after = (sum(p.numel() for p in each.parameters()) for each in (given.module, result.artifact.module))
    assert after < 0.9 * before
