"""Class vectors as a model's head."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

from compress.data.base import ArraySamples
from compress.methods.distillation import class_vectors
from compress.methods.distillation.objective import parse_losses
from compress.methods.distillation.operations import Classify
from compress.models import plan
from compress.stages.base import Artifact
from compress.stages.distill import Distill
from compress.stages.low_rank import LowRank
from compress.stages.prune import Prune
from compress.stages.quantize import QuantizeStage
from compress.stages.runner import run_stage
from deploy.export.to_onnx import capture, to_onnx
from profiles.errors import UserError
from tests.conftest import blobs, small_model, small_plan

VECTORS = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0], [0.0, -1.0, 0.0], [-2.0, 0.0, 0.0]], np.float32)


def test_scores_are_scaled_cosines_by_hand():
    """P x = (3, 4): with (1, 0) 10 * 3/5, with (6, 8), which is as (3, 4), 10."""
    head = class_vectors.ClassVectors(inputs=2, width=2, classes=2)
    with torch.no_grad():
        head.projection.weight.copy_(torch.tensor([[1.5, 0.0], [0.0, 2.0]]))
        head.projection.bias.copy_(torch.tensor([0.0, 0.0]))
        head.vectors.copy_(class_vectors.scaled_rows(torch.tensor([[1.0, 0.0], [6.0, 8.0]]), 10.0))
    torch.testing.assert_close(head(torch.tensor([[2.0, 2.0]])), torch.tensor([[6.0, 10.0]]))


def test_the_scale_is_that_of_the_least_cross_entropy():
    """P x = (3, 4): cosines 0.6 and 0.8. 7 of 8 labels are the second: 0.2 s = ln 7, s = 9.7; of all, none is too large."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(1, 2)

        def forward(self, x):
            return self.fc(x)

    projection = torch.nn.Linear(1, 2)
    with torch.no_grad():
        projection.weight.copy_(torch.tensor([[1.5], [2.0]]))
        projection.bias.zero_()
    inputs, vectors = np.full((9, 1), 2.0, np.float32), torch.tensor([[7.0, 0.0], [0.0, 0.5]])
    for labels, scale in (([1] * 7 + [0, -1], 10), ([1] * 9, 100), ([1] * 5 + [0] * 3 + [-1], 2)):
        samples = ArraySamples(inputs, np.array(labels))
        assert class_vectors.choose_scale(Net(), "fc", projection, vectors, samples) == scale


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    path = tmp_path_factory.mktemp("vectors") / "texts.npy"
    np.save(path, VECTORS)
    return path


@pytest.fixture
def made(context, vectors):
    """A student whose own head was never trained, by ``align`` with the vectors alone."""
    losses = parse_losses([{"use": "align", "texts": str(vectors), "share": 0.0}])
    stage = Distill(epochs=4, batch_size=16, class_vectors=True, losses=losses)
    return run_stage(stage, Artifact(plan=small_plan(), module=small_model()), context, 0)[0]


def test_align_ships_its_vectors_and_later_stages_keep_them(made, context, tmp_path):
    assert "the head is 4 class vectors of width 3, cosines times" in made.notes[0]
    (operation,) = made.artifact.plan.operations
    assert operation == Classify(head="linear", width=3, classes=4)
    module = made.artifact.module
    assert context.judge(module, "it") > 75, "the scores are those of the vectors"
    rows = module.linear.vectors
    unit = torch.nn.functional.normalize(torch.from_numpy(VECTORS), dim=1)
    torch.testing.assert_close(torch.nn.functional.normalize(rows, dim=1), unit)
    losses = parse_losses(["task"])
    pruned = run_stage(
        Prune(ratio=0.5, epochs=1, losses=losses), made.artifact, replace(context, folder=tmp_path / "prune"), 0
    )[0].artifact
    assert pruned.module.linear.projection.in_features < module.linear.projection.in_features
    stage = LowRank(by="macs", epochs=0, losses=losses)
    low = run_stage(stage, pruned, replace(context, folder=tmp_path / "low"), 0)[0].artifact
    for each in (pruned.module.linear.vectors, low.module.linear.vectors):
        torch.testing.assert_close(each, rows, rtol=0, atol=0)
    plan.save(tmp_path, low.plan, low.module)
    inputs = torch.from_numpy(blobs(2, 9).images)
    torch.testing.assert_close(plan.load(tmp_path)[1](inputs), low.module(inputs), rtol=0, atol=0)
    session = onnxruntime.InferenceSession(to_onnx(capture(low.module, [context.example])).SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    np.testing.assert_allclose(found, low.module(inputs).detach().numpy(), atol=1e-4)


@pytest.mark.slow
def test_training_in_int8_moves_no_class_vector(made, context, tmp_path):
    rows = made.artifact.module.linear.vectors
    stage = QuantizeStage(attempt="trained", epochs=1, losses=parse_losses(["task"]))
    last = run_stage(stage, made.artifact, replace(context, folder=tmp_path / "int8"), 0)[0].artifact
    held = [p for p in last.module.parameters() if p.shape == rows.shape]
    assert len(held) == 1 and torch.equal(held[0], rows)


def test_what_class_vectors_need_is_told_at_once(context, vectors):
    start = Artifact(plan=small_plan(), module=small_model())
    with pytest.raises(UserError) as told:
        run_stage(Distill(losses=parse_losses(["dho"]), mixture=True, class_vectors=True), start, context, 0)
    assert [fault.partition(";")[0] for fault in told.value.faults] == [
        "stage distill: class_vectors = true ships the vectors of one loss align with texts = FILE.npy",
        "stage distill: class_vectors goes with neither mixture nor queries",
    ]
    operation = Classify(head="linear", width=3, classes=4)
    again = start.changed(operation, operation.apply(small_model()))
    losses = parse_losses([{"use": "align", "texts": str(vectors)}])
    with pytest.raises(UserError, match="class vectors or a mixture already"):
        run_stage(Distill(losses=losses, class_vectors=True), again, context, 0)
