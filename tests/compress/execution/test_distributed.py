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
    assert distilled["facts"]["processes"] == 2 and "-x" not in distilled["decided_by"]["numerics"]
    assert done.stderr.count("distill\n") == 1, "one process talks"
