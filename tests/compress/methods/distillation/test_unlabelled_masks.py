"""MGD's three levels on images without labels: pixels that two teachers decide, how much of each class, regions alike."""

import numpy as np
import torch

from compress.data.base import ArraySamples
from compress.methods.distillation.ensemble import TeacherEnsemble
from compress.methods.distillation.objective import Objective, parse_losses
from compress.tasks.segmentation import Segmentation
from compress.training.schedule import Schedule
from compress.training.trainer import Trainer


def net(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 3, padding=1)
    )


def squares(count, seed):
    """A bright square in noise, and where it is."""
    rng = np.random.default_rng(seed)
    images, labels = rng.normal(0, 0.3, (count, 1, 12, 12)).astype(np.float32), np.zeros((count, 12, 12), np.int64)
    for image, label in zip(images, labels, strict=True):
        top, left = rng.integers(0, 7, 2)
        image[0, top : top + 5, left : left + 5] += 1.0
        label[top : top + 5, left : left + 5] = 1
    return images, labels


def test_a_student_learns_without_a_label_what_two_teachers_know(quiet, tmp_path):
    task, trainer = Segmentation(), Trainer(0, quiet)
    images, labels = squares(48, 0)
    test = ArraySamples(*squares(24, 1))
    schedule = Schedule(epochs=12, batch_size=16, optimizer="adamw", learning_rate=0.02)

    def trained(module, losses, teacher, targets, name):
        objective = Objective(parse_losses(losses), task, module, teacher, torch.from_numpy(images[:2]))
        trainer.fit(name, module, objective, ArraySamples(images, targets), schedule, tmp_path / name)
        return task.evaluate(trainer.predictor(module), test).value

    teachers = [net(1), net(2)]
    known = [trained(module, ["task"], None, labels, str(n)) for n, module in enumerate(teachers)]
    both = TeacherEnsemble(teachers, [1.0, 1.0], maps=True).eval().requires_grad_(False)
    losses = [
        {"use": "pseudo_labels", "confidence": 0.6},
        {"use": "pooled_logits", "weight": 0.001},
        {"use": "self_similarity", "weight": 1.0, "layers": [["2", "teachers.0.2"]]},
    ]
    found = trained(net(3), losses, both, np.full_like(labels, -1), "student")
    assert min(known) > 80 and found > 0.9 * min(known)
