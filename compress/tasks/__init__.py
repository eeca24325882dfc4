"""Tasks: loss, metric and decoding of raw outputs.

To add one: a final subclass of ``Task`` in a file here and a line in ``TASKS``, or your own as ``module:Class``.
"""

from __future__ import annotations

from compress.tasks.base import Metric, Predict, Task

TASKS: dict[str, str] = {
    "classification": "compress.tasks.classification:Classification",
    "detection": "compress.tasks.detection:Detection",
    "keypoints": "compress.tasks.keypoints:Keypoints",
    "restoration": "compress.tasks.restoration:Restoration",
    "segmentation": "compress.tasks.segmentation:Segmentation",
    "entities": "compress.tasks.entities:Entities",
    "similarity": "compress.tasks.similarity:Similarity",
    "tagging": "compress.tasks.tagging:Tagging",
}

__all__ = ["TASKS", "Metric", "Predict", "Task"]
