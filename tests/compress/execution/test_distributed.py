"""Two processes train one model: torchrun and accelerate launch, over gloo on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HANG_S, ROOT, SMALL_RECIPE

LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc_per_node=2", "--master_port=29517"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--main_process_port=29518"],
}


def launch(folder: Path, launcher: list[str]) -> subprocess.CompletedProcess[str]:
    (folder / "small.toml").write_text(SMALL_RECIPE.format(epochs=8, budget=10.0).split('[[stage]]\nuse = "quantize"')[0])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", *launcher, "-m", "compress", "run", "small.toml", "--json"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchrun", "accelerate"])
def test_two_processes_make_one_run(name, tmp_path):
    done = launch(tmp_path, LAUNCHERS[name])
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    student = next(r for r in report["rows"] if r["kind"] == "student")
    assert student["metric"]["value"] > 85, "within noise of one process, which reaches 95 and more"
    steps = [path.name for path in (tmp_path / "runs/.steps").iterdir() if not path.name.startswith(".")]
    assert not [name for name in steps if name.endswith(".part")]
    distilled = json.loads(next((tmp_path / "runs/.steps").glob("distill-*/step.json")).read_text())
    assert distilled["decided_by"]["numerics"].endswith("-x2")
    assert done.stderr.count("distill\n") == 1, "one process talks"


TRAINS = """
import io, sys, numpy as np, torch
from pathlib import Path
from compress.execution import distributed
from compress.methods.distillation.loss_specs import parse_losses
from compress.methods.distillation.objective import Objective
from compress.execution.progress import StreamProgress
from compress.training.schedule import Schedule
from compress.tasks.classification import Classification
from compress.training.trainer import Trainer
from profiles.errors import UserError
from tests.conftest import blob_splits, small_model
data, student, teacher = blob_splits(), small_model(1), small_model(2, width=1.0)
trainer = Trainer(0, StreamProgress(io.StringIO()))
example = torch.from_numpy(data.train.load(np.arange(2)).inputs)
objective = Objective(parse_losses(["task", "cwd"]), Classification(), student, teacher, example, 128)
trainer.fit("x", student, objective, data.train, Schedule(epochs=2, batch_size=32), Path(sys.argv[1]) / "a")
tell = [float(p.detach().double().abs().sum()) for m in (student, objective.parts) for p in m.parameters()]
try:
    remembers = Objective(parse_losses(["taid"]), Classification(), student, teacher, example, 128)
    trainer.fit("y", student, remembers, data.train, Schedule(epochs=1, batch_size=32), Path(sys.argv[1]) / "b")
except UserError as error:
    (Path(sys.argv[1]) / f"rank-{distributed.index()}").write_text(f"{tell}\\n{error.faults[0]}")
"""


@pytest.mark.slow
def test_what_a_loss_trains_stays_the_same_in_both_processes(tmp_path):
    (tmp_path / "trains.py").write_text(TRAINS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29519"]
    command += [str(tmp_path / "trains.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = [(tmp_path / f"rank-{rank}").read_text().splitlines() for rank in (0, 1)]
    assert told[0][0] == told[1][0], "adapters and student alike"
    assert "train in one process" in told[0][1]
