"""The product for Python: the same as the command line, with models, data and losses given as objects too.

Names are reached through ``compress`` itself, which imports this module when one of them is first asked for. Errors are
``UserError``, with the words of the command line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, final, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from compress.data import Samples, Splits
from compress.data.arrays import split_arrays
from compress.data.base import ArraySamples
from compress.execution.cache import steps_folder
from compress.execution.progress import Progress, progress_here
from compress.methods.quantization.post_training import Ranges
from compress.models import given
from compress.models import plan as plans
from compress.models.checkpoint import save_tensors
from compress.pipeline import run as pipeline
from compress.pipeline.single_stage import apply_stage
from compress.pipeline.target import ResolvedTarget
from compress.pipeline.target import resolve as resolve_target
from compress.recipe.fields import build
from compress.recipe.parse import load as load_recipe
from compress.recipe.parse import parse
from compress.recipe.spec import Recipe
from compress.report.record import Report
from compress.stages import stages as stage_table
from compress.stages.base import Stage
from profiles.errors import UserError
from profiles.tables import load_object

Model = nn.Module | str | Mapping[str, Any]
"""A module, ``package.module:callable``, or the table that a recipe has for it."""
Data = Splits | Dataset[Any] | tuple[Any, Any] | Mapping[str, Any] | str
"""Splits; inputs and labels; a dataset; ``{"train": ..., "test": ...}`` of those; or what ``data`` of a recipe may be."""
Arrays = npt.NDArray[Any] | Tensor | Samples
"""Inputs of shape (samples, ...) as the model takes them."""
Loss = str | Mapping[str, Any] | Callable[..., Any]
"""A name, a recipe's table, a function, an ``nn.Module`` class or an ``nn.Module``."""
SOURCE = "compress.run"
PARTS = ("train", "validation", "test")


class StageSettings:
    """Hold settings of one stage of ``run``, checked when they are given.

    Raises:
        UserError: unknown settings and values out of bounds, all at once.
    """

    use: ClassVar[str]

    def __init__(self, **settings: Any) -> None:
        faults: list[str] = []
        build(_stage_class(self.use), settings, self.use, faults)
        if faults:
            raise UserError(*faults)
        self.settings = settings

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self.settings.items())})"

    def table(self) -> dict[str, Any]:
        """Return the entry of ``[[stage]]`` that it stands for."""
        return {"use": self.use, **self.settings}


@final
class Distill(StageSettings):
    """Train a student on the teacher's outputs and feature maps.

    Args:
        student: a module, ``package.module:callable``, or a recipe's [student] table; the teacher itself without one.
        losses: names, tables, functions, ``nn.Module`` classes or modules; their parameters say what they read.
        settings: as ``compress stages`` lists them for ``distill``, such as ``epochs`` and ``learning_rate``.

    Example:
        >>> compress.Distill(losses=["task", {"use": "cwd", "weight": 3.0}], epochs=2)
        Distill(losses=['task', {'use': 'cwd', 'weight': 3.0}], epochs=2)
        >>> compress.Distill(epoch=2)
        Traceback (most recent call last):
            ...
        profiles.errors.UserError: distill: unknown key 'epoch' (did you mean 'epochs'?); known: ...
    """

    use = "distill"

    def __init__(self, *, student: Model | None = None, losses: Sequence[Loss] | None = None, **settings: Any) -> None:
        self.student = student
        super().__init__(**({} if losses is None else {"losses": list(losses)}), **settings)


@final
class Prune(StageSettings):
    """Cut channels and residual blocks, then train on. Settings are those of ``prune`` in ``compress stages``.

    Example:
        >>> compress.Prune(speed_up=1.5, epochs=1)
        Prune(speed_up=1.5, epochs=1)
    """

    use = "prune"


@final
class LowRank(StageSettings):
    """Replace layers by low-rank factors, then train on. Settings are those of ``low_rank`` in ``compress stages``.

    Example:
        >>> compress.LowRank(epochs=1)
        LowRank(epochs=1)
    """

    use = "low_rank"


