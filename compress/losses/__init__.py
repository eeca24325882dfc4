"""Losses by name.

A loss is a function. Its positional parameters say what it reads, from this vocabulary:

    student_logits, teacher_logits        (samples, ..., classes)
    student_features, teacher_features    lists of paired feature maps, (samples, channels, height, width)
    student_boxes, teacher_boxes          (samples, places, 4), for detection
    task_loss                             the task's own loss on labels, a scalar

Its keyword parameters are its options in a recipe. It returns a scalar. To add one: the function in a
file here, and a line in ``LOSSES``. Nothing else knows a loss by name.
"""

from __future__ import annotations

LOSSES: dict[str, str] = {
    "task": "compress.losses.task:task",
    "kd": "compress.losses.logits:kd",
    "bce_kd": "compress.losses.logits:bce_kd",
    "boxes": "compress.losses.boxes:boxes",
    "attention": "compress.losses.features:attention",
}

__all__ = ["LOSSES"]
