"""Stages of a run with their settings: ``compress.Distill(...)``, ``compress.Prune(...)`` and their like."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, final

from compress.api.objects import Loss, Model
from compress.recipe.fields import build
from compress.stages import stages as stage_table
from profiles.errors import UserError
from profiles.tables import load_object


class StageSettings:
    """Hold settings of one stage of ``run``, checked when they are given.

    Raises:
        UserError: unknown settings and values out of bounds, all at once.
    """

    use: ClassVar[str]

    def __init__(self, **settings: Any) -> None:
        faults: list[str] = []
        build(stage_class(self.use), settings, self.use, faults)
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


def stage_entry(stage: Any) -> Any:
    """Return an entry of a recipe's [[stage]]."""
    if isinstance(stage, StageSettings):
        return stage.table()
    if isinstance(stage, type) and issubclass(stage, StageSettings):
        return {"use": stage.use}
    return {"use": stage} if isinstance(stage, str) else dict(stage) if isinstance(stage, Mapping) else {"use": stage}


def stage_class(use: str) -> Any:
    """Return the class of a stage by its name."""
    return load_object(stage_table()[use])


def _show_signature(settings: type[StageSettings]) -> None:
    """Show a stage's own fields to ``help`` and to completion in notebooks."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    names = {field.name: field.default for field in fields(stage_class(settings.use))}
    parameters = [inspect.Parameter(name, keyword, default=default) for name, default in names.items()]
    if settings is Distill:
        parameters.insert(0, inspect.Parameter("student", keyword, default=None))
    settings.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect.signature


for _settings in (Distill, Prune, LowRank, Quantize, Pack):
    _show_signature(_settings)
