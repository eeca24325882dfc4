"""Two heads, and their mixture as the model that ships."""

import json
import math
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from compress.data.base import ArraySamples
from compress.methods.distillation import two_heads
from compress.methods.distillation.objective import Objective, parse_losses
from compress.methods.distillation.operations import Mix
from compress.models import plan
from compress.stages.base import Artifact
from compress.stages.distill import Distill
from compress.stages.prune import Prune
from compress.stages.runner import run_stage
from compress.tasks.classification import Classification
from compress.training.schedule import Schedule
from deploy.export.to_onnx import capture, to_onnx
from profiles.errors import UserError
from tests.conftest import blobs, small_model, small_plan

DHO = parse_losses(["dho"])


def test_the_mixture_by_hand():
    """Own (3/4, 1/4); the other (1/2, 1/2) at any temperature; a fifth of it: (7/10, 3/10)."""
    own, second = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    torch.testing.assert_close(two_heads.mixture_log_probabilities(own, second, 0.8, 2.0).exp(), torch.tensor([[0.7, 0.3]]))
    softened = torch.tensor([[2 * math.log(3.0), 0.0]])
    torch.testing.assert_close(
        two_heads.mixture_log_probabilities(second, softened, 0.5, 2.0).exp(), torch.tensor([[0.625, 0.375]])
    )
    torch.testing.assert_close(two_heads.mixture_log_probabilities(own, second, 1.0, 1.0), own.log_softmax(1))
    torch.testing.assert_close(two_heads.mixture_log_probabilities(own, second, 0.0, 1.0), second.log_softmax(1))


def test_the_mixture_of_heads_that_exclude_each_other_is_finite():
    own, second = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])
    torch.testing.assert_close(two_heads.mixture_log_probabilities(own, second, 0.5, 1.0), torch.full((1, 2), -math.log(2)))


def test_the_search_trusts_the_head_that_knows():
    """The own head knows nothing; a second one that reads the answer off the embedding gets everything."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(3, 3)
            torch.nn.init.zeros_(self.fc.weight)
            torch.nn.init.zeros_(self.fc.bias)

        def forward(self, x):
            return self.fc(x)

    labels = np.arange(30) % 3
    samples = ArraySamples(np.eye(3, dtype=np.float32)[labels], labels)
    second = torch.nn.Linear(3, 3)
    with torch.no_grad():
        second.weight.copy_(torch.eye(3))
        second.bias.zero_()
    net = Net()
    found = two_heads.search_mixture(net, "fc", second, Classification(), samples)
    assert (found.alone, found.value) == (pytest.approx(100 / 3), 100.0)
    assert found.share == 0.95, "as much of the own head as still gives the best"
    blind = torch.nn.Linear(3, 3)
    torch.nn.init.zeros_(blind.weight)
    torch.nn.init.zeros_(blind.bias)
    assert two_heads.search_mixture(net, "fc", blind, Classification(), samples).share == 1


def test_a_model_that_changes_its_heads_output_is_refused(example):
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(256, 4)

        def forward(self, x):
            return 2 * self.fc(x.flatten(1))

    with pytest.raises(UserError, match="changes what its last linear layer, fc, gives"):
        two_heads.find_head(Scaled(), Classification(), example)


def test_the_student_that_ships_gives_the_mixture_in_one_graph(context, tmp_path):
    """The second head learns while its own stands still (share 0), so that the mixture is better."""
    teacher = small_model(7, width=1.0)
    objective = Objective(parse_losses(["task"]), context.task, teacher, None, context.example)
    context.trainer.fit("t", teacher, objective, context.data.train, Schedule(epochs=5, batch_size=16), context.folder / "t")
    stage = Distill(epochs=3, losses=parse_losses([{"use": "dho", "share": 0.0}]), mixture=True, batch_size=16)
    start = Artifact(plan=small_plan(), module=small_model())
    result, _ = run_stage(stage, start, replace(context, teacher=teacher.requires_grad_(False)), 0)
    (operation,) = result.artifact.plan.operations
    assert isinstance(operation, Mix)
    assert operation.share < 1
    assert "the model gives a mixture" in result.notes[0]
    before, after = (float(word) for word in result.notes[0].rpartition("validation ")[2].split(" -> "))
    module = result.artifact.module
    assert after > before
    assert context.task.evaluate(context.trainer.predictor(module), context.data.validation).value == pytest.approx(
        after, abs=0.01
    )
    plan.save(tmp_path, result.artifact.plan, module)
    _, again = plan.load(tmp_path)
    inputs = torch.from_numpy(blobs(2, 9).images)
    torch.testing.assert_close(again(inputs), module(inputs), rtol=0, atol=0)
    model = to_onnx(capture(module, [context.example]))
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    (found,) = session.run(None, {given.name: inputs.numpy()})
    np.testing.assert_allclose(found, module(inputs).detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-5)


def test_a_mixture_is_pruned_and_trained_like_any_model(context):
    mix = Mix(head="linear", share=0.3, temperature=2.0)
    start = Artifact(plan=small_plan(), module=small_model()).changed(mix, mix.apply(small_model()))
    pruned = run_stage(Prune(ratio=0.5, epochs=1, losses=parse_losses(["kd"])), start, context, 0)[0]
    assert [o.name for o in pruned.artifact.plan.operations] == ["mix", "narrow"]
    head = pruned.artifact.module.linear
    assert head.own.in_features == head.second.in_features < small_model().linear.in_features
    with pytest.raises(UserError, match="a mixture already"):
        run_stage(Distill(losses=DHO, mixture=True), start, context, 0)


def test_a_mixture_needs_a_loss_that_trains_a_second_head(context):
    start = Artifact(plan=small_plan(), module=small_model())
    for losses in (["kd"], ["dho", "deit_lt"]):
        with pytest.raises(UserError, match="losses has one of deit_lt, dho; given: "):
            run_stage(Distill(losses=parse_losses(losses), mixture=True), start, context, 0)


@pytest.mark.slow
def test_a_mixture_goes_through_int8_and_every_engine(compress_cli, tmp_path):
    """Only the second head learns (share 0), so that the mixture is what ships."""
    recipe = """
[task]
data = { use = "digits", size = 16 }
[teacher]
model = "compress.models:resnet"
arguments = { blocks = 1, in_channels = 1 }
epochs = 8
batch_size = 64
[student]
from = "teacher"
width = 0.5
inherit = false
[budget]
accuracy_drop_points = 10.0
[[stage]]
use = "distill"
epochs = 8
batch_size = 64
losses = [{ use = "dho", share = 0.0 }]
mixture = true
[[stage]]
use = "quantize"
epochs = 0
"""
    (tmp_path / "mixture.toml").write_text(recipe)
    done = compress_cli("run", "mixture.toml", "--json")
    assert done.returncode in (0, 3), done.stderr
    rows = [row for row in json.loads(done.stdout)["rows"] if row["kind"] != "baseline"]
    assert "the model gives a mixture" in done.stderr
    assert {row["precision"] for row in rows} >= {"fp32", "int8"}
    assert all(row["parity"]["top1_agreement"] > 0.97 for row in rows)
