"""The bench of losses: what its table says, and that a replayed teacher says what the teacher said."""

import json

import pytest
import torch

from compress.methods.distillation.objective import Objective, parse_losses
from compress.stages.distill import Distill
from compress.tasks.classification import Classification
from tests.bench.losses import CELLS, FULL, SMALL, WITH, _cells, _parse
from tests.bench.losses_table import keep, table
from tests.bench.replay import Replayed
from tests.conftest import Counted, small_model


@pytest.mark.parametrize("losses", [["kd", "attention"], ["dsi", "nd"], ["codebook"], ["block_mse"]])
def test_losses_see_the_same_teacher_and_it_is_asked_once(losses, example, tmp_path):
    torch.manual_seed(0)
    teacher, student = Counted(small_model(7, width=1.0)), small_model().eval()
    replayed = Replayed(teacher, example, tmp_path).eval()
    looked, found = teacher.calls, []
    targets = torch.tensor([0, 1])
    for each in (teacher, replayed, replayed):
        with Objective(parse_losses(losses), Classification(), student, each, example) as objective:
            torch.manual_seed(1)
            found.append(float(objective(student, example, targets)[0].detach()))
        if each is teacher:
            looked = teacher.calls
    assert teacher.calls - looked == 1
    assert found[1] == found[2] == pytest.approx(found[0], rel=1e-2, abs=1e-3)


def cell(loss, seed, top1):
    judged = {"top1": top1, "ece": 2.0, "samples": 8000}
    budget = {"epochs": 4, "samples": 5000, "blocks": 1, "batch_size": 64}
    about = {"loss": loss, "start": "scratch", "seed": seed, "scale": 1.0, "seconds": 30.0}
    return {**about, **budget, "validation": judged, "test": judged}


def test_the_table_compares_equal_seeds_and_says_what_is_noise():
    """Seeds are 2 points apart (deviation sqrt 2) in both losses that have two; dkd has one seed, two above kd's of that."""
    found = [cell("kd", 0, 40.0), cell("kd", 1, 42.0), cell("task", 0, 41.0), cell("task", 1, 39.0), cell("dkd", 1, 44.0)]
    text = table([*found, {**cell("pld", 0, 99.0), "epochs": 10}], SMALL, FULL)
    assert "4 epochs of 5000 training images, ResNet-8 in batches of 64, 5 trainings, 2 minutes" in text
    assert "Not the whole budget" in text
    assert "standard deviation of 1.41 points" in text
    assert "| `task` | scratch | 1 | 40.00 ± 1.00 | 2.00 ± 0.00 | -1.00: does not beat it in this budget |" in text
    assert "| `dkd` | scratch | 1 | 44.00 (one seed) | 2.00 (one seed) | +2.00 |" in text
    assert "pld" not in text


def test_the_table_takes_its_place_and_no_more(tmp_path):
    document = tmp_path / "losses.md"
    document.write_text("before\n<!-- small: begin -->\nold\n<!-- small: end -->\nafter\n")
    keep(document, "small", "new")
    assert document.read_text() == "before\n<!-- small: begin -->\nnew\n<!-- small: end -->\nafter\n"


def test_the_default_of_distill_is_what_the_table_shows_to_be_a_point_above_labels_alone():
    """The figures are of real trainings, kept under version control."""
    of_default, of_labels = (
        [f["test"]["top1"] for f in map(json.loads, (p.read_text() for p in CELLS.glob(f"{loss}-scratch-?-x1-4e-5000-*")))]
        for loss in ("cwd", "task")
    )
    assert len(of_default) == len(of_labels) == 2
    assert min(of_default) > max(of_labels) + 1.0
    assert Distill().losses == parse_losses(WITH["cwd"])


def test_every_loss_has_its_turn_before_the_next_seed():
    cells = _cells(_parse(["--small"]), SMALL)
    half = len(cells) // 2
    assert {c.seed for c in cells[:half]} == {0}
    assert {c.loss for c in cells[:half]} == {c.loss for c in cells[half:]}
    assert len({c.name for c in cells}) == len(cells)
