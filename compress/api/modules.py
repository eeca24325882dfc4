"""One step on a module, without a recipe, a budget or a gate; and the module that a run left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from torch import nn

from compress.api.objects import Arrays, wrap_samples
from compress.api.stage_settings import stage_class
from compress.execution.progress import Progress, progress_here
from compress.methods.quantization.post_training import Ranges
from compress.models import plan as plans
from compress.models.inputs import as_tensors
from compress.pipeline.single_stage import apply_stage
from compress.pipeline.target import resolve
from compress.recipe.fields import build
from compress.stages.base import Stage
from deploy.files import write_atomically
from profiles.errors import UserError, one_line


def load(folder: str | Path, module: nn.Module | None = None, *, trust: bool = False) -> nn.Module:
    """Load the student that a run left, in evaluation mode; outputs are bit-equal to what the run measured in PyTorch.

    Args:
        folder: of a finished run, or one with ``surgery.json`` and ``model.safetensors``.
        module: for a model that was given as an object: a fresh one of the same structure, which stays as it is.
        trust: whether a factory may be called that no recipe of yours has named: loading such a folder runs its code.

    Raises:
        UserError: there is none, it is damaged, its factory is not trusted, or it was given as an object and ``module`` is
            missing or of another structure.

    Example:
        >>> student = compress.load("runs/blobs-cpu", module=small)
        >>> student(torch.zeros(2, 1, 16, 16)).shape
        torch.Size([2, 4])
    """
    path = Path(folder)
    path = path / plans.FOLDER if (path / plans.FOLDER / plans.PLAN).is_file() else path
    if not (path / plans.PLAN).is_file():
        raise UserError(f"{folder}: no {plans.PLAN}, there or under {plans.FOLDER}/; give the folder of a finished run")
    try:
        return plans.load(path, module, trust=trust)[1]
    except UserError:
        raise
    except Exception as error:  # of a damaged plan or of other weights anything may come
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise UserError(f"{folder}: {plans.PLAN} or {plans.WEIGHTS} is damaged, or not of that model ({reason})") from error


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
    from compress.methods.quantization.fake_quantize import QuantizedProgram

    if isinstance(module, QuantizedProgram):
        raise UserError("quantize: the module is quantised already; give the float module that it was made from")
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
    from compress.methods.quantization.fake_quantize import QuantizedProgram
    from deploy.export.to_onnx import capture, to_onnx
    from deploy.qdq.insert import insert

    if not Path(path).absolute().parent.is_dir():
        raise UserError(f"export: {Path(path).parent}: no such folder; make it first")
    given = wrap_samples(samples)
    if len(given) < 2:
        raise UserError(f"export: two samples or more are needed, so that their number stays free; given: {len(given)}")
    example = as_tensors(given.load(np.arange(2)).inputs)
    if isinstance(module, QuantizedProgram):
        plain = to_onnx(module.float_program())
        model = insert(plain, module.placement, module.scales(), module.recipe)
    else:
        model = to_onnx(capture(module.eval(), example))
    write_atomically(Path(path), model.SerializeToString())
    return Path(path)


def _alone(
    use: str, settings: Mapping[str, Any], module: nn.Module, samples: Arrays, device: str, progress: Progress | None
) -> nn.Module:
    faults: list[str] = []
    stage: Stage | None = build(stage_class(use), settings, use, faults)
    if stage is None:
        raise UserError(*faults)
    progress = progress or progress_here()
    target = resolve(device)
    target.tell_warnings(progress.say)
    result = apply_stage(stage, module, wrap_samples(samples), target.profile, progress)
    for note in result.notes:
        progress.say(f"  {note}")
    return result.artifact.module
