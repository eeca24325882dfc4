"""compress compare-data: whether two sets of samples are alike, by what a model's layers make of them.

Features at several depths, each scaled to variance 1 over both sets together, so that no depth counts more than another and
no relabelling changes the scale: the permutation test stays exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import onnx

from calib.two_samples import Difference, compare, holm, unlikeness
from compress.data import Samples
from compress.data.subset import Subset
from compress.execution.cache import StepCache, steps_folder
from compress.execution.progress import Progress, keep_telling, progress_here
from compress.methods.quantization.observer import sample_inputs
from compress.pipeline.check.sides import open_side, read_preprocessing
from compress.pipeline.exports import PAIRS
from compress.pipeline.given import SPLITS, class_names, is_recipe, open_samples, split_name
from compress.pipeline.model_builder import ModelBuilder
from compress.pipeline.recalibration.opened import load_plain
from compress.pipeline.target import resolve, runtime_versions
from compress.recipe.parse import load as load_recipe
from compress.report.data_record import ClassDifference, DataComparison, UnlikeSample
from deploy.engines.inputs import Inputs
from deploy.onnx_graph.features import features
from deploy.qdq.strip import strip
from profiles.errors import UserError, one_line

MOST_SAMPLES, LEVEL, DRAWS, CLASS_DRAWS = 512, 0.01, 999, 999
SHOWN = 5
"""Classes and samples that are named."""
Floats = npt.NDArray[np.floating]
LABELS_OF = 1024
WHY_NOT = "a comparison trains nothing"
RECOVERED = ("calibration", "train")
"""Splits that are of a recovery set where a recipe has one."""


@final
@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Samples under a name.

    Attributes:
        names: of the samples; numbers without.
        labels: places in ``classes``; None where there are none.
    """

    name: str
    samples: Samples
    names: Sequence[str] | None = None
    labels: npt.NDArray[np.int64] | None = None


@final
@dataclass(frozen=True, kw_only=True)
class _Model:
    """Model whose features are compared, and what is stated of its samples."""

    name: str
    model: onnx.ModelProto
    preprocessing: Mapping[str, Any]
    classes: Sequence[str]
    adapt: Callable[[Inputs], Inputs] = lambda inputs: inputs


