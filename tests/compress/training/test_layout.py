"""Layouts of convolutions in training: what breaks stays contiguous, and the faster of the two is taken."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from compress.training import layout
from compress.training.layout import broken_layers, faster_layout, is_sound, laid_out, program_suspects, suspect_layers
from compress.training.loader import Batches
from compress.training.schedule import Schedule
from compress.training.trainer import Trainer
from deploy.export.to_onnx import capture, to_graph_module
from tests.compress.training.test_trainer import fit
from tests.conftest import ROOT, small_model


class Branches(nn.Module):
    """A stem as RepVGG has it: 3x3 and 1x1 side by side, both with a stride; and a shortcut with many inputs."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(1, 24, 3, 2, 1), nn.Conv2d(1, 24, 1, 2)
        self.down = nn.Conv2d(24, 24, 1, 2)
        self.head = nn.Linear(24, 4)

    def forward(self, x):
        x = torch.relu(self.wide(x) + self.narrow(x))
        return self.head(torch.relu(self.down(x)).mean(dim=(2, 3)))


def test_strided_1x1_convolutions_of_few_inputs_are_suspected_as_layers_and_in_programs():
    assert suspect_layers(Branches()) == {"narrow": (1, 24, 2, 2, 1)}
    assert suspect_layers(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, 2), nn.Conv2d(16, 8, 1, 2))) == {}
    assert suspect_layers(nn.Conv2d(32, 32, 1, (1, 2), groups=8)) == {"": (32, 32, 1, 2, 8)}
    program = to_graph_module(capture(Branches().eval(), [torch.zeros(2, 1, 16, 16)]))
    assert program_suspects(program) == [(1, 24, 2, 2, 1)]


def test_the_probe_passes_what_is_sound_and_survives_what_is_not(monkeypatch):
    """A process that dies, hangs or finds other gradients is a finding, never the end of the training."""
    assert is_sound.__wrapped__((64, 32, 2, 2, 1), False)
    for probe in ("import os; os.abort()", "import sys; sys.exit('other gradients')"):
        monkeypatch.setattr(layout, "PROBE", probe)
        assert not is_sound.__wrapped__((3, 8, 2, 2, 1), False)
    monkeypatch.setattr(layout, "PROBE", "import time; time.sleep(600)")
    monkeypatch.setattr(layout, "PROBE_LIMIT_S", 0.2)
    assert not is_sound.__wrapped__((3, 8, 2, 2, 1), False)


