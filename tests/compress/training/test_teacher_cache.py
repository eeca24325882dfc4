import errno
import subprocess

import numpy as np
import pytest
import torch

from compress.methods.distillation.objective import Objective, parse_losses
from compress.tasks.classification import Classification
from compress.training.loader import Batches, Place
from compress.training.schedule import Schedule
from compress.training.teacher_cache import TeacherCache
from compress.training.trainer import Trainer
from tests.conftest import Counted, blobs, small_model


def make(folder, realisations=2, say=print):
    schedule = Schedule(epochs=4, batch_size=16, realisations=realisations)
    return TeacherCache(folder, Batches(blobs(64), schedule, 0), schedule, say)


def test_what_is_kept_is_read_and_what_is_not_is_not(tmp_path):
    kept = make(tmp_path)
    signals = {
        "teacher_logits": torch.randn(16, 4),
        "teacher_features": [torch.randn(16, 2, 3, 3), torch.randn(16, 4, 1, 1)],
    }
    kept.keep(Place(1, 2, 0), signals)
    assert kept.read(Place(1, 1, 0)) is None
    found = make(tmp_path).read(Place(1, 2, 0))
    torch.testing.assert_close(found["teacher_logits"], signals["teacher_logits"], atol=1e-3, rtol=1e-3)
    assert [f.shape for f in found["teacher_features"]] == [(16, 2, 3, 3), (16, 4, 1, 1)]


def test_many_signals_come_back_in_their_order(tmp_path):
    kept = make(tmp_path)
    kept.keep(Place(0, 0, 0), {"teacher_features": [torch.full((2,), float(number)) for number in range(102)]})
    assert [int(each[0]) for each in kept.read(Place(0, 0, 0))["teacher_features"]] == list(range(102))


@pytest.mark.parametrize("losses", [["kd"], ["kd", "attention"]])
def test_the_teacher_is_run_once_for_each_batch_that_repeats(losses, tmp_path, data, quiet, example):
    teacher = Counted(small_model(5, width=1.0))
    student = small_model()
    objective = Objective(parse_losses(losses), Classification(), student, teacher, example)
    schedule = Schedule(epochs=6, batch_size=32, realisations=2)
    looking = teacher.calls
    Trainer(0, quiet).fit("x", student, objective, data.train, schedule, tmp_path / "f", outputs=tmp_path / "kept")
    assert teacher.calls - looking == 2 * 4
    again = small_model()
    objective = Objective(parse_losses(losses), Classification(), again, teacher, example)
    looking = teacher.calls
    Trainer(0, quiet).fit("x", again, objective, data.train, schedule, tmp_path / "g", outputs=tmp_path / "kept")
    assert teacher.calls == looking, "the second training finds everything"
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in student.state_dict().items())


def test_it_learns_what_it_would_have_learnt(tmp_path, data, quiet, example):
    results = []
    for outputs in (None, tmp_path / "kept"):
        student = small_model()
        objective = Objective(parse_losses(["kd"]), Classification(), student, small_model(5, width=1.0), example)
        schedule = Schedule(epochs=2, batch_size=32, realisations=2)
        Trainer(0, quiet).fit("x", student, objective, data.train, schedule, tmp_path / str(outputs), outputs=outputs)
        results.append(Trainer(0, quiet).predictor(student)(data.test.load(np.arange(64)).inputs)[0])
    assert np.abs(results[0] - results[1]).max() < 0.1 * np.abs(results[0]).max()


def flip(path, place, bit=3):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "a bit of a signal": lambda folder: flip(folder / "teacher_logits.npy", -9),
    "a bit of the shape": lambda folder: flip(
        folder / "teacher_logits.npy", (folder / "teacher_logits.npy").read_bytes().index(b"'shape': (") + 10, 1
    ),
    "a bit of the magic": lambda folder: flip(folder / "teacher_logits.npy", 1),
    "half of a signal gone": lambda folder: cut(folder / "teacher_logits.npy"),
    "an empty signal": lambda folder: (folder / "teacher_logits.npy").write_bytes(b""),
    "no signal": lambda folder: (folder / "teacher_logits.npy").unlink(),
    "a bit of a checksum": lambda folder: flip(folder / "checksums.npy", -8),
    "half of the checksums gone": lambda folder: cut(folder / "checksums.npy"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_told_once_and_asked_again(damage, tmp_path):
    batches = {Place(r, p, 0): torch.randn(16, 4) for r in range(2) for p in range(4)}
    kept = make(tmp_path)
    for place, logits in batches.items():
        kept.keep(place, {"teacher_logits": logits})
    whole = [kept.read(place)["teacher_logits"] for place in batches]
    DAMAGES[damage](next(tmp_path.iterdir()))
    told = []
    again = make(tmp_path, say=told.append)
    asked = 0
    for (place, logits), value in zip(batches.items(), whole, strict=True):
        found = again.read(place)
        if found is None:
            asked += 1
            again.keep(place, {"teacher_logits": logits})
            found = again.read(place)
        assert torch.equal(found["teacher_logits"], value), place
    assert asked >= 1
    assert len(told) == 1
    assert "is damaged; it is asked again" in told[0]
    if damage in {"a bit of a signal", "a bit of a checksum"}:
        assert asked == 1, "a batch that is whole is not asked for again"


def test_a_disk_without_room_is_an_error_before_a_batch_is_kept(tmp_path):
    """A real small disk: the array is sparse when it is made, and would end the process when it is written."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("only root can make a small disk")
    try:
        cache = make(disk)
        signals = {"teacher_features": torch.zeros(16, 64, 20, 20)}
        for _ in range(2):  # nothing of the first try is taken for an array by the second
            with pytest.raises(OSError, match=r"takes 6\.\d MiB, [01]\.\d MiB are free") as told:
                cache.keep(Place(0, 0, 0), signals)
            assert told.value.errno == errno.ENOSPC
        assert cache.read(Place(0, 0, 0)) is None
        small = {"teacher_logits": torch.ones(16, 4)}
        cache.keep(Place(0, 0, 0), small)
        torch.testing.assert_close(cache.read(Place(0, 0, 0))["teacher_logits"], small["teacher_logits"])
    finally:
        del cache
        subprocess.run(["umount", "-l", disk], check=True)
