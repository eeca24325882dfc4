"""Fixtures: small real things. Blobs are images whose class is the bright quarter; a small net learns them in a second."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import nn

from compress.data import Splits
from compress.data.base import ArraySamples
from compress.execution.progress import StreamProgress
from compress.methods.distillation.objective import Objective, parse_losses
from compress.models.plan import Plan
from compress.stages.base import Artifact, Context
from compress.tasks.classification import Classification
from compress.training.schedule import Schedule
from compress.training.trainer import Trainer
from profiles.device import load as load_profile

# A property holds at any speed: how long an example takes says what else runs here.
settings.register_profile("any-speed", deadline=None)
settings.load_profile("any-speed")

# What the product remembers of a user is none of theirs who runs the tests.
HOME = tempfile.TemporaryDirectory()
os.environ["XDG_CONFIG_HOME"] = os.environ["XDG_CACHE_HOME"] = HOME.name

# Tests share a machine with others: no race of theirs waits for a quiet one.
os.environ["COMPRESS_QUIET_SECONDS"] = "0"

ROOT = Path(__file__).parent.parent
HANG_S = 1200.0
"""A process or a condition that takes longer hangs. It is no measure of pace: the machine may be busy."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the whole product, which are the longest, first: none of them is left alone at the end."""
    items.sort(key=lambda item: item.path.parent != ROOT / "tests")


def blobs(count: int = 64, seed: int = 0, size: int = 16) -> ArraySamples:
    """``count`` images of shape (1, size, size) and labels 0..3: which quarter is bright."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    images = rng.normal(0, 0.3, (count, 1, size, size)).astype(np.float32)
    half = size // 2
    for image, label in zip(images, labels, strict=True):
        top, left = divmod(int(label), 2)
        image[0, top * half : (top + 1) * half, left * half : (left + 1) * half] += 1.5
    return ArraySamples(images, labels.astype(np.int64))


def blob_splits(seed: int = 0) -> Splits:
    """Splits of blobs; a recipe names it as ``tests.conftest:blob_splits``."""
    parts = [blobs(count, seed + index) for index, count in enumerate((128, 32, 64, 64))]
    return Splits(train=parts[0], calibration=parts[1], validation=parts[2], test=parts[3], classes=("a", "b", "c", "d"))


def small_plan(width: float = 0.5) -> Plan:
    return Plan(factory="compress.models:resnet", arguments={"blocks": 1, "width": width, "in_channels": 1, "classes": 4})


def small_model(seed: int = 0, width: float = 0.5) -> nn.Module:
    """An 8-layer ResNet whose batch norms have something to fold."""
    torch.manual_seed(seed)
    model = small_plan(width).build()
    randomise_batch_norms(model)
    return model


class Counted(nn.Module):
    """Runs another module and counts how often."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        made: torch.Tensor = self.inner(x)
        return made


def count_parameters(model: nn.Module) -> int:
    """Count the elements of all parameters."""
    return sum(p.numel() for p in model.parameters())


def randomise_batch_norms(model: nn.Module) -> None:
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None:
                layer.running_mean.normal_(0, 0.2)
                layer.running_var.uniform_(0.5, 1.5)
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(0, 0.2)


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A network that knows blobs, trained once; tests take ``learned``."""
    module, data = small_model(width=1.0), blob_splits()
    objective = Objective(parse_losses(["task"]), Classification(), module, None, torch.zeros(2, 1, 16, 16))
    schedule, folder = Schedule(epochs=8, batch_size=32), tmp_path_factory.mktemp("learned")
    Trainer(0, StreamProgress(io.StringIO())).fit("start", module, objective, data.train, schedule, folder)
    return Artifact(plan=small_plan(1.0), module=module)


@pytest.fixture
def learned(taught: Artifact) -> Artifact:
    """A network that knows blobs, the test's own: what one changes no other sees."""
    return Artifact(plan=taught.plan, module=copy.deepcopy(taught.module))


@pytest.fixture
def data() -> Splits:
    return blob_splits()


@pytest.fixture
def example(data: Splits) -> torch.Tensor:
    return torch.from_numpy(data.train.load(np.arange(2)).inputs)


@pytest.fixture
def quiet() -> StreamProgress:
    return StreamProgress(io.StringIO())


@pytest.fixture
def context(data: Splits, example: torch.Tensor, quiet: StreamProgress, tmp_path: Path) -> Context:
    """What a stage gets, with a real (untrained) teacher."""
    from compress.methods.quantization.post_training import ModuleQuantizer

    return Context(
        task=Classification(),
        data=data,
        teacher=small_model(7, width=1.0),
        profile=load_profile("cpu"),
        trainer=Trainer(0, quiet),
        progress=quiet,
        example=example,
        folder=tmp_path / "unfinished",
        outputs=tmp_path / "outputs",
        quantization=ModuleQuantizer("x86-vnni", example, data.calibration),
    )


Run = Callable[..., "subprocess.CompletedProcess[str]"]


def wait_until(condition: Callable[[], object], what: str = "it", within_s: float = HANG_S) -> None:
    """Wait until ``condition`` is true; fails after ``within_s`` seconds, which are for a hang, not for a pace."""
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, f"{what} did not come within {within_s:.0f} s"
        time.sleep(0.02)


@pytest.fixture
def compress_cli(tmp_path: Path) -> Run:
    """Runs ``compress ARGUMENTS`` in a process of its own, in an empty folder, as a user would."""

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "compress", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        settings = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": HANG_S, **options}
        return subprocess.run(command, **settings)  # type: ignore[call-overload,no-any-return]

    return run


@pytest.fixture
def compress_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``compress_cli`` in this process, which saves importing torch, where nothing of the user's is imported."""
    import compress.api  # noqa: F401  # as the first command would, for seconds in which it says that it does
    from compress.cli.main import entry

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        code = entry(list(arguments))
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


SMALL_RECIPE = """
[task]
kind = "classification"
data = "tests.conftest:blob_splits"
[teacher]
model = "compress.models:resnet"
arguments = {{ blocks = 1, width = 1.0, in_channels = 1, classes = 4 }}
epochs = {epochs}
batch_size = 32
[student]
from = "teacher"
width = 0.5
[budget]
accuracy_drop_points = {budget}
[measure]
seconds = 0.1
gate_seconds = 0.1
[[stage]]
use = "distill"
epochs = {epochs}
batch_size = 32
[[stage]]
use = "quantize"
epochs = 1
batch_size = 32
"""


@pytest.fixture
def small_recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL_RECIPE.format(epochs=8, budget=5.0))
    return path