def test_a_layer_that_stays_contiguous_reads_contiguous_and_gives_the_same_gradients():
    torch.manual_seed(0)
    whole = Branches()
    inputs = torch.randn(4, 1, 16, 16)
    work, seen = copy.deepcopy(whole), []
    with laid_out(work, torch.channels_last, ["narrow"]):
        handle = work.narrow.register_forward_hook(lambda layer, given, output: seen.append(given[0].stride()))
        work(inputs.contiguous(memory_format=torch.channels_last)).sum().backward()
        handle.remove()
        assert work.wide.weight.is_contiguous(memory_format=torch.channels_last)
    whole(inputs).sum().backward()
    assert seen == [inputs.stride()]
    for ours, theirs in zip(work.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    assert work.wide.weight.stride() == whole.wide.weight.stride(), "as it was, after the block"


TRAINED = """
import resource, sys, torch
from torch import nn
from compress.training.layout import broken_layers, laid_out
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
inputs, stride = int(sys.argv[1]), int(sys.argv[2])
class Stem(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(inputs, 48, 3, stride, 1), nn.Conv2d(inputs, 48, 1, stride)
    def forward(self, x):
        return torch.relu(self.wide(x) + self.narrow(x))
torch.manual_seed(0)
stem = Stem()
broken = broken_layers(stem, False)
print(broken, flush=True)
with laid_out(stem, torch.channels_last, broken if sys.argv[3] == "apart" else []):
    for _ in range(3):
        stem(torch.randn(4, inputs, 56 * stride, 56 * stride).clone(memory_format=torch.channels_last)).sum().backward()
"""


@pytest.mark.parametrize(("inputs", "stride"), [(1, 2), (3, 3)])
def test_a_stem_trains_in_a_checked_heap(inputs, stride):
    """Strides and channels that torch breaks on some processors; of one channel both layouts count as contiguous."""

    def trained(how):
        command = [sys.executable, "-c", TRAINED, str(inputs), str(stride), how]
        environment = {**os.environ, **layout.CHECKED_HEAP, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)

    careful = trained("apart")
    assert careful.returncode == 0, careful.stderr
    assert careful.stdout.strip() in ("[]", "['narrow']")
    if careful.stdout.strip() == "[]":
        assert trained("together").returncode == 0, "the probe found it sound"


def test_the_probe_gives_the_same_answer_each_time():
    """Writing past memory kills now and then; in a checked heap it does always."""
    answers = {is_sound.__wrapped__((3, 48, 2, 2, 1), False) for _ in range(2)}
    assert len(answers) == 1


def test_images_are_probed_at_sides_that_give_the_probed_outputs():
    assert layout._probed_sides((3, 48, 2, 2, 1)) == [72, 112, 224]
    assert layout._probed_sides((3, 48, 1, 3, 1)) == [108, 168, 336]
    assert layout._probed_sides((3, 48, 8, 8, 1)) == [288, 448]


class Slow(nn.Module):
    """Slower by far where it reads channels last, or where it does not."""

    def __init__(self, slow_in):
        super().__init__()
        self.conv, self.slow_in = nn.Conv2d(3, 8, 3), slow_in

    def forward(self, x):
        for _ in range(40 if x.is_contiguous(memory_format=self.slow_in) else 0):
            torch.linalg.svdvals(torch.rand(60, 60))
        return self.conv(x)


@pytest.mark.parametrize(
    ("slow_in", "chosen"),
    [(torch.channels_last, torch.contiguous_format), (torch.contiguous_format, torch.channels_last)],
    ids=["last", "first"],
)
def test_the_layout_is_that_which_is_measured_to_be_faster(slow_in, chosen):
    torch.manual_seed(0)
    module = Slow(slow_in)
    before, drawn = {k: v.clone() for k, v in module.state_dict().items()}, torch.random.get_rng_state()
    assert faster_layout(module, torch.randn(2, 3, 12, 12, generator=torch.Generator())) is chosen
    assert torch.equal(torch.random.get_rng_state(), drawn), "random numbers are drawn as without the call"
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_what_has_no_gradient_by_itself_is_not_timed():
    frozen = nn.Conv2d(3, 8, 3).requires_grad_(False)
    assert faster_layout(frozen, torch.zeros(1, 3, 8, 8)) is torch.channels_last


def test_a_structure_is_measured_once(data, tmp_path, quiet, example, monkeypatch):
    asked = []
    monkeypatch.setattr("compress.training.trainer.broken_layers", lambda module, bf16: [])
    monkeypatch.setattr("compress.training.trainer.WORTH_MEASURING_STEPS", 1)
    monkeypatch.setattr(
        "compress.training.trainer.faster_layout", lambda *given: asked.append(given) or torch.contiguous_format
    )
    trainer, batches = Trainer(0, quiet), Batches(data.train, Schedule(epochs=1, batch_size=32), 0)
    for folder, module in (("a", Branches()), ("b", Branches()), ("c", small_model())):
        assert trainer._layout("x", module, batches, tmp_path / folder, []) is torch.contiguous_format
    assert len(asked) == 2


def test_training_tells_what_stays_contiguous_and_resumes_in_its_layout(data, tmp_path, quiet, example, monkeypatch):
    said = []
    monkeypatch.setattr("compress.training.trainer.broken_layers", lambda module, bf16: ["narrow"])
    monkeypatch.setattr("compress.training.trainer.WORTH_MEASURING_STEPS", 1)
    monkeypatch.setattr("compress.training.trainer.faster_layout", lambda *given: torch.contiguous_format)
    monkeypatch.setattr(quiet, "say", said.append, raising=False)
    fit(Branches(), data, tmp_path, quiet, example)
    assert any("narrow trains contiguous" in line for line in said)
    assert any("kernels stay contiguous" in line for line in said)
    assert (tmp_path / "layout").read_text() == "contiguous"
    asked = []
    monkeypatch.setattr("compress.training.trainer.faster_layout", lambda *given: asked.append(given))
    fit(Branches(), data, tmp_path, quiet, example)
    assert not asked, "a resumed training does not choose anew"


def test_real_suspects_are_probed_here():
    """Whatever this processor does, the answer is the probe's."""
    names = broken_layers(Branches(), bf16=False)
    assert names in ([], ["narrow"]) and (names == []) == is_sound((1, 24, 2, 2, 1), False)
