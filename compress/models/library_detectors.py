"""Detectors of libraries that the user has installed, as modules that give raw outputs and have the library's own loss.

Nothing of such a library is in this product: it is imported by name when a recipe names one of its models, and its
licence (AGPL-3.0 of ultralytics, say) is between it and who installs it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor, nn

from deploy.processing.detection.rows import draw, kind_of, points_of
from profiles.errors import UserError


@final
class UltralyticsDetector(nn.Module):
    """A YOLO of ultralytics, v5 to v12 and 26, before its decode.

    Gives boxes (samples, 4 * bins, places) and class logits (samples, classes, places), which the task detection reads
    as head ``yolo``; of releases that give maps, those. Behind them, of one that finds keypoints, (samples, 3 points,
    places), and of one that segments, the masks' coefficients and prototypes. Weights have the names of the library's
    own checkpoints. A model that is end to end gives its one-to-one branch: as to its loss, the other one is trained along.

    Args:
        whole: the library's model.
        arguments: gains of its loss, by the library's names.
    """

    def __init__(self, whole: Any, arguments: Any) -> None:
        super().__init__()
        whole.args = arguments
        self.model: nn.Sequential = whole.model
        self._whole = (whole,)  # in a tuple: its modules are ``model``'s, and no others of this one
        self._last: tuple[Any, tuple[int, int]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: not the last pass, whose tensors are of this module's graph."""
        return {**self.__dict__, "_last": None}

    def train(self, mode: bool = True) -> UltralyticsDetector:
        """Set the mode of all layers; the head's own, which says whether it decodes, stays as in training."""
        super().train(mode)
        self.model[-1].training = True
        return self

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Map pixels (samples, channels, height, width), from 0 to 1, to raw outputs."""
        self.model[-1].training = True
        raw = self._whole[0].predict(pixels)
        if self.training:
            self._last = raw, (int(pixels.shape[2]), int(pixels.shape[3]))
        answer = raw["one2one"] if isinstance(raw, dict) and "one2one" in raw else raw
        return _tensors(answer) if isinstance(answer, dict) else tuple(answer)

    def task_loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Compute the library's loss of the last forward pass in training, a mean over samples.

        Args:
            targets: (samples, most, 5 and more), rows of ``deploy.processing.detection.rows``, label -1 for none.

        Raises:
            UserError: the model gives masks or keypoints, and the targets are of something else.
        """
        assert self._last is not None, "the loss is of a forward pass in training"
        raw, (height, width) = self._last
        answer = raw.get("one2many", raw) if isinstance(raw, dict) else {}
        sample, _ = torch.nonzero(targets[..., 0] >= 0, as_tuple=True)
        rows = targets[targets[..., 0] >= 0]
        batch = {
            "batch_idx": sample.to(rows.dtype),
            "cls": rows[:, :1],
            "bboxes": centres_and_sizes(rows[:, 1:5]) / rows.new_tensor([width, height, width, height]),
            **_beside(answer, targets, rows, (height, width)),
        }
        loss, _ = self._whole[0].loss(batch, raw)
        return loss.sum() / len(targets)  # type: ignore[no-any-return]  # the library has no types


def _tensors(answer: dict[str, Any]) -> tuple[Tensor, ...]:
    """Return what a head of ultralytics gives of each place, by its names, in the order in which it is read."""
    found = [answer[name] for name in ("boxes", "scores", "kpts", "mask_coefficient", "proto") if name in answer]
    return tuple(each[0] if isinstance(each, list | tuple) else each for each in found)