def compare_data(
    a: str | Path,
    b: str | Path,
    *,
    model: str | Path | None = None,
    samples: int = MOST_SAMPLES,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> DataComparison:
    """Tell whether two sets of samples are alike by the features of a model.

    Args:
        a, b: each ``RECIPE[:SPLIT]`` (the calibration split without one), a folder of pictures, or a .npz file.
        model: a bundle, a run or an ONNX file; the teacher of the first recipe without one.
        samples: of each set that are looked at, at most; drawn by ``seed``.
        level: p value below which they differ.
        draws: relabellings, where there are too many to take all.

    Raises:
        UserError: one of them is not there or does not fit the model, or there is no model. All at once.

    Example:
        >>> compress.compare_data("site.npz", "lab.npz")
        Traceback (most recent call last):
            ...
        profiles.errors.UserError: compare-data: neither is a recipe, whose teacher is asked: name a model (--model)
    """
    progress = progress or progress_here()
    if samples < 2 or not 0 < level < 1 or draws < 1:
        raise UserError("compare-data: samples are 2 or more, level is above 0 and below 1, draws are 1 or more")
    with keep_telling(progress), ExitStack() as stack:
        recipes = [split_name(str(given))[0] for given in (a, b) if is_recipe(str(given))]
        builder = _builder(recipes[0], progress) if recipes and (model is None or not Path(model).is_dir()) else None
        asked = _teacher(builder, recipes[0]) if model is None and builder else _named(model, builder, stack)
        sets, faults = [], list[str]()
        for given in (a, b):
            try:
                sets.append(
                    _open(str(given), asked, builder if recipes and split_name(str(given))[0] == recipes[0] else None)
                )
            except UserError as error:
                faults += error.faults
        if faults:
            raise UserError(*faults)
        one, two = (some(each, samples, seed) for each in sets)
        try:
            with progress.task("features", 2) as bar:
                found = []
                for each in (one, two):
                    found.append(features(asked.model, map(asked.adapt, sample_inputs(each.samples))))
                    bar.advance(1, f"{len(each.samples)} of {each.name}")
        except UserError:
            raise
        except Exception as error:  # of inputs that the model does not take ONNX Runtime says so by its own exceptions
            raise UserError(f"compare-data: {each.name} does not fit {asked.name} ({one_line(str(error), 200)})") from None
        compared = compare_sets(one, two, found[0], found[1], asked.name, asked.classes, level, draws, seed)
    return replace(compared, totals=(len(sets[0].samples), len(sets[1].samples)))


def compare_sets(
    a: DataSet,
    b: DataSet,
    of_a: Sequence[Floats],
    of_b: Sequence[Floats],
    model: str,
    classes: Sequence[str] = (),
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> DataComparison:
    """Compare two sets by their features at several depths, (samples, width) each."""
    one, two = scaled(of_a, of_b)
    return DataComparison(
        a=a.name,
        b=b.name,
        model=model,
        counts=(len(one), len(two)),
        totals=(len(one), len(two)),
        widths=tuple(each.shape[1] for each in of_a),
        difference=compare(one, two, draws=draws, seed=seed),
        level=level,
        classes=tuple(_by_class(a, b, one, two, classes, seed)[:SHOWN]),
        of_a=_most_unlike(a, unlikeness(two, one)),
        of_b=_most_unlike(b, unlikeness(one, two)),
    )


def scaled(of_a: Sequence[Floats], of_b: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Join the depths of two sets, each with a total variance of 1 over both sets; a depth that never varies is left out."""
    parts: tuple[list[Floats], list[Floats]] = ([], [])
    for first, second in zip(of_a, of_b, strict=True):
        deviation = float(np.sqrt(np.concatenate([first, second]).astype(np.float64).var(axis=0).sum()))
        if deviation > 0:
            parts[0].append(first / deviation)
            parts[1].append(second / deviation)
    if not parts[0]:
        return np.zeros((len(of_a[0]), 1)), np.zeros((len(of_b[0]), 1))
    return np.concatenate(parts[0], axis=1), np.concatenate(parts[1], axis=1)


def _by_class(a: DataSet, b: DataSet, one: Floats, two: Floats, classes: Sequence[str], seed: int) -> list[ClassDifference]:
    """Compare the samples of each class that both sets have; the most different first."""
    if a.labels is None or b.labels is None:
        return []
    found: list[ClassDifference] = []
    for label in sorted({*a.labels.tolist()} | {*b.labels.tolist()}):
        ours, theirs = one[a.labels == label], two[b.labels == label]
        enough = min(len(ours), len(theirs)) >= 2
        difference = compare(ours, theirs, draws=CLASS_DRAWS, seed=seed) if enough else None
        name = classes[label] if 0 <= label < len(classes) else str(label)
        found.append(ClassDifference(name=name, counts=(len(ours), len(theirs)), difference=difference, p=None))
    told = [(each, each.difference) for each in found if each.difference is not None]
    adjusted = holm(np.array([difference.p for _, difference in told])) if told else np.zeros(0)
    compared = [replace(each, p=float(p)) for (each, _), p in zip(told, adjusted, strict=True)]
    compared.sort(key=lambda each: (each.p or 0.0, -_share(each.difference)))
    return [*compared, *(each for each in found if each.difference is None)]


def _share(difference: Difference | None) -> float:
    return 0.0 if difference is None else difference.share


def _most_unlike(of: DataSet, values: Floats) -> tuple[UnlikeSample, ...]:
    order = np.argsort(-values, kind="stable")[:SHOWN]
    names = of.names or [str(number) for number in range(len(values))]
    return tuple(UnlikeSample(name=names[at], unlikeness=float(values[at])) for at in order)


def some(given: DataSet, most: int, seed: int) -> DataSet:
    """Draw at most so many samples of a set."""
    total = len(given.samples)
    if total < 1:
        raise UserError(f"compare-data: {given.name} has no samples")
    chosen = np.sort(np.random.default_rng(seed).permutation(total)[:most])
    names = given.names or [str(number) for number in range(total)]
    return DataSet(
        name=given.name,
        samples=Subset(given.samples, chosen),
        names=[names[at] for at in chosen],
        labels=None if given.labels is None else given.labels[chosen],
    )


def _open(given: str, asked: _Model, builder: ModelBuilder | None) -> DataSet:
    if is_recipe(given):
        name, split = split_name(given)
        builder = builder or _builder(name, progress_here())
        _choose(builder, name, split)
        samples: Samples = getattr(builder.data, split)
        return DataSet(name=f"{name}:{split}", samples=samples, labels=class_labels(samples))
    found = open_samples(Path(given).expanduser(), asked.preprocessing, asked.classes, "compare-data")
    return DataSet(name=given, samples=found.samples, names=found.names, labels=found.labels)


def _choose(builder: ModelBuilder, recipe: str, split: str) -> None:
    """Let the split of a recipe be what a run of it takes: of its recovery set, or the calibration samples it selects.

    Raises:
        UserError: that takes a teacher which would have to be trained.
    """
    asked = builder.recipe
    if split in RECOVERED and (asked.recovery is not None or (split == SPLITS[0] and asked.calibration.select != "all")):
        with _teacher_needed(recipe):
            builder.choose_calibration(builder.teacher())


def class_labels(samples: Samples) -> npt.NDArray[np.int64] | None:
    """Return one class for each sample; None where targets are no such labels."""
    parts = [samples.load(np.arange(start, min(start + LABELS_OF, len(samples)))).targets for start in _starts(samples)]
    targets = np.concatenate(parts) if parts and parts[0].ndim == 1 else np.zeros((0, 0))
    labelled = targets.ndim == 1 and targets.dtype.kind in "iu" and (targets >= 0).all()
    return targets.astype(np.int64) if labelled else None


def _starts(samples: Samples) -> range:
    return range(0, len(samples), LABELS_OF)


def _builder(recipe: str, progress: Progress) -> ModelBuilder:
    """Make the builder of a recipe, which trains nothing."""
    cache = StepCache(steps_folder(), progress, trains=False, why_not=WHY_NOT)
    return ModelBuilder(load_recipe(recipe), resolve("cpu").profile, cache, progress)


def _teacher(builder: ModelBuilder, recipe: str) -> _Model:
    """Return the teacher of a recipe, which is there or is loaded.

    Raises:
        UserError: it would have to be trained.
    """
    with _teacher_needed(recipe):
        model = builder.float_model(builder.teacher())
    data = builder.data
    return _Model(name=f"the teacher of {recipe}", model=model, preprocessing=data.preprocessing, classes=data.classes)


@contextmanager
def _teacher_needed(recipe: str) -> Iterator[None]:
    """Say for what a fault inside the block is one."""
    try:
        yield
    except UserError as error:
        words = "run it first, or name a model (--model) and a split that needs no teacher (:validation)"
        raise UserError(
            *(f"compare-data: the teacher of {recipe}: {one_line(fault, 200)}; {words}" for fault in error.faults)
        ) from None


def _named(model: str | Path | None, builder: ModelBuilder | None, stack: ExitStack) -> _Model:
    """Open the model that was named."""
    if model is None:
        raise UserError("compare-data: neither is a recipe, whose teacher is asked: name a model (--model)")
    target = resolve("cpu")
    side = open_side(Path(model), target.profile, runtime_versions(target.device), stack, takes_bytes=True)
    file = side.model
    if side.plan.format.exporter or side.plan.format.made_from == "program":
        file = (side.folder or Path()) / PAIRS
        if not file.is_file():
            raise UserError(f"compare-data: {model}: its {side.plan.model_file} cannot be looked into; name an ONNX file")
    preprocessing: Mapping[str, Any] = builder.data.preprocessing if builder else {}
    classes: Sequence[str] = builder.data.classes if builder else ()
    if side.folder is not None:
        preprocessing = read_preprocessing(side.folder)
        classes = class_names(preprocessing)
    return _Model(
        name=str(model),
        model=strip(load_plain(file)).model,
        preprocessing=preprocessing,
        classes=classes,
        adapt=side.engine_inputs,
    )