@final
class Quantize(StageSettings):
    """Quantise to int8, without training where that is enough. Settings are those of ``quantize`` in ``compress stages``.

    Example:
        >>> compress.Quantize(epochs=0)
        Quantize(epochs=0)
    """

    use = "quantize"


@final
class Pack(StageSettings):
    """Store weights as indices of few points. Settings are those of ``pack`` in ``compress stages``.

    Example:
        >>> compress.Pack()
        Pack()
    """

    use = "pack"


def run(
    recipe: str | Path | None = None,
    *,
    teacher: Model | None = None,
    data: Data | None = None,
    stages: Sequence[StageSettings | str | Mapping[str, Any]] | None = None,
    student: Model | None = None,
    task: str | Mapping[str, Any] = "classification",
    accuracy_drop_points: float | None = None,
    latency_ms_p50: float | None = None,
    size_mib: float | None = None,
    stored_mib: float | None = None,
    seed: int = 0,
    measure: Mapping[str, float] | None = None,
    calibration: Mapping[str, Any] | None = None,
    name: str | None = None,
    device: str = "cpu",
    out: str | Path | None = None,
    until: str | None = None,
    lock_clocks: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Take a model to a measured, gated student and a bundle, from a recipe or from objects.

    Args:
        recipe: a TOML file, or the name of a built-in recipe; then nothing up to ``name`` is given.
        teacher: a trained module, or ``package.module:callable``, or a recipe's [teacher] table.
        data: ``Splits``, a pair of inputs (samples, ...) and labels (samples,), a PyTorch dataset, a table of such by
            ``train``, ``validation`` and ``test``, or what a recipe's ``data`` may be.
        stages: in order, such as ``[compress.Distill(student=small), compress.Quantize()]``.
        student: as in ``Distill``; for runs that begin with another stage.
        accuracy_drop_points, latency_ms_p50, size_mib, stored_mib: the budget: points of the metric below the teacher,
            milliseconds, MiB of the engine, MiB in the bundle.
        measure, calibration: what a recipe has under these names.
        name: of the run; the teacher's class in lower case without one.
        device: ``PROFILE[@URL]``.
        out: where report, model and bundle go; ``runs/NAME-PROFILE`` without one.
        until: the last stage to run.
        lock_clocks: hold the device's clocks while it measures.
        progress: where it tells how far it is; standard error, or the notebook's output.

    Returns:
        The report; ``out`` holds it as report.json and report.html, the student under ``model/``, and ``bundle/``.

    Raises:
        UserError: everything that does not fit, at once.

    Example:
        >>> report = compress.run(
        ...     teacher=teacher,
        ...     data=splits,
        ...     stages=[
        ...         compress.Distill(student=small, epochs=8, batch_size=32, losses=["task", {"use": gap, "weight": 0.5}]),
        ...         compress.Quantize(epochs=0),
        ...     ],
        ...     accuracy_drop_points=5.0,
        ...     measure={"seconds": 0.1, "gate_seconds": 0.1},
        ...     name="blobs",
        ... )
        >>> report.teacher.name
        'teacher/openvino/fp32'
        >>> report.verdict.best in [row.name for row in report.rows]
        True
    """
    asked: dict[str, Any] = {"teacher": teacher, "data": data, "stages": stages, "student": student, "measure": measure}
    budget = {
        "accuracy_drop_points": accuracy_drop_points,
        "latency_ms_p50": latency_ms_p50,
        "size_mib": size_mib,
        "stored_mib": stored_mib,
    }
    asked |= {"calibration": calibration, "name": name, **budget}
    if recipe is not None:
        beside = [key for key, value in asked.items() if value is not None]
        if beside:
            raise UserError(f"{SOURCE}: a recipe says it all; leave out {', '.join(beside)}, or the recipe")
        return _run(lambda: load_recipe(str(recipe)), device, out, until, progress, lock_clocks=lock_clocks)
    missing = [f"{SOURCE}: {key} is missing; or give a recipe" for key in ("teacher", "data") if asked[key] is None]
    if teacher is None or data is None:
        raise UserError(*missing)
    with _given_modules() as modules:

        def objects() -> Recipe:
            table: dict[str, Any] = {
                "task": {"kind": task, "data": _data(data, seed)},
                "teacher": modules.teacher(teacher),
                "budget": {key: value for key, value in budget.items() if value is not None},
                "stage": [_stage_table(stage) for stage in stages or ()],
                "measure": dict(measure or {}),
                "calibration": dict(calibration or {}),
                "seed": seed,
            }
            students = [s for s in (student, *(getattr(stage, "student", None) for stage in stages or ())) if s is not None]
            if len(students) > 1:
                raise UserError(f"{SOURCE}: {len(students)} students; one is given, to run or to one Distill")
            if students:
                table["student"] = modules.student(students[0])
            return parse(table, name=name or _name(teacher), source=SOURCE)

        return _run(objects, device, out, until, progress, lock_clocks=lock_clocks)


def resolve(recipe: Callable[[], Recipe], device: str) -> tuple[Recipe, ResolvedTarget]:
    """Find out what is asked and where; the faults of both come together.

    Raises:
        UserError: everything wrong with the recipe and the device.
    """
    faults: list[str] = []
    asked: Recipe | None = None
    try:
        asked = recipe()
    except UserError as error:
        faults += error.faults
    try:
        target = resolve_target(device)
    except UserError as error:
        raise UserError(*faults, *error.faults) from None
    if asked is None:
        raise UserError(*faults)
    return asked, target


def default_folder(recipe: str, profile: str) -> Path:
    """Name the folder that a run leaves its results in unless another is given."""
    return Path("runs") / f"{recipe}-{profile}"


def load(folder: str | Path, module: nn.Module | None = None, *, trust: bool = False) -> nn.Module:
    """Load the student that a run left, in evaluation mode; outputs are bit-equal to what the run measured in PyTorch.

    Args:
        folder: of a finished run, or one with ``surgery.json`` and ``model.safetensors``.
        module: for a model that was given as an object: a fresh one of the same structure, which stays as it is.
        trust: whether a factory may be called that no recipe of yours has named: loading such a folder runs its code.

    Raises:
        UserError: there is none, its factory is not trusted, or it was given as an object and ``module`` is missing or of
            another structure.

    Example:
        >>> student = compress.load("runs/blobs-cpu", module=small)
        >>> student(torch.zeros(2, 1, 16, 16)).shape
        torch.Size([2, 4])
    """
    path = Path(folder)
    path = path / plans.FOLDER if (path / plans.FOLDER / plans.PLAN).is_file() else path
    if not (path / plans.PLAN).is_file():
        raise UserError(f"{folder}: no {plans.PLAN}, there or under {plans.FOLDER}/; give the folder of a finished run")
    return plans.load(path, module, trust=trust)[1]


def quantize(
    module: nn.Module,
    samples: Arrays,
    *,
    device: str = "cpu",
    ranges: Ranges = "norm",
    weights: Literal["largest", "mse"] = "mse",
    equalise: bool = False,
    rounding: Literal["nearest", "learned"] = "nearest",
    biases: bool = True,
    progress: Progress | None = None,
) -> nn.Module:
    """Quantise a module to int8 without training, as the device's first integer runtime wants it.

    Args:
        module: float; it stays as it is.
        samples: to take ranges from, (samples, ...), as the module takes them.
        ranges, weights, equalise, rounding, biases: as in the stage ``quantize``.

    Returns:
        A module of the same inputs and outputs with fake quantisers; ``export`` writes it with Q/DQ pairs.

    Raises:
        UserError: the module does not take the samples or cannot be captured, or no runtime of the device runs int8.

    Example:
        >>> int8 = compress.quantize(teacher, samples)
        >>> int8(torch.zeros(2, 1, 16, 16)).shape
        torch.Size([2, 4])
    """
    if ranges not in get_args(Ranges) or not isinstance(biases, bool):
        words = f"ranges is one of {', '.join(get_args(Ranges))}, biases true or false"
        raise UserError(f"quantize: without labels to judge by, {words}; given: {ranges!r}, {biases!r}")
    settings = {"ranges": ranges, "weights": weights, "equalise": equalise, "rounding": rounding, "biases": biases}
    return _alone("quantize", settings, module, samples, device, progress)


def prune(
    module: nn.Module,
    samples: Arrays,
    *,
    ratio: float = 0.3,
    importance: Literal["l2", "bn_scale"] = "l2",
    device: str = "cpu",
    progress: Progress | None = None,
    **settings: Any,
) -> nn.Module:
    """Cut channels of a module without training, counts a multiple of the device's.

    Args:
        module: stays as it is.
        samples: that layers behind what was cut are fitted on, (samples, ...), as the module takes them.
        ratio: fraction of all prunable channels, above 0 and below 1.
        importance: what a channel is worth.
        settings: further ones of the stage ``prune``.

    Returns:
        A narrower module of the same inputs and outputs.

    Raises:
        UserError: the module does not take the samples, or nothing in it can be cut.

    Example:
        >>> narrow = compress.prune(teacher, samples, ratio=0.5)
        >>> sum(p.numel() for p in narrow.parameters()) < sum(p.numel() for p in teacher.parameters())
        True
    """
    asked = {"ratio": ratio, "importance": importance, "epochs": 0, **settings}
    return _alone("prune", asked, module, samples, device, progress)


def export(module: nn.Module, path: str | Path, samples: Arrays) -> Path:
    """Write a module as ONNX; what ``quantize`` returned with Q/DQ pairs and int8 weights.

    Args:
        samples: two inputs or more, (samples, ...); the number of samples stays free in the file.

    Raises:
        UserError: the module cannot be captured.

    Example:
        >>> compress.export(small, "small.onnx", samples).name
        'small.onnx'
    """
    import onnx

    from compress.methods.quantization.fake_quantize import QuantizedProgram
    from deploy.export.to_onnx import capture, to_onnx
    from deploy.qdq.insert import insert

    example = torch.from_numpy(_samples(samples).load(np.arange(2)).inputs)
    if isinstance(module, QuantizedProgram):
        plain = to_onnx(module.float_program())
        model = insert(plain, module.placement, module.scales(), module.recipe)
    else:
        model = to_onnx(capture(module.eval(), [example]))
    onnx.save(model, str(path))
    return Path(path)


def _run(
    recipe: Callable[[], Recipe],
    device: str,
    out: str | Path | None,
    until: str | None,
    progress: Progress | None,
    *,
    lock_clocks: bool,
) -> Report:
    progress = progress or progress_here()
    asked, target = resolve(recipe, device)
    _announced(target, progress)
    folder = Path(out) if out is not None else default_folder(asked.name, target.profile.name)
    return pipeline.run(
        asked, target.profile, target.device, folder, steps_folder(), progress, until, lock_clocks=lock_clocks
    )


def _announced(target: ResolvedTarget, progress: Progress) -> ResolvedTarget:
    for warning in target.warnings:
        progress.say(f"warning: {warning}")
    return target


def _alone(
    use: str, settings: Mapping[str, Any], module: nn.Module, samples: Arrays, device: str, progress: Progress | None
) -> nn.Module:
    faults: list[str] = []
    stage: Stage | None = build(_stage_class(use), settings, use, faults)
    if stage is None:
        raise UserError(*faults)
    progress = progress or progress_here()
    target = _announced(resolve_target(device), progress)
    result = apply_stage(stage, module, _samples(samples), target.profile, progress)
    for note in result.notes:
        progress.say(f"  {note}")
    return result.artifact.module


@final
@dataclass(frozen=True)
class _Modules:
    """Modules given to one run; they are dropped when it ends."""

    references: list[str]

    def teacher(self, model: Model) -> dict[str, Any]:
        """Return a recipe's [teacher] table; the weights of a module are in a file beside the steps."""
        if not isinstance(model, nn.Module):
            return _table("teacher", model)
        reference = self._reference(model)
        weights = (steps_folder() / "given" / f"{reference.removeprefix(given.PREFIX)}.safetensors").resolve()
        # Written each time: what is there may have been damaged since.
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(weights, model.state_dict())
        return {"model": reference, "weights": str(weights)}

    def student(self, model: Model) -> dict[str, Any]:
        """Return a recipe's [student] table."""
        return {"model": self._reference(model)} if isinstance(model, nn.Module) else _table("student", model)

    def _reference(self, module: nn.Module) -> str:
        self.references.append(given.register_module(module))
        return self.references[-1]


@contextmanager
def _given_modules() -> Iterator[_Modules]:
    modules = _Modules([])
    try:
        yield modules
    finally:
        for reference in modules.references:
            given.forget(reference)


def _table(role: str, model: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(model, str):
        return {"model": model}
    if not isinstance(model, Mapping):
        words = "an nn.Module, 'package.module:callable' or a recipe's table"
        raise UserError(f"{SOURCE}: {role} is {words}; given: a {type(model).__name__}")
    return dict(model)


def _data(data: Any, seed: int) -> str | dict[str, Any]:
    """Return what a recipe has for ``data``; objects are kept under a reference."""
    if isinstance(data, str) or (isinstance(data, Mapping) and not set(data) & set(PARTS)):
        return data if isinstance(data, str) else dict(data)
    if not isinstance(data, Splits):
        parts = data if isinstance(data, Mapping) else {"train": data}
        data = split_arrays(parts, seed=seed)
    return given.register("data", data, data.fingerprint())


def _samples(samples: Any) -> Samples:
    """Wrap inputs without labels as samples."""
    if isinstance(samples, Samples):
        return samples
    inputs = samples.detach().cpu().numpy() if isinstance(samples, Tensor) else np.asarray(samples)
    if inputs.dtype.kind != "f" or inputs.ndim < 2:
        words = "numbers of shape (samples, ...), float, as the model takes them"
        raise UserError(f"samples: {words}; given: {inputs.dtype} of shape {inputs.shape}")
    return ArraySamples(inputs.astype(np.float32), np.full(len(inputs), -1, np.int64))


def _stage_table(stage: Any) -> Any:
    """Return an entry of a recipe's [[stage]]."""
    if isinstance(stage, StageSettings):
        return stage.table()
    if isinstance(stage, type) and issubclass(stage, StageSettings):
        return {"use": stage.use}
    return {"use": stage} if isinstance(stage, str) else dict(stage) if isinstance(stage, Mapping) else {"use": stage}


def _stage_class(use: str) -> Any:
    return load_object(stage_table()[use])


def _name(teacher: Model) -> str:
    if isinstance(teacher, nn.Module):
        return type(teacher).__name__.lower()
    reference = teacher if isinstance(teacher, str) else str(teacher.get("model", "model"))
    return Path(reference.rpartition(":")[2]).stem


def _with_signature(settings: type[StageSettings]) -> None:
    """Show a stage's own fields to ``help`` and to completion in notebooks."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    names = {field.name: field.default for field in fields(_stage_class(settings.use))}
    parameters = [inspect.Parameter(name, keyword, default=default) for name, default in names.items()]
    if settings is Distill:
        parameters.insert(0, inspect.Parameter("student", keyword, default=None))
    settings.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect.signature


for _settings in (Distill, Prune, LowRank, Quantize, Pack):
    _with_signature(_settings)