def _beside(answer: dict[str, Any], targets: Tensor, rows: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return what the library's loss reads beside boxes, of a head with keypoints or masks.

    Keypoints are shares of the input's sides. Masks are one map a sample, of the prototypes' size: 1 more than the number of
    the object among the sample's, the smaller one where two are (the library's ``overlap_mask``), and of each pixel's class.

    Args:
        size: height and width of the input.
    """
    wanted = "keypoints" if "kpts" in answer else "masks" if "proto" in answer else "boxes"
    given = kind_of(targets.shape[-1])
    if wanted == "boxes":
        return {}
    if given != wanted:
        words = f"use objects = {wanted!r} in [task] and of its data"
        raise UserError(f"[task] loss = 'model': the library's loss reads {wanted}, and the data gives {given}; {words}")
    if wanted == "keypoints":
        return {"keypoints": points_of(rows) / rows.new_tensor([size[1], size[0], 1])}
    proto = answer["proto"][0] if isinstance(answer["proto"], list | tuple) else answer["proto"]
    high, wide = proto.shape[-2:]
    masks, classes = (torch.zeros(len(targets), high, wide) for _ in range(2))
    scale = torch.tensor([wide / size[1], high / size[0], 1.0])
    for number, sample in enumerate(targets.detach().cpu()):
        own = sample[sample[:, 0] >= 0]
        drawn = [torch.from_numpy(draw((points * scale).numpy(), high, wide)) for points in points_of(own)]
        for index in sorted(range(len(own)), key=lambda index: -int(drawn[index].sum())):
            masks[number][drawn[index]] = index + 1
            classes[number][drawn[index]] = own[index, 0]
    return {"masks": masks.to(rows.device), "sem_masks": classes.to(rows.device)}


@final
class QueriesDetector(nn.Module):
    """A detector of transformers (DETR, RT-DETR, D-FINE and their kind): logits and boxes of queries, for head ``detr``.

    Its loss is what the library computes of inputs and labels, so with ``loss = "model"`` a step costs a second forward
    pass.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._last: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: not the last pass, whose tensors are of this module's graph."""
        return {**self.__dict__, "_last": None}

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map pixels (samples, channels, height, width) to logits (samples, queries, classes) and boxes (samples,
        queries, 4)."""
        if self.training:
            self._last = pixels
        found = self.model(pixel_values=pixels)
        return found.logits, found.pred_boxes

    def task_loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Compute the library's loss on the inputs of the last forward pass in training.

        Args:
            targets: (samples, most, 5 and more), [label, x1, y1, x2, y2, ...] in pixels, label -1 for none.
        """
        assert self._last is not None, "the loss is of a forward pass in training"
        height, width = self._last.shape[2:]
        scale = targets.new_tensor([width, height, width, height])
        real = [rows[rows[:, 0] >= 0] for rows in targets]
        labels = [
            {"class_labels": rows[:, 0].long(), "boxes": (centres_and_sizes(rows[:, 1:5]) / scale).clamp(0, 1)}
            for rows in real
        ]
        loss: Tensor = self.model(pixel_values=self._last, labels=labels).loss
        return loss


def centres_and_sizes(corners: Tensor) -> Tensor:
    """Return centre x, centre y, width and height of corners, (..., 4)."""
    return torch.cat([(corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]], dim=-1)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hold ultralytics, while the context is open, to standard error and to this machine.

    Reports go to standard output, and its logger writes to what that is when it is imported. It would look for updates,
    and send what is used.
    """
    os.environ.setdefault("YOLO_OFFLINE", "true")
    with contextlib.redirect_stdout(sys.stderr):
        yield


KINDS = {"-seg": ("SegmentationModel", False), "-pose": ("PoseModel", True)}
"""The library's class of a structure by the end of its name, and whether it has keypoints."""


def ultralytics_detector(name: str, *, classes: int = 80, channels: int = 3, points: int = 17) -> nn.Module:
    """Build a detector of ultralytics by the name of its structure, with random weights.

    Args:
        name: such as ``yolo11n``, ``yolo11n-seg`` or ``yolo11n-pose``.
        points: keypoints of an object, of a structure that finds them.
    """
    kind, more = next((found for end, found in KINDS.items() if name.endswith(end)), ("DetectionModel", False))
    arguments = {"data_kpt_shape": (points, 3)} if more else {}
    with quietly():
        tasks = importlib.import_module("ultralytics.nn.tasks")
        whole = getattr(tasks, kind)(f"{name}.yaml", ch=channels, nc=classes, verbose=False, **arguments)
    head = type(whole.model[-1]).__name__
    if not any(part in head for part in ("Detect", "Segment", "Pose")):
        raise ValueError(f"its head is {head}; detectors' are read, with keypoints or masks")
    return UltralyticsDetector(whole, importlib.import_module("ultralytics.cfg").get_cfg())
