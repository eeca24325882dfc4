"""Detection: boxes and classes of objects; average precision."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, final

import numpy as np
import numpy.typing as npt
from annotated_types import Ge
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from compress.data import Samples, Splits
from compress.losses.boxes import giou
from compress.tasks.assignment import assign
from compress.tasks.base import Metric, Predict, Task
from compress.tasks.box_checks import check_boxes
from compress.tasks.keypoints import usual_sigmas
from compress.tasks.object_losses import keypoints_loss, masks_loss
from compress.tasks.object_precision import object_precision
from compress.tasks.precision import CHUNK, METRIC, UNIT, Detections, average_precision
from compress.tasks.thresholds import ClassThreshold, choose_thresholds
from deploy.files.npz import read_array
from deploy.processing.detection.base import YOLO_ANCHORS, AskedHead, Head, Reading, Shapes
from deploy.processing.detection.choose import AUTO, choose, describe, reader, readers
from deploy.processing.detection.decode import Decoding, as_priors
from deploy.processing.detection.objects import Objects
from deploy.processing.detection.rows import CORNERS, NUMBERS, ObjectKind
from profiles.errors import UserError, unknown

IN_GRAPH = "corners"
BESIDE: dict[ObjectKind, tuple[dict[str, Any], ...]] = {
    "boxes": (),
    "masks": ({"use": "masks", "weight": 2.0},),
    "keypoints": ({"use": "keypoints", "weight": 2.0},),
}
"""What holds a head's other branches to the teacher's."""
ALIKE = ({"use": "bce_kd", "weight": 4.0}, {"use": "boxes", "weight": 2.0})
"""Of the blood cells in docs/benchmarks.md. Scores of places are each for themselves: a softmax over them says nothing."""

Anchors = Sequence[Sequence[Sequence[float]]]
"""Width and height in pixels of each anchor of each map."""


@final
class Detection(Task):
    """Detection by the outputs of the detectors that are in use; ``compress tasks`` lists what is read.

    The built-in form is anchor-free, maps finest first, one per stride: (samples, 4 + classes, rows, columns). A place
    of a map stands for the middle of its cell, at ((column + 1/2) stride, (row + 1/2) stride) pixels. Its first four
    numbers are, through softplus and times the stride, the distances in pixels from there to the left, top, right and
    bottom of a box; the others, through a sigmoid, the probability of each class, on its own.

    Targets are boxes as ``compress.data.base.Batch`` describes them, with masks or keypoints where ``objects`` says so
    (``deploy.processing.detection.rows``): those are then judged, in the place of the boxes, which stand beside.

    The loss is task-aligned (``compress.tasks.assignment``), for heads that answer from places of maps: binary
    cross-entropy of the scores with what the places shall say, and ``box_weight`` times 1 - GIoU of the boxes, weighted
    by that; masks and keypoints have losses of their own (``compress.tasks.object_losses``). Other heads train by the loss
    of the library that they are from (``loss = "model"``), or by distillation alone.

    Args:
        objects: what is judged and learned: ``boxes``, or ``masks`` or ``keypoints`` of heads that give them.
        sigmas: of keypoints, how far off, as a share of a figure's size, each may be; COCO's where there are 17, else 0.05.
        head: how outputs are read, a name of ``deploy.processing.detection.READERS``; ``auto`` chooses by their shapes.
        strides: pixels of the input that a cell of each map covers.
        anchors: of heads with anchors, their width and height in pixels, for each stride; YOLOv5's.
        priors: of SSD, a .npy file of the corners of its prior boxes in pixels, (priors, 4).
        points: how many keypoints an object has, of a head whose outputs are decoded; others tell by their shapes.
        loss: ``own``, or ``model``: what the model's ``task_loss(outputs, targets)`` says.
        box_weight: of the boxes' share of the own loss.
        least_score: a place less sure than this sees nothing, where precision is averaged.
        threshold: the score from which the float model's detections are shown; int8 gets one that keeps its precision.
        most_overlap: of two boxes of a class that overlap more (IoU), the less sure one goes.
        decode: where boxes and scores are made of the outputs: ``numpy`` behind the engine, or ``graph``, inside it.
    """

    metric = METRIC
    unit = UNIT
    stage_losses = {"distill": ("task", *ALIKE, {"use": "cwd", "weight": 3.0}), "recovery": ("task", *ALIKE)}

    @classmethod
    def usual_losses(cls, options: Mapping[str, Any]) -> Mapping[str, tuple[Any, ...]]:
        beside = BESIDE.get(options.get("objects", "boxes"), ())
        return {stage: (*losses, *beside) for stage, losses in cls.stage_losses.items()}

    def __init__(
        self,
        *,
        objects: Literal["boxes", "masks", "keypoints"] = "boxes",
        sigmas: Sequence[float] = (),
        head: str = AUTO,
        strides: Sequence[int] = (8, 16, 32),
        anchors: Anchors | None = None,
        priors: Path | None = None,
        points: Annotated[int, Ge(0)] = 0,
        loss: Literal["own", "model"] = "own",
        box_weight: Annotated[float, Ge(0)] = 2.5,
        least_score: float = 0.01,
        threshold: float = 0.25,
        most_overlap: float = 0.6,
        decode: Literal["numpy", "graph"] = "numpy",
    ) -> None:
        shares = {"least_score": least_score, "threshold": threshold, "most_overlap": most_overlap}
        faults = [f"[task] {k} is from 0 to 1; given: {v}" for k, v in shares.items() if not 0 <= v <= 1]
        if not strides or list(strides) != sorted(set(strides)) or strides[0] < 1:
            faults.append(f"[task] strides are pixels, finest first, such as [8, 16, 32]; given: {list(strides)}")
        if box_weight < 0:
            faults.append(f"[task] box_weight is 0 or more; given: {box_weight}")
        if any(each <= 0 for each in sigmas):
            faults.append(f"[task] sigmas are above 0; given: {list(sigmas)}")
        if objects != "boxes" and decode == "graph":
            faults.append(f"[task] decode = 'graph' is of boxes alone; {objects} are made by decode = 'numpy'")
        if head not in (AUTO, *readers()):
            faults.append(unknown("head", str(head), (AUTO, *readers()), "[task]"))
        sides, anchor_faults = _anchors(anchors)
        found, prior_faults = _priors(priors)
        faults += anchor_faults + prior_faults
        if faults:
            raise UserError(*faults)
        self._head, self._loss, self._box_weight = head, loss, box_weight
        self._facts = Head(strides=tuple(strides), anchors=sides, priors=found, points=points)
        self._objects: ObjectKind = objects
        self._sigmas = tuple(sigmas)
        self._names: tuple[str, ...] = ()
        self._least_score, self._most_overlap = least_score, most_overlap
        self.threshold, self._decode = threshold, decode

    def bound_to(self, splits: Splits) -> Detection:
        """Return this task for these data: their classes and the inputs' size, which heads need to be told apart."""
        inputs = splits.train.load(np.arange(1)).inputs
        if isinstance(inputs, Mapping):
            raise UserError(f"[task] detection reads images alone; the data gives the inputs {', '.join(inputs)}")
        height, width = inputs.shape[-2:]
        bound = copy.copy(self)
        bound._names = tuple(splits.classes)
        bound._facts = replace(self._facts, classes=len(splits.classes), size=(int(height), int(width)))
        return bound

    def modules(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(reference.partition(":")[0] for reference in readers().values()))

    def check(self, splits: Splits) -> None:
        check_boxes(splits, self._objects)
        points = _points_of(splits) if self._objects == "keypoints" else 0
        if self._sigmas and len(self._sigmas) != points:
            raise UserError(f"[task] sigmas has a number for each keypoint, {points}; given: {len(self._sigmas)}")

    def has_labels(self, samples: Samples) -> bool:
        return any((batch.targets[..., 0] >= 0).any() for batch in samples.batches(CHUNK))

    def check_outputs(self, outputs: Any, splits: Splits) -> None:
        bound = self.bound_to(splits)
        shapes = _shapes(outputs)
        try:
            choose(bound._head, shapes, bound._facts)
            if self._objects != "boxes":
                self._check_beside(outputs, splits)
            if self._decode == "graph" and not reader(IN_GRAPH).fault(shapes, bound._facts):
                raise UserError("outputs look as corners and scores do already; use decode = 'numpy'")
        except UserError as error:
            given = shapes or type(outputs).__name__
            about = f"detection of {len(splits.classes)} classes with strides {list(self._facts.strides)}"
            raise UserError(f"gives {given} for two samples; {about}: {error}") from None

    def _check_beside(self, outputs: Any, splits: Splits) -> None:
        """Check that a model gives the objects that are judged.

        Raises:
            UserError: it does not, or keypoints of another number than the data has.
        """
        reading = self._reading(outputs)
        given = _beside(reading)
        if given != self._objects:
            raise UserError(f"[task] objects = {self._objects!r}, and the outputs hold {given or 'boxes alone'}")
        points = _points_of(splits)
        if given == "keypoints" and reading.keypoints.shape[2] != points:
            raise UserError(f"they hold {reading.keypoints.shape[2]} keypoints, and the data has {points}")

    def describe(self, outputs: Any) -> str:
        """Say how a model's outputs are read."""
        shapes = _shapes(outputs)
        name = choose(self._head, shapes, self._facts)
        told = describe(name, shapes, self._facts)
        beside = _beside(self._reading(outputs))
        if not beside or beside == self._objects:
            return told
        words = f"objects = {beside!r} in [task] and of its data, or train no stage (epochs = 0)"
        return f"{told}; its {beside} come along, which this task does not judge and no loss holds: {words}"

    def _reading(self, outputs: Any) -> Reading:
        """Read outputs, arrays or tensors."""
        name = choose(self._head, _shapes(outputs), self._facts)
        return reader(name).read(_leaves(outputs), self._facts)

    def loss_of(self, module: nn.Module) -> Callable[[Any, Tensor], Tensor]:
        """Return the loss on labels: the own one, or with ``loss = "model"`` that of a module from a library.

        A module that was captured, as quantised training does, has the library's no more, and learns by the own one.

        Raises:
            UserError: the module has none.
        """
        found: Callable[[Any, Tensor], Tensor] | None = getattr(module, "task_loss", None)
        if self._loss == "own" or any(isinstance(part, fx.GraphModule) for part in module.modules()):
            return self.loss
        if found is None:
            raise UserError(
                f"[task] loss = 'model': {type(module).__name__} has no task_loss(outputs, targets); models of "
                "ultralytics: and of transformers: with head = 'boxes' have one. Use loss = 'own', or losses that read no "
                "labels"
            )
        return found

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Compute the cross-entropy of the scores and 1 - GIoU of the boxes under task-aligned assignment.

        Raises:
            UserError: the head does not answer from places of maps.
        """
        reading = self._read(outputs)
        if reading.places is None:
            raise UserError(
                "the task's own loss is for heads that answer from places of maps, and this one does not; use loss = "
                "'model' in [task] for a model from a library, or losses of distillation alone"
            )
        logits, boxes = reading.logits, reading.boxes
        wanted = assign(logits.sigmoid(), boxes, reading.places, targets)
        total = wanted.scores.sum().clamp(min=1)
        scores = functional.binary_cross_entropy_with_logits(logits, wanted.scores, reduction="sum") / total
        weight = wanted.scores.amax(dim=-1)
        answers = weight > 0
        apart = 1 - giou(boxes[answers], wanted.boxes[answers])
        total_loss: Tensor = scores + self._box_weight * (apart * weight[answers]).sum() / total
        if self._objects == "masks":
            assert self._facts.size is not None, "bound to its data"
            total_loss = total_loss + masks_loss(reading, answers, wanted.owners, targets, self._facts.size)
        elif self._objects == "keypoints" and answers.any():
            rows = targets.gather(1, wanted.owners[..., None].expand(-1, -1, targets.shape[2]))[answers]
            points = reading.keypoints[answers]
            total_loss = total_loss + keypoints_loss(points, rows, self._sigmas or usual_sigmas(points.shape[1]))
        return total_loss

    def logits(self, outputs: Any) -> Tensor:
        """Extract the log-odds of the class scores of all places: (samples, places, classes)."""
        found: Tensor = self._read(outputs).logits
        return found

    def signals(self, outputs: Any) -> dict[str, Tensor]:
        """Extract ``boxes``, corners in pixels, (samples, places, 4), and where the head has them ``distributions``.

        Those are the logits of the distance to each side, (samples, places, 4, bins). Of heads that give them
        ``keypoints``, (samples, places, points, 3), or ``coefficients``, (samples, places, prototypes), and
        ``prototypes``, (samples, prototypes, rows, columns).
        """
        reading = self._read(outputs)
        names = ("boxes", "distributions", "keypoints", "coefficients", "prototypes")
        return {name: getattr(reading, name) for name in names if getattr(reading, name) is not None}

    def asked_head(self) -> AskedHead:
        return AskedHead(name=self._head, facts=self._facts, in_graph=self._decode == "graph")

    def in_graph(self, outputs: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        if self._decode == "numpy":
            return outputs
        reading = reader(choose(self._head, [each.shape for each in outputs], self._facts)).read(outputs, self._facts)
        return [reading.boxes, reading.scores]

    def postprocessing(self, splits: Splits) -> Mapping[str, Any]:
        return {"use": "boxes"}

    def evaluate(self, predict: Predict, samples: Samples) -> Metric:
        return self._evaluate(predict, samples, draws=False)

    def evaluate_samples(self, predict: Predict, samples: Samples) -> tuple[Metric, None]:
        return self._evaluate(predict, samples, draws=True), None

    def _evaluate(self, predict: Predict, samples: Samples, *, draws: bool) -> Metric:
        if self._objects != "boxes":
            points = (samples.load(np.arange(1)).targets.shape[2] - CORNERS) // NUMBERS
            sigmas = self._sigmas or usual_sigmas(points) if self._objects == "keypoints" else ()
            return object_precision(self._find, predict, samples, self._objects, sigmas, draws=draws)
        return average_precision(self.detect, predict, samples, draws=draws)

    def thresholds(self, reference: Predict, shipped: Predict, samples: Samples) -> tuple[ClassThreshold, ...]:
        truth: list[npt.NDArray[Any]] = []
        found: tuple[list[Detections], list[Detections]] = ([], [])
        for batch in samples.batches(CHUNK):
            truth += list(batch.targets)
            for detections, predict in zip(found, (reference, shipped), strict=True):
                detections += self.detect(predict(batch.inputs))
        return choose_thresholds(truth, *found, self._names, self.threshold)

    def detect(self, outputs: Sequence[npt.NDArray[Any]]) -> list[Detections]:
        """Decode a model's raw outputs into the detections of each sample."""
        return self.decoding(outputs).detect(outputs, self._least_score)

    def _find(self, outputs: Sequence[npt.NDArray[Any]]) -> Iterator[Objects]:
        """Decode a model's raw outputs into the objects of each sample, with their masks or keypoints."""
        return self.decoding(outputs).each_objects(outputs, self._least_score)

    def decoding(self, outputs: Sequence[npt.NDArray[Any]]) -> Decoding:
        """Return how outputs of these shapes are read, for a device; every class at ``threshold``."""
        name = self._name([each.shape for each in outputs])
        return Decoding(
            head=name,
            facts=self._facts,
            classes=self._names,
            thresholds=(self.threshold,) * len(self._names),
            most_overlap=self._most_overlap,
        )

    def _read(self, outputs: Any) -> Reading:
        tensors = [leaf.float() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        return reader(self._name([tuple(each.shape) for each in tensors])).read(tensors, self._facts)

    def _name(self, shapes: Shapes) -> str:
        """The reader of outputs of these shapes: behind a decode in the graph, of corners and scores."""
        if self._decode == "graph" and not reader(IN_GRAPH).fault(shapes, self._facts):
            return IN_GRAPH
        return choose(self._head, shapes, self._facts)


def _beside(reading: Reading) -> ObjectKind | None:
    """Return what a reading has beside boxes."""
    return "masks" if reading.prototypes is not None else "keypoints" if reading.keypoints is not None else None


def _points_of(splits: Splits) -> int:
    """Return how many keypoints, or vertices, the objects of a data set have."""
    return int(splits.train.load(np.arange(1)).targets.shape[2] - CORNERS) // NUMBERS


def _shapes(outputs: Any) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape) for leaf in _leaves(outputs)]


def _leaves(outputs: Any) -> list[Any]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor | np.ndarray)]


def _anchors(given: Anchors | None) -> tuple[tuple[tuple[tuple[float, float], ...], ...], list[str]]:
    if given is None:
        return YOLO_ANCHORS, []
    try:
        anchors = tuple(tuple((float(width), float(height)) for width, height in each) for each in given)
    except (TypeError, ValueError):
        anchors = ()
    if not anchors or not all(each and min(min(pair) for pair in each) > 0 for each in anchors):
        return YOLO_ANCHORS, [
            f"[task] anchors are pairs of pixels for each stride, as [[[10, 13], [16, 30]], ...]; given: {given}"
        ]
    return anchors, []


def _priors(path: Path | None) -> tuple[npt.NDArray[np.float32] | None, list[str]]:
    if path is None:
        return None, []
    try:
        return as_priors(read_array(path)), []
    except (OSError, ValueError) as error:
        return None, [f"[task] priors: {path}: {error}; give corners in pixels of the input, (priors, 4), as a .npy file"]
