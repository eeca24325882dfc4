"""Classification: one label an image, top-1 accuracy."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from compress.data import Samples, Splits
from compress.tasks.base import Metric, Predict, Task
from profiles.errors import UserError

CHUNK = 512
UNLABELLED = -1


@final
class Classification(Task):
    """Outputs are logits of shape (samples, classes), targets integer labels of shape (samples,)."""

    metric = "top1"
    unit = "%"

    def check(self, splits: Splits) -> None:
        faults: list[str] = []
        parts = {"train": splits.train, "calibration": splits.calibration}
        parts |= {"validation": splits.validation, "test": splits.test}
        for name, samples in parts.items():
            if len(samples) == 0:
                faults.append(f"data: the {name} split is empty; every split needs samples")
                continue
            faults += _faults_of(name, samples, len(splits.classes))
        if faults:
            raise UserError(*faults)

    def has_labels(self, samples: Samples) -> bool:
        return any((batch.targets >= 0).any() for batch in samples.batches(CHUNK))

    def check_outputs(self, outputs: Any, splits: Splits) -> None:
        expected = (2, len(splits.classes))
        found = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        given = tuple(found[0].shape) if found else type(outputs).__name__
        if given != expected:
            raise UserError(f"gives {given} for two samples; classification of {expected[1]} classes reads {expected}")

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Cross-entropy over the samples that have a label."""
        labelled = functional.cross_entropy(self.logits(outputs), targets, ignore_index=UNLABELLED, reduction="sum")
        return labelled / (targets != UNLABELLED).sum().clamp(min=1)

    def logits(self, outputs: Any) -> Tensor:
        """The first tensor of the outputs, be they one, a tuple or a table."""
        logits: Tensor = next(leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor))
        return logits

    def evaluate(self, predict: Predict, samples: Samples) -> Metric:
        right = 0
        for batch in samples.batches(CHUNK):
            right += int((predict(batch.inputs)[0].argmax(axis=-1) == batch.targets).sum())
        return Metric(name=self.metric, value=100.0 * right / len(samples), unit=self.unit, samples=len(samples))


def _faults_of(name: str, samples: Samples, classes: int) -> list[str]:
    faults: list[str] = []
    seen: set[int] = set()
    for batch in samples.batches(CHUNK):
        if not np.isfinite(batch.inputs).all():
            rows = np.flatnonzero(~np.isfinite(batch.inputs).reshape(len(batch.inputs), -1).all(axis=1))
            faults.append(f"data: the {name} split holds NaN or infinity (first in sample {int(rows[0])} of a batch)")
            break
        seen |= {int(label) for label in np.unique(batch.targets)}
    judged = name in ("validation", "test")
    if judged and UNLABELLED in seen:
        faults.append(f"data: the {name} split has samples without a label; models are judged on it")
    known = seen - {UNLABELLED}
    if name in ("train", "test") and len(known) == 1:
        faults.append(f"data: the {name} split has one class only ({next(iter(known))}); nothing can be told apart")
    wrong = sorted(label for label in known if not 0 <= label < classes)
    if wrong:
        faults.append(f"data: the {name} split has labels {wrong[:5]}; allowed: 0 to {classes - 1}, -1 for none")
    return faults
